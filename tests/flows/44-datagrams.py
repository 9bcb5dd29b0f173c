#!/usr/bin/env python3
"""Datagrams beyond one node: to programs of another node, sealed, and to destinations outside where policy lists them."""
import errno, os, re, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *
from agent import Agent, program

A, B = "10.78.0.1", "10.78.0.2"
A6, B6 = "fd78::1", "fd78::2"

INSIDE = r'''
def udp(host=None, port=0):
    s = socket.socket(socket.AF_INET6 if host and ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(3)
    if host:
        s.bind((host, port))
    return keep(s)

def heard(n, timeout=3):
    S[n].settimeout(timeout)
    try:
        b, peer = S[n].recvfrom(70000)
        return [b.decode("latin-1"), peer[0], peer[1]]
    except TimeoutError:
        return None

def answers(n):
    def loop():
        while True:
            b, peer = S[n].recvfrom(70000)
            PEERS.append(peer[:2])
            try:
                S[n].sendto(b if len(b) > 100 else b're:' + b, peer)
            except OSError as e:
                PEERS.append(repr(e))
    S[n].settimeout(None)
    threading.Thread(target=loop, daemon=True).start()
    return n
'''


def rules(*rows, **top):
    return "version: 1\n" + "".join(f"{k}: {v}\n" for k, v in top.items()) + "rules:\n" + \
        ("".join(f"  - {{ {r} }}\n" for r in rows) or "  []\n")


BIND = "name: listens, allow: bind, from: { program: srv }, transport: udp, port: 7001-7009"
FROM_BETA = "name: from-beta, allow: connect, transport: udp, from: { program: cli, node: beta }, to: { program: srv }, port: 7001-7002"
TO_ALPHA = "name: to-alpha, allow: connect, transport: udp, from: { program: cli }, to: { program: srv, node: alpha }, port: 7001-7003"


def two_nodes(w):
    port = 20000 + os.getpid() * 2 % 20000
    b = World(w.mode, w.bin, "two")
    w.start()
    try:
        b.start(*(("--uid-base", "64500") if w.host else ()))
        w.belay("node", "init", "alpha", "--address", A, "--address", A6, "--listen", f"127.0.0.2:{port}",
                "--data", f"127.0.0.2:{port + 1}")
        token = w.belay("node", "invite", "beta", "--address", B, "--address", B6).stdout.split()[-1]
        b.belay("node", "join", token, "--listen", f"127.0.0.3:{port}", "--data", f"127.0.0.3:{port + 1}")
        wait_for("the link is up\n" + w.tail() + b.tail(), lambda: "up" in b.belay("node", "list").stdout
                 and "up" in w.belay("node", "list").stdout)
        w.paths = {n: program(w, n) for n in ("srv", "cli")}
        # The same bytes are the same program on both.
        b.paths = {n: program(b, n) for n in ("srv", "cli", "other")}
        w.policy(rules(BIND, FROM_BETA))
        b.policy(rules(TO_ALPHA))
    except BaseException:
        sys.stderr.write("# beta:\n" + "".join("# " + l for l in b.tail().splitlines(True)))
        b.close()
        raise
    return b


def agents(w, b):
    srv, cli, other = Agent(w, w.paths["srv"]), Agent(b, b.paths["cli"]), Agent(b, b.paths["other"])
    for a in (srv, cli, other):
        a.do(INSIDE)
    return srv, cli, other


