#!/usr/bin/env python3
"""An instance of test components: all come up and are joined, any may be killed, nothing runs twice.

As an ordinary user, and as root also as a host instance. Prints TAP. Standard library only.
"""
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROLES = ["attest", "guard", "signer", "fabric", "enforce", "link", "conn"]
TO_GUARD = ["attest", "signer", "enforce", "fabric", "link", "conn"]
RECOVERY = 1.0
BUILD = os.environ.get("BELAY_BUILD", os.path.join(os.path.dirname(__file__), "../../build"))
ROOT = os.getuid() == 0
PRIVATE_UID = 12345 if ROOT else os.getuid()
mode = ""
count = failed = 0


def ok(what, good, why=""):
    global count, failed
    count += 1
    failed += not good
    print(f"{'ok' if good else 'not ok'} {count} - {mode}: {what}" + ("" if good else "\n# " + why.replace("\n", "\n# ")), flush=True)


def install(top):
    """Puts copies side by side, because belayd looks beside itself first."""
    os.chmod(top, 0o755)
    binaries = os.path.join(top, "bin")
    os.mkdir(binaries)
    shutil.copy(os.path.join(BUILD, "src/belayd/belayd"), binaries)
    shutil.copy(os.path.join(BUILD, "src/dispatcher/belay-dispatcher"), binaries)
    shutil.copy(os.path.join(BUILD, "tests/flows/testcomp"), binaries)
    for role in ROLES:
        os.symlink("testcomp", os.path.join(binaries, "belay-" + role))
    return os.path.join(binaries, "belayd")


class Instance:
    def __init__(self, top, belayd, uid):
        os.makedirs(os.path.join(top, f"at-{uid}"), exist_ok=True)
        if ROOT:
            os.chown(os.path.join(top, f"at-{uid}"), uid, uid)
        self.dir = os.path.join(top, f"at-{uid}", "run with a space")
        self.log = os.path.join(top, f"log-{uid}")
        self.belayd, self.uid = belayd, uid
        self.user = dict(user=uid, group=uid, extra_groups=[]) if ROOT else {}
        self.process = subprocess.Popen([belayd, "--dir", self.dir], env=dict(os.environ, BELAY_LOG="info", BELAY_TEST_KEEP="2000"),
                                        stdout=subprocess.PIPE, stderr=open(self.log, "w"), text=True, **self.user)
        self.ready = self.process.stdout.readline()

    def say(self, text, timeout=5.0):
        """Sends the guard a line; its answer, or None."""
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.settimeout(timeout)
        try:
            s.connect(os.path.join(self.dir, "control"))
            s.send(text.encode())
            return s.recv(4096).decode() or None
        except OSError:
            return None
        finally:
            s.close()

    def ask(self, timeout=5.0):
        """What the guard knows: {role: pid}, or None."""
        text = self.say("?", timeout)
        return text and {m[1]: int(m[2]) for m in re.finditer(r"^([a-z]+) (\d+)$", text, re.M)}

    def wait(self, good, timeout):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            now = self.ask(max(0.05, end - time.monotonic()))
            if now and good(now):
                return now
            time.sleep(0.01)
        return None

    def pid(self, role):
        """The newest start of a role, from the log."""
        pids = re.findall(rf"{role} started: pid (\d+)", open(self.log).read())
        return int(pids[-1]) if pids else 0


def complete(now):
    return "guard" in now and all(r in now for r in TO_GUARD)


def test_up(i):
    ok("belayd says it is ready", i.ready.startswith("belayd: ready: "), i.ready)
    now = i.wait(complete, 3)
    ok("every component is joined to the guard", bool(now), open(i.log).read())
    return now


