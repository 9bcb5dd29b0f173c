#!/usr/bin/env python3
"""A node with a good certificate that does not keep the rules: it speaks for itself only, and each try costs it the link."""
import contextlib, glob, os, ssl, struct, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *


# -- protobuf by hand: a rogue writes what it likes

def v(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(no, value):
    if isinstance(value, int):
        return v(no << 3) + v(value)
    return v(no << 3 | 2) + v(len(value)) + value


def fields(data):
    """The length-delimited fields of a message, by number."""
    out, i = {}, 0
    def varint():
        nonlocal i
        n = s = 0
        while True:
            n |= (data[i] & 127) << s
            s, i = s + 7, i + 1
            if not data[i - 1] & 128:
                return n
    while i < len(data):
        key = varint()
        if key & 7 == 0:
            out[key >> 3] = varint()
        else:
            n = varint()
            out[key >> 3] = data[i:i + n]
            i += n
    return out


def addr(ip, port):
    return field(1, socket.inet_aton(ip)) + field(2, port)


def hello(name="beta", version=1):
    return field(1, field(1, name.encode()) + field(2, version) + field(3, os.urandom(32)) + field(4, addr("127.0.0.3", 9)))


def opening(source="10.77.0.2", destination="10.77.0.1", port=6379, programs=(b"shell",)):
    evidence = field(1, 4242) + field(4, 1000) + field(8, b"h" * 32)
    body = field(1, 7) + field(2, evidence) + b"".join(field(3, p) for p in programs) + field(5, b"me")
    return field(2, body + field(6, addr(source, 0)) + field(7, addr(destination, port)) + field(8, os.urandom(32)) + field(10, 1))


class Rogue:
    """A link as node beta, with its true key and certificate."""
    def __init__(self, b, port):
        state = glob.glob(os.path.join(b.tmp, "**", "node.identity"), recursive=True)
        parts = fields(open(state[0], "rb").read())
        pem = self.pem = os.path.join(b.tmp, "rogue.pem")
        with open(pem, "wb") as f:
            f.write(subprocess.run(["openssl", "pkey", "-inform", "DER"], input=parts[1], stdout=subprocess.PIPE, check=True).stdout)
            f.write(ssl.DER_cert_to_PEM_cert(parts[2]).encode() + ssl.DER_cert_to_PEM_cert(parts[3]).encode())
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        c.check_hostname = False
        c.set_alpn_protocols(["belay-link/1"])
        c.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(parts[3]))
        c.load_cert_chain(pem)
        self.s = c.wrap_socket(socket.create_connection(("127.0.0.2", port), 5))
        self.s.settimeout(3)

    def send(self, m):
        self.s.sendall(struct.pack(">I", len(m)) + m)

    def receive(self):
        def exactly(n):
            out = b""
            while len(out) < n:
                d = self.s.recv(n - len(out))
                if not d:
                    raise EOFError
                out += d
            return out
        while True:
            m = exactly(struct.unpack(">I", exactly(4))[0])
            if m[0] not in (0x2a, 0x32):
                return fields(m)

    def ended(self):
        try:
            while True:
                self.receive()
        except (EOFError, ConnectionError, ssl.SSLError):
            return True
        except TimeoutError:
            return False


def alpha_and_rogue(w, *init):
    need("openssl", "redis-server", "redis-cli")
    port = 20000 + os.getpid() % 20000
    b = World(w.mode, w.bin, "two")
    try:
        w.start()
        b.start(*(("--uid-base", "64500") if w.host else ()))
        w.belay("node", "init", "alpha", "--address", "10.77.0.1", "--listen", f"127.0.0.2:{port}", "--data", f"127.0.0.2:{port + 1}", *init)
        token = w.belay("node", "invite", "beta", "--address", "10.77.0.2").stdout.split()[-1]
        b.belay("node", "join", token, "--listen", f"127.0.0.3:{port}", "--data", f"127.0.0.3:{port + 1}")
        wait_for("the link is up", lambda: "up" in w.belay("node", "list").stdout)
        b.end(b.daemon)        # from here on the test is node beta
        b.daemon = None
        wait_for("the link is down", lambda: "down" in w.belay("node", "list").stdout)
    except BaseException:
        b.close()
        raise
    b.port = port
    return b


