#!/usr/bin/env python3
"""An instance of test components: all come up and are joined, any may be killed, nothing runs twice.

usage: instance.py BELAYD DISPATCHER TESTCOMP    (as root: a host instance; else a private one)
Prints TAP. Standard library only.
"""
import os
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
count = failed = 0


def ok(what, good, why=""):
    global count, failed
    count += 1
    failed += not good
    print(f"{'ok' if good else 'not ok'} {count} - {what}" + ("" if good else f" # {why}"), flush=True)


def install(top, belayd, dispatcher, testcomp):
    """Puts copies side by side, because belayd looks beside itself first."""
    os.chmod(top, 0o755)
    binaries = os.path.join(top, "bin")
    os.mkdir(binaries)
    shutil.copy(belayd, os.path.join(binaries, "belayd"))
    shutil.copy(dispatcher, os.path.join(binaries, "belay-dispatcher"))
    shutil.copy(testcomp, os.path.join(binaries, "testcomp"))
    for role in ROLES:
        os.symlink("testcomp", os.path.join(binaries, "belay-" + role))
    return os.path.join(binaries, "belayd")


class Instance:
    def __init__(self, top, belayd):
        self.dir = os.path.join(top, "run")
        self.log = os.path.join(top, "log")
        self.belayd = belayd
        env = dict(os.environ, BELAY_LOG="info")
        self.process = subprocess.Popen([belayd, "--dir", self.dir], env=env, stdout=subprocess.PIPE,
                                        stderr=open(self.log, "w"), text=True)
        self.ready = self.process.stdout.readline()

    def ask(self, timeout=5.0):
        """What the guard knows: {role: pid}, or None."""
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.settimeout(timeout)
        try:
            s.connect(os.path.join(self.dir, "control"))
            s.send(b"?")
            text = s.recv(4096).decode()
        except OSError:
            return None
        finally:
            s.close()
        self.text = text
        return {m[1]: int(m[2]) for m in re.finditer(r"^([a-z]+) (\d+)$", text, re.M)}

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
    want = {r: 64400 + n for r, n in zip(ROLES, range(2, 9))} if os.getuid() == 0 else {}
    for role in ROLES + ["dispatcher"]:
        status = open(f"/proc/{i.pid(role)}/status").read()
        uid = int(re.search(r"Uid:\t(\d+)", status)[1])
        ok(f"{role} runs as its own uid", uid == want.get(role, uid if role == "dispatcher" and want else os.getuid()),
           str(uid))
        caps = int(re.search(r"CapEff:\t(\w+)", status)[1], 16)
        bound = int(re.search(r"CapBnd:\t(\w+)", status)[1], 16)
        may = os.getuid() == 0 and role in ("attest", "enforce")
        ok(f"{role} has no capability it does not need", may or (caps == 0 and (os.getuid() or bound == 0)), hex(caps))
        ok(f"{role} gains no privileges", "NoNewPrivs:\t1" in status)
    if os.getuid() == 0:
        for role in ("guard", "signer"):
            st = os.stat(os.path.join(i.dir, "state", role))
            ok(f"{role}'s files are its own", st.st_uid == want[role] and st.st_mode & 0o777 == 0o700)


def test_second(i):
    r = subprocess.run([i.belayd, "--dir", i.dir], capture_output=True, text=True, timeout=10)
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


def test_kept(i):
    log = open(i.log).read()
    ok("a successor finds what its predecessor gave to belayd", "kept by predecessors: 1" in log)


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


def main():
    top = tempfile.mkdtemp(prefix="belay-instance-")
    try:
        belayd = install(top, *sys.argv[1:4])
        i = Instance(top, belayd)
        if test_up(i):
            test_identity(i)
            test_second(i)
            for role in ["dispatcher"] + ROLES:
                test_kill(i, role)
            test_kept(i)
        test_end(i)
        i = Instance(top, belayd)
        test_up(i)
        test_belayd_killed(i)
    finally:
        shutil.rmtree(top)
    print(f"1..{count}")
    return failed != 0


sys.exit(main())
