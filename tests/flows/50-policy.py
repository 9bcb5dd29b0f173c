#!/usr/bin/env python3
"""What the policy says is what happens: protection, idle time, limits, who, where, reload, explanations, exit codes."""
import errno, os, re, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *
from agent import *

def test_encrypt_on_one_node(w):
    srv, cli, _ = pair(w, rules(CLI + ", protection: encrypt"))
    n = cli.do(f"connect{ONE}")
    assert cli.do(f"ask({n}, 'x' * 1000)") == "x" * 1000
    c, = w.channels()
    assert c["protection"] == "encrypt" and c["rule"] == "cli-to-srv" and c["from"]["program"] == "cli", c
    assert c["from"]["pid"] == cli.pid and c["to"]["pid"] == srv.pid, c
    assert c["bytes_sent"] == c["bytes_received"] == 1000, c
    assert c["age_ms"] < 20000 and c["idle_ms"] < 5000, c
    time.sleep(0.6)
    later, = w.channels()
    assert later["idle_ms"] >= 500 and later["age_ms"] > c["age_ms"], later
    assert cli.do(f"bulk({n}, 30_000_000)", 60)
    cli.do(f"close({n})")
    wait_for("the channel is gone", lambda: not w.channels())
    e = [json.loads(l) for l in w.belay("channels", "--json", "--ended").stdout.splitlines()]
    assert e and e[0]["bytes_sent"] == e[0]["bytes_received"] == 30_001_000, e
    assert "encrypt" in w.belay("channels", "--ended").stdout


def test_idle_channels_end_and_used_ones_do_not(w):
    srv, cli, _ = pair(w, rules(CLI + ", idle: 1s, port: 7001", CLI.replace("cli-to-srv", "sealed") +
                                ", idle: 1s, port: 7002, protection: encrypt"))
    srv.do("serve('127.0.0.1', 7002)")
    a, b, c = (cli.do(f"connect('127.0.0.1', {p})") for p in (7001, 7002, 7001))
    for _ in range(9):
        assert cli.do(f"ask({c})") == "hello"
        time.sleep(0.25)
    left = open_channels(w)
    assert len(left) == 1, left
    assert cli.do(f"ask({c})") == "hello", "a channel in use was ended"
    t = time.monotonic()
    for n in (a, b):
        cli.do(f"ended({n}, 1)")
    wait_for("the third is idle for a second, too", lambda: not open_channels(w), 3)
    took = time.monotonic() - t
    assert 0.5 < took < 2.5, took
    assert "idle" in w.belay("channels", "--ended").stdout
    assert any("idle" in json.dumps(e) for e in w.audit("--type", "channel-end"))


def test_connections_limit(w):
    srv, cli, _ = pair(w, rules(CLI + ", connections: 3"))
    n = [cli.do(f"connect{ONE}") for _ in range(3)]
    assert cli.errno(f"connect{ONE}") == errno.EACCES
    why = w.belay("why", "127.0.0.1:7001").stdout
    assert "as many connections as its rule allows" in why and "cli-to-srv" in why, why
    assert all(cli.do(f"ask({x})") == "hello" for x in n), "an open channel suffered"
    cli.do(f"close({n[0]})")
    wait_for("a place is free again", lambda: cli.errno(f"connect{ONE}") == 0, 3)
    assert cli.errno(f"connect{ONE}") == errno.EACCES
    # Many at once: not one more than allowed gets through.
    cli.do("[close(x) for x in list(S)]")
    wait_for("all places are free", lambda: not w.channels(), 3)
    got = cli.do("""
import threading
def try_one():
    try:
        connect('127.0.0.1', 7001)
        GOT.append(0)
    except OSError as e:
        GOT.append(e.errno)
GOT = []
T = [threading.Thread(target=try_one) for _ in range(12)]
[t.start() for t in T]
[t.join() for t in T]
""") or cli.do("GOT")
    assert sorted(got) == [0] * 3 + [errno.EACCES] * 9, got


