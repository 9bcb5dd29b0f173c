#!/usr/bin/env python3
"""Unix sockets and pipes with a name: exec, datagrams, who sees a pipe."""
import errno, os, shutil, signal, socket, struct, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *
from agent import Agent, program


def rules(*rows):
    return "version: 1\nrules:\n" + ("".join(f"  - {{ {r} }}\n" for r in rows) or "  []\n")


LOCAL = r'''
import subprocess

def listen_unix(path):
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    if path[0] == "/":
        os.chmod(path, 0o777)
    s.listen(16)
    accepting(s, echo)
    return s.fileno()

def connect_unix(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(5)
    try:
        s.connect(path)
    except BaseException:
        s.close()
        raise
    return keep(s)

CHILD = """
import socket, sys
s = socket.socket(fileno=int(sys.argv[1]))
s.settimeout(5)
try:
    s.sendall(b"child")
    print(s.recv(99).decode())
except OSError as e:
    print(type(e).__name__)
"""
def left_to(path, n):
    "What another image gets out of an inherited connection."
    return subprocess.run([path, "-c", CHILD, str(n)], pass_fds=[n], capture_output=True, text=True).stdout.strip()
'''


def sockets_dir(w):
    d = os.path.join(w.tmp, "sockets")
    os.mkdir(d)
    os.chmod(d, 0o777)
    return d


def test_a_connection_is_judged_again_at_exec(w):
    w.start()
    paths = {n: program(w, n) for n in ("cli", "other")}
    d = sockets_dir(w)
    rule = f"name: u, allow: connect, from: {{ program: cli }}, unix: {d}/outside"
    w.policy(rules(rule))
    world, cli = Agent(w, bound=False), Agent(w, paths["cli"])
    for a in (world, cli):
        a.do(LOCAL)
    world.do(f"listen_unix('{d}/outside')")
    # The same program has it, as does a child that is not another image.
    n = cli.do(f"connect_unix('{d}/outside')")
    assert cli.do(f"left_to({paths['cli']!r}, {n})") == "child"
    assert cli.do(f"ask({n})") == "hello"
    # Another, which may not connect there, has not; nor has anybody else from then on.
    cli.do(f"M = os.dup({n})")
    assert cli.do(f"left_to({paths['other']!r}, M)") in ("BrokenPipeError", "")
    assert f"{d}/outside" in w.belay("why").stdout
    assert cli.errno(f"ask({n})") == errno.EPIPE
    # With a rule of its own it has.
    w.policy(rules(rule, rule.replace("name: u", "name: o").replace("cli", "other")))
    n = cli.do(f"connect_unix('{d}/outside')")
    assert cli.do(f"left_to({paths['other']!r}, {n})") == "child"
    # The file is another one by now: nobody can say what it was.
    world.do(f"os.unlink('{d}/outside')")
    world.do(f"listen_unix('{d}/outside')")
    assert cli.do(f"left_to({paths['other']!r}, {n})") in ("BrokenPipeError", "")
    # Within the tree all is free: by path, by abstract name, and a pair.
    w.policy(rules())
    cli.do(f"listen_unix('{d}/inside')")
    cli.do("listen_unix('\\0inside')")
    for name in (f"{d}/inside", "\\0inside"):
        n = cli.do(f"connect_unix('{name}')")
        assert cli.do(f"left_to({paths['other']!r}, {n})") == "child", name
    cli.do("P = socket.socketpair(); threading.Thread(target=echo, args=(P[1],), daemon=True).start()")
    assert cli.do(f"left_to({paths['other']!r}, P[0].fileno())") == "child"
    # What it accepted was judged when the other side connected.
    world.do(f"N = connect_unix('{d}/inside')")
    assert world.do("ask(N)") == "hello"


