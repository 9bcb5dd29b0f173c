/* A stranger's certificate and request: DER (first byte 0), or the name alone. */
#include <stdlib.h>

#include "crypto/x509.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct x509_node n;
	char domain[X509_DOMAIN_MAX], node[X509_NODE_MAX];
	if (!size)
		return 0;
	if (data[0]) {
		if (x509_spiffe_parse((const char *)data + 1, size - 1, domain, node) == 0 &&
			(!x509_domain_valid(domain) || !x509_node_valid(node)))
			abort();
		return 0;
	}
	if (x509_node_parse(data + 1, size - 1, &n, NULL) == 0 && !x509_node_valid(n.node))
		abort();
	(void)x509_ca_check(data + 1, size - 1, domain, NULL);
	(void)x509_csr_verify(data + 1, size - 1, NULL);
	return 0;
}