def surprises(w):
    return [e for e in w.audit() if "node-surprise" in json.dumps(e)]


def test_each_lie_ends_the_link_and_is_logged(w):
    b = alpha_and_rogue(w)
    try:
        lies = {
            "no greeting": [opening()],
            "another name": [hello("alpha")],
            "another version": [hello(version=9)],
            "two greetings": [hello(), hello()],
            "not a message": [hello(), b"\xff\xff\xff"],
            "an address of alpha as source": [hello(), opening(source="10.77.0.1")],
            "a stranger's address as source": [hello(), opening(source="192.0.2.9")],
            "no evidence": [hello(), field(2, field(1, 7) + field(8, os.urandom(32)))],
            "more in advance than there may be": [hello(), field(20, field(1, 1) + field(3, b"c" * 16) + field(4, b"n" * 32) + field(5, 65))],
            "none in advance": [hello(), field(20, field(1, 1) + field(3, b"c" * 16) + field(4, b"n" * 32))],
            "in advance, of nothing": [hello(), field(20, field(1, 1) + field(4, b"n" * 32) + field(5, 1))],
            "short nonce": [hello(), field(2, field(1, 7) + field(2, b"") + field(6, addr("10.77.0.2", 0)) + field(7, addr("10.77.0.1", 1)) + field(8, b"x"))],
        }
        for what, messages in lies.items():
            before = len(surprises(w))
            r = Rogue(b, b.port)
            for m in messages:
                r.send(m)
            assert r.ended(), f"{what}: the link lives on"
            wait_for(f"{what}: in the audit log", lambda: len(surprises(w)) > before)
        # Framing: a length beyond the limit, before anything else.
        r = Rogue(b, b.port)
        r.s.sendall(struct.pack(">I", 1 << 24) + b"x" * 100)
        assert r.ended(), "a message of 16 MiB was announced and the link lives on"
        w.belay("audit", "verify")
    finally:
        b.close()


def test_what_it_may_ask_is_judged_by_alpha(w):
    b = alpha_and_rogue(w)
    try:
        w.enroll("/usr/bin/redis-server", "cache")
        w.enroll("/usr/bin/redis-cli", "shell")
        w.policy("version: 1\nrules:\n  - { name: l, allow: bind, from: { program: cache }, port: 6379 }\n"
                 "  - { name: c, allow: connect, from: { program: shell, node: beta }, to: { program: cache }, port: 6379 }\n")
        s = w.serve("redis-server", "--port", "6379", "--save", "", "--dir", w.tmp, "--bind", "10.77.0.1", "--protected-mode", "no")
        wait_for("redis is up", lambda: "Ready to accept" in s.output() or s.poll() is not None)
        r = Rogue(b, b.port)
        r.send(hello())
        assert 1 in r.receive(), "alpha greets"

        def ask(**kw):
            r.send(opening(**kw))
            while True:
                m = r.receive()
                if 3 in m:
                    return fields(m[3])
        def error(a):
            return (a.get(2, 0) >> 1) ^ -(a.get(2, 0) & 1)
        assert error(ask(programs=(b"other",))) == -13, "a program without a rule"
        assert error(ask(programs=())) == -13, "no program at all"
        assert error(ask(port=6380)) == -13, "a port no rule names"
        assert error(ask(destination="10.77.0.9")) == -113, "an address that is not alpha's"
        assert error(ask(destination="127.0.0.1")) == -113, "alpha's loopback"
        # Its word about its own program is what alpha's policy chose to trust; the channel then is one, and only beta's.
        a = ask()
        assert error(a) == 0 and len(a[4]) == 16 and len(a[5]) == 32, a
        wait_for("a channel", lambda: w.channels())
        # Channels in advance: of that one, and of no other's channel or lease.
        def reserve(**kw):
            x = {"lease": 0, "channel": a[4], "count": 4, **kw}
            r.send(field(20, field(1, 9) + field(2, x["lease"]) + field(3, x["channel"]) + field(4, os.urandom(32)) + field(5, x["count"])))
            while True:
                m = r.receive()
                if 21 in m:
                    return fields(m[21])
        assert error(reserve(channel=os.urandom(16))) == -2, "of a channel nobody has"
        assert error(reserve(lease=12345)) == -2, "of a lease nobody gave it"
        got = reserve()
        assert error(got) != 0 or (got.get(3) and 5 in got), got    # given, or its data connections are down
        r.send(field(22, field(1, 777) + field(3, 1)))              # an end of what is not: nothing
        # It never opens it: it ends by itself. Nobody can end what is not theirs; an unknown id does nothing.
        r.send(field(4, field(1, os.urandom(16)) + field(2, b"x")))
        r.send(field(3, field(1, 99) + field(4, os.urandom(16)) + field(5, os.urandom(32)) + field(6, os.urandom(32))))
        wait_for("the channel that was never opened ended", lambda: not w.channels(), 15)
    finally:
        b.close()


