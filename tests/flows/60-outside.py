#!/usr/bin/env python3
"""The ways out and in, and the ways beside TCP: plain destinations, published ports, names, datagrams, Unix sockets."""
import errno, os, re, socket, struct, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *
from agent import Agent, program


def own_address():
    """One of this machine's addresses that is not loopback: loopback addresses are the fabric's own for bound programs."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.connect(("192.0.2.77", 9))
        return s.getsockname()[0]
    except OSError:
        raise Skip("this machine has no address but loopback")


def free_port(host="127.0.0.1"):
    with socket.socket() as s:
        s.bind((host, 0))
        return s.getsockname()[1]


def rules(*rows, **top):
    return "version: 1\n" + "".join(f"{k}: {v}\n" for k, v in top.items()) + "rules:\n" + \
        ("".join(f"  - {{ {r} }}\n" for r in rows) or "  []\n")


# -- a destination outside

def test_plain_destinations(w):
    host = own_address()
    w.start()
    cli_path, other_path = program(w, "cli"), program(w, "other")
    world = Agent(w, bound=False)
    port = world.do(f"serve({host!r}, 0)")
    second = world.do(f"serve({host!r}, 0)")
    mute = world.do(f"serve({host!r}, 0, lambda c: time.sleep(60))")
    plain = f"name: out, allow: connect, from: {{ program: cli }}, plain: true, address: {host}/32, port: [{port}, {mute}]"
    w.policy(rules(plain))
    cli, other = Agent(w, cli_path), Agent(w, other_path)
    n = cli.do(f"connect({host!r}, {port})")
    assert cli.do(f"ask({n})") == "hello"
    c, = w.channels()
    assert c["protection"] == "plain" and c["rule"] == "out" and c["to"]["program"] == "outside", c
    assert c["to"]["address"] == f"{host}:{port}" and c["bytes_sent"] == c["bytes_received"] == 5, c
    assert cli.do(f"S[{n}].getpeername()") == [host, port]
    # Refused: another port, another address, another program; each at once.
    for a, h, p in ((cli, host, second), (cli, "192.0.2.1", port), (other, host, port)):
        e, took = a.do(f"timed('connect(\"{h}\", {p})')")
        assert e == errno.EACCES and took < 0.5, (h, p, e, took)
    why = w.belay("why", f"{host}:{second}").stdout
    assert "out (policy.yaml:3) would allow it if the port were" in why, why
    # Nobody there: what the outside says, not a refusal.
    gone = free_port(host)
    w.policy(rules(plain, plain.replace("name: out", "name: gone").replace(f"[{port}, {mute}]", str(gone))))
    assert cli.errno(f"connect({host!r}, {gone})") == errno.ECONNREFUSED
    assert cli.do(f"""(lambda s: [s.setblocking(False), s.connect_ex(({host!r}, {gone})), s.close()])(socket.socket())""")[1] \
        in (errno.ECONNREFUSED, errno.EINPROGRESS)
    assert not [c for c in w.channels() if c["rule"] == "gone" and c["state"] == "open"]
    # Bulk both ways, half close; meanwhile peers that take nothing hold up nobody.
    stuck = [cli.do(f"connect({host!r}, {mute})") for _ in range(3)]
    cli.do(f"""
for n in {stuck}:
    S[n].setblocking(False)
    try:
        while S[n].send(bytes(1 << 20)): pass
    except BlockingIOError: pass
