#!/usr/bin/env python3
"""Fairness on one host: what is refused in a loop is counted, not written out; one user or node cannot use up what others need."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *

# Connects to each port of argv[2:], argv[1] times round, and says how often it was refused.
LOOP = """
import socket, sys
n = 0
for i in range(int(sys.argv[1])):
    for p in sys.argv[2:]:
        s = socket.socket()
        try:
            s.connect(("127.0.0.1", int(p)))
        except PermissionError:
            n += 1
        s.close()
print(n)
"""
RULES = "version: 1\nrules:\n  - { name: l, allow: bind, from: { program: cache }, port: 6379 }\n"


def refused(w, port=None):
    return [e for e in w.audit("--type", "decision") if e.get("verdict") == "deny" and e.get("op") == "connect"
            and (port is None or e.get("to", {}).get("address", "").endswith(f":{port}"))]


def total(entries):
    return sum(e.get("count", 1) for e in entries)


def test_refusals_in_a_loop_are_counted(w):
    w.start()
    w.policy(RULES)
    loop = file_for(w, "loop.py", LOOP)
    n = int(w.run("python3", loop, "600", "7001", timeout=120).stdout)
    assert n == 600
    wait_for("all are counted", lambda: total(refused(w, 7001)) == n, 5)
    entries = refused(w, 7001)
    assert len(entries) < n / 10, f"{len(entries)} entries for {n} refusals"
    assert sum("count" not in e for e in entries) >= 3, "the first few are written one by one"
    # belay why: one row, the latest, with how often.
    rows = [json.loads(l) for l in w.belay("why", "--json", "127.0.0.1:7001").stdout.splitlines()]
    assert len(rows) == 1 and rows[0]["count"] == n, rows
    w.run("python3", loop, "1", "7001")
    rows2 = [json.loads(l) for l in w.belay("why", "--json", "127.0.0.1:7001").stdout.splitlines()]
    assert rows2[0]["when_ms"] > rows[0]["when_ms"], "why does not show the latest"
    w.belay("audit", "verify")


def test_many_destinations_do_not_fill_the_log_either(w):
    w.start()
    w.policy(RULES)
    loop = file_for(w, "loop.py", LOOP)
    n = int(w.run("python3", loop, "3", *map(str, range(8000, 8400)), timeout=120).stdout)
    assert n == 1200
    wait_for("all are counted", lambda: total(refused(w)) == n, 5)
    assert len(refused(w)) < n / 2, f"{len(refused(w))} entries for {n} refusals"


def test_what_was_counted_is_written_when_the_instance_ends(w):
    w.start()
    w.policy(RULES)
    n = int(w.run("python3", file_for(w, "loop.py", LOOP), "200", "7001", timeout=60).stdout)
    w.end(w.daemon)
    w.daemon = None
    w.start()
    assert total(refused(w, 7001)) == n
    w.belay("audit", "verify")


def test_one_users_refusals_leave_others_theirs(w):
    if not w.host:
        raise Skip("needs two users")
    w.start()
    w.policy(RULES)
    loop = file_for(w, "loop.py", LOOP)
    os.chmod(w.tmp, 0o755)
    w.run("python3", loop, "1", "7777", uid=w.users[0])
    w.run("python3", loop, "1", *map(str, range(8000, 8600)), uid=w.users[1], timeout=60)
    assert "7777" in w.belay("why", "127.0.0.1:7777").stdout, "another user's refusals drove it out"


HOARD = """
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
kept, port = [], 10000
while True:
    s = socket.socket()
    try:
        s.bind(("127.0.0.1", port))
    except PermissionError:
        break
    kept.append(s)
    port += 1
print("kept", len(kept), flush=True)
time.sleep(600)
"""


def test_one_user_cannot_use_up_the_bound_addresses(w):
    if not w.host:
        raise Skip("needs two users")
    w.start()
    os.chmod(w.tmp, 0o755)
    w.enroll(os.path.realpath("/usr/bin/python3"), "py", "--not-interpreter")
    w.policy("version: 1\nrules:\n  - { name: b, allow: bind, from: { program: py }, port: 1024-65535 }\n")
    hoard = file_for(w, "hoard.py", HOARD)
    p = w.serve("python3", hoard, uid=w.users[0])
    n = int(wait_for("the hoarder has what it gets", lambda: re.search(r"kept (\d+)", p.output()), 90).group(1))
    assert 1000 < n <= 4096, (n, p.output(), w.belay("why").stdout)
    assert "as many bound addresses" in p.output() + w.belay("why").stdout, p.output()
    r = w.run("python3", "-c", "import socket; s = socket.socket(); s.bind(('127.0.0.1', 9999)); print('mine')", uid=w.users[1])
    assert r.stdout.strip() == "mine", r
    # What is given back is there again.
    w.end(p, signal.SIGKILL)
    wait_for("the addresses are free", lambda: "mine" in w.run(
        "python3", "-c", "import socket; s = socket.socket(); s.bind(('127.0.0.1', 9999)); print('mine')", uid=w.users[0], check=False).stdout)


if __name__ == "__main__":
    main(globals())
