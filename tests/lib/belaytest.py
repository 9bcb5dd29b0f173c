"""What the flow tests share: an instance of Belay in a temporary directory, programs under it, TAP out.

A flow is a script with functions test_*(w); `main()` runs each in a world `w` of its mode:
  private   belayd and every program as one ordinary user (when root starts the test: uid 12345)
  host      belayd as root, programs as root or as the users of `w.users`; skipped without root
BELAY_BUILD names the build directory. Nothing outlives the script: what it started is ended by pid.
"""
import contextlib, glob, json, os, re, shutil, signal, socket, subprocess, sys, tempfile, threading, time, traceback

BUILD = os.environ.get("BELAY_BUILD", os.path.join(os.path.dirname(__file__), "../../build"))
ROOT = os.getuid() == 0
# What a process of a build with sanitizers says before it ends; also in a build without them nothing may say it.
REPORT = re.compile(r"(ERROR|WARNING): \w+Sanitizer|runtime error: ")
reports = []    # of the worlds closed so far
UID = 12345 if ROOT else os.getuid()


class Skip(Exception):
    pass


def wait_for(what, fn, seconds=10.0):
    """Polls fn until it is true; its value. Fails with `what`."""
    end = time.monotonic() + seconds
    while True:
        v = fn()
        if v:
            return v
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:g} s in vain: {what}")
        time.sleep(0.02)


def bindir():
    """All executables in one directory that every user may read (a checkout below /root is not)."""
    d = tempfile.mkdtemp(prefix="belay-bin-")
    os.chmod(d, 0o755)
    for top, dirs, files in os.walk(BUILD):
        dirs[:] = [x for x in dirs if not x.endswith(".p") and x != "meson-private"]
        for f in files:
            p = os.path.join(top, f)
            if (f == "belayd" or f == "belay" or f.startswith("belay-") or f.startswith("helper-")) \
                    and os.access(p, os.X_OK) and "." not in f:
                shutil.copy2(p, os.path.join(d, f))
                os.chmod(os.path.join(d, f), 0o755)
    return d


