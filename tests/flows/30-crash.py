#!/usr/bin/env python3
"""kill -9 of any component at any instant: channels on one node keep flowing, service is back within a second,
nothing is allowed that should not be, the log still verifies. Also what is not quite a kill: a component that hangs,
a full disc, a `belay run` that dies half-way, the end of belayd itself; and that nothing is lost at each start.

BELAY_CRASH_SECONDS: how long each test at random lasts (5). BELAY_CRASH_SEED: play one again. BELAY_CRASH_RUNS: starts
in the test of leaks (200; 2000 says more)."""
import importlib, os, random, select, sys
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


SECONDS = float(os.environ.get("BELAY_CRASH_SECONDS", "5"))


def set_up(w):
    need("redis-server", "redis-cli")
    w.start()
    w.enroll("/usr/bin/redis-server", "cache")
    w.enroll("/usr/bin/redis-cli", "shell")
    w.policy(POLICY)
    s = w.serve("redis-server", "--port", "6379", "--save", "", "--dir", w.tmp)
    wait_for("redis is up", lambda: "Ready to accept" in s.output())
    return client(w)


def client(w, *args):
    """A redis-cli that stays connected: one channel."""
    c = w.popen([os.path.join(w.bin, "belay"), "run", "--", "redis-cli", *args], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, text=True)
    say(c, "PING", "PONG")
    return c


def parts(w):
    """The components that live now, without asking any of them."""
    pids = {}
    for pid in open(f"/proc/{w.daemon.pid}/task/{w.daemon.pid}/children").read().split():
        with contextlib.suppress(OSError):
            pids[open(f"/proc/{pid}/cmdline").read().split("\0")[0].replace("belay-", "")] = int(pid)
    return pids


def kill(w, *roles):
    pids = parts(w)
    for role in roles:
        with contextlib.suppress(ProcessLookupError, KeyError):
            os.kill(pids[role], signal.SIGKILL)


def ping(w, *args):
    return w.run("redis-cli", *args, "PING", check=False, timeout=30).stdout.strip() == "PONG"


def seed(w):
    """The choices of a test at random, said so that a failure can be played again."""
    n = os.environ.get("BELAY_CRASH_SEED") or str(random.SystemRandom().randrange(1 << 32))
    random.seed(f"{n} {w.mode}")
    print(f"# BELAY_CRASH_SEED={n}", flush=True)


def say(c, line, want):
    c.stdin.write(line + "\n")
    c.stdin.flush()
    assert select.select([c.stdout], [], [], 8)[0], f"{line}: no answer on an open channel"
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
    stop = time.monotonic() + SECONDS
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


def test_kills_while_policy_changes_and_programs_bind(w):
    """What a reload refused stays refused, and ends, though whoever should have ended it was killed."""
    seed(w)
    c = set_up(w)
    rules = POLICY + "  - { name: py, allow: bind, from: { program: py }, port: 7100-7200 }\n"
    closed = rules.replace("  - { name: client", "  - { name: shut, deny: connect, from: { program: shell } }\n  - { name: client")
    w.enroll(os.path.realpath("/usr/bin/python3"), "py", "--not-interpreter")
    w.policy(rules)
    bind = "import socket,sys; s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); print('BOUND')"
    stop = time.monotonic() + SECONDS
    n = bound = 0
    while time.monotonic() < stop or n < 6:
        n += 1
        shut = n % 2
        port = random.randrange(7100, 7200)
        p = [w.popen([os.path.join(w.bin, "belay"), "run", "--", "python3", "-c", bind, str(x)], stdout=subprocess.PIPE,
                     stderr=subprocess.STDOUT, text=True) for x in (port, 7300)]
        path = os.path.join(w.tmp, f"policy-{shut}.yaml")
        with open(path, "w") as f:
            f.write(closed if shut else rules)
        os.chmod(path, 0o644)
        l = w.popen([os.path.join(w.bin, "belay"), "policy", "load", path], stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT, text=True)
        time.sleep(random.random() * 0.04)
        kill(w, random.choice(("guard", "guard", "fabric", "enforce", "attest")))
        l.communicate(timeout=30)
        w.procs.remove(l)
        outs = [x.communicate(timeout=30)[0] for x in p]
        for x in p:
            w.procs.remove(x)
        bound += "BOUND" in outs[0]
        assert "BOUND" not in outs[1], "a bind nobody allows got through"
        # Whichever policy is in force now, old and new connections are as it says.
        show = wait_for("the policy can be seen", lambda: w.belay("policy", "show", check=False).stdout, 5)
        if "shut" in show:
            assert not ping(w), "refused, and connected"
            wait_for("the open channel ends\n" + w.tail(), lambda: not [x for x in w.channels() if x["from"]["program"] == "shell"], 3)
            w.end(c, signal.SIGKILL)
            w.policy(rules)
            wait_for("service is back\n" + w.tail(), lambda: ping(w), 5)
            c = client(w)
        else:
            say(c, "PING", "PONG")
    assert bound, "nobody ever bound: " + w.tail()
    w.belay("audit", "verify")