def test_datagrams_to_another_node(w):
    b = two_nodes(w)
    try:
        srv, cli, other = agents(w, b)
        srv.do("answers(udp('0.0.0.0', 7001))")
        srv.do(f"answers(udp({A!r}, 7002))")
        srv.do("answers(udp('0.0.0.0', 7003))")
        # By address, connected, with and without a name of its own; the server sees the true client.
        for bind in ("udp()", "udp('0.0.0.0', 0)"):
            n = cli.do(bind)
            cli.do(f"S[{n}].sendto(b'one', ({A!r}, 7001))")
            assert cli.do(f"heard({n})") == ["re:one", A, 7001]
            assert srv.do("PEERS[-1]")[0] == B, srv.do("PEERS")
            # Another destination of the same socket; the first goes on.
            cli.do(f"S[{n}].sendto(b'two', ({A!r}, 7002))")
            assert cli.do(f"heard({n})") == ["re:two", A, 7002]
            cli.do(f"S[{n}].sendto(b'three', ({A!r}, 7001))")
            assert cli.do(f"heard({n})") == ["re:three", A, 7001]
        m = cli.do("udp()")
        cli.do(f"S[{m}].connect(({A!r}, 7001))")
        assert cli.do(f"S[{m}].getsockname()[0]") == B and cli.do(f"S[{m}].getpeername()") == [A, 7001]
        for text in ("four", ""):
            cli.do(f"S[{m}].send({text.encode()!r})")
            assert cli.do(f"heard({m})") == ["re:" + text, A, 7001], text
        # Message bounds, up to the largest there is.
        for size in (1, 1400, 9000, 65507):
            cli.do(f"S[{m}].send(b'x' * {size})")
            got = cli.do(f"heard({m})")
            assert got and len(got[0]) in (size, size + 3), (size, got and len(got[0]))
        # Seen on both nodes, as what it is.
        for x in (w, b):
            c = [c for c in x.channels() if c["transport"] == "udp" and c["to"]["address"] == f"{A}:7001"]
            assert len(c) == 3 and all(i["protection"] == "encrypt" and i["from"]["program"] == "cli" and
                                       i["to"]["program"] == "srv" for i in c), x.channels()
            assert all(i["bytes_sent"] for i in c), c
        assert all(c["from"]["address"].startswith(B + ":") and c["from"]["node"] == "beta" for c in w.channels()), w.channels()
        # Refused here, refused there, nobody there.
        k = other.do("udp()")
        assert other.errno(f"S[{k}].sendto(b'x', ({A!r}, 7001))") == errno.EACCES
        assert cli.errno(f"S[{m}].sendto(b'x', ({A!r}, 7004))") == errno.EACCES
        n = cli.do("udp()")
        assert cli.errno(f"S[{n}].sendto(b'x', ({A!r}, 7003))") == errno.EACCES    # alpha has no rule for it
        assert "alpha" in b.belay("why").stdout
        assert srv.errno(f"S[udp()].sendto(b'x', ({B!r}, 7001))") == errno.EACCES
        # The socket goes: so do its channels, on both.
        before = len(w.channels())
        cli.do(f"close({m})")
        wait_for("the channel of a closed socket is gone", lambda: len(w.channels()) == before - 1 == len(b.channels()), 2)
        # Revoked: no datagram more, by the same socket; withdrawn by policy: the same, within a second.
        n = cli.do("udp()")
        cli.do(f"S[{n}].connect(({A!r}, 7001))")
        cli.do(f"S[{n}].send(b'five')")
        assert cli.do(f"heard({n})")[0] == "re:five"
        w.policy(rules(BIND))
        wait_for("ended on both", lambda: not w.channels() and not b.channels(), 1.5)
        seen = srv.do("len(PEERS)")
        cli.errno(f"S[{n}].send(b'late')")
        assert cli.errno(f"S[{n}].sendto(b'late', ({A!r}, 7001))") in (errno.EACCES, errno.ECONNREFUSED)
        assert cli.errno(f"S[{n}].sendto(b'late', ({A!r}, 7001))") == errno.EACCES
        time.sleep(0.3)
        assert srv.do("len(PEERS)") == seen
        w.policy(rules(BIND, FROM_BETA))
        cli.do(f"S[{n}].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)")    # of the datagram that found nobody
        cli.do(f"S[{n}].sendto(b'six', ({A!r}, 7001))")
        assert cli.do(f"heard({n})")[0] == "re:six"
        b.belay("revoke", b.channels()[0]["channel"])
        wait_for("revoked on both", lambda: not w.channels() and not b.channels(), 2)
        for x in (w, b):
            ends = [e for e in x.audit() if e["type"] == "channel-end"]
            assert any(e.get("bytes_sent") for e in ends), ends[-3:]
            x.belay("audit", "verify")
    finally:
        b.close()


