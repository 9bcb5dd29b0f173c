#!/usr/bin/env python3
"""Unix sockets and pipes with a name: what an exec leaves of them."""
import errno, os, socket, subprocess, sys
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


if __name__ == "__main__":
    main(globals())
