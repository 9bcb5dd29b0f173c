/*
 * What the signer holds and what it may be asked. Keys never leave, but for the node's TLS key,
 * which goes to link over their own arrow. The permit table:
 *
 *   checkpoint   only for its own log's name; a size below the last one signed, or another root at
 *                the same size, is refused, so that history is never signed twice
 *   init         once: makes CA and node certificate; never over an existing identity
 *   make_csr     only while the node has no identity: a fresh key each time
 *   renew        a fresh key for the node's own name and addresses, nothing else
 *   install      only a certificate for that fresh key and the name asked for; once there is an
 *                identity, only of the same CA, name and addresses
 *   csr, invite  only with the CA's key; never for this node's own name
 *   remove       only with the CA's key; never this node; the list's version only goes up, and a
 *                name's time only forward
 *
 * Files in its state directory, all 0600 and made whole or not at all: audit.key (32 bytes),
 * audit.last (size and root last signed), ca.identity and node.identity (packed SignerToLink: key
 * PKCS#8, certificate, CA), ca.life (how long certificates hold, 8 bytes), node.pending (name and
 * key of a request under way), removals (the list last signed).
 */
#pragma once

#include "audit/note.h"
#include "base/error.h"
#include "crypto/x509.h"
#include "signer.pb-c.h"
#include "wire/removals.h"

#define REMOVALS_FILE "removals"

struct signer {
	int dir; /* borrowed */
	struct secret audit_seed;
	struct audit_key audit;
	uint64_t last_size;
	uint8_t last_root[AUDIT_ROOT_LEN];

	struct x509_key *ca_key;            /* NULL on nodes that joined */
	struct der ca_cert;                 /* of ca_key */
	uint64_t life_s;                    /* of certificates it signs */
	struct removals removals;           /* as last signed */
	struct der node_key, node_cert, ca; /* the node's identity; empty: none yet */
	struct x509_node node;              /* what node_cert says */
};

struct signer_reply {
	struct der data, ca, cert, signature;
	bool identity_changed; /* link is to be told */
};

/* Loads what there is, makes the audit key the first time. */
int signer_open(struct signer *s, int dirfd, struct error *e) _must_check_;
void signer_close(struct signer *s);
/* 0 or negative with e set: the answer. -EPROTO: not a request at all, the arrow must end. */
int signer_request(struct signer *s, const Belay__ToSigner *m, struct signer_reply *ret,
	struct error *e) _must_check_;
void signer_reply_clear(struct signer_reply *r);

/* ---- request.c ---- */
/* Takes over key, cert, ca as the node's identity, on disk first. */
int signer_identity_set(struct signer *s, struct der *key, struct der *cert, struct der *ca,
	struct signer_reply *ret, struct error *e) _must_check_;
int signer_no_identity(const struct signer *s, struct error *e) _must_check_;

/* ---- domain.c ---- */
int signer_init(struct signer *s, const Belay__SignerInit *m, struct signer_reply *ret,
	struct error *e) _must_check_;
int signer_invite(struct signer *s, struct signer_reply *ret, struct error *e) _must_check_;
int signer_csr(struct signer *s, const Belay__SignerCsr *m, struct signer_reply *ret,
	struct error *e) _must_check_;
int signer_remove(struct signer *s, const Belay__SignerRemove *m, struct signer_reply *ret,
	struct error *e) _must_check_;
int signer_renew_own(struct signer *s, struct signer_reply *ret, struct error *e) _must_check_;

/* ---- files.c ---- */
/* -ENOENT if there is none. */
int signer_file_read(int dirfd, const char *name, struct der *ret) _must_check_;
/* By way of a temporary file; durable when it returns if sync. */
int signer_file_put(int dirfd, const char *name, const void *p, size_t n, bool sync) _must_check_;
int signer_identity_read(int dirfd, const char *name, struct der *key, struct der *cert,
	struct der *ca) _must_check_;
int signer_identity_put(int dirfd, const char *name, const struct der *key, const struct der *cert,
	const struct der *ca) _must_check_;
/* An owned copy. */
int signer_der_copy(const uint8_t *p, size_t n, struct der *ret) _must_check_;
