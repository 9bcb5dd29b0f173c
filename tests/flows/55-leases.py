#!/usr/bin/env python3
"""Leased verdicts: who connects to the same place again and again is asked about once a second, not each time; and yet every
connection is a channel, in the log, within limits, and ends when its right does. BELAY_CRASH_SECONDS: length of the test of kills."""
import collections, errno, os, random, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *
from agent import INSIDE, Agent, program

SECONDS = float(os.environ.get("BELAY_CRASH_SECONDS", "5"))
RULES = """
version: 1
rules:
  - { name: listens, allow: bind, from: { program: srv }, port: 7000-7009 }
  - { name: other-listens, allow: bind, from: { program: oth }, port: 7000-7009 }
  - { name: connects, allow: connect, from: { program: cli }, to: { program: srv }, port: 7000-7003 }
"""
AGAIN = """
def again(n, port=7001, host='127.0.0.1'):
    for i in range(n):
        close(connect(host, port))
def marked():
    s = socket.socket()
    n = keep(s)
    return n if s.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) else close(n)
"""


def pair(w, policy=RULES):
    w.start()
    paths = {n: program(w, n) for n in ("srv", "cli", "oth")}
    w.policy(policy)
    srv, cli = Agent(w, paths["srv"]), Agent(w, paths["cli"])
    for port in (7001, 7002, 7009):
        srv.do(f"serve('127.0.0.1', {port}, backlog=512)")
    cli.do(AGAIN)
    return srv, cli, paths


def starts(w):
    w.channels()    # the guard has read what was connected
    return w.audit("--type", "channel-start")


def leased(w):
    return [e for e in starts(w) if e.get("reason") == "leased"]


def marked(w, cli):
    """A socket of the process that carries a lease's mark: connected under it, if at once."""
    def one():
        cli.do("again(5)")
        return cli.do("marked()")
    return wait_for("a lease", one)


def warm(w, cli):
    """The process holds a lease: a socket made now is marked for it."""
    cli.do(f"close({marked(w, cli)})")


def judged(w, cli, port=7001):
    """The very next connect: refused (its errno), or asked about. A leased one fails the test."""
    before = len(leased(w))
    n = cli.errno(f"again(1, {port})")
    assert len(leased(w)) == before, "connected under a lease that was cut"
    return n


def test_each_connection_is_a_channel(w):
    srv, cli, _ = pair(w)
    cli.do("names = []")
    cli.do("for i in range(400):\n n = connect('127.0.0.1', 7001); names.append(S[n].getsockname()[1]); assert ask(n, 'x' * i + 'y');"
           " close(n)")
    names = cli.do("names")
    held = cli.do("[connect('127.0.0.1', 7001) for _ in range(20)]")
    rows = [c for c in w.channels() if c["state"] == "open"]
    assert len([c for c in rows if c["from"]["pid"] == cli.pid and c["to"]["pid"] == srv.pid and c["rule"] == "connects"
                and c["from"]["program"] == "cli" and c["to"]["program"] == "srv" and c["protection"] == "isolate"]) == 20, rows
    cli.do(f"[close(n) for n in {held}]")
    wait_for("the channels have ended", lambda: not w.channels())
    s, e = starts(w), w.audit("--type", "channel-end")
    assert len(s) == 420 and sorted(x["channel"] for x in s) == sorted(x["channel"] for x in e), (len(s), len(e))
    ports = collections.Counter(int(x["from"]["address"].split(":")[1]) for x in s)
    assert not collections.Counter(names) - ports
    assert len(leased(w)) > 200, len(leased(w))
    for x in s:
        assert x["from"]["program"] == "cli" and x["from"]["pid"] == cli.pid and x["to"]["program"] == "srv" and x["rule"] == "connects", x
    assert sum(x["bytes_sent"] for x in e) == sum(range(400)) + 400, "bytes"
    assert len(w.audit("--type", "decision")) < 120, "asked about as if there were no leases"
    w.belay("audit", "verify")


def test_a_non_blocking_program_sees_what_it_always_sees(w):
    srv, cli, _ = pair(w)
    warm(w, cli)
    cli.do("def start():\n s = socket.socket(); s.setblocking(False)\n e = s.connect_ex(('127.0.0.1', 7001))\n"
           " select.select([], [s], [], 5)\n return [e, s.connect_ex(('127.0.0.1', 7001)), s.connect_ex(('127.0.0.1', 7001)), s.close()]")
    for _ in range(50):
        assert cli.do("start()") == [errno.EINPROGRESS, 0, errno.EISCONN, None]
    cli.do("def flags():\n s = socket.socket(); s.settimeout(None); s.connect(('127.0.0.1', 7001))\n"
           " import fcntl\n r = fcntl.fcntl(s, fcntl.F_GETFL) & os.O_NONBLOCK\n s.close()\n return r")
    assert not any(cli.do("[flags() for _ in range(50)]"))
    assert leased(w)


def test_a_change_of_policy_cuts(w):
    srv, cli, _ = pair(w)
    for _ in range(3):
        warm(w, cli)
        w.policy(RULES + "# \n")
        assert judged(w, cli) == 0
        warm(w, cli)
        n = cli.do("connect('127.0.0.1', 7001)")
        w.policy(RULES.replace("port: 7000-7003", "port: 7002"))
        assert judged(w, cli) == errno.EACCES
        assert cli.do(f"ended({n})") != "", "a leased channel outlived its rule"
        w.policy(RULES)


def test_revocation_and_registry_cut(w):
    srv, cli, paths = pair(w)
    warm(w, cli)
    n = cli.do("connect('127.0.0.1', 7001)")
    w.belay("revoke", "cli")
    assert judged(w, cli) == errno.EACCES
    assert cli.do(f"ended({n})") != ""
    w.belay("revoke", "cli", "--undo")
    warm(w, cli)
    program(w, "new")
    assert judged(w, cli) == 0
    warm(w, cli)
    w.belay("unenroll", "srv")
    assert judged(w, cli) != 0


