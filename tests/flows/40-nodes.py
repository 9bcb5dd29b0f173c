#!/usr/bin/env python3
"""Two nodes on loopback addresses of one machine: joined by a one-time token, bound across, sealed on the wire."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *

SERVER = """
version: 1
rules:
  - { name: cache-listens, allow: bind, from: { program: cache }, port: 6379 }
  - { name: shell-from-beta, allow: connect, from: { program: [shell, bench], node: beta }, to: { program: cache }, port: 6379 }
"""
CLIENT = """
version: 1
rules:
  - { name: shell-to-alpha, allow: connect, from: { program: [shell, bench] }, to: { program: cache, node: alpha }, port: 6379 }
"""


def two_nodes(w):
    need("redis-server", "redis-cli", "redis-benchmark")
    port = 20000 + os.getpid() * 2 % 20000    # two each: neighbours may run at once
    b = World(w.mode, w.bin, "two")
    args = ("--uid-base", "64500") if w.host else ()
    w.start()
    try:
        b.start(*args)
        w.belay("node", "init", "alpha", "--address", "10.77.0.1", "--listen", f"127.0.0.2:{port}", "--data", f"127.0.0.2:{port + 1}")
        token = w.belay("node", "invite", "beta", "--address", "10.77.0.2").stdout.split()[-1]
        b.belay("node", "join", token, "--listen", f"127.0.0.3:{port}", "--data", f"127.0.0.3:{port + 1}")
        wait_for("the link is up\n" + w.tail() + b.tail(), lambda: "up" in b.belay("node", "list").stdout
                 and "up" in w.belay("node", "list").stdout)
        for x in (w, b):
            x.enroll("/usr/bin/redis-server", "cache")
            x.enroll("/usr/bin/redis-cli", "shell")
            x.enroll("/usr/bin/redis-benchmark", "bench")
        w.policy(SERVER)
        b.policy(CLIENT)
        s = w.serve("redis-server", "--port", "6379", "--save", "", "--dir", w.tmp, "--bind", "10.77.0.1", "127.0.0.1",
                    "--protected-mode", "no", "--enable-debug-command", "yes")
        wait_for("redis is up", lambda: "Ready to accept" in s.output() or s.poll() is not None)
        assert s.poll() is None, s.output()
    except BaseException:
        sys.stderr.write("# beta:\n" + "".join("# " + l for l in b.tail().splitlines(True)))
        b.close()
        raise
    b.token, b.port, b.server = token, port, s
    return b


def test_bound_across_nodes(w):
    b = two_nodes(w)
    try:
        cli = ("redis-cli", "-h", "10.77.0.1")
        assert b.run(*cli, "SET", "greeting", "hello").stdout.strip() == "OK"
        assert b.run(*cli, "GET", "greeting").stdout.strip() == "hello"
        out = b.run(*cli, "CLIENT", "LIST").stdout
        assert "addr=10.77.0.2:" in out, "the server does not see the true client: " + out
        r = b.run("python3", "-c", "import socket; socket.create_connection(('10.77.0.1', 6379), 5)", check=False)
        assert "Permission denied" in r.stderr, r
        b.run("redis-benchmark", "-h", "10.77.0.1", "-t", "get,set", "-n", "20000", "-c", "20", "-P", "4", "-q", timeout=120)
        b.run("redis-benchmark", "-h", "10.77.0.1", "-t", "get,set", "-n", "500", "-d", "100000", "-c", "5", "-q", timeout=120)
        assert any(e["type"] == "channel-start" for e in w.audit()) and any(e["type"] == "channel-start" for e in b.audit())
        w.belay("audit", "verify")
        b.belay("audit", "verify")
    finally:
        b.close()


def test_a_token_works_once(w):
    b = two_nodes(w)
    c = World(w.mode, w.bin, "three")
    try:
        c.start(*(("--uid-base", "64600") if w.host else ()))
        r = c.belay("node", "join", b.token, "--listen", f"127.0.0.4:{b.port}", check=False)
        assert r.returncode, "a used token was accepted"
    finally:
        c.close()
        b.close()


def test_the_receiving_side_refuses_too(w):
    b = two_nodes(w)
    try:
        assert b.run("redis-cli", "-h", "10.77.0.1", "PING").stdout.strip() == "PONG"
        w.policy(SERVER.replace("[shell, bench]", "[bench]"))
        r = b.run("redis-cli", "-h", "10.77.0.1", "PING", check=False)
        assert "PONG" not in r.stdout and "ermission denied" in r.stdout + r.stderr, r
    finally:
        b.close()


def test_policy_and_revocation_end_channels_on_both_sides(w):
    b = two_nodes(w)
    try:
        c = b.popen([os.path.join(b.bin, "belay"), "run", "--", "redis-cli", "-h", "10.77.0.1", "SUBSCRIBE", "x"],
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("a channel on both", lambda: w.channels() and b.channels())
        assert w.channels()[0]["protection"] == "encrypt"
        w.belay("revoke", w.channels()[0]["channel"])
        wait_for("the channel ended on both sides", lambda: not w.channels() and not b.channels(), 2)
    finally:
        b.close()


def test_components_killed_on_both_nodes(w):
    b = two_nodes(w)
    try:
        c = b.popen([os.path.join(b.bin, "belay"), "run", "--", "redis-cli", "-h", "10.77.0.1"], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, text=True)
        def incr(n):
            c.stdin.write("INCR n\n")
            c.stdin.flush()
            got = c.stdout.readline().strip()
            assert got == str(n), got
        incr(1)
        n = 1
        for role in ("dispatcher", "attest", "guard", "signer", "fabric", "enforce", "link"):
            for x in (w, b):
                os.kill(x.pids()[role], signal.SIGKILL)
                n += 1
                incr(n)
        wait_for("new channels again", lambda: b.run("redis-cli", "-h", "10.77.0.1", "PING", check=False).stdout.strip() == "PONG", 15)
        os.kill(b.pids()["conn"], signal.SIGKILL)
        wait_for("new channels after conn died", lambda: b.run("redis-cli", "-h", "10.77.0.1", "PING", check=False).stdout.strip() == "PONG", 15)
    finally:
        b.close()


if __name__ == "__main__":
    main(globals())