def test_who_may_where(w):
    srv, cli, paths = pair(w, rules(), "other")
    other = Agent(w, paths["other"])
    for host, port in (("127.0.0.1", 7002), ("127.1.2.3", 7001), ("::1", 7001)):
        srv.do(f"serve('{host}', {port})")
    me = cli.do("os.getuid()")

    def holds(*rows, yes=(), no=(), **top):
        w.policy(rules(*rows, **top))
        for want, cases in ((0, yes), (errno.EACCES, no)):
            for agent, host, port in cases:
                got = agent.errno(f"close(connect('{host}', {port}))")
                assert got == want, (rows, agent.p.args, host, port, got, w.belay("why").stdout)
    c1, c2, c3, c6 = (cli, *ONE), (cli, "127.0.0.1", 7002), (cli, "127.1.2.3", 7001), (cli, "::1", 7001)
    o1 = (other, *ONE)
    allow, deny = "name: a, allow: connect", "name: d, deny: connect"
    anyone = allow + ", from: { program: '*' }, to: { program: srv }"
    holds(no=[c1, o1])
    holds(anyone, yes=[c1, c2, c3, c6, o1])
    # A rule that denies beats one that allows, whatever the order.
    for order in ([anyone, deny + ", from: { program: other }"], [deny + ", from: { program: other }", anyone]):
        holds(*order, yes=[c1, c6], no=[o1])
    # Ports, addresses.
    holds(anyone + ", port: 7001", yes=[c1, c3, c6, o1], no=[c2])
    holds(anyone + ", port: [6000, 7002-7010]", yes=[c2], no=[c1, c3, c6])
    holds(anyone + ", address: 127.0.0.0/16", yes=[c1, c2], no=[c3, c6])
    holds(anyone + ", address: ['::1', 127.1.0.0/16]", yes=[c3, c6], no=[c1, c2])
    holds(anyone, deny + ", address: '::/0'", yes=[c1, c3], no=[c6])
    holds(anyone, deny + ", port: 7002-7009", yes=[c1, c3, c6], no=[c2])
    # Groups written in the policy, and those given at enrolment; a group the policy does not define is an error.
    inside = allow + ", from: { group: few }, to: { program: srv }"
    holds(inside, yes=[c1], no=[o1], groups="{ few: [cli] }")
    holds(inside, yes=[c1, o1], groups="{ few: [cli, other] }")
    w.belay("unenroll", "other")
    w.belay("enroll", paths["other"], "--as", "other", "--not-interpreter", "--group", "few")
    holds(inside, yes=[o1], no=[c1], groups="{ few: enrolled }")
    assert w.policy(rules(inside), check=False).returncode == 1
    holds(anyone, deny + ", from: { group: few }", yes=[c1], no=[o1], groups="{ few: enrolled }")
    # Users by number; nodes.
    holds(allow + f", from: {{ program: cli, user: {me} }}, to: {{ program: srv }}", yes=[c1], no=[o1])
    holds(allow + f", from: {{ program: cli, user: {me + 7} }}, to: {{ program: srv }}", no=[c1])
    holds(anyone, deny + f", from: {{ user: {me} }}", no=[c1, o1])
    holds(anyone, deny + f", from: {{ user: {me + 7} }}", yes=[c1, o1])
    holds(allow + f", from: {{ program: cli }}, to: {{ program: srv, user: {me + 7} }}", no=[c1])
    holds(allow + ", from: { program: cli, node: elsewhere }, to: { program: srv }", no=[c1])
    holds(allow + ", from: { program: cli, node: self }, to: { program: srv, node: self }", yes=[c1], no=[o1])
    holds(anyone, deny + ", from: { node: elsewhere }", yes=[c1, o1])
    holds(anyone, deny + ", to: { node: self }", no=[c1, o1])


def test_rules_by_user(w):
    if not w.host:
        raise Skip("a private instance has one user")
    import pwd
    name = "nobody"
    nobody = pwd.getpwnam(name).pw_uid
    srv, cli, paths = pair(w, rules(CLI + ", user: 1", ).replace(", user: 1", "").replace("program: cli }", f"program: cli, user: {name} }}"))
    a, b = Agent(w, paths["cli"], uid=nobody), Agent(w, paths["cli"], uid=w.users[1])
    assert a.errno(f"connect{ONE}") == 0
    assert b.errno(f"connect{ONE}") == cli.errno(f"connect{ONE}") == errno.EACCES
    assert w.channels()[0]["from"]["user"] == name
    why = w.belay("why", str(b.pid)).stdout
    assert f"if the caller were user {name}" in why, why
    # One user does not read what another was refused, and administers nothing.
    mine = w.belay("why", "--json", uid=w.users[1]).stdout.splitlines()
    assert mine and all(json.loads(l)["from"] == "cli" for l in mine)
    assert not w.belay("why", "--json", uid=w.users[0]).stdout
    for verb in (["channels"], ["programs"], ["unenroll", "cli"], ["revoke", "cli"], ["policy", "show"]):
        assert w.belay(*verb, uid=w.users[0], check=False).returncode == 1, verb
    w.policy(rules(f"name: two, allow: connect, from: {{ program: cli, user: [{nobody}, {w.users[1]}] }}, to: {{ program: srv }}"))
    assert a.errno(f"connect{ONE}") == b.errno(f"connect{ONE}") == 0
    assert cli.errno(f"connect{ONE}") == errno.EACCES


