#!/usr/bin/env python3
"""Who is in a domain, and for how long: invitations that outlive the guard, removal heard everywhere, certificates that renew."""
import contextlib, glob, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *

NAMES = ("alpha", "beta", "gamma")


class Domain:
    """Nodes on loopback addresses of their own; alpha holds the CA."""
    def __init__(self, w, *init):
        self.port = 20000 + os.getpid() * 3 % 20000
        self.init, self.worlds = init, {"alpha": w}

    def world(self, name):
        if name not in self.worlds:
            a = self.worlds["alpha"]
            self.worlds[name] = World(a.mode, a.bin, name)
        return self.worlds[name]

    def listen(self, name):
        i = NAMES.index(name)
        return "--listen", f"127.0.0.{i + 2}:{self.port}", "--data", f"127.0.0.{i + 2}:{self.port + 1}"

    def address(self, name):
        return f"10.77.0.{NAMES.index(name) + 1}"

    def start(self, name):
        w = self.world(name)
        w.start(*(("--uid-base", str(64500 + 100 * NAMES.index(name))) if w.host and name != "alpha" else ()))
        if name == "alpha":
            w.belay("node", "init", "alpha", "--address", self.address("alpha"), *self.listen("alpha"), *self.init)
        return w

    def invite(self, name):
        return self.world("alpha").belay("node", "invite", name, "--address", self.address(name)).stdout.split()[-1]

    def join(self, name, token=None, check=True):
        return self.world(name).belay("node", "join", token or self.invite(name), *self.listen(name), check=check)

    def rows(self, name):
        out = self.world(name).belay("node", "list", "--json").stdout
        return {r["node"]: r for r in map(json.loads, out.splitlines())}

    def up(self, a, b):
        return self.rows(a).get(b, {}).get("state") == "up"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0]:
            for n, w in self.worlds.items():
                sys.stderr.write(f"# {n}:\n" + "".join("# " + l for l in w.tail().splitlines(True)))
        for n, w in self.worlds.items():
            if n != "alpha":
                w.close()


def kill(w, role):
    old = w.pids()[role]
    os.kill(old, signal.SIGKILL)
    def successor():
        r = w.belay("status", "--json", check=False)
        return not r.returncode and any(c["role"] == role and c["pid"] not in (0, old) for c in json.loads(r.stdout)["components"])
    wait_for(f"another {role}", successor)


def logged(w, word):
    return [e for e in w.audit() if word in json.dumps(e)]


def test_join_returns_with_a_link(w):
    with Domain(w) as d:
        d.start("alpha")
        d.start("beta")
        d.join("beta")
        assert d.up("beta", "alpha"), "join returned before its link was up"
        # What is known of the other node outlives the guard: a connect is never one to outside.
        kill(d.world("beta"), "guard")
        r = d.world("beta").run("python3", "-c", "import socket; socket.create_connection(('10.77.0.1', 9), 5)", check=False)
        assert "outside" not in r.stderr, r
        # Who joins knows the addresses of all there are, also of one that is away.
        b = d.world("beta")
        b.end(b.daemon)
        b.daemon = None
        d.start("gamma")
        d.join("gamma")
        assert d.rows("gamma")["beta"]["addresses"] == "10.77.0.2"


def test_an_invitation_outlives_the_guard_and_works_once(w):
    with Domain(w) as d:
        d.start("alpha")
        d.start("beta")
        token = d.invite("beta")
        kill(w, "guard")
        d.join("beta", token)
        kill(w, "guard")
        d.start("gamma")
        r = d.join("gamma", token, check=False)
        assert r.returncode and "used" in r.stderr, r
        # Another for the name of an open one takes its place; a name in use gets none.
        first, second = d.invite("gamma"), d.invite("gamma")
        assert d.join("gamma", first, check=False).returncode
        d.join("gamma", second)
        assert w.belay("node", "invite", "gamma", "--address", "10.77.0.9", check=False).returncode