def test_standard_streams_stay(w):
    """A unit's standard output is a connection to a socket of the journal's: no business of an exec."""
    w.start()
    path = program(w, "cli")
    w.policy(rules())
    listener = socket.socket(socket.AF_UNIX)
    at = os.path.join(sockets_dir(w), "journal")
    listener.bind(at)
    os.chmod(at, 0o777)
    listener.listen(1)
    out = socket.socket(socket.AF_UNIX)
    out.connect(at)
    journal = listener.accept()[0]
    p = w.popen([os.path.join(w.bin, "belay"), "run", "--", path, "-c", "import subprocess; subprocess.run(['/bin/sh', '-c', 'echo heard'])"], stdout=out.fileno(), env={"PYTHONHOME": "/usr"})
    out.close()
    journal.settimeout(20)
    assert journal.recv(99) == b"heard\n"
    p.wait(20)


def test_an_inherited_datagram_socket_only_receives(w):
    w.start()
    path = program(w, "cli")
    w.policy(rules())
    at = os.path.join(sockets_dir(w), "log")
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    log.bind(at)
    os.chmod(at, 0o777)
    log.settimeout(1)
    code = f"""
import os, socket, sys
s = socket.socket(fileno=os.dup(0))
s.settimeout(5)
try:
    s.sendmsg([b"leak"], [], 0, {at!r})
except OSError as e:
    print(type(e).__name__)
print(s.recv(9).decode())
"""
    given, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    other.send(b"given")
    p = w.popen([os.path.join(w.bin, "belay"), "run", "--", path, "-c", code], stdin=given.fileno(),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={"PYTHONHOME": "/usr"})
    out = p.communicate(timeout=30)[0]
    assert out.split() == ["BrokenPipeError", "given"], out
    try:
        assert not log.recv(9), "an inherited datagram socket reached a path nobody judged"
    except socket.timeout:
        pass


DATAGRAMS = r"""
import syslog
sys.setswitchinterval(0.001)

def dgram(path=None):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.settimeout(5)
    if path:
        s.bind(path)
        os.chmod(path, 0o777)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return keep(s)

def heard(n, seconds=5):
    "Data, the sender's credentials and how many descriptors came."
    S[n].settimeout(seconds)
    try:
        b, anc, _, _ = S[n].recvmsg(65536, 1024)
    except socket.timeout:
        return None
    cred, fds = None, 0
    for level, kind, data in anc:
        if kind == socket.SCM_CREDENTIALS:
            cred = struct.unpack("3i", data)
        if kind == socket.SCM_RIGHTS:
            fds += len(data) // 4
            for fd in array.array("i", data):
                os.close(fd)
    return [b.decode(), cred, fds]

def to(n, path, text, how):
    s = S[n]
    b = text.encode()
    if how == "sendto":
        return s.sendto(b, path)
    if how == "sendmsg":
        return s.sendmsg([b[:1], b[1:]], [], 0, path)
    s.connect(path)
    return {"send": lambda: s.send(b), "write": lambda: os.write(n, b), "connected": lambda: s.sendmsg([b])}[how]()
"""


