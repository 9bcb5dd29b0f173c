"""A program that does as it is told, bound or not: a python3 of a content of its own, spoken to over its standard input.

`program(w, NAME)` makes and enrolls one; `Agent(w, path)` starts it; `.do(CODE)` runs a line of Python in it and gives the
value. What raises OSError there raises it here; `.errno(CODE)` gives the number instead, 0 for none.
"""
import json, os, select, subprocess
from belaytest import ROOT, copy_program

INSIDE = r'''
import array, errno, hashlib, json, os, select, signal, socket, struct, sys, threading, time
socket.setdefaulttimeout(10)
S = {}

def keep(s):
    S[s.fileno()] = s
    return s.fileno()

def connect(host, port, source=None):
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if source:
            s.bind((source, 0))
        s.connect((host, port))
    except BaseException:
        s.close()
        raise
    return keep(s)

def close(n):
    S.pop(n).close()

def ask(n, text="hello"):
    S[n].sendall(text.encode())
    return S[n].recv(65536).decode()

def ended(n, seconds=10):
    "The connection's end as its holder sees it: '' for a clean one, else an error's name."
    S[n].settimeout(seconds)
    try:
        while S[n].recv(65536):
            pass
        return ""
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))

def echo(c):
    try:
        c.settimeout(None)
        while b := c.recv(1 << 18):
            c.sendall(b)
        c.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    c.close()

PEERS = []
def serve(host, port, each=echo, backlog=64):
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((host, port))
    s.listen(backlog)
    accepting(s, each)
    return s.getsockname()[1]

def accepting(s, each):
    s.settimeout(None)
    keep(s)
    def loop():
        while True:
            c, peer = s.accept()
            PEERS.append(peer)
            threading.Thread(target=each, args=(c,), daemon=True).start()
    threading.Thread(target=loop, daemon=True).start()

def bulk(n, size):
    "Sends size bytes through an echo, half closes, and holds what comes back against what went."
    s, block = S[n], os.urandom(1 << 16)
    sent, got, back = hashlib.sha256(), hashlib.sha256(), 0
    def send():
        left = size
        while left:
            b = block[:min(left, len(block))]
            s.sendall(b)
            sent.update(b)
            left -= len(b)
        s.shutdown(socket.SHUT_WR)
    t = threading.Thread(target=send)
    t.start()
    while b := s.recv(1 << 18):
        got.update(b)
        back += len(b)
    t.join()
    return back == size and got.digest() == sent.digest()

def timed(code):
    t = time.monotonic()
    try:
        eval(code)
        e = 0
    except OSError as x:
        e = x.errno
    return [e, time.monotonic() - t]

for line in sys.stdin:
    try:
        code = json.loads(line)
        try:
            compiled = compile(code, "told", "eval")
        except SyntaxError:
            exec(compile(code, "told", "exec"), globals())
            out = {"value": None}
        else:
            out = {"value": eval(compiled, globals())}
    except OSError as e:
        out = {"errno": e.errno or 110, "text": str(e)}
    except BaseException as e:
        out = {"failed": repr(e)}
    print(json.dumps(out), flush=True)
'''


def program(w, name, *enroll, path=None):
    """A python3 of its own content. It is no interpreter to Belay: the test is what it runs."""
    p = copy_program(w, os.path.realpath("/usr/bin/python3"), path or name)
    with open(p, "ab") as f:
        f.write(f"\n{path or name}\n".encode())
    w.enroll(p, name, "--not-interpreter", *enroll)
    return p


class Agent:
    def __init__(self, w, path="/usr/bin/python3", bound=True, uid=None, run=(), **kw):
        argv = [path, "-c", INSIDE]
        if bound:
            argv = [os.path.join(w.bin, "belay"), "run", *run, "--", *argv]
        self.err = os.path.join(w.tmp, f"stderr-{len(os.listdir(w.tmp))}-{len(w.procs)}")
        env = {"PYTHONHOME": "/usr", "PYTHONDONTWRITEBYTECODE": "1", **kw.pop("env", {})}
        self.p = w.popen(argv, uid=uid, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(self.err, "w"),
                         text=True, env=env, **kw)
        self.pid, self.w = self.p.pid, w

    def tell(self, code):
        self.p.stdin.write(json.dumps(code) + "\n")
        self.p.stdin.flush()

    def hear(self, timeout=30):
        if not select.select([self.p.stdout], [], [], timeout)[0]:
            raise AssertionError(f"no answer in {timeout} s; {self.stderr()}")
        line = self.p.stdout.readline()
        if not line:
            raise AssertionError(f"the program ended with {self.p.wait(5)}: {self.stderr()}")
        r = json.loads(line)
        if "failed" in r:
            raise AssertionError(r["failed"])
        if "errno" in r:
            raise OSError(r["errno"], r["text"])
        return r["value"]

    def do(self, code, timeout=30):
        self.tell(code)
        return self.hear(timeout)

    def errno(self, code, timeout=30):
        try:
            self.do(code, timeout)
            return 0
        except OSError as e:
            return e.errno

    def stderr(self):
        return open(self.err, errors="replace").read()

    def end(self):
        self.w.end(self.p)


ONE = ("127.0.0.1", 7001)


def pair(w, policy, *names):
    """An instance, srv listening at ONE, and cli."""
    w.start()
    paths = {n: program(w, n) for n in ("srv", "cli", *names)}
    w.policy(policy)
    srv = Agent(w, paths["srv"])
    srv.do(f"serve{ONE}")
    cli = Agent(w, paths["cli"])
    return srv, cli, paths


def rules(*rows, **top):
    """A policy of one rule a line; srv may listen wherever."""
    head = "".join(f"{k}: {v}\n" for k, v in top.items())
    return "version: 1\n" + head + "rules:\n  - { name: srv-listens, allow: bind, from: { program: srv }, port: 7000-7099 }\n" + \
        "".join(f"  - {{ {r} }}\n" for r in rows)


CLI = "name: cli-to-srv, allow: connect, from: { program: cli }, to: { program: srv }"


def open_channels(w):
    return [c for c in w.channels() if c["state"] == "open"]