def test_explanations_name_the_rule_and_its_line(w):
    srv, cli, paths = pair(w, rules(CLI + ", port: 7001", "name: not-other, deny: connect, from: { program: other }"), "other")
    file = os.path.join(w.tmp, "policy.yaml")
    line = {n: 1 + next(i for i, l in enumerate(open(file)) if f"name: {n}" in l) for n in ("cli-to-srv", "not-other")}
    for where in ((), (file,)):
        r = w.belay("policy", "explain", "--from", "cli", "--to", "srv", *where)
        assert f"allowed by cli-to-srv (policy.yaml:{line['cli-to-srv']})" in r.stdout, r.stdout
        r = w.belay("policy", "explain", "--from", "other", "--to", "srv", "--address", "127.0.0.1:7001", *where, check=False)
        assert r.returncode == 1 and f"refused by not-other (policy.yaml:{line['not-other']})" in r.stdout, r.stdout
        r = w.belay("policy", "explain", "--from", "cli", "--to", "srv", "--address", "127.0.0.1:7002", *where, check=False)
        assert r.returncode == 1 and "would allow it if the port were 7001" in r.stdout, r.stdout
        j = json.loads(w.belay("policy", "explain", "--json", "--from", "cli", "--to", "srv", "--address", "127.0.0.1:7001", *where).stdout)
        assert j["allow"] is True and j["rule"] == "cli-to-srv" and j["line"] == line["cli-to-srv"], j
    srv.do("serve('127.0.0.1', 7002)")
    assert cli.errno("connect('127.0.0.1', 7002)") == errno.EACCES
    notes = [l for l in cli.stderr().splitlines() if l.startswith("belay: ")]
    assert len(notes) == 1 and "127.0.0.1:7002" in notes[0] and "belay why" in notes[0], notes
    why = w.belay("why", str(cli.pid)).stdout
    assert f"cli-to-srv (policy.yaml:{line['cli-to-srv']}) would allow it if the port were 7001" in why, why
    r = w.cmd(*[os.path.join(w.bin, "belay"), "run", "--", paths["other"], "-c", "import socket; socket.create_connection(('127.0.0.1', 7001))"],
              check=False, env={"PYTHONHOME": "/usr"})
    assert "Permission denied" in r.stderr
    why = w.belay("why", "127.0.0.1:7001").stdout
    assert "rule: not-other" in why and "a rule that denies wins" in why, why


# -- loading

def load_image(w, image, name="made-by-hand"):
    """What `belay policy load` sends once it has compiled, with an image of our own: the guard's answer."""
    def varint(n):
        out = b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])
    def field(n, v):
        return varint(n << 3) + varint(v) if isinstance(v, int) else varint(n << 3 | 2) + varint(len(v)) + v
    code = f"""
import array, fcntl, os, socket, sys
fd = os.memfd_create('image', os.MFD_ALLOW_SEALING)
os.write(fd, bytes.fromhex(sys.stdin.read()))
fcntl.fcntl(fd, 1033, 15)
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect({os.path.join(w.dir, "control")!r})
s.sendmsg([bytes.fromhex({(field(1, 1) + field(6, field(1, name.encode()))).hex()!r})],
    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))])
print(s.recv(65536).hex())
"""
    reply = bytes.fromhex(w.cmd("python3", "-c", code, input=image.hex()).stdout)
    return not reply.startswith(b"\x08"), reply.decode(errors="replace")