def test_two_nodes_survive_all_but_conn(w):
    seed(w)
    nodes = importlib.import_module("40-nodes")
    b = nodes.two_nodes(w)
    try:
        c = client(b, "-h", "10.77.0.1")
        roles = [r for r in ROLES if r != "conn"]
        stop, n = time.monotonic() + SECONDS, 0
        while time.monotonic() < stop or n < 10:
            at, killed = random.choice((w, b)), random.sample(roles, random.choice((1, 1, 2)))
            kill(at, *killed)
            for _ in range(5):
                n += 1
                try:
                    say(c, "INCR n", str(n))
                except AssertionError as e:
                    raise AssertionError(f"{killed} of {at.name} killed: {e}\n{(b if at is b else w).tail(40)}\n--- the other\n{(w if at is b else b).tail(40)}") from None
                time.sleep(random.random() * 0.02)
        wait_for("new channels again", lambda: ping(b, "-h", "10.77.0.1"), 15)
        old = wait_for("the old one is still listed", lambda: {x["channel"] for x in b.channels() if x["from"]["pid"] == c.pid}, 5)
        kill(random.choice((w, b)), "conn")
        wait_for("a channel ends with its keys, on both sides", lambda: not [
            x for y in (w, b) for x in y.channels() if x["channel"] in old], 5)
        wait_for("new channels after conn died", lambda: ping(b, "-h", "10.77.0.1"), 15)
        for x in (w, b):
            x.belay("audit", "verify")
    finally:
        b.close()


def test_published_ports_survive(w):
    need("redis-server")
    w.start()
    w.enroll("/usr/bin/redis-server", "cache")
    w.policy("version: 1\nrules:\n  - { name: world, allow: [bind, publish], from: { program: cache }, port: 7379 }\n")
    s = w.serve("redis-server", "--port", "7379", "--save", "", "--dir", w.tmp, "--protected-mode", "no")
    wait_for("redis is up", lambda: "Ready to accept" in s.output())

    def outside():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 7379), 2) as x:
            x.settimeout(2)
            x.sendall(b"PING\r\n")
            return x.recv(16) == b"+PONG\r\n"

    wait_for("the port is published", outside, 5)
    for role in ("guard", "dispatcher", "fabric"):
        kill(w, role)
        wait_for(f"it is published after {role} was killed\n" + w.tail(), outside, 5)
    # Longer than a dispatcher waits for a new guard's word on old ports.
    time.sleep(11 if SECONDS > 5 else 0)
    assert outside(), w.tail()
    w.end(s)
    kill(w, "guard")
    time.sleep(0.5)
    wait_for("a port whose program ended is closed", lambda: not outside(), 5)