def test_datagrams_by_path(w):
    w.start()
    paths = {n: program(w, n) for n in ("cli", "other")}
    d = sockets_dir(w)
    rule = f"name: u, allow: connect, from: {{ program: cli }}, unix: {d}/log"
    w.policy(rules(rule))
    world, cli, other = Agent(w, bound=False), Agent(w, paths["cli"]), Agent(w, paths["other"])
    for a in (world, cli, other):
        a.do(LOCAL)
        a.do(DATAGRAMS)
    log, shut = world.do(f"dgram('{d}/log')"), world.do(f"dgram('{d}/shut')")
    n, m = cli.do("dgram()"), other.do("dgram()")
    uid = cli.do("os.getuid()")
    for how in ("sendto", "sendmsg", "send", "connected"):
        assert cli.do(f"to({n}, '{d}/log', 'by {how}', '{how}')") == len("by " + how)
        text, cred, _ = world.do(f"heard({log})")
        assert text == "by " + how and cred[1:] == [uid, uid], (text, cred)
        if w.host:
            assert cred[0] == cli.pid, "the receiver sees another process number than the sender's"
        # Another path, another program: refused at once, and nothing arrives.
        for a, x, path in ((cli, n, "shut"), (other, m, "shut"), (other, m, "log")):
            assert a.errno(f"to({x}, '{d}/{path}', 'leak', '{how}')") == errno.EACCES, (how, path)
    assert world.do(f"heard({shut}, 0.3)") is None and world.do(f"heard({log}, 0.1)") is None
    assert f"{d}/log" in w.belay("why", str(other.pid)).stdout
    # Not through write(2), and not when the descriptor has another number: an error, never a leak.
    k = cli.do(f"os.dup({n})")
    cli.do(f"X = socket.socket(fileno={k})")
    assert cli.errno(f"X.sendmsg([b'leak'], [], 0, '{d}/shut')") == errno.EPIPE
    assert cli.errno(f"X.sendmsg([b'leak'], [], 0, '{d}/log')") == errno.EPIPE
    assert cli.do(f"X.sendto(b'ok', '{d}/log')") == 2 and world.do(f"heard({log})")[0] == "ok"
    assert cli.errno(f"to({n}, '{d}/log', 'x', 'write')") == errno.EPIPE
    assert world.do(f"heard({shut}, 0.3)") is None and world.do(f"heard({log}, 0.1)") is None
    # Descriptors go along to the outside, as on a connection.
    cli.do(f"R, W = os.pipe()")
    cli.do(f"S[{n}].sendmsg([b'fd'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [W]))], 0, '{d}/log')")
    assert world.do(f"heard({log})")[::2] == ["fd", 1]
    # Withdrawn: within a second.
    w.policy(rules())
    time.sleep(1.1)
    assert cli.errno(f"S[{n}].send(b'late')") == errno.EACCES and world.do(f"heard({log}, 0.3)") is None


def test_numbers_of_datagram_sockets_are_anybodys(w):
    """The filter traps sending by number: what else has such a number sends as ever."""
    w.start()
    path = program(w, "cli")
    w.policy(rules("name: b, allow: bind, from: { program: cli }, port: 7001",
                   "name: c, allow: connect, from: { program: cli }, to: { program: cli }, port: 7001",
                   f"name: u, allow: connect, from: {{ program: cli }}, unix: {w.tmp}/sockets/**"))
    d = sockets_dir(w)
    cli, world = Agent(w, path), Agent(w, bound=False)
    for a in (cli, world):
        a.do(LOCAL)
        a.do(DATAGRAMS)
    cli.do("serve('127.0.0.1', 7001)")
    n = cli.do("connect('127.0.0.1', 7001)")
    cli.do(f"os.dup2({n}, 1008); os.dup2({n}, 1011); T = socket.socket(fileno=1008); T.settimeout(5)")
    assert cli.do("[T.send(b'one'), T.sendmsg([b'two'])]") == [3, 3]
    cli.do("B = b''\nwhile len(B) < 6: B += T.recv(9)")
    assert cli.do("B.decode()") == "onetwo"
    log = world.do(f"dgram('{d}/log')")
    # It takes what is free, up to its share; then, and under a low limit, sendto still does.
    many = cli.do("[dgram() for _ in range(16)]")
    assert 1008 not in many and 1011 not in many and sum(1008 <= x < 1024 for x in many) == 14, many
    for n in (many[0], many[-1]):
        assert cli.do(f"to({n}, '{d}/log', 'x', 'sendto')") == 1 and world.do(f"heard({log})")[0] == "x"
    assert cli.do(f"to({many[0]}, '{d}/log', 'x', 'send')") == 1 and world.do(f"heard({log})")[0] == "x"
    assert cli.errno(f"to({many[-1]}, '{d}/log', 'x', 'send')") == errno.EPIPE
    # A child has the same socket, and is asked about for itself.
    assert cli.do(f"""(lambda p: p or (S[{many[1]}].sendto(b'child', '{d}/log'), os._exit(0)))(os.fork())""") > 0
    text, cred, _ = world.do(f"heard({log})")
    assert text == "child" and (not w.host or cred[0] != cli.pid), (text, cred)