def removals(version, names, domain=b"belay.internal"):
    """The list of removed nodes as src/wire/removals.h has it."""
    out = b"belay removals 1\n" + struct.pack(">QB", version, len(domain)) + domain + struct.pack(">H", len(names))
    return out + b"".join(bytes([len(n)]) + n + struct.pack(">Q", 1 << 40) for n in sorted(names))


def list_message(raw, signature):
    return field(9, field(1, raw) + field(2, signature))


def third_node_joins_and_is_removed(w, port):
    c = World(w.mode, w.bin, "three")
    try:
        c.start(*(("--uid-base", "64600") if w.host else ()))
        token = w.belay("node", "invite", "gamma", "--address", "10.77.0.3").stdout.split()[-1]
        c.belay("node", "join", token, "--listen", f"127.0.0.4:{port}", "--data", f"127.0.0.4:{port + 1}")
        w.belay("node", "remove", "gamma")
    finally:
        c.close()


def test_the_list_of_removed_nodes_is_neither_forged_nor_rolled_back(w):
    b = alpha_and_rogue(w)
    try:
        def link():
            r = Rogue(b, b.port)
            r.send(hello())
            return r
        def state(name):
            rows = [json.loads(l) for l in w.belay("node", "list", "--json").stdout.splitlines()]
            return next((r["state"] for r in rows if r["node"] == name), None)
        def its_list(r):
            while 9 not in (m := r.receive()):
                pass
            return fields(m[9])
        third_node_joins_and_is_removed(w, b.port)
        old = its_list(link())
        assert b"gamma" in old[1]
        third_node_joins_and_is_removed(w, b.port)    # the same name again: a newer list
        new = its_list(link())
        assert new[1] != old[1]
        key, raw = os.path.join(b.tmp, "rogue.pem"), removals(99, [b"alpha"])
        with open(os.path.join(b.tmp, "list"), "wb") as f:
            f.write(raw)
        own = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key, f.name], stdout=subprocess.PIPE, check=True).stdout
        forged = {
            "signed by a node": (raw, own),
            "no signature": (raw, b""),
            "the CA's signature of another list": (raw, new[2]),
            "a longer one": (new[1] + b"x", new[2]),
            "nobody removed, with the true signature": (removals(99, []), new[2]),
            "not a list": (b"x", own),
        }
        for what, (l, s) in forged.items():
            before = len(surprises(w))
            r = link()
            r.send(list_message(l, s))
            assert r.ended(), f"{what}: the link lives on"
            wait_for(f"{what}: in the audit log", lambda: len(surprises(w)) > before)
            assert state("gamma") == "removed" and state("alpha") == "this node", what
        # An older list of the CA's own is what an honest node has that was away: it changes nothing, now or after a restart.
        r = link()
        r.send(list_message(old[1], old[2]))
        assert its_list(link())[1] == new[1]
        os.kill(w.pids()["guard"], signal.SIGKILL)
        def again():
            with contextlib.suppress(OSError, EOFError, AssertionError):
                return its_list(link())[1] == new[1]
        wait_for("the newest list after a restart", again)
    finally:
        b.close()