""")
    m = cli.do(f"connect({host!r}, {port})")
    assert cli.do(f"bulk({m}, 30_000_000)", 60)
    t = time.monotonic()
    assert cli.do(f"ask({n})") == "hello" and time.monotonic() - t < 1
    cli.do(f"[close(x) for x in {stuck}]")
    # The rule withdrawn: ended within a second, refused from then on; loopback is never outside.
    w.policy(rules("name: lo, allow: connect, from: { program: cli }, plain: true, address: 127.0.0.0/8"))
    t = time.monotonic()
    cli.do(f"ended({n})")
    assert time.monotonic() - t < 1
    assert cli.errno(f"connect({host!r}, {port})") == errno.EACCES
    assert cli.errno(f"connect('127.0.0.1', {world.do('serve(chr(49)+chr(50)+chr(55)+chr(46)+chr(48)+chr(46)+chr(48)+chr(46)+chr(49), 0)')})") \
        == errno.EACCES


# -- a published port

def test_published_ports(w):
    w.start()
    srv_path = program(w, "srv")
    port, hidden, wild = free_port(), free_port(), free_port()
    bind = f"name: listens, allow: bind, from: {{ program: srv }}"
    publish = f"name: shown, allow: publish, from: {{ program: srv }}, port: [{port}, {wild}]"
    w.policy(rules(bind, publish))
    srv, out = Agent(w, srv_path), Agent(w, bound=False)
    srv.do(f"serve('127.0.0.1', {port})")
    srv.do(f"serve('127.0.0.1', {hidden})")
    srv.do(f"serve('0.0.0.0', {wild})")
    srv.do(f"serve('::1', {wild})")
    go = f"connect('127.0.0.1', {port}, '127.0.0.5')"
    wait_for("the port is open outside", lambda: out.errno(f"close({go})") == 0, 3)
    n = out.do(go)
    assert out.do(f"ask({n})") == "hello"
    # The server sees who it is.
    assert out.do(f"S[{n}].getsockname()") in srv.do("PEERS"), srv.do("PEERS")
    wait_for("it is listed", lambda: [c for c in w.channels() if c["rule"] == "shown" and c["from"]["program"] == "outside"])
    assert out.errno(f"close(connect('127.0.0.1', {wild}))") == 0
    six = out.do(f"connect('::1', {wild})")
    assert out.do(f"ask({six})") == "hello" and out.do(f"S[{six}].getsockname()") in srv.do("PEERS")
    out.do(f"close({six})")
    # A port that is not published: closed, and whoever asks is told why.
    assert out.errno(f"connect('127.0.0.1', {hidden})") == errno.ECONNREFUSED
    why = w.belay("why", f"127.0.0.1:{hidden}").stdout
    assert "not published" in why and "srv" in why and "the port were" in why and "shown" in why, why
    rows = [json.loads(l) for l in w.belay("why", "--json", f"127.0.0.1:{hidden}").stdout.splitlines()]
    assert rows and rows[0]["address"].endswith(f":{hidden}"), rows
    if w.host:
        told = w.belay("why", f"127.0.0.1:{hidden}", uid=w.users[1]).stdout
        assert "not published" in told and "srv" not in told and "shown" not in told, told
        assert "not published" not in w.belay("why", f"127.0.0.1:{port}", uid=w.users[1]).stdout
    # Bulk both ways, half close; visitors that stall hold up nobody.
    srv.do(f"serve('127.0.0.1', {hidden + 1 if hidden + 1 not in (port, wild) else hidden + 2}, lambda c: time.sleep(60))")
    stuck = [out.do(go) for _ in range(3)]
    out.do(f"""
for x in {stuck}:
    S[x].setblocking(False)
    try:
        while S[x].send(bytes(1 << 20)): pass
    except BlockingIOError: pass
""")
    m = out.do(go)
    assert out.do(f"bulk({m}, 30_000_000)", 60)
    t = time.monotonic()
    assert out.do(f"ask({n})") == "hello" and time.monotonic() - t < 1
    out.do(f"[close(x) for x in {stuck}]")
    # A limit of visitors: refused ones get nothing, and can find out.
    wait_for("the stuck ones are gone", lambda: len(w.channels()) <= 1, 5)
    w.policy(rules(bind, publish + ", connections: 2"))
    k = out.do(go)
    assert out.do(f"ask({k})") == "hello"
    refused = out.do(f"""
def visit():
    try:
        n = connect('127.0.0.1', {port}, '127.0.0.6')
        at = S[n].getsockname()
        return [at, ended(n, 2)]
    except OSError as e:
        return [None, errno.errorcode[e.errno]]