def test_datagrams_received(w):
    w.start()
    paths = {n: program(w, n) for n in ("srv", "cli", "other")}
    d = sockets_dir(w)
    w.policy(rules(f"name: u, allow: connect, from: {{ program: cli }}, to: {{ program: srv }}, unix: {d}/**"))
    world, srv, cli, other = Agent(w, bound=False), *(Agent(w, paths[n]) for n in ("srv", "cli", "other"))
    for a in (world, srv, cli, other):
        a.do(LOCAL)
        a.do(DATAGRAMS)
    n = srv.do(f"dgram('{d}/srv')")
    # From outside, by its permissions; from the tree itself, free; from another tree, by rule.
    world.do(f"N = dgram('{d}/world')")
    world.do(f"to(N, '{d}/srv', 'outside', 'sendto')")
    assert srv.do(f"heard({n})")[0] == "outside"
    m = srv.do("dgram()")
    assert srv.do(f"to({m}, '{d}/srv', 'own', 'send')") == 3 and srv.do(f"heard({n})")[0] == "own"
    k = cli.do("dgram()")
    assert cli.do(f"to({k}, '{d}/srv', 'other', 'send')") == 5 and srv.do(f"heard({n})")[0] == "other"
    assert cli.errno(f"to({k}, '{d}/world', 'x', 'send')") == errno.EACCES
    o = other.do("dgram()")
    assert other.errno(f"to({o}, '{d}/srv', 'x', 'send')") == errno.EACCES
    assert srv.do(f"heard({n}, 0.3)") is None
    # Many, in order, however full the queue is.
    srv.do(f"GOT = []; threading.Thread(target=lambda: [GOT.append(heard({n})[0]) for _ in range(500)], daemon=True).start()")
    cli.do(f"[S[{k}].send(str(i).encode()) for i in range(500)]")
    wait_for("all of them", lambda: srv.do("len(GOT)") == 500)
    assert srv.do("GOT") == [str(i) for i in range(500)]


def test_enforce_dies_as_it_sends(w):
    w.start()
    path = program(w, "cli")
    d = sockets_dir(w)
    w.policy(rules(f"name: u, allow: connect, from: {{ program: cli }}, unix: {d}/log"))
    world, cli = Agent(w, bound=False), Agent(w, path)
    for a in (world, cli):
        a.do(LOCAL)
        a.do(DATAGRAMS)
    log = world.do(f"dgram('{d}/log')")
    world.do(f"GOT = set(); threading.Thread(target=lambda: [GOT.add(heard({log}, 60)[0]) for _ in iter(int, 1)], daemon=True).start()")
    n = cli.do("dgram()")
    cli.do(f"""
BAD = []
def flood():
    S[{n}].connect('{d}/log')
    for i in range(3000):
        try:
            S[{n}].send(str(i).encode())
        except OSError as e:
            BAD.append([i, e.errno])
    BAD.append("end")
S[{n}].settimeout(None)
threading.Thread(target=flood, daemon=True).start()
""")
    for _ in range(3):
        time.sleep(0.3)
        os.kill(w.pids()["enforce"], signal.SIGKILL)
        wait_for("a successor", lambda: w.pids().get("enforce"))
    wait_for("all sent", lambda: "end" in cli.do("BAD"), 60)
    assert cli.do("BAD") == ["end"], cli.do("BAD[:5]")
    wait_for("all heard", lambda: world.do("len(GOT)") == 3000)


