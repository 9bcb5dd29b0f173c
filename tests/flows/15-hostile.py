#!/usr/bin/env python3
"""The 28 points of compatibility and every way round, under a whole instance (tests/compat, tests/hostile)."""
import ctypes, glob, os, select, struct, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
import fuse
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
                 "double-connect", "files", "state", "udp-elsewhere", "unix-bind", "unix-datagram",
                 "descriptor-race"):
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
    for threads in ([], ["1000"]):
        f = w.serve(os.path.join(d, "hostile-flood"), "30", *threads, uid=w.users[0])
        wait_for("the flood", lambda: "threads" in f.output())
        r = passes(w, d, "flood", uid=w.users[-1])
        print("#", *threads, r.stdout.splitlines()[0].lstrip("# "), flush=True)
        assert f.poll() is None, f.output()
        w.end(f)


def test_code_that_comes_later(w):
    need("gcc")
    d = start(w)
    lib = os.path.join(w.tmp, "late.so")
    w.cmd("gcc", "-shared", "-fPIC", "-o", lib, file_for(w, "late.c", "int late(void) { return 1; }\n"))
    exe = os.path.join(d, "hostile-late-code")
    s = w.serve(exe, "serve")
    wait_for("the server", lambda: "listening" in s.output())
    passes(w, d, "late-code", "keep")
    passes(w, d, "late-code", "hold", lib)
    ended = w.belay("channels", "--ended").stdout
    assert re.search(r"it maps \S*late\.so", ended), ended
    assert any("late.so" in json.dumps(e) for e in w.audit()), "the log does not say why"


def silent_file_system(path, uid):
    """A FUSE mount that answers that it is there, and then nothing. Its descriptor: closing it ends it."""
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id={uid},group_id={uid},allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"silent", path.encode(), b"fuse", 0, options) < 0:
        os.close(fd)
        raise Skip("no FUSE here")
    unique = struct.unpack_from("<IIQ", os.read(fd, 65536))[2]
    out = struct.pack("<IIIIHHIIHH8I", 7, 31, 0, 0, 8, 8, 65536, 1, 0, 0, *[0] * 8)
    os.write(fd, struct.pack("<IiQ", 16 + len(out), 0, unique) + out)
    return fd


def test_a_file_system_that_never_answers(w):
    if not ROOT or not os.path.exists("/dev/fuse"):
        raise Skip("needs root and FUSE")
    d = start(w)
    mount = os.path.join(w.tmp, "silent")
    os.mkdir(mount)
    fd = silent_file_system(mount, w.uid)
    try:
        code = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.%s(sys.argv[1])\n"
        stuck = [w.serve("/usr/bin/python3", "-c", code % how, mount + "/x") for how in ("connect", "bind")]
        wait_for("somebody asks the file system", lambda: select.select([fd], [], [], 0)[0])
        time.sleep(1)
        assert all(p.poll() is None for p in stuck), [p.output() for p in stuck]
        began = time.monotonic()
        passes(w, d, "unix-bind")
        w.run("/bin/true")
        assert time.monotonic() - began < 3, "others wait for it too"
        for p in stuck:
            p.kill()
            p.wait(5)
        w.run("/bin/true")
    finally:
        os.close(fd)
        subprocess.run(["umount", "-l", mount])


def test_a_program_on_a_file_system_that_never_answers_attest(w):
    """Who looks at it waits; nobody else does."""
    if not ROOT or not os.path.exists("/dev/fuse"):
        raise Skip("needs root and FUSE")
    start(w)
    mount = os.path.join(w.tmp, "slow")
    os.mkdir(mount)

    def answers(pid):
        try:
            return os.path.basename(os.readlink(f"/proc/{pid}/exe")) != "belay-attest"
        except OSError:
            return True

    try:
        with open("/bin/sleep", "rb") as f:
            slow = fuse.OneFile(mount, 0, f.read(), answers)
    except OSError:
        raise Skip("no FUSE here")
    try:
        assert subprocess.run([mount + "/file", "0"]).returncode == 0
        stuck = [w.serve(mount + "/file", "60") for _ in range(3)]
        wait_for("attest asks the file system", lambda: len(set(slow.refused)) == 3)
        began = time.monotonic()
        w.run("/bin/true")
        w.run("/bin/true")
        assert time.monotonic() - began < 3, "others wait for it too"
        for p in stuck:
            assert p.wait(10) == -9, p.output()
        w.run("/bin/true")
    finally:
        slow.close()
    wait_for("attest is whole", lambda: w.cmd("belay", "status", check=False).returncode == 0)
    w.run("/bin/true")


if __name__ == "__main__":
    main(globals())