def test_programs_of_others(w):
    need("socat")
    b = two_nodes(w)
    try:
        srv, cli, other = agents(w, b)
        srv.do("answers(udp('0.0.0.0', 7001))")
        for x in (w, b):
            x.enroll(shutil.which("socat"), "socat")
        w.policy(rules(BIND, FROM_BETA.replace("program: cli", "program: [cli, socat]")))
        b.policy(rules(TO_ALPHA.replace("program: cli", "program: [cli, socat]")))
        r = b.run("socat", "-t1", "-", f"UDP:{A}:7001", input="hello")
        assert r.stdout == "re:hello", r
        r = b.run("socat", "-t1", "-", f"UDP-DATAGRAM:{A}:7001", input="hello")
        assert r.stdout == "re:hello", r
        r = b.run("socat", "-t1", "-", f"UDP:{A}:7004", input="hello", check=False)
        assert r.returncode and not r.stdout and "Permission denied" in r.stderr, r
    finally:
        b.close()


# -- outside

def own_address():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.connect(("192.0.2.77", 9))
        return s.getsockname()[0]
    except OSError:
        raise Skip("this machine has no address but loopback")


class Outside:
    """A UDP server that is no program of Belay: says back what it hears, keeps from whom, and can speak unasked."""
    def __init__(self, host):
        self.s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.s.bind((host, 0))
        self.port, self.peers = self.s.getsockname()[1], []
        threading.Thread(target=self.loop, daemon=True).start()

    def loop(self):
        while True:
            try:
                b, peer = self.s.recvfrom(70000)
                self.peers.append(peer)
                self.s.sendto(b"out:" + b[:60000], peer)
            except OSError:
                return