""") or out.do("visit()")
    assert refused[1] in ("", "ECONNRESET", "ECONNREFUSED"), refused
    why = w.belay("why", "127.0.0.6").stdout
    assert "as many connections as its rule allows" in why and "127.0.0.6" in why, why
    assert out.do(f"ask({n})") == out.do(f"ask({k})") == "hello"
    # Withdrawn: visitors are gone within a second and the port is closed.
    w.policy(rules(bind))
    t = time.monotonic()
    for x in (n, k):
        out.do(f"ended({x})")
    assert time.monotonic() - t < 1
    wait_for("the port is closed", lambda: out.errno(f"connect('127.0.0.1', {port})") == errno.ECONNREFUSED, 1)
    assert "not published" in w.belay("why", f"127.0.0.1:{port}").stdout
    # Allowed again without touching the server; closed when the server ends.
    w.policy(rules(bind, publish))
    wait_for("it is open again", lambda: out.errno(f"close({go})") == 0, 2)
    w.end(srv.p, signal.SIGKILL)
    wait_for("closed with its server", lambda: out.errno(f"close({go})") == errno.ECONNREFUSED, 2)


# -- names

class NameServer:
    """A, AAAA and a long answer, over UDP and TCP; keeps what it was asked."""
    def __init__(self, host):
        self.asked = []
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind((host, 0))
        self.port = self.udp.getsockname()[1]
        self.tcp = socket.socket()
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.tcp.bind((host, self.port))
        self.tcp.listen(8)
        for f in (self.serve_udp, self.serve_tcp):
            threading.Thread(target=f, daemon=True).start()

    def answer(self, q, tcp):
        name, at = [], 12
        while q[at]:
            name.append(q[at + 1:at + 1 + q[at]].decode())
            at += 1 + q[at]
        kind, = struct.unpack_from(">H", q, at + 1)
        question = q[12:at + 5]
        self.asked.append((".".join(name), kind, tcp))
        if name[0] == "long" and not tcp:
            return q[:2] + b"\x83\x80\0\1\0\0\0\0\0\0" + question
        data = {1: [bytes([192, 0, 2, i]) for i in range(1, 41 if name[0] == "long" else 2)],
                28: [bytes.fromhex("20010db8000000000000000000000001")]}.get(kind, [])
        if name[0] == "none":
            return q[:2] + b"\x81\x83\0\1\0\0\0\0\0\0" + question
        return q[:2] + b"\x81\x80\0\1" + struct.pack(">H", len(data)) + b"\0\0\0\0" + question + \
            b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(d)) + d for d in data)

    def serve_udp(self):
        while True:
            try:
                q, peer = self.udp.recvfrom(4096)
                a = self.answer(q, False)
                if b"mute" not in q:
                    self.udp.sendto(a, peer)
            except OSError:
                return

    def serve_tcp(self):
        while True:
            try:
                c, _ = self.tcp.accept()
            except OSError:
                return
            threading.Thread(target=self.serve_one, args=(c,), daemon=True).start()

    def serve_one(self, c):
        c.settimeout(5)
        try:
            while n := c.recv(2):
                a = self.answer(c.recv(struct.unpack(">H", n)[0]), True)
                c.sendall(struct.pack(">H", len(a)) + a)
        except OSError:
            pass
        c.close()

    def close(self):
        self.udp.close()
        self.tcp.close()


QUERY = r'''
import struct
def query(name, kind, where, tcp=False, raw=None):
    q = raw or b"\x12\x34\x01\0\0\1\0\0\0\0\0\0" + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + \
        struct.pack(">BHH", 0, kind, 1)
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    s.settimeout(5)
    s.connect((where, 53))
    s.sendall((struct.pack(">H", len(q)) if tcp else b"") + q)
    a = s.recv(4096)
    return [a[2:][3] & 15, struct.unpack(">H", a[2:][6:8])[0]] if tcp else [a[3] & 15, struct.unpack(">H", a[6:8])[0]]
'''


def test_names(w):
    where = "127.0.0.53"
    ns = NameServer(where)
    try:
        w.start("--resolver", f"{where}:{ns.port}")
        cli_path, other_path = program(w, "cli"), program(w, "other")
        w.policy(rules(dns="true"))
        # An unenrolled program, too: a name is not a connection.
        for path in (cli_path, "/usr/bin/python3"):
            cli = Agent(w, path)
            cli.do(QUERY)
            for tcp in (False, True):
                assert cli.do(f"query('one.example', 1, {where!r}, {tcp})") == [0, 1]
                assert cli.do(f"query('one.example', 28, {where!r}, {tcp})") == [0, 1]
                assert cli.do(f"query('none.example', 1, {where!r}, {tcp})") == [3, 0]
        assert cli.do(f"query('long.example', 1, {where!r}, True)") == [0, 40]
        # Nothing but A and AAAA gets out, and no bytes of the program's choosing but the name.
        seen = len(ns.asked)
        for kind in (16, 255, 10, 65):
            assert cli.do(f"query('secret.example', {kind}, {where!r})")[0] == 4, kind
        for raw in (b"hello, outside, this is no question at all",
                    b"\x12\x34\x01\0\0\2\0\0\0\0\0\0\1a\0\0\1\0\1\1b\0\0\1\0\1",
                    b"\x12\x34\x28\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1"):
            try:
                assert cli.do(f"query('', 0, {where!r}, raw={raw!r})")[0] in (1, 4)
            except OSError as e:
                assert e.errno in (errno.ETIMEDOUT, 110, errno.EAGAIN), e
        assert len(ns.asked) == seen, ns.asked[seen:]
        # Other ports of the resolver, and its own, are no name service; nor are other servers.
        assert cli.errno(f"connect({where!r}, {ns.port})") == errno.EACCES
        assert cli.errno("connect('192.0.2.53', 53)") == errno.EACCES
        assert cli.errno("query('one.example', 1, '192.0.2.53')") in (errno.EACCES, errno.ENETUNREACH)
        # What programs use: the system's resolver, with a resolv.conf that names it.
        if ROOT:
            conf = file_for(w, "resolv.conf", f"nameserver {where}\n")
            inside = ("unshare", "-m", "sh", "-c", f'mount --bind {conf} /etc/resolv.conf && exec "$@"', "sh",
                      "setpriv", "--reuid", str(w.uid), "--regid", str(w.uid), "--clear-groups", "--",
                      os.path.join(w.bin, "belay"), "run", "--")
            def run(*argv, check=True):
                return w.cmd(*inside, *argv, uid=0, check=check).stdout
            assert run("getent", "ahostsv4", "one.example").startswith("192.0.2.1")
            assert run("getent", "hosts", "one.example").startswith("2001:db8::1")
            assert run("getent", "ahostsv6", "one.example").startswith("2001:db8::1")
            out = run("python3", "-c", "import socket; print(len({a[4][0] for a in socket.getaddrinfo('long.example', 80, flags=socket.AI_ADDRCONFIG)}))")
            assert out == "41\n", out
            if shutil.which("dig"):
                assert run("dig", "+short", "one.example") == "192.0.2.1\n"
                # Over TCP it binds first, to a port the kernel chooses.
                assert run("dig", "+short", "+tcp", "one.example", "AAAA") == "2001:db8::1\n"
        # A socket bound to nothing in particular first, as some resolver libraries do.
        cli.do("N = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); N.bind(('0.0.0.0', 0))")
        assert cli.do("N.getsockname()[1]") > 0 and cli.do(f"N.connect(({where!r}, 53))") is None
        assert cli.errno("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(('127.0.0.1', 0))") == errno.EACCES
        # Off by policy.
        w.policy(rules(dns="false"))
        for tcp in (False, True):
            assert cli.errno(f"query('one.example', 1, {where!r}, {tcp})") == errno.EACCES
        assert "name service off" in w.belay("why", str(cli.pid)).stdout, w.belay("why").stdout
        w.policy(rules(dns="true"))
        assert cli.do(f"query('one.example', 1, {where!r})") == [0, 1]
    finally:
        ns.close()
    r = w.cmd(os.path.join(w.bin, "belayd"), "--dir", w.tmp + "/x", "--resolver", "name.example", check=False)
    assert r.returncode == 2 and "--resolver" in r.stderr, r


def test_names_are_shared(w):
    """A program that asks what nobody answers holds up itself, not another's names."""
    where = "127.0.0.53"
    ns = NameServer(where)
    try:
        w.start("--resolver", f"{where}:{ns.port}")
        cli, greedy = Agent(w, program(w, "cli")), Agent(w, program(w, "greedy"))
        w.policy(rules(dns="true"))
        cli.do(QUERY)
        greedy.do(QUERY)
        greedy.do(f"""
q = b"\\x12\\x34\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0\\4mute\\7example\\0\\0\\1\\0\\1"
def flood():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect(({where!r}, 53))
    while not DONE:
        s.send(q)
        time.sleep(0.0005)
DONE = []
[threading.Thread(target=flood, daemon=True).start() for _ in range(2)]
H = [socket.create_connection(({where!r}, 53)) for _ in range(20)]
""")
        wait_for("the flood is under way", lambda: sum(n == "mute.example" for n, _, _ in ns.asked) >= 8)
        t = time.monotonic()
        for i in range(20):
            for tcp in (False, True):
                assert cli.do(f"query('one.example', 1, {where!r}, {tcp})") == [0, 1], (i, tcp)
        assert time.monotonic() - t < 4, "its names waited for another's"
        greedy.do("DONE.append(1)")
    finally:
        ns.close()


