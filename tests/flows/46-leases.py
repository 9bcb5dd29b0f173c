#!/usr/bin/env python3
"""Leased verdicts between two nodes: channels opened without asking are seen and logged like any other, and nothing is opened any
more once what decided has changed."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *
import importlib.machinery, importlib.util
_l = importlib.machinery.SourceFileLoader("nodes", os.path.join(os.path.dirname(__file__), "40-nodes.py"))
nodes = importlib.util.module_from_spec(importlib.util.spec_from_loader("nodes", _l))
_l.exec_module(nodes)


def starts(w):
    return [e for e in w.audit() if e["type"] == "channel-start"]


def flood(b, n, check=True, clients=10, timeout=120):
    """n connections from one process, one request each."""
    return b.run("redis-benchmark", "-h", "10.77.0.1", "-t", "get", "-k", "0", "-n", str(n), "-c", str(clients), "-q",
                 check=check, timeout=timeout)


class Flood:
    """The same, again and again, until it is stopped: how the runs ended."""
    def __init__(self, b):
        self.b, self.over, self.ends = b, threading.Event(), []
        self.thread = threading.Thread(target=self.go)
        self.thread.start()

    def go(self):
        while not self.over.is_set():
            try:
                r = flood(self.b, 100, check=False, clients=5, timeout=15)
                rc, out = r.returncode, r.stdout + r.stderr
            except AssertionError as e:    # redis-benchmark can loop for ever in itself after a reset
                rc, out = -1, str(e)
            self.ends.append((time.monotonic(), rc, out))
            if rc:
                time.sleep(0.05)

    def __enter__(self):
        wait_for("connections go through", lambda: any(rc == 0 for _, rc, _ in self.ends), 30)
        return self

    def __exit__(self, *x):
        self.over.set()
        self.thread.join()


def test_leased_connections_are_seen_and_logged_on_both_nodes(w):
    b = nodes.two_nodes(w)
    try:
        n = 1500
        out = flood(b, n).stdout
        for x in (w, b):
            wait_for("every channel has ended in the log", lambda: len([e for e in x.audit() if e["type"] == "channel-end"])
                     >= len(starts(x)) >= n)
        there, here = ({e["channel"] for e in starts(x)} for x in (w, b))
        assert there == here, f"{len(there)} and {len(here)} channels, {len(there & here)} of them the same"
        assert len(here) == len(starts(b)), "an id was used twice"
        for x in (w, b):
            for e in starts(x):
                assert e["from"]["program"] == "bench" and e["to"]["program"] == "cache" and e["protection"] == "encrypt", e
                assert e["from"]["node"] == "beta" and e["from"]["address"].startswith("10.77.0.2:"), e
            ends = [e for e in x.audit() if e["type"] == "channel-end"]
            assert sum(e["reason"] == "closed" and e["bytes_sent"] > 0 for e in ends) > 0.9 * n, ends[-3:]
        decided = [e for e in w.audit() if e["type"] == "decision" and e.get("op") == "connect"]
        assert len(decided) < n / 2, f"{len(decided)} decisions for {n} connections: nothing was leased"
        names = {(e["channel"], e["from"]["address"]) for e in starts(w)}
        assert len(names) == len(there)
        # While they are open they are in both tables.
        c = b.popen([os.path.join(b.bin, "belay"), "run", "--", "redis-benchmark", "-h", "10.77.0.1", "-t", "get", "-c", "40",
                     "-n", "100000000", "-q"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("40 channels on both", lambda: len(w.channels()) >= 40 and len(b.channels()) >= 40)
        assert {c["channel"] for c in w.channels()} == {c["channel"] for c in b.channels()}
        b.end(c)
        wait_for("they end", lambda: not w.channels() and not b.channels())
        for x in (w, b):
            x.belay("audit", "verify")
    finally:
        b.close()


def test_a_policy_or_revocation_on_either_node_ends_the_lease(w):
    b = nodes.two_nodes(w)
    try:
        for x, text in ((w, nodes.SERVER), (b, nodes.CLIENT)):
            with Flood(b) as f:
                x.policy(text.replace("[shell, bench]", "[shell]"))
                time.sleep(1)
                began, logged = time.monotonic(), len(starts(w))
                wait_for("runs after the load", lambda: len([t for t, _, _ in f.ends if t > began]) > 3, 30)
                assert all("ermission denied" in out for t, rc, out in f.ends[-2:]), f.ends[-1]
                assert len(starts(w)) == logged, "a channel was opened a second after the policy refused it"
                assert not w.channels() and not b.channels()
                x.policy(text)
                wait_for("allowed again", lambda: f.ends[-1][1] == 0, 20)
                x.belay("revoke", "bench" if x is b else "cache")
                wait_for("revoked: the next connect is refused", lambda: f.ends[-1][1] != 0, 30)
                logged = len(starts(w))
                time.sleep(0.5)
                assert len(starts(w)) == logged
                x.belay("revoke", "bench" if x is b else "cache", "--undo")
                if x is b:
                    wait_for("allowed again", lambda: f.ends[-1][1] == 0, 20)
            if x is w:    # the listener was revoked, and so ended
                w.end(b.server)
                serve(w, b)
        # A policy that still allows it disturbs nobody, on either node.
        with Flood(b) as f:
            good = len(f.ends)
            for k in range(10):
                w.policy(nodes.SERVER + f"# {k}\n")
                b.policy(nodes.CLIENT + f"# {k}\n")
                time.sleep(0.05)
            wait_for("more runs", lambda: len(f.ends) > good + 3, 60)
        assert all(rc == 0 for _, rc, _ in f.ends[:-1]), [e for e in f.ends if e[1]][:2]
    finally:
        b.close()


def serve(w, b, *argv):
    s = w.serve(*(argv or ("redis-server",)), "--port", "6379", "--save", "", "--dir", w.tmp, "--bind", "10.77.0.1", "127.0.0.1",
                "--protected-mode", "no", "--loglevel", "verbose")
    wait_for("a server is up", lambda: "Ready to accept" in s.output() or s.poll() is not None)
    assert s.poll() is None, s.output()
    b.server = s


def test_another_listener_at_the_address_gets_nothing_that_was_leased(w):
    b = nodes.two_nodes(w)
    try:
        other = copy_program(w, "/usr/bin/redis-server", "other")
        with open(other, "ab") as f:
            f.write(b"x")
        w.enroll(other, "other")
        w.policy(nodes.SERVER + "  - { name: other-listens, allow: bind, from: { program: other }, port: 6379 }\n")
        with Flood(b) as f:
            w.end(b.server)
            serve(w, b, other)
            began = time.monotonic()
            wait_for("runs after the change", lambda: len([t for t, _, _ in f.ends if t > began]) > 3, 30)
            assert f.ends[-1][1] != 0, "another program's listener was reached"
        assert all(e["to"]["program"] == "cache" for e in starts(w))
        w.end(b.server)
        text = b.server.output()
        assert "Accepted" not in text, text[-500:]
    finally:
        b.close()


def test_a_cut_or_a_death_ends_leases_and_nothing_hangs(w):
    b = nodes.two_nodes(w)
    try:
        with Flood(b) as f:
            for role in ("link", "conn", "fabric", "guard", "enforce"):
                for x in (w, b):
                    os.kill(x.pids()[role], signal.SIGKILL)
                    good = len(f.ends)
                    wait_for(f"connections after {role} was killed on {x.name}: {f.ends[-1:]}",
                             lambda: any(rc == 0 for _, rc, _ in f.ends[good:]), 60)
        for x in (w, b):
            ids = [e["channel"] for e in starts(x)]
            assert len(ids) == len(set(ids)), "a channel was opened twice"
            x.belay("audit", "verify")
            assert not [e for e in x.audit() if "tamper" in e["type"]], "frames did not open"
    finally:
        b.close()


if __name__ == "__main__":
    main(globals())
