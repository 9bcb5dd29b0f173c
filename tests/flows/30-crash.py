#!/usr/bin/env python3
"""kill -9 of any component at any instant: channels on one node keep flowing, service is back within a second,
nothing is allowed that should not be, the log still verifies."""
import os, random, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *

POLICY = """
version: 1
rules:
  - { name: listens, allow: bind, from: { program: cache }, port: 6379 }
  - { name: client, allow: connect, from: { program: shell }, to: { program: cache }, port: 6379 }
"""
ROLES = ("dispatcher", "attest", "guard", "signer", "fabric", "enforce", "link", "conn")
FORBIDDEN = "import socket; socket.create_connection(('127.0.0.1', 6379), 5); print('CONNECTED')"


def set_up(w):
    need("redis-server", "redis-cli")
    w.start()
    w.enroll("/usr/bin/redis-server", "cache")
    w.enroll("/usr/bin/redis-cli", "shell")
    w.policy(POLICY)
    s = w.serve("redis-server", "--port", "6379", "--save", "", "--dir", w.tmp)
    wait_for("redis is up", lambda: "Ready to accept" in s.output())
    c = w.popen([os.path.join(w.bin, "belay"), "run", "--", "redis-cli"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    say(c, "PING", "PONG")
    return c


def seed(w):
    """The choices of a test at random, said so that a failure can be played again."""
    n = os.environ.get("BELAY_CRASH_SEED") or str(random.SystemRandom().randrange(1 << 32))
    random.seed(f"{n} {w.mode}")
    print(f"# BELAY_CRASH_SEED={n}", flush=True)


def say(c, line, want):
    c.stdin.write(line + "\n")
    c.stdin.flush()
    got = c.stdout.readline().strip()
    assert got == want, (line, got)


def test_each_component_killed_once(w):
    c = set_up(w)
    for n, role in enumerate(ROLES):
        pids = w.pids()
        if role not in pids:
            continue
        os.kill(pids[role], signal.SIGKILL)
        t0 = time.monotonic()
        say(c, f"INCR n", f"{n + 1}")
        r = w.run("python3", "-c", FORBIDDEN, check=False, timeout=30)
        assert "CONNECTED" not in r.stdout, f"{role} killed: a refused program got through"
        wait_for(f"service after {role} was killed\n" + w.tail(), lambda: w.run(
            "redis-cli", "PING", check=False, timeout=30).stdout.strip() == "PONG", 10)
        wait_for(f"a new {role}", lambda: w.pids().get(role) not in (None, pids[role]), 5)
        say(c, "PING", "PONG")
        wait_for(f"the old channel is still listed after {role}", lambda: [
            x for x in w.channels() if x["from"]["pid"] == c.pid], 3)
    w.belay("audit", "verify")


def test_kills_at_random_while_connecting(w):
    seed(w)
    set_up(w)
    stop = time.monotonic() + float(os.environ.get("BELAY_CRASH_SECONDS", "8"))
    ok = refused = 0
    while time.monotonic() < stop:
        pids = w.pids() if random.random() < 0.3 or not ok else pids
        role = random.choice(ROLES)
        p = w.popen([os.path.join(w.bin, "belay"), "run", "--", "redis-cli", "PING"], stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT, text=True)
        q = w.popen([os.path.join(w.bin, "belay"), "run", "--", "python3", "-c", FORBIDDEN], stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT, text=True)
        time.sleep(random.random() * 0.05)
        with contextlib.suppress(ProcessLookupError, KeyError):
            os.kill(pids[role], signal.SIGKILL)
        for x in (p, q):
            out, _ = x.communicate(timeout=60)
            w.procs.remove(x)
            assert "CONNECTED" not in out, "a refused program got through"
            ok += "PONG" in out
        with contextlib.suppress(AssertionError):
            pids = w.pids()
    assert ok, "nothing at all got through: " + w.tail()
    wait_for("service is back", lambda: w.run("redis-cli", "PING", check=False).stdout.strip() == "PONG")
    w.belay("audit", "verify")


if __name__ == "__main__":
    main(globals())