# -- a port of the kernel's choice: nothing until somebody could be led there by it

def test_a_port_the_kernel_chooses(w):
    w.start()
    srv_path, cli_path = program(w, "srv"), program(w, "cli")
    bind = "name: listens, allow: bind, from: { program: srv }, port: 8101"
    ask = "name: ask, allow: connect, from: { program: cli }, to: { program: [srv, cli] }"
    w.policy(rules(bind, ask))
    srv, cli = Agent(w, srv_path), Agent(w, cli_path)
    srv.do("serve('127.0.0.1', 8101)")
    for source in ("127.0.0.1", "0.0.0.0"):
        n = cli.do(f"connect('127.0.0.1', 8101, {source!r})")
        assert cli.do(f"ask({n})") == "hello" and cli.do(f"S[{n}].getsockname()") in srv.do("PEERS")
        cli.do(f"close({n})")
    assert cli.errno("connect('127.0.0.1', 8101, '192.0.2.1')") == errno.EADDRNOTAVAIL
    # It may not listen there, neither before nor after it was connected; nobody is led to it.
    cli.do("B = socket.socket(); B.bind(('127.0.0.1', 0)); P = B.getsockname()[1]")
    assert cli.do("P") >= 32768 and cli.errno("B.listen()") == errno.EACCES
    assert cli.errno(f"connect('127.0.0.1', {cli.do('P')})") == errno.ECONNREFUSED
    cli.do("B.connect(('127.0.0.1', 8101))")
    assert cli.do("ask(keep(B))") == "hello"
    # With a rule it listens; the port is its own, and another program's listener cannot share it.
    w.policy(rules(bind, ask, "name: any-port, allow: bind, from: { program: cli }, port: 0"))
    port = cli.do("serve('127.0.0.1', 0)")
    n = cli.do(f"connect('127.0.0.1', {port})")
    assert cli.do(f"ask({n})") == "hello"
    w.policy(rules(bind, ask, "name: any-port, allow: bind, from: { program: cli }, port: 0",
                   f"name: that-port, allow: bind, from: {{ program: srv }}, port: {port}"))
    share = ("[(s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1), s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1), "
             "s.bind(('127.0.0.1', %d)), s.listen()) for s in [socket.socket()]]")
    assert srv.errno(share % port) == errno.EADDRINUSE


