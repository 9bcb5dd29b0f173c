"""What the benches share: a release build, CPU time, medians, the table, one JSON object a line.

BELAY_BUILD names a build directory; unset, build-bench (release) is made beside the sources and brought up to date.
"""
import argparse, contextlib, json, os, resource, shutil, statistics, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)


def build():
    d = os.environ.get("BELAY_BUILD")
    if not d:
        d = os.environ["BELAY_BUILD"] = os.path.join(TOP, "build-bench")
        if not os.path.exists(os.path.join(d, "build.ninja")):
            subprocess.run(["meson", "setup", d, TOP, "-Dbuildtype=release"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["ninja", "-C", d], check=True, stdout=subprocess.DEVNULL)
    return d


build()
sys.path.insert(0, os.path.join(TOP, "tests/lib"))
from belaytest import *


def options(doc):
    ap = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--quick", action="store_true", help="one short round: shows that it works, not how fast")
    ap.add_argument("--json", action="store_true", help="one object a line: bench, case, subject, value, unit")
    ap.add_argument("--rounds", type=int)
    ap.add_argument("--only", help="subjects, separated by commas")
    o = ap.parse_args()
    o.only = o.only.split(",") if o.only else None
    return o


def descendants():
    kids = {}
    for p in os.listdir("/proc"):
        if p.isdigit():
            with contextlib.suppress(OSError):
                f = open(f"/proc/{p}/stat").read()
                kids.setdefault(int(f[f.rindex(")") + 2:].split()[1]), []).append(int(p))
    todo, out = [os.getpid()], []
    while todo:
        for k in kids.get(todo.pop(), []):
            out.append(k)
            todo.append(k)
    return out


def cpu():
    """Seconds of CPU of everything this bench has started, ended ones included. The network's work for a local connection
    is done, and so counted, within the calls of the processes at its ends; what the kernel defers to its own threads is not
    seen. Other people's processes do not count, so the figure holds on a machine that is not idle."""
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    s = r.ru_utime + r.ru_stime
    for p in descendants():
        with contextlib.suppress(OSError):
            live = 0.0
            for t in os.listdir(f"/proc/{p}/task"):
                with contextlib.suppress(OSError):
                    live += int(open(f"/proc/{p}/task/{t}/schedstat").read().split()[0]) / 1e9
            f = open(f"/proc/{p}/stat").read()
            f = f[f.rindex(")") + 2:].split()
            # The first is exact, the second also knows of threads that have ended.
            s += max(live, (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK"))
    return s


class Results:
    """(case, subject) -> measured values; and CPU per unit of work beside them."""

    def __init__(self, bench):
        self.bench, self.got, self.units, self.goals = bench, {}, {}, []

    def add(self, case, subject, value, unit, cpu=None, cpu_unit=None):
        self.units[case] = (unit, cpu_unit)
        self.got.setdefault((case, subject), []).append((value, cpu))

    def median(self, case, subject):
        v = self.got.get((case, subject))
        return statistics.median(x for x, _ in v) if v else None

    def cpu(self, case, subject):
        v = [c for _, c in self.got.get((case, subject), []) if c is not None]
        return statistics.median(v) if v else None

    def goal(self, name, value, want, less=False, unit=""):
        if value is not None:
            self.goals.append((name, value, want, less, unit))

    def ratio(self, name, case, a, b, want, less=False, cpu=False):
        get = self.cpu if cpu else self.median
        x, y = get(case, a), get(case, b)
        if x is not None and y:
            self.goal(name, x / y, want, less)

    def added(self, name, case, a, b, want, unit):
        x, y = self.median(case, a), self.median(case, b)
        if x is not None and y is not None:
            self.goal(name, x - y, want, True, unit)

    def print(self, as_json):
        if as_json:
            for (case, s) in self.got:
                unit, cpu_unit = self.units[case]
                row = {"bench": self.bench, "case": case, "subject": s, "value": round(self.median(case, s), 3), "unit": unit}
                print(json.dumps(row))
                if self.cpu(case, s) is not None:
                    print(json.dumps(row | {"case": case + "-cpu", "value": round(self.cpu(case, s), 3), "unit": cpu_unit}))
            for name, v, want, less, unit in self.goals:
                met = v <= want if less else v >= want
                print(json.dumps({"bench": self.bench, "case": "goal: " + name, "subject": "met" if met else "miss",
                                  "value": round(v, 3), "unit": unit or "ratio"}))
            return
        num = lambda x: f"{x:.0f}" if abs(x) >= 1000 else f"{x:.1f}" if abs(x) >= 10 else f"{x:.3f}"
        for case in dict.fromkeys(c for c, _ in self.got):
            unit, cpu_unit = self.units[case]
            print(f"\n{case} ({unit})")
            for s in [s for c, s in self.got if c == case]:
                v = [x for x, _ in self.got[case, s]]
                line = f"  {s:14} {num(self.median(case, s)):>9}  [{num(min(v))} … {num(max(v))}]".ljust(50)
                if self.median(case, "plain"):
                    line += f" {self.median(case, s) / self.median(case, 'plain'):6.2f} of plain"
                if self.cpu(case, s) is not None:
                    line += f"   cpu {num(self.cpu(case, s))} {cpu_unit}"
                print(line)
        if self.goals:
            print("\ngoals, in this run")
        for name, v, want, less, unit in self.goals:
            met = v <= want if less else v >= want
            print(f"  {'met ' if met else 'MISS'} {name}: {v:.2f}{' ' + unit if unit else ''} (goal {'≤' if less else '≥'} {want})")


class Nodes:
    """Two nodes of Belay, alpha and beta, ready for redis and helper-net; as an ordinary user."""

    def __init__(self, port):
        self.bin = bindir()
        self.w = World("private", self.bin)
        self.b = World("private", self.bin, "two")
        self.port = port

    def start(self, a="127.0.0.2", b="127.0.0.3"):
        self.w.start()
        self.b.start()
        p = self.port
        self.w.belay("node", "init", "alpha", "--address", "10.77.0.1", "--listen", f"{a}:{p}", "--data", f"{a}:{p + 1}")
        token = self.w.belay("node", "invite", "beta", "--address", "10.77.0.2").stdout.split()[-1]
        self.b.belay("node", "join", token, "--listen", f"{b}:{p}", "--data", f"{b}:{p + 1}")
        self.policies = {}
        for x in (self.w, self.b):
            for program, name in (("/usr/bin/redis-server", "cache"), ("/usr/bin/redis-benchmark", "bench")):
                if os.path.exists(program):
                    x.enroll(program, name)
            x.enroll(f"{self.bin}/helper-net", "helper")
        programs = [x for x in ("cache", "bench") if os.path.exists({"cache": "/usr/bin/redis-server", "bench": "/usr/bin/redis-benchmark"}[x])]
        servers = ", ".join(["helper", *[x for x in programs if x == "cache"]])
        clients = ", ".join(["helper", *[x for x in programs if x == "bench"]])
        rules = (f"version: 1\nrules:\n  - {{ name: binds, allow: bind, from: {{ program: [{servers}] }} }}\n"
                 f"  - {{ name: local, allow: connect, from: {{ program: [{clients}] }}, to: {{ program: [{servers}] }} }}\n")
        self.w.policy(rules + f"  - {{ name: beta, allow: connect, from: {{ program: [{clients}], node: beta }}, to: {{ program: [{servers}] }} }}\n")
        self.b.policy(rules + f"  - {{ name: alpha, allow: connect, from: {{ program: [{clients}] }}, to: {{ program: [{servers}], node: alpha }} }}\n")

    def serve(self, *argv, ready="ready"):
        s = self.w.serve(*argv)
        wait_for(f"{argv[0]} under Belay is ready", lambda: ready in s.output() or s.poll() is not None)
        return s

    def components(self):
        return [(w, c["role"], c["pid"]) for w in (self.w, self.b) if w.daemon for c in w.status()["components"]] + \
               [(w, "belayd", w.daemon.pid) for w in (self.w, self.b) if w.daemon]

    def close(self):
        self.b.close()
        self.w.close()
        shutil.rmtree(self.bin, ignore_errors=True)


def free_ports():
    """A hundred ports below those the kernel gives out by itself."""
    return 12000 + os.getpid() % 200 * 100