def test_a_policy_that_cannot_be_leaves_the_old_one(w):
    srv, cli, _ = pair(w, rules(CLI))
    n = cli.do(f"connect{ONE}")
    before = w.belay("policy", "show").stdout

    def still(r, *texts):
        said = r.stdout + r.stderr
        assert r.returncode == 1 and "the policy in force stays" in said, said
        assert all(t in said for t in texts), said
        assert w.belay("policy", "show").stdout == before
        assert cli.do(f"ask({n})") == "hello" and cli.errno(f"close(connect{ONE})") == 0
    still(w.policy("version: 1\nrules:\n  - allow: [connct]\n  - name: 7\n    allow: bind\n    prot: 7\n", check=False),
          ":3:", ":6:", "connct", "^")
    still(w.policy("version: 1\nrules: [\n", check=False))
    still(w.policy("", check=False))
    still(w.policy("\xff\x00", check=False))
    # What Belay could not enforce: published datagrams, sealed ones on one node, a name that means nobody.
    still(w.policy(rules("name: u, allow: publish, transport: udp, from: { program: srv }, port: 7001"), check=False), "only TCP")
    still(w.policy(rules("name: u, allow: connect, transport: udp, protection: encrypt, from: { program: cli }, to: { program: srv }"),
                   check=False), "datagrams are encrypted between nodes only")
    still(w.policy(rules("name: u, allow: connect, from: { program: cli, user: no-such-user }, to: { program: srv }"), check=False),
          "no-such-user")
    # What only the guard can refuse: images nobody's compiler wrote.
    state = os.path.join(w.dir, "state/guard/policy.image")
    if w.host and not os.path.exists(state):
        raise AssertionError(state)
    image = open(state, "rb").read()
    bad = [b"", b"nonsense" * 100, image[:-1], image[:len(image) // 2], image + b"\0"]
    bad += [image[:i] + bytes([image[i] ^ 0xff]) + image[i + 1:] for i in range(0, 64, 4)]
    refused = 0
    for b in bad:
        ok, text = load_image(w, b)
        refused += not ok
        if b in bad[:5]:
            assert not ok, (b[:20], text)
    assert refused >= 10, refused
    ok, text = load_image(w, image)
    assert ok, text
    assert cli.errno(f"close(connect{ONE})") == 0
    assert w.belay("policy", "show").stdout.split("rules:")[1] == before.split("rules:")[1]


def test_reload_under_load_refuses_nobody_it_allows(w):
    need("redis-server", "redis-benchmark")
    w.start()
    w.enroll("/usr/bin/redis-server", "srv")
    w.enroll("/usr/bin/redis-benchmark", "cli")
    one = rules(CLI + ", port: 7001", "name: extra, allow: connect, from: { program: srv }, to: { program: srv }")
    two = rules(CLI.replace("cli-to-srv", "renamed") + ", port: 7000-7005, idle: 1h", "name: no, deny: connect, from: { program: srv }")
    w.policy(one)
    s = w.serve("redis-server", "--port", "7001", "--save", "", "--dir", w.tmp)
    wait_for("redis is up", lambda: "Ready to accept" in s.output())
    new = w.serve("redis-benchmark", "-p", "7001", "-t", "get", "-n", "10000000", "-c", "4", "-k", "0", "-q")
    kept = w.serve("redis-benchmark", "-p", "7001", "-t", "get", "-n", "100000000", "-c", "4", "-q")
    wait_for("both run", lambda: len(w.channels()) >= 5 and sum(c["from"]["pid"] == kept.pid for c in w.channels()) == 4)
    was = {c["channel"] for c in w.channels() if c["from"]["pid"] == kept.pid}
    t = time.monotonic()
    for i in range(50):
        w.policy((two, one)[i % 2])
    took = time.monotonic() - t
    assert new.poll() is None and kept.poll() is None, new.output() + kept.output()
    now = {c["channel"] for c in w.channels() if c["from"]["pid"] == kept.pid}
    assert len(was) == 4 and was == now, "a reload ended a channel it allows"
    for p in (new, kept):
        assert "denied" not in p.output() and "refused" not in p.output() and "rror" not in p.output(), p.output()
        w.end(p)
    assert not w.belay("why", "--json").stdout, w.belay("why").stdout
    assert took < 20, took


def test_what_a_reload_refuses_ends_within_a_second(w):
    srv, cli, paths = pair(w, rules(CLI, CLI.replace("cli-to-srv", "sealed") + ", port: 7002, protection: encrypt"), "other")
    srv.do("serve('127.0.0.1', 7002)")
    a, b = cli.do(f"connect{ONE}"), cli.do("connect('127.0.0.1', 7002)")
    w.policy(rules())
    t = time.monotonic()
    ends = [cli.do(f"ended({n})") for n in (a, b)]
    took = time.monotonic() - t
    assert took < 1, took
    assert not w.channels()
    e, took = cli.do(f'timed("connect{ONE}")')
    assert e == errno.EACCES and took < 0.5, (e, took)
    e, took = cli.do("timed('connect(\"192.0.2.9\", 80)')")
    assert e == errno.EACCES and took < 0.5, (e, took)
    assert all(e in ("", "ECONNRESET", "ECONNABORTED", "EPIPE") for e in ends), ends
    # A listener whose rule is gone is closed, and the port is free for whom the policy gives it.
    w.policy("version: 1\nrules:\n  - { " + CLI + " }\n  - { name: other, allow: bind, from: { program: other } }\n")
    assert cli.errno(f"connect{ONE}") == errno.ECONNREFUSED
    other = Agent(w, paths["other"])
    other.do(f"serve{ONE}")
    assert cli.errno(f"connect{ONE}") == errno.EACCES


def test_revoking_enrolling_and_forgetting(w):
    srv, cli, paths = pair(w, rules(CLI))
    n = cli.do(f"connect{ONE}")
    assert cli.do(f"ask({n})") == "hello"
    ch = w.channels()[0]["channel"]
    w.belay("revoke", ch[:12])
    assert cli.do(f"ended({n}, 2)") in ("", "ECONNRESET", "ECONNABORTED", "EPIPE")
    assert not w.channels() and cli.errno(f"close(connect{ONE})") == 0, "revoking a channel revoked its program"
    assert w.belay("revoke", ch[:12], check=False).returncode == 1
    n = cli.do(f"connect{ONE}")
    w.belay("revoke", "cli")
    wait_for("channels of a revoked program end", lambda: not w.channels(), 1)
    assert cli.errno(f"connect{ONE}") == errno.EACCES and "revoked" in w.belay("why", str(cli.pid)).stdout
    assert any(json.loads(l)["revoked"] for l in w.belay("programs", "--json").stdout.splitlines())
    w.belay("revoke", "cli", "--undo")
    assert cli.errno(f"close(connect{ONE})") == 0
    w.belay("revoke", "srv")
    assert cli.errno(f"connect{ONE}") != 0, "a revoked server was reached"
    w.belay("revoke", "srv", "--undo")
    # Its listener lost its right and was closed: a server that may run again is started again.
    w.end(srv.p)
    srv = Agent(w, paths["srv"])
    srv.do(f"serve{ONE}")
    # A new version stands beside the old one.
    v2 = program(w, "cli", path="cli-2")
    new = Agent(w, v2)
    assert new.errno(f"connect{ONE}") == cli.errno(f"connect{ONE}") == 0
    rows = [json.loads(l) for l in w.belay("programs", "--json").stdout.splitlines()]
    assert len([r for r in rows if r["name"] == "cli"]) == 2 and len({r["sha256"] for r in rows}) == 3, rows
    assert len(w.channels()) == 2
    w.belay("unenroll", "cli")
    wait_for("channels of a forgotten program end", lambda: not w.channels(), 1)
    for a in (new, cli):
        assert a.errno(f"connect{ONE}") == errno.EACCES
    assert w.belay("unenroll", "cli", check=False).returncode == 1


def test_run_as_and_whoami(w):
    srv, cli, paths = pair(w, rules(CLI))
    env = {"PYTHONHOME": "/usr"}
    run = (os.path.join(w.bin, "belay"), "run", "--as", "cli", "--")
    assert w.cmd(*run, paths["cli"], "-c", "print(7)", env=env).stdout == "7\n"
    r = w.cmd(*run, paths["srv"], "-c", "print(7)", env=env, check=False)
    assert r.returncode in (-9, 126, 137) and "7" not in r.stdout, r
    assert "cli" in r.stderr and r.stderr.startswith("belay: "), r
    r = w.cmd(*run, "/bin/true", check=False)
    assert r.returncode in (-9, 126, 137), r
    r = w.cmd(os.path.join(w.bin, "belay"), "run", "--as", "nobody-enrolled-this", "--", "true", check=False)
    assert r.returncode == 126 and "belay programs" in r.stderr, r
    me = json.loads(w.belay("whoami", "--json").stdout)
    assert me["uid"] == w.uid, me
    it = json.loads(w.belay("whoami", "--json", "--pid", str(cli.pid)).stdout)
    assert it["pid"] == cli.pid, it
    text = w.belay("whoami", "--pid", str(cli.pid)).stdout
    assert re.search(r"matches +cli", text), text
    text = w.belay("whoami").stdout
    assert "matches" in text and not re.search(r"matches +(cli|srv)\b", text), text
    assert w.belay("whoami", "--pid", "4194304", check=False).returncode == 1


def test_the_starting_point(w):
    need("redis-server", "redis-cli")
    w.start()
    w.enroll("/usr/bin/redis-server", "cache")
    w.enroll("/usr/bin/redis-cli", "shell")
    text = w.belay("policy", "init").stdout
    def check(t):
        return w.belay("policy", "check", file_for(w, "p.yaml", t), check=False)
    r = check(text)
    assert r.returncode == 0, r.stdout + r.stderr
    # Every line that is commented out is a policy: all of it together, and the two rules alone.
    head, body = text.split("rules:\n")
    r = check(head.replace("#groups:\n#  ", "groups:\n  ") + "rules:\n" + re.sub(r"(?m)^#", "", body))
    assert r.returncode == 0 and "6 rules" in r.stdout, r.stdout + r.stderr
    two = head + "rules:\n" + "".join(re.sub(r"(?m)^#", "", body).partition("  - name: other-node")[0])
    assert check(two).returncode == 0
    assert "loaded, 2 rules" in w.policy(two).stdout
    s = w.serve("redis-server", "--port", "6379", "--save", "", "--dir", w.tmp)
    wait_for("redis is up", lambda: "Ready to accept" in s.output() or s.poll() is not None)
    assert w.run("redis-cli", "SET", "greeting", "hello").stdout == "OK\n"
    assert w.run("redis-cli", "GET", "greeting").stdout == "hello\n"
    c = "import socket; socket.create_connection(('127.0.0.1', 6379))"
    assert "Permission denied" in w.run("python3", "-c", c, check=False).stderr


def test_between_nodes(w):
    """Rules that name nodes; idle time, limits and the end of what a reload refuses, on both sides."""
    port = 20000 + (os.getpid() * 7) % 20000
    b = World(w.mode, w.bin, "two")
    w.start()
    try:
        b.start(*(("--uid-base", "64500") if w.host else ()))
        w.belay("node", "init", "alpha", "--address", "10.77.0.1", "--listen", f"127.0.0.2:{port}", "--data", f"127.0.0.2:{port + 1}")
        token = w.belay("node", "invite", "beta", "--address", "10.77.0.2").stdout.split()[-1]
        b.belay("node", "join", token, "--listen", f"127.0.0.3:{port}", "--data", f"127.0.0.3:{port + 1}")
        wait_for("the link is up", lambda: "up" in b.belay("node", "list").stdout and "up" in w.belay("node", "list").stdout)
        assert len(b.belay("node", "list", "--json").stdout.splitlines()) == 2
        srv_path = program(w, "srv")
        program(b, "srv")
        cli_path = program(b, "cli")
        shutil.copy2(cli_path, os.path.join(w.tmp, "cli"))
        w.enroll(os.path.join(w.tmp, "cli"), "cli", "--not-interpreter")
        there = "name: there, allow: connect, from: {{ program: cli }}, to: {{ program: srv, node: alpha }}{}"
        here = "name: here, allow: connect, from: {{ program: cli, node: beta }}, to: {{ program: srv }}{}"
        w.policy(rules(here.format(", idle: 1s")))
        b.policy(rules(there.format("")))
        srv, cli = Agent(w, srv_path), Agent(b, cli_path)
        for p in (7001, 7002):
            srv.do(f"serve('10.77.0.1', {p})")
        go = "connect('10.77.0.1', {})"
        n = cli.do(go.format(7001))
        for _ in range(6):
            assert cli.do(f"ask({n})") == "hello"
            time.sleep(0.25)
        t = time.monotonic()
        cli.do(f"ended({n}, 4)")
        assert 0.4 < time.monotonic() - t < 2.5, time.monotonic() - t
        wait_for("both sides know", lambda: not w.channels() and not b.channels(), 1)
        assert "idle" in w.belay("channels", "--ended").stdout
        # A limit of either node.
        for x, text in ((w, rules(here.format(", connections: 2"))), (b, rules(there.format(", connections: 2")))):
            x.policy(text)
            got = [cli.errno(go.format(7001)) for _ in range(3)]
            assert got == [0, 0, errno.EACCES], got
            why = b.belay("why", "10.77.0.1:7001").stdout
            assert "as many connections as its rule allows" in why, why
            cli.do("[close(x) for x in list(S)]")
            wait_for("they are gone", lambda: not w.channels() and not b.channels(), 3)
            x.policy(rules((here if x is w else there).format("")))
        # Ports and nodes, judged on both sides; what a reload of either refuses ends on both within a second.
        for x, text in ((w, here), (b, there)):
            a, c = cli.do(go.format(7001)), cli.do(go.format(7002))
            x.policy(rules(text.format(", port: 7001")))
            t = time.monotonic()
            cli.do(f"ended({c}, 4)")
            assert time.monotonic() - t < 1
            wait_for("one is left on both", lambda: len(w.channels()) == len(b.channels()) == 1, 1)
            assert cli.do(f"ask({a})") == "hello"
            e, took = cli.do(f'timed("{go.format(7002)}")')
            assert e == errno.EACCES and took < 0.5, (e, took)
            cli.do("[close(x) for x in list(S)]")
            wait_for("they are gone", lambda: not w.channels() and not b.channels(), 3)
            x.policy(rules(text.format("")))
        for x, text in ((w, here.format("").replace("node: beta", "node: gamma")), (w, here.format("").replace(", node: beta", "")),
                        (b, there.format("").replace("alpha", "gamma"))):
            x.policy(rules(text))
            assert cli.errno(go.format(7001)) == errno.EACCES, text
            x.policy(rules((here if x is w else there).format("")))
            assert cli.errno(f"close({go.format(7001)})") == 0
        w.policy(rules(here.format(""), "name: no, deny: connect, from: { node: beta }"))
        assert cli.errno(go.format(7001)) == errno.EACCES
    finally:
        b.close()


def test_json_and_exit_codes(w):
    srv, cli, _ = pair(w, rules(CLI))
    file = os.path.join(w.tmp, "policy.yaml")
    n = cli.do(f"connect{ONE}")
    assert cli.errno("connect('127.0.0.1', 7009)") in (errno.ECONNREFUSED, errno.EACCES)
    cli.errno("connect('192.0.2.1', 9)")
    for verb in (["status"], ["policy", "check"], ["policy", "explain", "--from", "cli", "--to", "srv"], ["whoami"]):
        r = w.belay(*verb, "--json", *([file] if verb[-1] == "check" else []), check=False)
        assert isinstance(json.loads(r.stdout), (dict, list)), verb
    for verb in (["doctor"], ["programs"], ["channels"], ["channels", "--ended"], ["why"], ["audit", "query"], ["node", "list"]):
        r = w.belay(*verb, "--json", check=False)
        rows = [json.loads(l) for l in r.stdout.splitlines()]
        assert rows or verb[-1] in ("--ended", "list"), (verb, r)
    broken = file_for(w, "broken.yaml", "version: 1\nrules:\n  - alow: bind\n")
    j = json.loads(w.belay("policy", "check", "--json", broken, check=False).stdout)
    assert j["ok"] is False and j["errors"] >= 1 and j["diagnostics"][0]["line"] == 3, j

    def gives(status, *argv, **kw):
        r = w.belay(*argv, check=False, **kw)
        assert r.returncode == status, (argv, r.returncode, r.stdout, r.stderr)
        assert not status or r.stderr or "explain" in argv, (argv, "says nothing")
    gives(0, "policy", "check", file)
    gives(1, "policy", "check", broken)
    gives(1, "policy", "load", broken)
    gives(1, "policy", "explain", "--from", "srv", "--to", "cli", "--address", "127.0.0.1:1")
    gives(1, "enroll", "/nonexistent", "--as", "x")
    gives(1, "enroll", "/usr/bin/python3", "--as", "x")
    gives(1, "unenroll", "x")
    gives(1, "revoke", "x")
    gives(2, "policy", "chek", file)
    gives(2, "no-such-command")
    gives(2, "enroll", "/bin/true")
    gives(2, "channels", "--jsn")
    gives(2, "policy", "explain")
    gives(2)
    for verb in (["status"], ["channels"], ["policy", "load", file], ["why"], ["audit", "tail"], ["node", "list"]):
        gives(3, *verb, env={"BELAY_DIR": w.tmp + "/nowhere"})
    gives(126, "run", "--", "true", env={"BELAY_DIR": w.tmp + "/nowhere"})
    gives(127, "run", "--", "no-such-program-anywhere")
    gives(126, "run", "--", "/etc/passwd")


if __name__ == "__main__":
    main(globals())