def test_a_renewal_gives_no_other_name(w):
    b = alpha_and_rogue(w, "--life", "14s")
    try:
        csr = subprocess.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
                              os.path.join(b.tmp, "k"), "-subj", "/CN=alpha", "-outform", "DER", "-addext",
                              "subjectAltName=URI:spiffe://belay.internal/node/alpha,IP:10.77.0.1"],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
        def ask(what):
            r = Rogue(b, b.port)
            r.send(hello())
            r.send(field(10, field(1, what)))
            while 11 not in (m := r.receive()):
                pass
            return fields(m[11])
        assert 3 not in ask(csr), "a certificate before it is due"
        time.sleep(7.5)
        assert 3 not in ask(b"junk"), "a certificate for what is no request"
        der = ask(csr)[3]
        text = subprocess.run(["openssl", "x509", "-inform", "DER", "-noout", "-ext", "subjectAltName"], input=der, stdout=subprocess.PIPE,
                              check=True).stdout.decode()
        assert "node/beta" in text and "10.77.0.2" in text and "alpha" not in text and "10.77.0.1" not in text, text
    finally:
        b.close()


def test_a_node_that_asks_for_too_much_leaves_others_served(w):
    b = alpha_and_rogue(w)
    try:
        w.enroll("/usr/bin/redis-server", "cache")
        w.enroll("/usr/bin/redis-cli", "shell")
        w.policy("version: 1\nrules:\n  - { name: l, allow: bind, from: { program: cache }, port: 6379 }\n"
                 "  - { name: c, allow: connect, from: { program: shell, node: [self, beta] }, to: { program: cache }, port: 6379 }\n")
        s = w.serve("redis-server", "--port", "6379", "--save", "", "--dir", w.tmp, "--bind", "10.77.0.1", "--protected-mode", "no")
        wait_for("redis is up", lambda: "Ready to accept" in s.output() or s.poll() is not None)
        r = Rogue(b, b.port)
        r.send(hello())
        before, n = total_refused(w), 0
        for _ in range(3):    # some allowed and never opened, most refused: the log does not grow with them
            for i in range(700):
                r.send(opening(programs=(b"other" if i % 7 else b"shell",)))
            assert w.run("redis-cli", "-h", "10.77.0.1", "PING", timeout=20).stdout.strip() == "PONG", "the node's own programs are not served"
            while n < 2100 and 3 in r.receive():
                n += 1
                if n % 700 == 0:
                    break
        wait_for("every refusal is in the log", lambda: total_refused(w)[0] - before[0] >= 1800, 5)
        entries = total_refused(w)[1] - before[1]
        assert entries < 400, f"{entries} entries for 1800 refusals"
    finally:
        b.close()


def total_refused(w):
    """Refusals of beta's programs in the log: how many, in how many entries."""
    e = [e for e in w.audit("--type", "decision") if e.get("verdict") == "deny" and e.get("from", {}).get("node") == "beta"]
    return sum(x.get("count", 1) for x in e), len(e)


def test_no_certificate_no_link(w):
    b = alpha_and_rogue(w)
    try:
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
        for i, m in enumerate((hello(), hello(), opening(), b"\x3a\x00", field(7, field(1, os.urandom(32)) + field(2, b"csr")))):
            c.set_alpn_protocols(["belay-link/1" if i == 0 else "belay-join/1"])
            s = c.wrap_socket(socket.create_connection(("127.0.0.2", b.port), 5))
            s.settimeout(3)
            s.sendall(struct.pack(">I", len(m)) + m)
            got = b""
            try:
                while True:
                    d = s.recv(4096)
                    if not d:
                        break
                    got += d
            except (ConnectionError, ssl.SSLError):
                pass
            except TimeoutError:
                assert got, "a stranger is neither answered nor sent away"
            assert b"spiffe" not in got
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode, old.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2
        try:
            old.wrap_socket(socket.create_connection(("127.0.0.2", b.port), 5))
            raise AssertionError("TLS 1.2 was accepted")
        except (ssl.SSLError, ConnectionError):
            pass
    finally:
        b.close()


if __name__ == "__main__":
    main(globals())