def test_syslog_and_notify(w):
    """The C library's syslog() and logger(1) to a log socket, and a service manager's notification."""
    if not ROOT:
        raise Skip("needs a /dev/log of its own: root")
    w.start()
    path = program(w, "cli")
    d = sockets_dir(w)
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(f"{d}/notify")
    os.chmod(f"{d}/notify", 0o777)
    notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    notify.settimeout(10)
    w.enroll(shutil.which("logger"), "logger")
    w.policy(rules(f"name: n, allow: connect, from: {{ program: [cli, logger] }}, unix: {d}/notify"))
    code = f"""
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
s.sendmsg([b"READY=1\\nMAINPID=%d" % os.getpid()], [], socket.MSG_NOSIGNAL, os.environ["NOTIFY_SOCKET"])
"""
    p = w.serve(path, "-c", code, env={"PYTHONHOME": "/usr", "NOTIFY_SOCKET": f"{d}/notify"})
    text, anc, _, _ = notify.recvmsg(4096, 1024)
    assert text == b"READY=1\nMAINPID=%d" % p.pid
    cred = struct.unpack("3i", anc[0][2])
    assert cred[1] == w.uid and (cred[0] == p.pid or not w.host), (cred, p.pid)
    p.wait(10)
    w.run("logger", "-u", f"{d}/notify", "-t", "test", "--socket-errors=on", "a line")
    assert b"test: a line" in notify.recv(4096)
    if shutil.which("systemd-notify"):
        w.enroll(shutil.which("systemd-notify"), "notify")
        w.policy(rules(f"name: n, allow: connect, from: {{ program: notify }}, unix: {d}/notify"))
        w.run("systemd-notify", "--no-block", "--ready", env={"NOTIFY_SOCKET": f"{d}/notify"})
        assert b"READY=1" in notify.recv(4096)


PIPES = r"""
def through(reader, writer, text):
    "What comes out of a pipe when it goes in, both opened without waiting for the other end."
    r = os.open(reader, os.O_RDONLY | os.O_NONBLOCK)
    w = os.open(writer, os.O_WRONLY | os.O_NONBLOCK)
    os.write(w, text.encode())
    os.close(w)
    b = os.read(r, 100)
    os.close(r)
    return b.decode()
"""


def test_pipes_are_the_trees_own(w):
    w.start()
    paths = {n: program(w, n) for n in ("cli", "other")}
    d = sockets_dir(w)
    w.policy(rules())
    world, cli, other = Agent(w, bound=False), Agent(w, paths["cli"]), Agent(w, paths["other"])
    for a in (world, cli, other):
        a.do(PIPES)
        a.do("import stat")
    make = {"absolute": f"os.mkfifo('{d}/absolute')", "mknod": f"os.mknod('{d}/mknod', 0o10640)",
            "relative": "os.mkfifo('relative')", "at": "os.mkfifo('at', dir_fd=D)"}
    cli.do(f"os.chdir('{d}'); D = os.open('{d}', os.O_RDONLY)")
    for name, code in make.items():
        cli.do(code)
        assert cli.do(f"stat.S_ISFIFO(os.stat('{d}/{name}').st_mode)")
        assert cli.do(f"through('{d}/{name}', '{name}', 'hello')") == "hello"
        assert cli.errno(code) == errno.EEXIST
        # Another tree, another user of Belay's or nobody's: it leads nowhere, whatever the permissions.
        for a in (world, other):
            assert a.errno(f"os.open('{d}/{name}', os.O_RDWR)") == errno.ENOENT
    assert cli.do(f"os.stat('{d}/mknod').st_mode & 0o777 & ~os.umask(0o22)") == 0o640
    # A child is of the tree; what is unlinked is gone.
    cli.do("import subprocess")
    cli.do(f"C = subprocess.Popen(['/bin/sh', '-c', 'read x <{d}/absolute; echo got $x'], stdout=subprocess.PIPE)")
    cli.do(f"open('{d}/absolute', 'w').write('line' + chr(10))")
    assert cli.do("C.stdout.read().decode()") == "got line\n"
    cli.do(f"os.rename('{d}/absolute', '{d}/moved'); os.unlink('{d}/moved')")
    assert cli.errno(f"os.stat('{d}/moved')") == errno.ENOENT
    # A file is none of this.
    cli.do(f"os.mknod('{d}/file', 0o100600)")
    # As the kernel would say.
    for code, e in (("os.mkfifo('none/x')", errno.ENOENT), ("os.mkfifo('/proc/x')", errno.EROFS), ("os.mkfifo('..')", errno.EEXIST),
                    (f"os.mkfifo('{w.tmp}/x/')", errno.ENOENT), ("os.mkfifo('file/x')", errno.ENOTDIR), ("os.mkfifo('')", errno.ENOENT)):
        got = cli.errno(code)
        assert got == e or ("proc" in code and got == errno.ENOENT), (code, got)
    if not w.host:
        cli.do(f"os.mkdir('shut', 0o500)")
        assert cli.errno("os.mkfifo('shut/x')") == errno.EACCES
    # Pipes without a name stay between their holders, as ever.
    assert cli.do("(lambda p: os.write(p[1], b'y') and os.read(p[0], 9).decode())(os.pipe())") == "y"