def test_removal_is_heard_everywhere(w):
    need("redis-server", "redis-cli")
    with Domain(w) as d:
        d.start("alpha")
        for n in ("beta", "gamma"):
            d.start(n)
            d.join(n)
        b, c = d.world("beta"), d.world("gamma")
        wait_for("beta and gamma have a link", lambda: d.up("beta", "gamma") and d.up("gamma", "beta"))
        for x in (b, c):
            x.enroll("/usr/bin/redis-server", "cache")
            x.enroll("/usr/bin/redis-cli", "shell")
        b.policy("version: 1\nrules:\n  - { name: l, allow: bind, from: { program: cache }, port: 6379 }\n"
                 "  - { name: c, allow: connect, from: { program: shell, node: gamma }, to: { program: cache }, port: 6379 }\n")
        c.policy("version: 1\nrules:\n  - { name: c, allow: connect, from: { program: shell }, to: { program: cache, node: beta }, port: 6379 }\n")
        s = b.serve("redis-server", "--port", "6379", "--save", "", "--dir", b.tmp, "--bind", "10.77.0.2", "--protected-mode", "no")
        wait_for("redis is up", lambda: "Ready to accept" in s.output() or s.poll() is not None)
        c.popen([os.path.join(c.bin, "belay"), "run", "--", "redis-cli", "-h", "10.77.0.2", "SUBSCRIBE", "x"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("a channel on both", lambda: b.channels() and c.channels())
        # Only the CA's node may; a node that is away hears it later.
        r = b.belay("node", "remove", "gamma", check=False)
        assert r.returncode and "CA" in r.stderr, r
        assert b.channels(), "a refused removal ended a channel"
        w.belay("node", "remove", "gamma")
        wait_for("beta heard it", lambda: not b.channels() and d.rows("beta")["gamma"]["state"] == "removed", 5)
        assert d.rows("alpha")["gamma"]["state"] == "removed"
        wait_for("gamma knows", lambda: d.rows("gamma")["gamma"]["state"] == "removed", 5)
        r = c.run("redis-cli", "-h", "10.77.0.2", "PING", check=False)
        assert "PONG" not in r.stdout, r
        assert logged(b, "node-remove") and logged(w, "node-remove")
        # It tries again, and is refused; what beta knows outlives its guard.
        kill(b, "guard")
        c.end(c.daemon)
        c.daemon = None
        c.start(*(("--uid-base", "64700") if c.host else ()))
        wait_for("gamma tried", lambda: d.rows("gamma")["gamma"]["state"] == "removed", 5)
        assert not d.up("beta", "gamma") and not d.up("alpha", "gamma")


def test_a_node_that_was_away_hears_of_a_removal(w):
    with Domain(w) as d:
        d.start("alpha")
        for n in ("beta", "gamma"):
            d.start(n)
            d.join(n)
        b = d.world("beta")
        wait_for("beta and gamma have a link", lambda: d.up("beta", "gamma"))
        b.end(b.daemon)
        b.daemon = None
        w.belay("node", "remove", "gamma")
        d.start("beta")
        wait_for("beta heard it", lambda: d.rows("beta").get("gamma", {}).get("state") == "removed")
        # Invited again it is a node as any, with the old removal still in the list of everybody.
        c = d.world("gamma")
        c.close()
        del d.worlds["gamma"]
        d.start("gamma")
        d.join("gamma")
        wait_for("gamma is back", lambda: d.up("beta", "gamma") and d.up("alpha", "gamma"))
        kill(w, "guard")
        kill(b, "guard")
        wait_for("gamma stays", lambda: d.up("beta", "gamma") and d.up("alpha", "gamma"))


def test_certificates_renew_by_themselves(w):
    life = 12
    with Domain(w, "--life", f"{life}s") as d:
        d.start("alpha")
        d.start("beta")
        d.join("beta")
        first = {n: d.rows(n)[n]["certificate_until"] for n in ("alpha", "beta")}
        assert time.time() - 1 < first["beta"] < time.time() + life + 1, first
        wait_for("both have renewed", lambda: all(d.rows(n)[n]["certificate_until"] > first[n] for n in first), 2 * life)
        wait_for("the first ones are over", lambda: time.time() > max(first.values()) + 1, 2 * life)
        wait_for("links come up with the new ones", lambda: d.up("alpha", "beta") and d.up("beta", "alpha"))
        assert d.rows("alpha")["beta"]["certificate_until"] > first["beta"]
        assert logged(w, "node-renew") and logged(d.world("beta"), "node-renew")
        assert d.rows("beta")["beta"]["addresses"] == "10.77.0.2"


def test_the_ca_may_be_away_when_a_certificate_is_due(w):
    life = 15
    with Domain(w, "--life", f"{life}s") as d:
        d.start("alpha")
        d.start("beta")
        d.join("beta")
        first = d.rows("beta")["beta"]["certificate_until"]
        w.end(w.daemon)
        w.daemon = None
        wait_for("it is due", lambda: time.time() > first - life / 3 + 1, life)    # and asked for in vain
        assert d.rows("beta")["beta"]["certificate_until"] == first
        w.start()
        wait_for("renewed when the CA is back", lambda: d.rows("beta")["beta"]["certificate_until"] > first, life)


def test_a_certificate_that_is_over_ends_its_links(w):
    life = 10
    with Domain(w, "--life", f"{life}s") as d:
        d.start("alpha")
        for n in ("beta", "gamma"):
            d.start(n)
            d.join(n)
        wait_for("beta and gamma have a link", lambda: d.up("beta", "gamma") and d.up("gamma", "beta"))
        w.end(w.daemon)    # nobody renews
        w.daemon = None
        wait_for("the link is down", lambda: not d.up("beta", "gamma") and not d.up("gamma", "beta"), 3 * life)


def test_strangers_keep_nobody_out(w):
    need("redis-server", "redis-cli")
    stop = threading.Event()
    def crowd(to):
        """Keeps as many silent connections to an address as it can get, all from one address."""
        held = []
        while not stop.is_set():
            for _ in range(16):
                s = socket.socket()
                s.setblocking(False)
                s.bind(("127.0.0.99", 0))
                with contextlib.suppress(OSError):
                    s.connect(to)
                held.append(s)
            stop.wait(0.1)
            while len(held) > 160:
                held.pop(0).close()
        for s in held:
            s.close()
    with Domain(w) as d:
        d.start("alpha")
        b = d.start("beta")
        w.enroll("/usr/bin/redis-server", "cache")
        b.enroll("/usr/bin/redis-cli", "shell")
        w.policy("version: 1\nrules:\n  - { name: l, allow: bind, from: { program: cache }, port: 6379 }\n"
                 "  - { name: c, allow: connect, from: { program: shell, node: beta }, to: { program: cache }, port: 6379 }\n")
        b.policy("version: 1\nrules:\n  - { name: c, allow: connect, from: { program: shell }, to: { program: cache, node: alpha }, port: 6379 }\n")
        s = w.serve("redis-server", "--port", "6379", "--save", "", "--dir", w.tmp, "--bind", "10.77.0.1", "--protected-mode", "no")
        wait_for("redis is up", lambda: "Ready to accept" in s.output() or s.poll() is not None)
        token = d.invite("beta")
        ports = [("127.0.0.2", d.port), ("127.0.0.2", d.port + 1)]
        threads = [threading.Thread(target=crowd, args=(p,)) for p in ports]
        for t in threads:
            t.start()
        try:
            time.sleep(1)
            d.join("beta", token)    # only beta dials: alpha's port must take it
            threads.append(threading.Thread(target=crowd, args=(("127.0.0.3", d.port + 1),)))
            threads[-1].start()
            wait_for("a connection", lambda: b.run("redis-cli", "-h", "10.77.0.1", "PING", check=False).stdout.strip() == "PONG", 5)
            for x in (w, b):
                os.kill(x.pids()["conn"], signal.SIGKILL)    # both data ports are needed anew
            wait_for("a connection again", lambda: b.run("redis-cli", "-h", "10.77.0.1", "PING", check=False).stdout.strip() == "PONG", 8)
        finally:
            stop.set()
            for t in threads:
                t.join()


if __name__ == "__main__":
    main(globals())