# -- datagrams

UDP = r'''
def udp(host=None, port=0):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    if host:
        s.bind((host, port))
    return keep(s)

def heard(n, timeout=0.3):
    S[n].settimeout(timeout)
    try:
        return S[n].recvfrom(4096)[0].decode()
    except TimeoutError:
        return None

def answers(n):
    def loop():
        while True:
            b, peer = S[n].recvfrom(4096)
            PEERS.append(peer)
            S[n].sendto(b're:' + b, peer)
    S[n].settimeout(None)
    threading.Thread(target=loop, daemon=True).start()
'''


def test_datagrams(w):
    w.start()
    paths = {n: program(w, n) for n in ("srv", "cli", "other")}
    bind = "name: listens, allow: bind, from: { program: [srv, other] }, transport: udp, port: 7001-7009"
    w.policy(rules(bind))
    srv, cli, other = (Agent(w, paths[n]) for n in ("srv", "cli", "other"))
    for a in (srv, cli, other):
        a.do(UDP)
    srv.do("answers(udp('127.0.0.1', 7001))")
    srv.do("answers(udp('127.0.0.1', 7002))")
    bad = other.do("udp('127.0.0.1', 7003)")
    # Denied by default.
    n = cli.do("udp()")
    assert cli.errno(f"S[{n}].connect(('127.0.0.1', 7001))") == errno.EACCES
    assert cli.errno(f"S[{n}].sendto(b'x', ('127.0.0.1', 7001))") == errno.EACCES
    assert cli.errno("udp('127.0.0.1', 7005)") == errno.EACCES
    w.policy(rules(bind, "name: ask, allow: connect, transport: udp, from: { program: cli }, to: { program: srv }, port: 7001"))
    # connect and send; sendto; the answer comes back by recvfrom.
    cli.do(f"S[{n}].connect(('127.0.0.1', 7001))")
    cli.do(f"S[{n}].send(b'one')")
    assert cli.do(f"heard({n}, 2)") == "re:one"
    m = cli.do("udp()")
    for text in ("two", "three"):
        cli.do(f"S[{m}].sendto({text.encode()!r}, ('127.0.0.1', 7001))")
        assert cli.do(f"heard({m}, 2)") == "re:" + text
    # IPv6, and IPv4 on a dual-stack socket.
    srv.do("s6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s6.bind(('::', 7004)); answers(keep(s6))")
    w.policy(rules(bind, "name: ask, allow: connect, transport: udp, from: { program: cli }, to: { program: srv }, port: [7001, 7004]"))
    cli.do("c6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); keep(c6)")
    for host in ("::1", "::ffff:127.0.0.1"):
        cli.do(f"c6.sendto(b'six', ({host!r}, 7004))")
        assert cli.do("heard(c6.fileno(), 2)") == "re:six", host
    w.policy(rules(bind, "name: ask, allow: connect, transport: udp, from: { program: cli }, to: { program: srv }, port: 7001"))
    for s in (n, m):   # a reload asks anew; what still holds goes on
        cli.do(f"S[{s}].sendto(b'again', ('127.0.0.1', 7001))")
        assert cli.do(f"heard({s}, 2)") == "re:again"
    # The same sockets, elsewhere: another program, another port of the same one, outside.
    w.belay("why")
    for host, port in (("127.0.0.1", 7003), ("127.0.0.1", 7002), ("192.0.2.1", 7001)):
        for s in (n, m):
            assert cli.errno(f"S[{s}].sendto(b'leak', ({host!r}, {port}))") in (errno.EACCES, errno.ENETUNREACH), (host, port)
            # sendmsg is not asked about: the kernel carries it nowhere.
            cli.errno(f"S[{s}].sendmsg([b'leak'], [], 0, ({host!r}, {port}))")
    assert other.do(f"heard({bad})") is None, "a datagram reached a program that policy does not list"
    assert srv.do("[p for p in PEERS if p[1] == 0]") == []
    before = srv.do("len(PEERS)")
    cli.do(f"S[{m}].sendto(b'four', ('127.0.0.1', 7001))")
    assert cli.do(f"heard({m}, 2)") == "re:four" and srv.do("len(PEERS)") == before + 1, "a refused datagram was delivered"
    # Another program: not this destination. And the one who answers starts nothing by itself.
    k = other.do("udp()")
    assert other.errno(f"S[{k}].sendto(b'x', ('127.0.0.1', 7001))") == errno.EACCES
    e = srv.do("udp()")
    assert srv.errno(f"S[{e}].sendto(b'x', ('127.0.0.1', 7003))") == errno.EACCES
    # Withdrawn: nothing is carried any more, on the sockets that were granted it.
    w.policy(rules(bind))
    time.sleep(0.2)
    before = srv.do("len(PEERS)")
    cli.errno(f"S[{n}].send(b'late')")
    assert cli.errno(f"S[{m}].sendto(b'late', ('127.0.0.1', 7001))") == errno.EACCES
    time.sleep(0.3)
    assert srv.do("len(PEERS)") == before


