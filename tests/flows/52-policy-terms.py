#!/usr/bin/env python3
"""Roles, acceptance, rates, labels, permissive rules and times: what they say is what happens, and is logged."""
import errno, os, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *
from agent import *


def connects(agent, port=7001):
    """0, or why not; leaves nothing open."""
    return agent.errno(f"close(connect('127.0.0.1', {port}))")


def test_roles_include_and_exclude(w):
    srv, cli, paths = pair(w, rules(), "other")
    other = Agent(w, paths["other"])
    by_role = "name: by-role, allow: connect, from: { role: ROLE }, to: { program: srv }"

    def holds(roles, role, c, o):
        w.policy(rules(by_role.replace("ROLE", role), roles=roles))
        assert (connects(cli), connects(other)) == (c, o), (roles, role, w.belay("why").stdout)
    no = errno.EACCES
    both = "{ low: { members: { program: cli } }, high: { members: { program: other }, includes: low } }"
    holds(both, "low", 0, 0)
    holds(both, "high", no, 0)
    me = cli.do("os.getuid()")
    holds("{ low: { members: [{ program: cli, user: 4 }, { program: other, user: %d }] } }" % me, "low", no, 0)
    # Who holds two roles that exclude each other holds none; the reason is told.
    torn = "{ pay: { members: { program: cli }, excludes: audit }, audit: { members: [{ program: other }, { user: %d }] } }" % me
    holds(torn, "audit", no, 0)
    holds(torn, "pay", no, no)
    connects(cli)
    why = w.belay("why").stdout
    assert "holds" in why and "pay" in why and "audit" in why and "exclude each other" in why, why
    # A rule that denies counts every role.
    w.policy(rules(CLI, "name: no-pay, deny: connect, from: { role: pay }", roles=torn))
    assert connects(cli) == no


def test_who_is_accepted(w):
    srv, cli, paths = pair(w, rules(CLI), "other")
    assert connects(cli) == 0
    n = cli.do(f"connect{ONE}")
    w.policy(rules(CLI, "name: not-him, deny: accept, from: { program: srv }, to: { program: cli }"))
    assert cli.do(f"ended({n}, 1)") != "None", "what nobody accepts any more went on"
    assert connects(cli) == errno.EACCES
    assert "not-him" in w.belay("why").stdout, w.belay("why").stdout
    w.policy(rules(CLI, accept="listed"))
    assert connects(cli) == errno.EACCES
    w.policy(rules(CLI, "name: him, allow: accept, from: { program: srv }, to: { program: cli }", accept="listed"))
    assert connects(cli) == 0


def test_no_faster_than_its_rate(w):
    srv, cli, _ = pair(w, rules(CLI + ", rate: 5/h"))
    got = [connects(cli) for _ in range(12)]
    assert got == [0] * 5 + [errno.EACCES] * 7, got
    why = w.belay("why").stdout
    assert "faster than its rule allows" in why and "cli-to-srv" in why, why
    # Every connection counts, however it is asked for: a burst from threads gets no more.
    w.policy(rules(CLI.replace("cli-to-srv", "again") + ", rate: 4/h"))
    cli.do("""
import threading
GOT = []
def try_one():
    try:
        close(connect('127.0.0.1', 7001))
        GOT.append(0)
    except OSError as e:
        GOT.append(e.errno)
T = [threading.Thread(target=try_one) for _ in range(16)]
[t.start() for t in T]
[t.join() for t in T]
""")
    assert sorted(cli.do("GOT")) == [0] * 4 + [errno.EACCES] * 12, cli.do("GOT")
    w.policy(rules(CLI.replace("cli-to-srv", "slowly") + ", rate: 1/s"))
    assert connects(cli) == 0
    wait_for("the next second", lambda: connects(cli) == 0, 3)


