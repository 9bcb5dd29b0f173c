#!/usr/bin/env python3
"""A node with a good certificate that does not keep the rules: it speaks for itself only, and each try costs it the link."""
import glob, os, ssl, struct, sys
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
        pem = os.path.join(b.tmp, "rogue.pem")
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


def alpha_and_rogue(w):
    need("openssl", "redis-server", "redis-cli")
    port = 20000 + os.getpid() % 20000
    b = World(w.mode, w.bin, "two")
    try:
        w.start()
        b.start(*(("--uid-base", "64500") if w.host else ()))
        w.belay("node", "init", "alpha", "--address", "10.77.0.1", "--listen", f"127.0.0.2:{port}", "--data", f"127.0.0.2:{port + 1}")
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
        # It never opens it: it ends by itself. Nobody can end what is not theirs; an unknown id does nothing.
        r.send(field(4, field(1, os.urandom(16)) + field(2, b"x")))
        r.send(field(3, field(1, 99) + field(4, os.urandom(16)) + field(5, os.urandom(32)) + field(6, os.urandom(32))))
        wait_for("the channel that was never opened ended", lambda: not w.channels(), 15)
    finally:
        b.close()


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