def test_datagrams_to_outside(w):
    host = own_address()
    w.start()
    cli_path, other_path = program(w, "cli"), program(w, "other")
    time_server, second, rogue = Outside(host), Outside(host), Outside(host)
    port = time_server.port
    plain = f"name: time, allow: connect, from: {{ program: cli }}, plain: true, transport: udp, address: {host}/32, port: {port}"
    w.policy(rules(plain, "name: tcp, allow: connect, from: { program: cli }, plain: true, address: 0.0.0.0/0"))
    cli, other = Agent(w, cli_path), Agent(w, other_path)
    for a in (cli, other):
        a.do(INSIDE)
    # Unconnected and connected; the answer comes from whom it was asked.
    n, m = cli.do("udp()"), cli.do("udp()")
    for text in ("one", "two", ""):
        cli.do(f"S[{n}].sendto({text.encode()!r}, ({host!r}, {port}))")
        assert cli.do(f"heard({n})") == ["out:" + text, host, port]
    cli.do(f"S[{m}].connect(({host!r}, {port}))")
    for size in (3, 1400, 20000):
        cli.do(f"S[{m}].send(b'x' * {size})")
        assert cli.do(f"len(heard({m})[0])") == size + 4
    c = w.channels()
    assert len(c) == 2 and all(i["protection"] == "plain" and i["transport"] == "udp" and i["to"]["program"] == "outside"
                               and i["rule"] == "time" and i["to"]["address"] == f"{host}:{port}" for i in c), c
    # One socket to the outside for each socket within: they are told apart there, too.
    assert len(set(time_server.peers)) == 2, time_server.peers
    # Nobody else is answered by: not even one who knows where the question came from.
    for peer in set(time_server.peers):
        rogue.s.sendto(b"forged", peer)
        second.s.sendto(b"forged", peer)
    assert cli.do(f"heard({n}, 0.3)") is None and cli.do(f"heard({m}, 0.3)") is None
    # Not listed: another port, another address, another program, a rule for TCP alone; by a granted socket, too.
    for a, s, h, p in ((cli, n, host, second.port), (cli, m, host, second.port), (cli, n, "192.0.2.1", port)):
        assert a.errno(f"S[{s}].sendto(b'x', ({h!r}, {p}))") == errno.EACCES, (h, p)
        a.errno(f"S[{s}].sendmsg([b'x'], [], 0, ({h!r}, {p}))")
    k = other.do("udp()")
    assert other.errno(f"S[{k}].sendto(b'x', ({host!r}, {port}))") == errno.EACCES
    assert other.errno(f"S[{k}].connect(({host!r}, {port}))") == errno.EACCES
    time.sleep(0.2)
    assert not second.peers
    # Withdrawn: nothing more, by sockets that were granted it.
    seen = len(time_server.peers)
    w.policy(rules())
    wait_for("the channels ended", lambda: not w.channels(), 1.5)
    cli.errno(f"S[{m}].send(b'late')")
    cli.errno(f"S[{n}].sendto(b'late', ({host!r}, {port}))")
    time_server.s.sendto(b"unasked", time_server.peers[0])
    assert cli.do(f"heard({n}, 0.3)") is None and len(time_server.peers) == seen
    # Idle: ends by itself, begins again.
    w.policy(rules(plain + ", idle: 1s"))
    n = cli.do("udp()")
    cli.do(f"S[{n}].sendto(b'three', ({host!r}, {port}))")
    assert cli.do(f"heard({n})")[0] == "out:three" and len(w.channels()) == 1
    wait_for("idle", lambda: not w.channels(), 3)
    assert [e for e in w.audit() if e["type"] == "channel-end" and e.get("reason") == "idle"]
    cli.do(f"S[{n}].sendto(b'four', ({host!r}, {port}))")
    assert cli.do(f"heard({n})")[0] == "out:four"
    # A limit counts channels of datagrams as it does connections; publishing one is no policy.
    w.policy(rules(plain + ", connections: 2"))
    for i in range(3):
        s = cli.do("udp()")
        e = cli.errno(f"S[{s}].sendto(b'x', ({host!r}, {port}))")
        assert e == (0 if i < 1 else errno.EACCES), (i, e)
    r = w.policy(rules("name: p, allow: publish, from: { program: cli }, transport: udp, port: 7001"), check=False)
    assert r.returncode and "only TCP can be published" in r.stderr, r
    # Killed components: the next datagram finds its way again.
    w.policy(rules(plain))
    for role in ("guard", "fabric", "enforce", "conn"):
        os.kill(w.pids()[role], signal.SIGKILL)
        s = cli.do("udp()")
        def works():
            if cli.errno(f"S[{s}].sendto(b'five', ({host!r}, {port}))"):
                return False
            got = cli.do(f"heard({s}, 0.5)")
            return got and got[0] == "out:five"
        wait_for(f"datagrams after {role} was killed", works, 15)
    w.belay("audit", "verify")


# -- sendmsg, whose address no system call filter sees

SENDMSG = r'''
def sendmsg(n, text, host, port, tries=20, step=0.1):
    "Sends until there is an answer, as programs do over UDP: how often it sent, and the answer."
    for i in range(tries):
        try:
            S[n].sendmsg([text.encode()], [], 0, (host, port))
        except OSError as e:
            ERRORS.append(e.errno)
        got = heard(n, step)
        if got:
            return [i + 1, got[0]]
    return None

def send(n, text, tries=20):
    for i in range(tries):
        try:
            S[n].send(text.encode())
        except OSError as e:
            ERRORS.append(e.errno)
        got = heard(n, 0.1)
        if got:
            return [i + 1, got[0]]
    return None
ERRORS = []
'''