def test_identity(i):
    want = {r: 64400 + n for r, n in zip(ROLES, range(2, 9))} if i.uid == 0 else {}
    for role in ROLES + ["dispatcher"]:
        status = open(f"/proc/{i.pid(role)}/status").read()
        uid = int(re.search(r"Uid:\t(\d+)", status)[1])
        ok(f"{role} runs as its own uid", uid == want.get(role, 64401 if want else i.uid),
           str(uid))
        caps = int(re.search(r"CapEff:\t(\w+)", status)[1], 16)
        bound = int(re.search(r"CapBnd:\t(\w+)", status)[1], 16)
        may = i.uid == 0 and role in ("attest", "enforce")
        ok(f"{role} has no capability it does not need", may or (caps == 0 and (i.uid or bound == 0)), hex(caps))
        ok(f"{role} gains no privileges", "NoNewPrivs:\t1" in status)
    if i.uid == 0:
        for role in ("guard", "signer"):
            st = os.stat(os.path.join(i.dir, "state", role))
            ok(f"{role}'s files are its own", st.st_uid == want[role] and st.st_mode & 0o777 == 0o700)


def test_second(i):
    r = subprocess.run([i.belayd, "--dir", i.dir], capture_output=True, text=True, timeout=10, **i.user)
    ok("a second belayd is refused", r.returncode == 3 and "already" in r.stderr, f"{r.returncode} {r.stderr}")


def test_kill(i, role):
    before = i.wait(complete, 8)
    old = i.pid(role)
    os.kill(old, signal.SIGKILL)
    started = time.monotonic()
    if role == "dispatcher":
        now = i.wait(complete, 8)
        good = bool(now) and i.pid(role) != old and now == before
    else:
        now = i.wait(lambda n: complete(n) and n[role] != old, 8)
        good = bool(now) and (role == "guard" or all(now[r] == before[r] for r in now if r != role))
    took = time.monotonic() - started
    ok(f"{role} killed: successor joined, the others untouched", good, f"{before} {now}\n{open(i.log).read()}")
    ok(f"{role} killed: within a second", took < RECOVERY, f"{took:.3f} s")