# -- Unix sockets

UNIX = r'''
def listen_unix(path, each=echo):
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    if path[0] == "/":
        os.chmod(path, 0o777)
    s.listen(16)
    accepting(s, each)

def cred_of(c):
    CREDS.append(struct.unpack("3i", c.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
    echo(c)
CREDS = []

def connect_unix(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(5)
    try:
        s.connect(path)
    except BaseException:
        s.close()
        raise
    return keep(s)

def talk(path):
    n = connect_unix(path)
    r = ask(n)
    close(n)
    return r
'''


def test_unix_sockets(w):
    w.start()
    paths = {n: program(w, n) for n in ("srv", "cli", "other")}
    d = os.path.join(w.tmp, "sockets")
    os.mkdir(d)
    os.chmod(d, 0o777)
    tree, outside = f"{d}/tree", f"{d}/outside"
    w.policy(rules())
    srv, cli, other = (Agent(w, paths[n]) for n in ("srv", "cli", "other"))
    world = Agent(w, bound=False)
    for a in (srv, cli, other, world):
        a.do(UNIX)
    world.do(f"listen_unix({outside!r}, cred_of)")
    srv.do(f"listen_unix({tree!r}, cred_of)")
    srv.do("listen_unix('\\0belay-test-' + str(os.getpid()))")
    # Within one run tree: free, by path and by abstract name.
    assert srv.do(f"talk({tree!r})") == "hello"
    name = "\\0belay-test-" + str(srv.do("os.getpid()"))
    assert srv.do(f"talk('{name}')") == "hello"
    # Across trees and to the outside: only by rule; abstract names never.
    for a in (cli, other):
        assert a.errno(f"connect_unix({tree!r})") == errno.EACCES
        assert a.errno(f"connect_unix({outside!r})") == errno.EACCES
        assert a.errno(f"connect_unix('{name}')") in (errno.ECONNREFUSED, errno.EPERM)
    assert tree in w.belay("why", str(cli.pid)).stdout
    assert srv.errno(f"connect_unix({outside!r})") == errno.EACCES
    world.do("listen_unix('\\0belay-test-outside')")
    assert cli.errno("connect_unix('\\0belay-test-outside')") in (errno.ECONNREFUSED, errno.EPERM)
    assert world.errno(f"connect_unix('{name}')") in (errno.ECONNREFUSED, errno.EPERM)
    w.policy(rules(f"name: t, allow: connect, from: {{ program: cli }}, unix: {tree}",
                   f"name: o, allow: connect, from: {{ program: [cli, srv] }}, unix: {d}/outside"))
    assert cli.do(f"talk({tree!r})") == cli.do(f"talk({outside!r})") == srv.do(f"talk({outside!r})") == "hello"
    assert other.errno(f"connect_unix({tree!r})") == other.errno(f"connect_unix({outside!r})") == errno.EACCES
    # A link to it, a relative path: what is judged is where it leads.
    cli.do(f"os.symlink({tree!r}, {d + '/link'!r})")
    assert cli.do(f"talk({d + '/link'!r})") == "hello"
    other.do(f"os.chdir({d!r})")
    assert other.errno("connect_unix('link')") == other.errno("connect_unix('./tree')") == errno.EACCES
    # Who it is: the server sees the caller's user.
    w.policy(rules(f"name: t, allow: connect, from: {{ program: '*' }}, unix: {d}/**"))
    uid = cli.do("os.getuid()")
    assert cli.do(f"talk({outside!r})") == "hello" and cli.do(f"talk({tree!r})") == "hello"
    assert world.do("CREDS[-1][1:]") == [uid, uid] and srv.do("CREDS[-1][1:]") == [uid, uid], world.do("CREDS")
    if w.host:
        for u in w.users:
            a = Agent(w, paths["cli"], uid=u)
            a.do(UNIX)
            assert a.do(f"talk({outside!r})") == "hello"
            assert world.do("CREDS[-1][1:]") == [u, u], world.do("CREDS[-1]")
            w.end(a.p)
    # With `to`, the listener must be known to be that program.
    w.policy(rules(f"name: t, allow: connect, from: {{ program: cli }}, to: {{ program: srv }}, unix: {d}/**"))
    assert cli.errno(f"connect_unix({outside!r})") == errno.EACCES
    assert cli.do(f"talk({tree!r})") == "hello"
    os.kill(w.pids()["guard"], signal.SIGKILL)
    wait_for("a new guard knows the listener, too", lambda: cli.errno(f"talk({tree!r})") == 0)
    w.policy(rules(f"name: t, allow: connect, from: {{ program: cli }}, to: {{ program: other }}, unix: {d}/**"))
    assert cli.errno(f"connect_unix({tree!r})") == errno.EACCES
    # Belay's own socket: never, whatever the policy says.
    control = os.path.join(w.dir, "control")
    w.policy(rules("name: all, allow: connect, from: { program: '*' }, unix: /**"))
    got = cli.errno(f"""connect_control({control!r})""") if cli.do(f"""
def connect_control(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(path)
""") else cli.errno(f"connect_control({control!r})")
    assert got in (errno.EACCES, errno.ENOENT), got