def test_pipes_by_policy(w):
    w.start()
    paths = {n: program(w, n) for n in ("cli", "other", "third")}
    d = sockets_dir(w)
    w.policy(rules(f"name: p, allow: bind, from: {{ program: cli }}, fifo: {d}/shared/**",
                   f"name: n, deny: bind, fifo: {d}/shared/not"))
    cli, other, world = Agent(w, paths["cli"]), Agent(w, paths["other"]), Agent(w, bound=False)
    for a in (cli, other, world):
        a.do(PIPES)
    cli.do("os.umask(0)")
    cli.do(f"os.mkdir('{d}/shared'); os.symlink('{d}/shared', '{d}/link')")
    # Between two trees and with the outside where a rule says so: by the path it has in the end.
    cli.do(f"os.mkfifo('{d}/link/one', 0o666)")
    cli.do(f"R = os.open('{d}/shared/one', os.O_RDWR)")
    for a in (other, world):
        a.do(f"W = os.open('{d}/shared/one', os.O_WRONLY); os.write(W, b'through')")
        assert cli.do("os.read(R, 100).decode()") == "through"
    assert [x for x in w.audit() if x.get("unix") == f"{d}/shared/one" or f"{d}/shared/one" in str(x)], "the decision is not in the log"
    # Elsewhere, for another program, and what is denied: the tree's own.
    for a, path in ((cli, f"{d}/two"), (cli, f"{d}/shared/not"), (other, f"{d}/shared/other")):
        a.do(f"os.mkfifo('{path}', 0o666)")
        assert a.do(f"through('{path}', '{path}', 'own')") == "own"
        assert world.errno(f"os.open('{path}', os.O_RDWR)") == errno.ENOENT
    assert (other if other else cli).errno(f"os.open('{d}/two', os.O_RDWR)") == errno.ENOENT
    r = w.belay("policy", "explain", "--op", "bind", "--from", "cli", "--address", f"{d}/shared/x", check=False)
    assert "p (" in r.stdout or r.returncode == 0, r.stdout + r.stderr
    # The guard away: a successor is waited for, and nothing is made that should not be.
    os.kill(w.pids()["guard"], signal.SIGKILL)
    cli.do(f"os.mkfifo('{d}/three', 0o666)")
    assert world.errno(f"os.open('{d}/three', os.O_RDWR)") == errno.ENOENT


def test_pipes_from_outside(w):
    """One that is there already is a file, opened by its permissions alone: docs/adr/0007."""
    w.start()
    path = program(w, "cli")
    d = sockets_dir(w)
    w.policy(rules())
    cli, world = Agent(w, path), Agent(w, bound=False)
    world.do(f"os.mkfifo('{d}/pipe', 0o600)")
    cli.do(f"P = os.open('{d}/pipe', os.O_RDWR)")
    world.do(f"Q = os.open('{d}/pipe', os.O_RDWR)")
    cli.do("os.write(P, b'through')")
    assert world.do("os.read(Q, 10).decode()") == "through"
    world.do(f"os.chmod('{d}/pipe', 0)")
    if not w.host:
        assert cli.errno(f"os.open('{d}/pipe', os.O_RDWR)") == errno.EACCES


if __name__ == "__main__":
    main(globals())