def reach(port, timeout=3.0):
    """What a published port says to a newcomer: the guard's line, or the error."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout) as s:
            s.settimeout(timeout)
            return s.recv(100).decode()
    except OSError as e:
        return type(e).__name__


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_listeners(i):
    port, link = free_port(), free_port()
    ok("a port is published", i.say(f"publish 7 {port}") == "publish 7 0")
    ok("its connections reach the guard", reach(port).startswith("published 7 127.0.0.1:"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answer = i.say(f"publish 8 {taken.getsockname()[1]}")
    ok("a port in use is an error", answer == "publish 8 -98", str(answer))
    ok("the link listens", i.say(f"listen 127.0.0.1:{link}") == "listen 0")
    ok("its connections reach the link", reach(link) == "link")
    os.kill(i.pid("dispatcher"), signal.SIGKILL)
    ok("dispatcher killed: the port stays open", reach(port).startswith("published 7 "))
    ok("dispatcher killed: the link's too", reach(link) == "link")
    old = i.pid("guard")
    os.kill(old, signal.SIGKILL)
    i.wait(lambda n: complete(n) and n["guard"] != old, 8)
    ok("guard killed: the port waits for the new guard's word", reach(port, 0.3) == "TimeoutError")
    ok("and opens again with it", i.say(f"publish 7 {port}") == "publish 7 0" and reach(port).startswith("published 7 "))
    ok("an unpublished port is closed", i.say("unpublish 7") == "unpublish 7" and
       reach(port) == "ConnectionRefusedError")


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd")) if ROOT else 0


def test_storm(i, seconds=5):
    """Random kills, several at a time, at any stage of a successor's start."""
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    joined = lambda n: complete(n) and all(n[r] == i.pid(r) for r in n)
    i.wait(joined, 8)
    before, worst, end, n, now = descriptors(i.process.pid), 0, time.monotonic() + seconds, 0, True
    while now and time.monotonic() < end:
        for role in set(dice.sample(ROLES + ["dispatcher"] * 3, dice.choice([1, 1, 1, 2, 3]))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(i.pid(role), signal.SIGKILL)
            n += 1
            time.sleep(dice.choice([0, 0, 0.001, 0.003, 0.01]))
        started = time.monotonic()
        now = i.wait(joined, 8)
        worst = max(worst, time.monotonic() - started)
        time.sleep(dice.random() * 0.3)
    ok(f"{n} random kills: always joined again", bool(now), f"seed {seed}\n" + open(i.log).read()[-4000:])
    ok("random kills: within a second each time", worst < RECOVERY, f"seed {seed}: {worst:.3f} s")
    ok("random kills: belayd holds no more descriptors than before", descriptors(i.process.pid) == before,
       f"{before} before, {descriptors(i.process.pid)} after")


def test_surprise(i, sig, what):
    before = i.wait(complete, 8)
    os.kill(i.pid("conn"), sig)
    now = i.wait(lambda n: complete(n) and n["conn"] != before["conn"], 8)
    ok(f"a component that {what} is ended and replaced", bool(now), open(i.log).read())


def test_rejected(i):
    """The guard's word that a component surprised it needs no dispatcher to be heard."""
    before = i.wait(complete, 8)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(os.path.join(i.dir, "control"))
        s.send(b"?")
        s.recv(4096)
        os.kill(i.pid("dispatcher"), signal.SIGSTOP)
        s.send(b"reject conn")
        end = time.monotonic() + 3
        while i.pid("conn") == before["conn"] and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(i.pid("dispatcher"), signal.SIGKILL)
    now = i.wait(lambda n: complete(n) and n["conn"] != before["conn"], 8)
    ok("a component the guard rejects while the dispatcher is away is replaced", bool(now) and i.pid("conn") == now["conn"], open(i.log).read())
    ok("and only that one", bool(now) and all(now[r] == before[r] for r in now if r != "conn"), f"{before} {now}")


def test_kept(i):
    log = open(i.log).read()
    ok("a successor finds what its predecessor gave to belayd", "kept by predecessors: 2000\n" in log, log[-2000:])


def test_end(i):
    pids = [i.pid(r) for r in ROLES + ["dispatcher"]]
    i.process.send_signal(signal.SIGTERM)
    code = i.process.wait(5)
    ok("SIGTERM ends the instance in order", code == 0, str(code))
    ok("no component is left", not any(os.path.exists(f"/proc/{p}") for p in pids))
    ok("no control socket is left", not os.path.exists(os.path.join(i.dir, "control")))


def test_belayd_killed(i):
    i.wait(complete, 8)
    pids = [i.pid(r) for r in ROLES + ["dispatcher"]]
    i.process.kill()
    i.process.wait()
    end = time.monotonic() + 2
    while any(os.path.exists(f"/proc/{p}") for p in pids) and time.monotonic() < end:
        time.sleep(0.02)
    # Without a parent the dead wait for init; a zombie has ended.
    left = [p for p in pids if os.path.exists(f"/proc/{p}") and ") Z " not in open(f"/proc/{p}/stat").read()]
    ok("belayd killed: every component ends", not left, str(left))


def run(top, belayd, uid):
    global mode
    mode = "private" if uid else "host"
    i = Instance(top, belayd, uid)
    if test_up(i):
        test_identity(i)
        test_second(i)
        for role in ["dispatcher"] + ROLES:
            test_kill(i, role)
        test_kept(i)
        test_listeners(i)
        test_storm(i)
        test_rejected(i)
        test_surprise(i, signal.SIGUSR1, "gives the dispatcher orders")
        test_surprise(i, signal.SIGUSR2, "has belayd keep what it may not")
    test_end(i)
    i = Instance(top, belayd, uid)
    test_up(i)
    test_belayd_killed(i)


def main():
    top = tempfile.mkdtemp(prefix="belay-instance-")
    try:
        belayd = install(top)
        for uid in [PRIVATE_UID] + ([0] if ROOT else []):
            run(top, belayd, uid)
    finally:
        shutil.rmtree(top)
    print(f"1..{count}")
    return failed != 0


sys.exit(main())
