#!/usr/bin/env python3
"""Back within a second: each component is killed, and the very next connection of a bound program is made, once and
without a retry, and is through in a second. On one node, with frames between two ends, and between two nodes.

A first death: who dies again and again is started again later and later (src/belayd/backoff.h)."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *
from agent import Agent, program

ROLES = ("dispatcher", "attest", "guard", "signer", "fabric", "enforce", "link", "conn")
SECOND = 1.0
LEASE = 1.1    # after it what is known of a program is asked for anew
HERE = """
version: 1
rules:
  - { name: listens, allow: bind, from: { program: srv }, port: 7001-7002 }
  - { name: open, allow: connect, from: { program: cli }, to: { program: srv }, port: 7001 }
  - { name: sealed, allow: connect, from: { program: cli }, to: { program: srv }, port: 7002, protection: encrypt }
"""

def parts(w):
    """The components that live now, without asking any of them."""
    pids = {}
    for pid in open(f"/proc/{w.daemon.pid}/task/{w.daemon.pid}/children").read().split():
        with contextlib.suppress(OSError):
            pids[open(f"/proc/{pid}/cmdline").read().split("\0")[0].replace("belay-", "")] = int(pid)
    return pids


def say(seen):
    print("# " + ", ".join(f"{k}: {v * 1000:.0f} ms" for k, v in seen.items()), flush=True)


def test_a_start(w):
    """belay run, of a component's successor."""
    w.start()
    seen = {}
    try:
        for role in ROLES:
            w.run("/bin/true")
            time.sleep(LEASE)
            os.kill(parts(w)[role], signal.SIGKILL)
            t = time.monotonic()
            r = w.run("/bin/true", check=False)
            seen[role] = took = time.monotonic() - t
            assert r.returncode == 0, (role, r)
            assert took <= SECOND, f"{role} killed: a start took {took:.2f} s\n{w.tail()}"
    finally:
        say(seen)


def test_who_is_stopped_is_replaced(w):
    """A live process that does nothing is no better than a dead one: bounded, and then as after a kill."""
    w.start("--watchdog", "1")
    srv, cli = (Agent(w, program(w, n)) for n in ("srv", "cli"))
    w.policy(HERE)
    srv.do("serve('127.0.0.1', 7001)")
    old = cli.do("connect('127.0.0.1', 7001)")
    for roles in [*((r,) for r in ROLES), ROLES]:
        time.sleep(LEASE)
        pids = parts(w)
        for r in roles:
            os.kill(pids[r], signal.SIGSTOP)
        cli.tell("S.__setitem__(0, S[connect('127.0.0.1', 7001)])")
        wait_for(f"{roles} replaced\n" + w.tail(), lambda: not any(p == pids[r] for r, p in parts(w).items() if r in roles), 4)
        with contextlib.suppress(PermissionError):
            cli.hear(4)
        cli.do("S.__setitem__(0, S[connect('127.0.0.1', 7001)])")
        assert cli.do("ask(0)") == "hello" and cli.do(f"ask({old})") == "hello", roles
        wait_for("all are there again", lambda: len(parts(w)) == len(ROLES), 4)
    # Who goes on in time is let be.
    pids = parts(w)
    os.kill(pids["attest"], signal.SIGSTOP)
    time.sleep(0.3)
    os.kill(pids["attest"], signal.SIGCONT)
    time.sleep(1.5)
    assert parts(w) == pids, w.tail()
    w.belay("audit", "verify")


def test_belayd_killed_with_stopped_parts(w):
    """Nothing of an instance outlives its belayd by more than a second, and the next one starts from what is on disc."""
    w.start()
    w.enroll("/usr/bin/redis-cli", "shell")
    size = w.status()["audit_size"]
    pids = parts(w)
    for p in pids.values():
        os.kill(p, signal.SIGSTOP)
    w.daemon.kill()
    w.daemon.wait()
    w.procs.remove(w.daemon)

    def alive(p):
        with contextlib.suppress(OSError):
            return open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()[0] not in "ZX"
    wait_for("every component ended", lambda: not [r for r, p in pids.items() if alive(p)], SECOND)
    t = time.monotonic()
    w.start()
    assert w.run("/bin/true").returncode == 0 and time.monotonic() - t < 5
    assert w.status()["audit_size"] > size and "shell" in w.belay("programs").stdout
    w.belay("audit", "verify")


main(globals())