RIGHTS = r'''
def send_fd(n, fd):
    S[n].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])

def take(c):
    GOT.append(receive(c))
    c.close()
GOT = []

def receive(c):
    c.settimeout(3)
    b, anc, _, _ = c.recvmsg(10, socket.CMSG_SPACE(4))
    for level, kind, data in anc:
        if kind == socket.SCM_RIGHTS:
            return keep(socket.socket(fileno=array.array("i", data[:4])[0]))
    return None

def gives(path):
    "Listens, and gives each who connects the socket FD."
    def each(c):
        try:
            c.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [FD]))])
            SENT.append(0)
        except OSError as e:
            SENT.append(e.errno)
            c.sendall(b"x")
        time.sleep(1)
        c.close()
    listen_unix(path, each)
SENT = []
'''


def passrights():
    a, b = socket.socketpair()
    with a, b:
        try:
            a.setsockopt(socket.SOL_SOCKET, 83, 0)
            return True
        except OSError:
            return False


def test_a_channel_is_not_passed_to_another_program(w):
    if not passrights():
        raise Skip("this kernel has no SO_PASSRIGHTS (Linux 6.16): docs/caveats.md")
    w.start()
    paths = {n: program(w, n) for n in ("srv", "cli", "other")}
    d = os.path.join(w.tmp, "sockets")
    os.mkdir(d)
    os.chmod(d, 0o777)
    w.policy(rules("name: listens, allow: bind, from: { program: srv }, port: 7001",
                   "name: c, allow: connect, from: { program: cli }, to: { program: srv }, port: 7001",
                   f"name: u, allow: connect, from: {{ program: '*' }}, unix: {d}/**"))
    srv, cli, other = (Agent(w, paths[n]) for n in ("srv", "cli", "other"))
    for a in (srv, cli, other):
        a.do(UNIX)
        a.do(RIGHTS)
    srv.do("serve('127.0.0.1', 7001)")
    n = cli.do("connect('127.0.0.1', 7001)")
    # The one with the channel connects to the other's socket.
    other.do(f"listen_unix('{d}/other', take)")
    m = cli.do(f"connect_unix('{d}/other')")
    assert cli.errno(f"send_fd({m}, {n})") == errno.EPERM, "a channel was passed to another program"
    cli.do(f"S[{m}].sendall(b'x')")
    wait_for("the other heard", lambda: other.do("GOT"))
    assert other.do("GOT") == [None], other.do("GOT")
    # The other connects to a socket of the one with the channel.
    cli.do(f"FD = {n}")
    cli.do(f"gives('{d}/cli')")
    m = other.do(f"connect_unix('{d}/cli')")
    assert other.do(f"receive(S[{m}])") is None and cli.do("SENT") == [errno.EPERM], cli.do("SENT")
    # Nobody allows it himself again.
    for a in (cli, other):
        assert a.errno(f"S[{m}].setsockopt(socket.SOL_SOCKET, 83, 1)" if a is other else
                       "socket.socket(socket.AF_UNIX).setsockopt(socket.SOL_SOCKET, 83, 1)") == errno.EPERM
    # Within the tree descriptors pass: a pair, and a name of the tree's own.
    cli.do("A, B = socket.socketpair(); S[A.fileno()] = A")
    cli.do(f"send_fd(A.fileno(), {n})")
    k = cli.do("receive(B)")
    assert cli.do(f"ask({k})") == "hello"
    assert cli.do(f"ask({n})") == "hello", "the channel itself suffered"


if __name__ == "__main__":
    main(globals())