def test_what_is_permissive_is_seen_not_stopped(w):
    srv, cli, paths = pair(w, rules(permissive="[cli]"), "other")
    other = Agent(w, paths["other"])
    assert connects(cli) == 0 and connects(other) == errno.EACCES
    seen = [e for e in w.audit("--type", "decision") if e.get("mode") == "permissive"]
    assert seen and seen[-1]["verdict"] == "allow" and "no rule allows it" in seen[-1]["reason"], seen
    w.policy(rules(CLI, "name: would, deny: connect, from: { program: cli }, permissive: true"))
    assert connects(cli) == 0
    last = w.audit("--mode", "permissive", "--verdict", "allow", "--rule", "cli-to-srv")[-1]
    assert not w.audit("--mode", "permissive", "--verdict", "deny")
    assert not w.audit("--until", "2020-01-01") and w.audit("--since", "1h", "--until", "2100-01-01")
    assert "would" in last["reason"] and last["rule"] == "cli-to-srv", last


def test_labels_name_the_data(w):
    srv, cli, _ = pair(w, rules(CLI))
    srv.do("serve('127.0.0.1', 7002)")
    labels = "{ personal: [{ at: { program: srv }, port: 7002 }, { port: 9999 }] }"
    w.policy(rules(CLI, "name: not-personal, deny: connect, from: { program: cli }, label: personal", labels=labels))
    assert (connects(cli, 7001), connects(cli, 7002)) == (0, errno.EACCES)
    w.policy(rules(CLI + ", label: personal", labels=labels))
    assert (connects(cli, 7001), connects(cli, 7002)) == (errno.EACCES, 0)


def test_times_begin_and_end(w):
    srv, cli, _ = pair(w, rules(CLI))
    t = time.gmtime()
    day = "mon tue wed thu fri sat sun".split()
    w.policy(rules(CLI + f", when: '{day[(t.tm_wday + 2) % 7]}'"))
    assert connects(cli) == errno.EACCES
    if w.mode == "host":
        return    # the wait for a minute's end shows nothing more there: it is the same guard
    # Until the end of this minute, and at least some seconds from now; across midnight, too.
    while time.gmtime().tm_sec > 50:
        time.sleep(0.5)
    now = int(time.time())
    end = time.strftime("%H:%M", time.gmtime(now + 60))
    w.policy(rules(CLI + f", when: '{time.strftime('%H:%M', time.gmtime(now))}-{end}'"))
    n = cli.do(f"connect{ONE}")
    assert cli.do(f"ask({n})") == "hello"
    left = 60 - now % 60
    assert cli.do(f"ended({n}, {left + 2})", left + 20) != "None", "its time was over and it went on"
    assert time.time() >= now + left - 0.1, "it ended before its time"
    assert connects(cli) == errno.EACCES
    assert any("time" in json.dumps(e) for e in w.audit("--type", "channel-end"))


def test_what_the_log_teaches(w):
    """Learnt rules allow what was refused, and nothing else; a policy is held against what was recorded."""
    srv, cli, _ = pair(w, rules())
    assert connects(cli) == errno.EACCES
    old, new = file_for(w, "old.yaml", rules()), file_for(w, "new.yaml", rules(CLI + ", port: 7001"))
    learnt = w.belay("policy", "learn").stdout
    assert 'program: "cli"' in learnt and "port: 7001" in learnt and "allow: connect" in learnt, learnt
    checked = w.cmd(f"{w.bin}/belay", "policy", "check", file_for(w, "learnt.yaml", learnt))
    assert "good" in checked.stdout, checked
    same = w.belay("policy", "diff", "--log", old, old, check=False)
    assert same.returncode == 0 and "0 kinds of change" in same.stdout, same
    changed = w.belay("policy", "diff", "--log", old, new, check=False)
    assert changed.returncode == 1 and "allowed by cli-to-srv" in changed.stdout and "cli" in changed.stdout, changed
    cases = file_for(w, "cases.yaml", "version: 1\ncases:\n"
                     "  - { from: cli, to: srv, address: '127.0.0.1:7001', expect: allow, rule: cli-to-srv }\n"
                     "  - { from: cli, to: srv, address: '127.0.0.1:7002', expect: deny }\n")
    assert w.belay("policy", "test", new, cases, check=False).returncode == 0
    r = w.belay("policy", "test", old, cases, check=False)
    assert r.returncode == 1 and "2 cases, 1 failed" in r.stdout, r


if __name__ == "__main__":
    main(globals())
