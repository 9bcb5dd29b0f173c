#!/usr/bin/env python3
"""The 28 points of compatibility and every way round, under a whole instance (tests/compat, tests/hostile)."""
import os, sys, glob
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *

FULL = bool(os.environ.get("HOSTILE_FULL"))
POLICY = """
version: 1
groups: { all: [PROGRAMS] }
rules:
  - name: listen
    allow: bind
    from: { group: all }
    port: [7700-7776]
  - name: connect
    allow: connect
    from: { group: all }
    to: { group: all }
    port: [7700-7776]
  - name: datagrams
    allow: connect
    from: { program: udp-elsewhere }
    to: { program: udp-elsewhere }
    transport: udp
    port: 7801
  - name: datagrams-bind
    allow: bind
    from: { program: udp-elsewhere }
    transport: udp
    port: [7801, 7802]
"""


def tools(w):
    """The test programs where every user may run them, by name."""
    d = os.path.join(w.tmp, "tools")
    os.mkdir(d)
    os.chmod(d, 0o755)
    os.chmod(w.tmp, 0o711)
    for p in glob.glob(BUILD + "/tests/hostile/hostile-*") + [BUILD + "/tests/compat/compat"]:
        if os.path.isfile(p) and os.access(p, os.X_OK):
            shutil.copy2(p, d)
            os.chmod(os.path.join(d, os.path.basename(p)), 0o755)
    return d


def start(w):
    w.start()
    d = tools(w)
    names = sorted(os.listdir(d))
    short = {n: n.removeprefix("hostile-") for n in names}
    for n in names:
        w.enroll(os.path.join(d, n), short[n])
    rules = POLICY.replace("PROGRAMS", ", ".join(short.values()))
    w.policy(rules)
    return d


def passes(w, d, name, *args, uid=None, **kw):
    r = w.run(os.path.join(d, "hostile-" + name), *args, uid=uid, check=False, timeout=240, **kw)
    assert r.returncode in (0, 77), f"{name}: {r.returncode} {r.stdout}{r.stderr}"
    return r


def test_compat(w):
    d = start(w)
    r = w.run(os.path.join(d, "compat"), check=False, timeout=90)
    bad = [l for l in r.stdout.splitlines() if l.startswith(("not ok", "#"))]
    assert r.returncode == 0 and r.stdout.count("\nok ") == 28, "\n".join(bad) + r.stderr


def test_no_way_round(w):
    d = start(w)
    udp = {"HOSTILE_UDP": "7801", "HOSTILE_UDP_SHUT": "7802"}
    bad = []
    for name in ("io-uring", "fastopen", "protocols", "old-entries", "pr-set-mm", "namespaces", "sibling",
                 "double-connect", "files", "state", "udp-elsewhere", "unix-bind", "descriptor-race"):
        try:
            passes(w, d, name, env=udp)
        except AssertionError as e:
            bad.append(str(e))
    assert not bad, "\n".join(bad)


def test_races(w):
    d = start(w)
    passes(w, d, "address-race", "30000" if FULL else "2000")
    passes(w, d, "signals", "100000" if FULL else "10000")


def test_inherited_descriptors(w):
    d = start(w)
    other = os.path.join(d, "other")
    shutil.copy2(os.path.join(d, "hostile-inherited"), other)
    with open(other, "ab") as f:
        f.write(b"x")
    r = passes(w, d, "inherited", other)
    assert "ran" in r.stdout, r.stdout  # contained: it runs, without the connection
    r = w.cmd(os.path.join(d, "hostile-outside-socket"), os.path.join(w.bin, "belay"), "run", "--", "/bin/true",
              check=False)
    assert r.returncode == 0 and "PASS" in r.stdout, r


def test_another_tree(w):
    d = start(w)
    held = os.path.join(w.tmp, "held")
    if ROOT and w.host:
        os.chmod(w.tmp, 0o777)
    h = w.serve(os.path.join(d, "hostile-across"), "hold", held, uid=w.users[0])
    wait_for("the holder holds", lambda: os.path.exists(held) or h.poll() is not None)
    assert h.poll() is None, h.output()
    passes(w, d, "across", held, uid=w.users[0])
    w.end(h)
    f = w.serve(os.path.join(d, "hostile-flood"), "5", uid=w.users[0])
    passes(w, d, "flood", uid=w.users[-1])
    w.end(f)


if __name__ == "__main__":
    main(globals())
