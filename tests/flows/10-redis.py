#!/usr/bin/env python3
"""The main job on redis: bound, refused, revoked, audited; redis-benchmark runs unmodified."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *

POLICY = """
version: 1
rules:
  - name: cache-listens
    allow: bind
    from: { program: cache }
    port: 6379
  - name: shell-to-cache
    allow: connect
    from: { program: [shell, bench] }
    to: { program: cache }
    port: 6379
"""

CONNECT = "import socket; s = socket.create_connection(('127.0.0.1', 6379), 5); s.sendall(b'PING\\r\\n'); print(s.recv(99))"


def redis(w, policy=POLICY):
    need("redis-server", "redis-cli", "redis-benchmark")
    w.start()
    w.enroll("/usr/bin/redis-server", "cache")
    w.enroll("/usr/bin/redis-cli", "shell")
    w.enroll("/usr/bin/redis-benchmark", "bench")
    w.policy(policy)
    s = w.serve("redis-server", "--port", "6379", "--save", "", "--dir", w.tmp, "--enable-debug-command", "yes")
    wait_for("redis is up", lambda: "Ready to accept" in s.output() or s.poll() is not None)
    assert s.poll() is None, s.output() + w.tail()
    return s


def test_set_and_get(w):
    redis(w)
    assert w.run("redis-cli", "SET", "greeting", "hello").stdout.strip() == "OK"
    assert w.run("redis-cli", "GET", "greeting").stdout.strip() == "hello"
    types = [e["type"] for e in w.audit()]
    assert "decision" in types and "channel-start" in types and "policy-load" in types, types
    w.belay("audit", "verify")


def test_another_program_is_refused_and_told_why(w):
    redis(w)
    r = w.run("python3", "-c", CONNECT, check=False)
    assert r.returncode and "Permission denied" in r.stderr, r
    lines = [l for l in r.stderr.splitlines() if l.startswith("belay: ")]
    assert len(lines) == 1 and "belay why" in lines[0], r.stderr
    why = w.belay("why").stdout
    assert "127.0.0.1:6379" in why, why
    assert not [c for c in w.channels() if c["state"] == "open"]


def test_a_changed_binary_is_another_program(w):
    redis(w)
    p = copy_program(w, "/usr/bin/redis-cli", "redis-cli")
    assert w.run(p, "PING").stdout.strip() == "PONG"
    with open(p, "r+b") as f:
        f.seek(-1, 2)
        b = f.read(1)
        f.seek(-1, 2)
        f.write(bytes([b[0] ^ 1]))
    r = w.run(p, "PING", check=False)
    assert "PONG" not in r.stdout, r


def test_names_narrow_a_multi_call_binary(w):
    redis(w)
    r = w.run("redis-check-aof", "--help", check=False)
    check = w.run("bash", "-c", "exec -a redis-check-rdb redis-server --port 6380", check=False, timeout=20)
    assert "Ready to accept" not in check.stdout


def test_benchmark_runs_and_channels_are_listed(w):
    redis(w)
    b = w.serve("redis-benchmark", "-t", "get,set", "-n", "2000000", "-c", "20", "-q")
    wait_for("twenty channels", lambda: len([c for c in w.channels() if c["from"]["program"] == "bench"]) >= 20)
    c = [c for c in w.channels() if c["from"]["program"] == "bench"][0]
    assert c["to"]["program"] == "cache" and c["rule"] == "shell-to-cache" and c["protection"] == "isolate", c
    wait_for("bytes are counted", lambda: w.channels()[0]["bytes_sent"] > 0)
    w.belay("revoke", "bench")
    wait_for("revoked channels are gone within a second",
             lambda: not [c for c in w.channels() if c["from"]["program"] == "bench"], 2)
    b.kill()  # when a write was what met the end, redis-benchmark turns in circles by itself
    r = w.run("redis-benchmark", "-n", "10", "-c", "1", check=False)
    assert r.returncode or "ermission denied" in r.stderr + r.stdout, r
    w.belay("revoke", "bench", "--undo")
    w.run("redis-benchmark", "-t", "get", "-n", "1000", "-c", "5", "-q")


def test_policy_reload_ends_what_it_refuses(w):
    redis(w)
    c = w.popen([os.path.join(w.bin, "belay"), "run", "--", "redis-cli", "SUBSCRIBE", "news"], stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL)
    wait_for("a channel", lambda: w.channels())
    w.policy(POLICY.replace("[shell, bench]", "[bench]"))
    wait_for("the channel ended", lambda: not w.channels(), 2)
    r = w.run("redis-cli", "PING", check=False)
    assert "PONG" not in r.stdout
    r = w.policy("version: 1\nrules:\n  - allow: [connct]\n", check=False)
    assert r.returncode == 1 and "connct" in r.stderr + r.stdout and "^" in r.stderr + r.stdout, r
    assert w.status()["policy_rules"] == 2


def test_exit_status_and_signals_pass_through(w):
    w.start()
    assert w.run("sh", "-c", "exit 7", check=False).returncode == 7
    assert w.run("sh", "-c", "kill -TERM $$", check=False).returncode == -15
    assert w.run("cat", input="through\n").stdout == "through\n"
    assert w.run("/nonexistent/program", check=False).returncode == 127


def test_two_users_share_the_fabric(w):
    if not w.host:
        raise Skip("a private instance has one user")
    redis(w)
    for uid in w.users:
        assert w.run("redis-cli", "PING", uid=uid).stdout.strip() == "PONG"
    users = {e["from"]["uid"] for e in w.audit("--type", "channel-start")}
    assert set(w.users) <= users, users
    r = w.belay("policy", "load", os.path.join(w.tmp, "policy.yaml"), uid=w.users[0], check=False)
    assert r.returncode == 1, r


if __name__ == "__main__":
    main(globals())