class World:
    def __init__(self, mode, bin, name="one"):
        self.name = name
        self.mode, self.bin, self.host = mode, bin, mode == "host"
        self.uid = 0 if self.host else UID
        self.users = [UID, UID + 1] if self.host else [UID]
        self.tmp = tempfile.mkdtemp(prefix=f"belay-{mode}-")
        self.dir = os.path.join(self.tmp, "instance")
        os.chmod(self.tmp, 0o711 if self.host else 0o700)
        if ROOT:
            os.chown(self.tmp, self.uid, self.uid)
        self.netns = None    # a network namespace of the test's own, for nodes on a real wire
        self.daemon, self.procs, self.log = None, [], os.path.join(self.tmp, "belayd.log")

    def become(self, uid):
        """Before start(): the instance and its programs are another user's."""
        self.uid = uid
        if ROOT:
            os.chown(self.tmp, uid, uid)

    # -- processes

    def popen(self, argv, uid=None, **kw):
        uid = self.uid if uid is None else uid
        env = {k: v for k, v in os.environ.items() if k not in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR")}
        env.update(BELAY_DIR=self.dir, HOME=self.tmp, PATH=self.bin + ":/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL="C.UTF-8")
        env.update(kw.pop("env", {}))
        if "ASAN_OPTIONS" in env and os.path.basename(argv[0]) != "belayd":
            env["ASAN_OPTIONS"] += f":log_path={self.tmp}/sanitizer"    # daemons cannot open it: theirs are in their log
        kw.setdefault("cwd", self.tmp if not self.host or uid == 0 else "/")
        if self.netns:
            argv = ["nsenter", f"--net=/run/netns/{self.netns}", "setpriv", "--reuid", str(uid), "--regid", str(uid),
                    "--clear-groups", "--", *argv]
        elif ROOT:
            kw.update(user=uid, group=uid, extra_groups=[])
        p = subprocess.Popen(argv, env=env, **kw)
        self.procs.append(p)
        return p

    def cmd(self, *argv, uid=None, check=True, timeout=60, input=None, **kw):
        p = self.popen(argv, uid=uid, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True, **kw)
        try:
            out, err = p.communicate(input=input, timeout=timeout)
        except subprocess.TimeoutExpired:
            p.kill()
            out, err = p.communicate()
            raise AssertionError(f"{argv} did not end in {timeout} s; out {out!r} err {err!r}")
        self.procs.remove(p)
        r = subprocess.CompletedProcess(argv, p.returncode, out, err)
        if check and r.returncode:
            raise AssertionError(f"{' '.join(argv)} gave {r.returncode}: {out}{err}\n{self.tail()}")
        return r

    def tail(self, n=30):
        try:
            return "".join(open(self.log, errors="replace").readlines()[-n:])
        except OSError:
            return ""

    # -- Belay

    def start(self, *args):
        out = open(self.log, "ab")
        if ROOT:
            os.chown(self.log, self.uid, self.uid)
        self.daemon = self.popen([os.path.join(self.bin, "belayd"), "--dir", self.dir, *args], stdout=out, stderr=out,
                                 env={"BELAY_LOG": os.environ.get("BELAY_LOG", "info")})
        wait_for("belayd ready\n" + self.tail(), lambda: self.daemon.poll() is None and self.belay(
            "status", check=False, timeout=10).returncode == 0, 15)
        return self

    def belay(self, *args, **kw):
        return self.cmd(os.path.join(self.bin, "belay"), *args, **kw)

    def status(self):
        return json.loads(self.belay("status", "--json").stdout)

    def pids(self):
        # 0: between two lives. A signal to it would be one to ourselves.
        return {c["role"]: c["pid"] for c in self.status()["components"] if c["pid"] > 0}

    def channels(self, *args):
        return [json.loads(l) for l in self.belay("channels", "--json", *args).stdout.splitlines()]

    def enroll(self, path, name, *args):
        return self.belay("enroll", path, "--as", name, *args)

    def policy(self, text, check=True):
        path = os.path.join(self.tmp, "policy.yaml")
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, 0o644)
        return self.belay("policy", "load", path, check=check)

    def run(self, *argv, uid=None, **kw):
        """A program under Belay, to its end."""
        return self.cmd(os.path.join(self.bin, "belay"), "run", "--", *argv, uid=uid, **kw)

    def serve(self, *argv, uid=None, options=(), **kw):
        """A program under Belay, in the background. Its output goes to a file: .output()."""
        f = open(os.path.join(self.tmp, f"out-{len(os.listdir(self.tmp))}"), "w+b")
        p = self.popen([os.path.join(self.bin, "belay"), "run", *options, "--", *argv], uid=uid, stdin=subprocess.DEVNULL,
                       stdout=f, stderr=f, **kw)
        def output():
            return open(f.name, errors="replace").read()
        p.output = output
        return p

    def audit(self, *args):
        return [json.loads(l) for l in self.belay("audit", "query", "--json", *args).stdout.splitlines()]

    def end(self, p, sig=signal.SIGTERM, seconds=10):
        if p.poll() is None:
            p.send_signal(sig)
            try:
                p.wait(seconds)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()

    def close(self):
        for p in reversed(self.procs):
            if p is not self.daemon:
                self.end(p, signal.SIGTERM, 3)
        if self.daemon:
            self.end(self.daemon)
        for f in [self.log, *glob.glob(self.tmp + "/sanitizer*")]:
            with contextlib.suppress(OSError):
                text = open(f, errors="replace").read()
                if m := REPORT.search(text):
                    reports.append(text[max(0, m.start() - 200):m.start() + 6000])
        subprocess.run(["umount", "-lR", self.tmp], stderr=subprocess.DEVNULL) if ROOT else None
        shutil.rmtree(self.tmp, ignore_errors=True)


def need(*programs):
    for p in programs:
        if not shutil.which(p, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            raise Skip(f"{p} is not installed")


def file_for(w, name, text, mode=0o644, root=False):
    p = os.path.join(w.tmp, name)
    with open(p, "w") as f:
        f.write(text)
    os.chmod(p, mode)
    if ROOT and not root:
        os.chown(p, w.uid, w.uid)
    return p


def copy_program(w, path, name):
    """A copy of a program owned by the instance's user, in its directory."""
    p = os.path.join(w.tmp, name)
    shutil.copy(path, p)
    os.chmod(p, 0o755)
    if ROOT:
        os.chown(p, w.uid, w.uid)
    return p


def main(namespace, modes=("private", "host")):
    tests = [(n, f) for n, f in namespace.items() if n.startswith("test_") and callable(f)]
    want = os.environ.get("BELAY_MODE")
    only = sys.argv[1:]
    tests = [(n, f) for n, f in tests if not only or any(o in n for o in only)]
    plan = [(m, n, f) for m in modes for n, f in tests if not want or m == want]
    print(f"1..{len(plan)}", flush=True)
    b = bindir()
    bad = 0
    try:
        for i, (mode, name, fn) in enumerate(plan, 1):
            label = f"{mode} {name[5:].replace('_', ' ')}"
            if mode == "host" and not ROOT:
                print(f"ok {i} - {label} # SKIP a host instance needs root", flush=True)
                continue
            w, t0 = World(mode, b), time.monotonic()
            reports.clear()
            try:
                fn(w)
                w.close()
                assert not reports, "a process of Belay reported\n" + "\n".join(reports)
                print(f"ok {i} - {label} # {time.monotonic() - t0:.1f} s", flush=True)
            except Skip as e:
                print(f"ok {i} - {label} # SKIP {e}", flush=True)
            except BaseException as e:
                bad += 1
                print(f"not ok {i} - {label}", flush=True)
                for l in (traceback.format_exc() + "\n--- belayd\n" + w.tail()).splitlines():
                    print("# " + l, flush=True)
                if isinstance(e, KeyboardInterrupt):
                    raise
            finally:
                w.close()
    finally:
        shutil.rmtree(b, ignore_errors=True)
    sys.exit(1 if bad else 0)