def test_the_listeners_end_cuts(w):
    srv, cli, paths = pair(w)
    warm(w, cli)
    oth = Agent(w, paths["oth"])
    srv.end()
    wait_for("the port is free", lambda: oth.errno("serve('127.0.0.1', 7001)") == 0)
    assert judged(w, cli) == errno.EACCES, "reached who took the listener's place"


def test_time_is_over_after_a_second(w):
    srv, cli, _ = pair(w)
    warm(w, cli)
    time.sleep(1.1)
    assert judged(w, cli) == 0


def test_another_image_has_no_lease(w):
    srv, cli, paths = pair(w)
    cli.do(f"INSIDE = {INSIDE!r}")
    fd = marked(w, cli)
    cli.do(f"os.set_inheritable({fd}, True)")
    cli.tell(f"os.execv({paths['oth']!r}, ['oth', '-c', INSIDE])")
    before = len(leased(w))
    assert cli.errno("connect('127.0.0.1', 7001)") == errno.EACCES
    assert cli.errno(f"socket.socket(fileno={fd}).connect(('127.0.0.1', 7001))") == errno.EACCES, "a marked socket was inherited"
    assert len(leased(w)) == before


def test_a_marked_socket_reaches_one_place_for_one_process(w):
    srv, cli, paths = pair(w)
    n = marked(w, cli)
    before = len(leased(w))
    assert cli.errno(f"S[{n}].connect(('127.0.0.1', 7009))") == errno.EACCES, "a place the policy does not list"
    assert cli.errno(f"S[{n}].connect(('127.0.0.1', 7002))") == 0    # asked about
    assert len(leased(w)) == before
    # A child of the same image is another process: it is asked about. Another image is refused.
    n = marked(w, cli)
    before = len(leased(w))
    cli.do(f"def child():\n p = os.fork()\n if p == 0:\n  try:\n   S[{n}].connect(('127.0.0.1', 7001)); os._exit(0)\n"
           "  except OSError as e:\n   os._exit(e.errno)\n return os.waitstatus_to_exitcode(os.waitpid(p, 0)[1])")
    assert cli.do("child()") == 0
    assert len(leased(w)) == before
    n = marked(w, cli)
    code = f"import socket, sys; sys.exit(socket.socket(fileno={n}).connect_ex(('127.0.0.1', 7001)))"
    assert cli.do(f"__import__('subprocess').run([{paths['oth']!r}, '-c', {code!r}], pass_fds=[{n}]).returncode") == errno.EACCES


def test_limits_are_never_leased(w):
    srv, cli, _ = pair(w, RULES.replace("port: 7000-7003", "port: 7000-7003, connections: 3"))
    for _ in range(30):
        wait_for("a place", lambda: cli.errno("again(1)") == 0)
    assert not leased(w)
    wait_for("all have ended", lambda: not w.channels())
    held = cli.do("[connect('127.0.0.1', 7001) for _ in range(3)]")
    assert cli.errno("again(1)") == errno.EACCES
    cli.do(f"close({held[0]})")
    wait_for("what has ended counts no more", lambda: cli.errno("again(1)") == 0)


def test_kills_in_a_stream_of_connections(w):
    """No false result, and nothing that connected goes unrecorded."""
    srv, cli, _ = pair(w)
    warm(w, cli)
    seed = os.environ.get("BELAY_CRASH_SEED") or str(random.SystemRandom().randrange(1 << 32))
    print(f"# BELAY_CRASH_SEED={seed}", flush=True)
    random.seed(f"{seed} {w.mode}")
    cli.do("""
def stream(seconds):
    end, names, bad = time.monotonic() + seconds, [], []
    while time.monotonic() < end:
        try:
            n = connect('127.0.0.1', 7001)
            names.append(S[n].getsockname()[1])
            if ask(n, str(len(names))) != str(len(names)):
                bad.append('answer')
            close(n)
        except OSError as e:
            bad.append(e.errno)
    return [names, bad]
""")
    cli.tell(f"stream({SECONDS})")
    end, kills = time.monotonic() + SECONDS, 0
    while time.monotonic() < end - 0.5:
        time.sleep(random.uniform(0.05, 0.6))
        role = random.choice(("enforce", "guard"))
        for pid in open(f"/proc/{w.daemon.pid}/task/{w.daemon.pid}/children").read().split():
            with contextlib.suppress(OSError):
                if f"belay-{role}\0" in open(f"/proc/{pid}/cmdline").read():
                    os.kill(int(pid), signal.SIGKILL)
                    kills += 1
    names, bad = cli.hear(SECONDS + 60)
    wait_for("service is back", lambda: cli.errno("again(1)") == 0)
    with contextlib.suppress(AssertionError):
        wait_for("all channels have ended", lambda: not w.channels())
    assert not w.channels(), w.channels()
    s = starts(w)
    lost = collections.Counter(names) - collections.Counter(int(x["from"]["address"].split(":")[1]) for x in s)
    print(f"# {len(names)} connections, {len(leased(w))} leased, {kills} kills", flush=True)
    assert not lost, f"unrecorded: {lost}"
    assert not bad, f"false results: {bad}"
    ends = collections.Counter(x["channel"] for x in w.audit("--type", "channel-end"))
    # A guard killed between the log and its table logs an end again: twice is true, never is not.
    assert not [x for x in s if not ends[x["channel"]]], "a channel without an end"
    w.belay("audit", "verify")


if __name__ == "__main__":
    main(globals())