def test_a_hung_component(w):
    """Stopped is not dead: nobody takes its place, all wait, nothing is allowed, and then it goes on."""
    seed(w)
    c = set_up(w)
    for roles, seconds in ((("guard",), 3), (("enforce",), 1), (("fabric",), 1), (("attest",), 1), (ROLES, 1)):
        pids = parts(w)
        for r in roles:
            os.kill(pids[r], signal.SIGSTOP)
        p = [w.popen([os.path.join(w.bin, "belay"), "run", "--", *a], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                     text=True) for a in (("redis-cli", "PING"), ("python3", "-c", FORBIDDEN))]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            say(c, "PING", "PONG")
            time.sleep(0.1)
        early = [x.poll() for x in p]
        for r in roles:
            os.kill(pids[r], signal.SIGCONT)
        outs = [x.communicate(timeout=20)[0] for x in p]
        for x in p:
            w.procs.remove(x)
        assert "CONNECTED" not in outs[1], f"{roles} stopped: a refused program got through"
        assert "PONG" in outs[0] or early[0], f"{roles} stopped and gone on: {outs[0]}"
        wait_for(f"service after {roles} went on\n" + w.tail(), lambda: ping(w), 3)
        assert parts(w) == pids, "a component that only waited was replaced: " + w.tail()
    w.belay("audit", "verify")


def test_a_full_disc(w):
    if not ROOT:
        raise Skip("needs a mount of its own")
    state = os.path.join(w.dir, "state", "guard")
    os.makedirs(state)
    for d in (w.dir, os.path.dirname(state), state):
        os.chown(d, w.uid, w.uid)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=6m,uid={w.uid},gid={w.uid},mode=0700", "tmpfs", state], check=True)
    c = set_up(w)
    full = os.path.join(state, "filler")
    with open(full, "wb", buffering=0) as f, contextlib.suppress(OSError):
        while True:
            f.write(b"x" * 4096)
    # The log's last page may have room for some entries more.
    def refused():
        r = w.run("redis-cli", "PING", check=False, timeout=30)
        return "PONG" not in r.stdout
    wait_for("nothing new is allowed", refused, 20)
    for _ in range(20):
        say(c, "PING", "PONG")
    assert refused()
    warns = " ".join(w.status()["warnings"])
    assert "audit log" in warns, warns
    r = w.belay("enroll", "/usr/bin/sleep", "--as", "other", check=False)
    assert r.returncode and r.stderr.startswith("belay:"), r
    kill(w, "guard", "enforce")
    say(c, "PING", "PONG")
    wait_for("a guard without a disc answers", lambda: w.belay("status", check=False).returncode == 0, 5)
    assert refused()
    os.unlink(full)
    wait_for("service is back with the space\n" + w.tail(), lambda: ping(w), 5)
    say(c, "PING", "PONG")
    assert not [x for x in w.status()["warnings"] if "audit log" in x], w.status()["warnings"]
    w.enroll("/usr/bin/sleep", "other")
    w.belay("audit", "verify")


def descriptors(pids):
    return {r: len(os.listdir(f"/proc/{p}/fd")) for r, p in pids.items() if r in ("belayd", "guard", "enforce", "dispatcher", "attest")}


def memory(pids):
    def private(pid):
        return sum(int(l.split()[1]) for l in open(f"/proc/{pid}/smaps_rollup") if l.startswith("Private"))
    return {r: private(p) for r, p in pids.items() if r in ("belayd", "guard", "enforce", "dispatcher", "attest")}


