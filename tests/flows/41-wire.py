#!/usr/bin/env python3
"""Nodes in network namespaces joined by a wire: what a capture sees, what a cut does, three nodes. Needs root."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *

SECRET = "the-plaintext-nobody-may-see"
PORT = 7421


def ip(*args, check=True):
    return subprocess.run(["ip", *args], check=check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


@contextlib.contextmanager
def wire(names):
    """A namespace per node, each with one leg on a bridge in a namespace of its own. 192.0.2.1, .2, …"""
    if not ROOT:
        raise Skip("network namespaces with a wire between them need root")
    need("ip")
    tag = f"b{os.getpid() % 10000}"
    hub = f"{tag}hub"
    try:
        ip("netns", "add", hub)
        ip("-n", hub, "link", "add", "br0", "type", "bridge")
        ip("-n", hub, "link", "set", "br0", "up")
        for i, n in enumerate(names, 1):
            ns = f"{tag}{n}"
            ip("netns", "add", ns)
            ip("-n", ns, "link", "add", "eth0", "type", "veth", "peer", "name", n, "netns", hub)
            ip("-n", hub, "link", "set", n, "master", "br0", "up")
            ip("-n", ns, "addr", "add", f"192.0.2.{i}/24", "dev", "eth0")
            ip("-n", ns, "link", "set", "eth0", "up")
            ip("-n", ns, "link", "set", "lo", "up")
        yield tag, hub
    finally:
        for n in [*names, "hub"]:
            ip("netns", "del", f"{tag}{n}", check=False)


@contextlib.contextmanager
def nodes(w, names, tag):
    worlds = [w] + [World(w.mode, w.bin, n) for n in names[1:]]
    try:
        for i, (x, n) in enumerate(zip(worlds, names), 1):
            x.netns = f"{tag}{n}"
            x.start(*(("--uid-base", str(64400 + 100 * i)) if w.host else ()))
            where = ("--listen", f"192.0.2.{i}:{PORT}", "--data", f"192.0.2.{i}:{PORT + 1}")
            if i == 1:
                x.belay("node", "init", n, "--address", f"10.77.0.{i}", *where)
            else:
                token = w.belay("node", "invite", n, "--address", f"10.77.0.{i}").stdout.split()[-1]
                x.belay("node", "join", token, *where)
            x.enroll("/usr/bin/redis-server", "cache")
            x.enroll("/usr/bin/redis-cli", "shell")
            rules = [f"- {{ name: listens, allow: bind, from: {{ program: cache }}, port: 6379 }}"]
            for m in names:
                if m != n:
                    rules.append(f"- {{ name: from-{m}, allow: connect, from: {{ program: shell, node: {m} }}, to: {{ program: cache }} }}")
                    rules.append(f"- {{ name: to-{m}, allow: connect, from: {{ program: shell }}, to: {{ program: cache, node: {m} }} }}")
            x.policy("version: 1\nrules:\n  " + "\n  ".join(rules) + "\n")
            s = x.serve("redis-server", "--port", "6379", "--save", "", "--dir", x.tmp, "--bind", f"10.77.0.{i}", "--protected-mode", "no")
            wait_for("redis is up", lambda: "Ready to accept" in s.output() or s.poll() is not None)
            assert s.poll() is None, s.output()
        # Which addresses are a node's is in its certificate: known when the link is up, not when `join` returns.
        for x in worlds:
            wait_for(f"links are up\n{x.tail()}", lambda: x.belay("node", "list").stdout.count(" up ") == len(names) - 1)
        yield worlds
    finally:
        for x in worlds[1:]:
            x.close()


CAPTURE = """
import socket, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); s.bind((sys.argv[1], 0)); s.settimeout(0.2)
out = open(sys.argv[2], "wb", buffering=0); print("on", flush=True)
end = time.time() + 60
while time.time() < end:
    try: out.write(s.recv(1 << 17))
    except socket.timeout: pass
"""


def test_a_capture_sees_no_plaintext(w):
    with wire(["alpha", "beta"]) as (tag, hub), nodes(w, ["alpha", "beta"], tag) as (a, b):
        cap = os.path.join(w.tmp, "capture")
        p = subprocess.Popen(["ip", "netns", "exec", hub, "python3", "-c", CAPTURE, "beta", cap], stdout=subprocess.PIPE)
        try:
            p.stdout.readline()
            cli = ("redis-cli", "-h", "10.77.0.1")
            for i in range(20):
                assert b.run(*cli, "SET", f"k{i}", SECRET * 50).stdout.strip() == "OK"
                assert SECRET in b.run(*cli, "GET", f"k{i}").stdout
            time.sleep(0.5)
        finally:
            p.kill()
            p.wait()
        seen = open(cap, "rb").read()
        assert len(seen) > 20 * 2 * len(SECRET) * 50, f"the capture saw only {len(seen)} bytes"
        assert SECRET.encode() not in seen and b"SET" not in seen, "plaintext on the wire"


def test_a_cut_wire_gives_errors_and_heals(w):
    with wire(["alpha", "beta"]) as (tag, hub), nodes(w, ["alpha", "beta"], tag) as (a, b):
        cli = ("redis-cli", "-h", "10.77.0.1")
        assert b.run(*cli, "PING").stdout.strip() == "PONG"
        ip("-n", hub, "link", "set", "beta", "down")
        t0 = time.monotonic()
        while time.monotonic() - t0 < 10:
            t1 = time.monotonic()
            r = b.run(*cli, "PING", check=False, timeout=30)
            assert "PONG" not in r.stdout and time.monotonic() - t1 < 8, "a hang, or an answer over a cut wire"
            time.sleep(0.5)
        assert "down" in b.belay("node", "list").stdout
        ip("-n", hub, "link", "set", "beta", "up")
        wait_for("healed", lambda: b.run(*cli, "PING", check=False, timeout=30).stdout.strip() == "PONG", 30)


def test_three_nodes(w):
    with wire(["alpha", "beta", "gamma"]) as (tag, hub), nodes(w, ["alpha", "beta", "gamma"], tag) as ws:
        for i, x in enumerate(ws, 1):
            for j in range(1, 4):
                if i != j:
                    wait_for(f"{i} reaches {j}", lambda: x.run("redis-cli", "-h", f"10.77.0.{j}", "PING", check=False,
                                                              timeout=30).stdout.strip() == "PONG", 20)
        assert "10.77.0.2" in ws[0].belay("node", "list").stdout
        ws[0].belay("node", "remove", "gamma")
        wait_for("gamma is out", lambda: ws[2].run("redis-cli", "-h", "10.77.0.1", "PING", check=False,
                                                  timeout=30).stdout.strip() != "PONG", 10)


if __name__ == "__main__":
    main(globals())