def test_datagrams_without_asking(w):
    host = own_address()
    w.start()
    srv_path, cli_path, other_path = (program(w, n) for n in ("srv", "cli", "other"))
    outside, second = Outside(host), Outside(host)
    ask = "name: ask, allow: connect, transport: udp, from: { program: cli }, to: { program: srv }, port: 7001"
    w.policy(rules(BIND, ask, f"name: out, allow: connect, transport: udp, from: {{ program: cli }}, plain: true, port: {outside.port}"))
    srv, cli, other = Agent(w, srv_path), Agent(w, cli_path), Agent(w, other_path)
    for a in (srv, cli, other):
        a.do(INSIDE + SENDMSG)
    for port in (7001, 7002):
        srv.do(f"answers(udp('127.0.0.1', {port}))")
    # The first is lost, and no error to its sender; the next ones pass.
    for bind in ("udp()", "udp('0.0.0.0', 0)"):
        n = cli.do(bind)
        tries, got = cli.do(f"sendmsg({n}, 'one', '127.0.0.1', 7001)")
        assert tries <= 3 and got == "re:one" and cli.do("ERRORS") == [], (tries, got, cli.do("ERRORS"))
        assert cli.do(f"sendmsg({n}, 'two', '127.0.0.1', 7001)") == [1, "re:two"]
        tries, got = cli.do(f"sendmsg({n}, 'three', {host!r}, {outside.port})")
        assert tries <= 3 and got == "out:three" and cli.do("ERRORS") == []
    assert [c for c in w.channels() if c["transport"] == "udp" and c["rule"] == "out"]
    # Refused: it arrives nowhere, is said once a second, and is an error when it is tried again at once.
    seen = srv.do("len(PEERS)")
    k = other.do("udp()")
    for a, s, h, p in ((other, k, "127.0.0.1", 7001), (cli, n, "127.0.0.1", 7002), (cli, n, host, second.port)):
        assert a.do(f"sendmsg({s}, 'x', {h!r}, {p}, 8, 0.05)") is None, (h, p)
        assert a.do("ERRORS.count(errno.EPERM)") >= 4, a.do("ERRORS")
        wait_for("it is said", lambda: f"belay: refused connect to {h}:{p} (UDP)" in a.stderr(), 3)
        a.do("ERRORS.clear()")
    assert srv.do("len(PEERS)") == seen and not second.peers
    # A socket in two images' hands: neither takes the other's right by it.
    cli.do("P = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); P.bind(('0.0.0.0', 0)); P.set_inheritable(True)")
    child = ("import socket, time\n"
             "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, fileno=int(__import__('sys').argv[1]))\n"
             "for i in range(15):\n"
             "    try: s.sendmsg([b'stolen'], [], 0, ('127.0.0.1', 7001))\n"
             "    except OSError: pass\n"
             "    time.sleep(0.1)\n")
    cli.do(f"__import__('subprocess').run([{other_path!r}, '-c', {child!r}, str(P.fileno())], pass_fds=[P.fileno()], timeout=20) and None", 30)
    assert srv.do("len(PEERS)") == seen, "another image used its parent's right"
    # A connected one, after the guard has forgotten all grants; an unconnected one, too.
    m = cli.do("udp()")
    cli.do(f"S[{m}].connect(('127.0.0.1', 7001))")
    assert cli.do(f"send({m}, 'four')") == [1, "re:four"]
    for role in ("guard", "fabric"):
        before = w.pids()[role]
        os.kill(before, signal.SIGKILL)
        wait_for("its successor", lambda: w.pids().get(role, before) != before, 10)
        got = cli.do(f"send({m}, 'five', 60)")
        assert got and got[1] == "re:five", role
        got = cli.do(f"sendmsg({n}, 'six', '127.0.0.1', 7001, 60)")
        assert got and got[1] == "re:six", role


if __name__ == "__main__":
    main(globals())