def test_belay_run_killed_at_every_step(w):
    """No tree, no descriptor and no record is left of a run that died on its way."""
    set_up(w)
    trees = w.status()["trees"]
    pids = {**parts(w), "belayd": w.daemon.pid}
    before = ROOT and descriptors(pids)
    for n in range(80):
        p = w.popen([os.path.join(w.bin, "belay"), "run", "--", "sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(n * 0.0005)
        p.kill()
        p.wait()
        w.procs.remove(p)
    wait_for(f"all trees ended: {w.status()['trees']}", lambda: w.status()["trees"] == trees, 3)
    # The same with the parts of the hand-over killed under it.
    for n in range(12):
        p = w.popen([os.path.join(w.bin, "belay"), "run", "--", "sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(n * 0.003)
        kill(w, ("enforce", "guard", "dispatcher")[n % 3])
        time.sleep(0.01)
        p.kill()
        p.wait()
        w.procs.remove(p)
        time.sleep(0.1)
    wait_for("all trees ended", lambda: w.status()["trees"] == trees, 5)
    wait_for("service", lambda: ping(w), 5)
    time.sleep(1.5)    # pools are filled, leases run out
    if ROOT:
        now = descriptors({**parts(w), "belayd": w.daemon.pid})
        assert now["belayd"] <= before["belayd"] + 4, (before, now)


def test_nothing_leaks(w):
    if not ROOT:
        raise Skip("only root may look at the components' descriptors")
    set_up(w)
    runs = int(os.environ.get("BELAY_CRASH_RUNS", "200"))

    def run(n):
        for _ in range(n // 4):
            p = [w.popen([os.path.join(w.bin, "belay"), "run", "--", "/bin/true"]) for _ in range(4)]
            for x in p:
                assert x.wait(30) == 0
                w.procs.remove(x)
        wait_for("all ended", lambda: w.status()["trees"] == trees, 5)
        time.sleep(1.5)

    trees = w.status()["trees"]
    pids = {**parts(w), "belayd": w.daemon.pid}
    run(100)
    d, m = descriptors(pids), memory(pids)
    run(runs)
    d2, m2 = descriptors(pids), memory(pids)
    print(f"# {runs} runs: descriptors {d} {d2}, private KiB {m} {m2}", flush=True)
    # attest remembers the last 16384 starts on purpose, in memory that is touched as it fills.
    for r in ("belayd", "guard", "enforce", "dispatcher"):
        # enforce keeps pidfds of the last callers, of whom it knows 256.
        assert d2[r] <= d[r] + 8 + 512 * (r == "enforce"), f"{r} leaks descriptors: {d[r]} became {d2[r]}"
        # AddressSanitizer keeps freed memory in quarantine on purpose, so growth under it says nothing.
        if "ASAN_OPTIONS" not in os.environ:
            assert m2[r] - m[r] <= 512 + runs / 10, f"{r} leaks memory: {m[r]} KiB became {m2[r]}"
    if "ASAN_OPTIONS" in os.environ:
        raise Skip("descriptors do not leak; memory is not measured under AddressSanitizer")


def test_belayd_killed(w):
    c = set_up(w)
    size = w.status()["audit_size"]
    pids = parts(w)
    w.daemon.kill()
    w.daemon.wait()

    def alive(p):
        try:
            return open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()[0] not in "ZX"
        except OSError:
            return False
    wait_for("every component ended", lambda: not [r for r, p in pids.items() if alive(p)], 3)
    # Whoever is bound stays so: nobody answers, so nothing new is allowed, and what is open is let be.
    say(c, "PING", "PONG")
    assert w.belay("status", check=False).returncode
    assert w.run("redis-cli", "PING", check=False).returncode
    w.procs.remove(w.daemon)
    for p in list(w.procs):
        w.end(p, signal.SIGKILL)
        w.procs.remove(p)
    w.start()
    assert w.status()["audit_size"] >= size
    assert {"cache", "shell"} <= {l.split()[0] for l in w.belay("programs").stdout.splitlines() if l.strip()}
    s = w.serve("redis-server", "--port", "6379", "--save", "", "--dir", w.tmp)
    wait_for("redis is up", lambda: "Ready to accept" in s.output())
    say(client(w), "PING", "PONG")
    r = w.run("python3", "-c", FORBIDDEN, check=False, timeout=30)
    assert "CONNECTED" not in r.stdout
    w.belay("audit", "verify")


if __name__ == "__main__":
    main(globals())
