#!/usr/bin/env python3
"""Descriptors that are not what they should be: of strangers at the control socket, and of bound programs."""
import array, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *

# A connected stream socket with unread data that lingers for an hour when it is closed.
LINGERING = r'''
import array, os, socket, struct, sys, threading, time
def lingering(keep=[]):
    if not keep:
        l = socket.socket(); l.bind(("127.0.0.1", PORT)); l.listen(); keep.append(l)
    c = socket.create_connection(keep[0].getsockname()); keep.append(keep[0].accept()[0])
    c.setblocking(False)
    try:
        while True:
            c.send(b"x" * 65536)
    except BlockingIOError:
        pass
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    return c
def leave(fd):
    "Ours is not to be the last, but may be: then it is us who wait."
    threading.Thread(target=os.close, args=(fd,), daemon=True).start()
def tell(path, message, fds):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(path)
    s.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
    return s
'''
RUN = r'b"\x08\x01\x62\x12\x1a\x10" + os.urandom(16)'   # version 1, a run request of nothing but its token


def answers(w, what):
    t = time.monotonic()
    w.belay("status", timeout=5)
    w.run("/bin/true", timeout=10)
    assert time.monotonic() - t < 8, what


def stranger(w, text):
    p = w.popen(["/usr/bin/python3", "-c", LINGERING.replace("PORT", "0") + text + "\nprint('said', flush=True)\ntime.sleep(60)",
                 os.path.join(w.dir, "control")], uid=w.users[0], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == "said\n"
    time.sleep(0.3)
    return p


def test_a_descriptor_that_does_not_close(w):
    w.start()
    for message in (r'b"\xff"', RUN):
        for n in (1, 2):
            p = stranger(w, f"""
for i in range(6):
    c = [lingering() for _ in range({n})]
    s = tell(sys.argv[1], {message}, [x.fileno() for x in c])
    for x in c: leave(x.detach())
""")
            answers(w, (message, n))
            w.end(p)


def test_a_descriptor_in_the_queue_of_one_who_leaves(w):
    w.start()
    p = stranger(w, r"""
for i in range(40):
    c = lingering()
    s = tell(sys.argv[1], b"\xff", [c.fileno()])
    try:
        s.sendmsg([b"\xff"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [c.fileno()]))])
    except OSError:
        pass
    leave(c.detach())
    s.close()
""")
    answers(w, "queued")


def test_a_run_without_a_notify_descriptor(w):
    w.start()
    before = wait_for("all parts are up", lambda: all((p := w.pids()).values()) and p)
    p = stranger(w, f"""
r, wr = os.pipe()
f = os.open("/dev/null", os.O_RDONLY)
c = lingering()
keep = [tell(sys.argv[1], {RUN}, [fd, 2]) for fd in (r, wr, f, c.fileno()) for _ in range(2)]
""")
    wait_for("no tree is left", lambda: w.status()["trees"] == 0)
    answers(w, "run")
    assert w.pids() == before


def test_a_bound_programs_lingering_sockets(w):
    w.start()
    py = copy_program(w, os.path.realpath("/usr/bin/python3"), "python-of-its-own")
    with open(py, "ab") as f:
        f.write(b"linger")
    w.enroll(py, "lingers", "--not-interpreter", "--jit")
    w.policy("""
version: 1
rules:
  - { name: b, allow: bind, from: { program: lingers }, port: 7000 }
  - { name: c, allow: connect, from: { program: lingers }, to: { program: lingers } }
""")
    before = wait_for("all parts are up", lambda: all((p := w.pids()).values()) and p)
    code = LINGERING.replace("PORT", "7000") + r'''
def closes(fd):
    time.sleep(0.0003)
    os.close(fd)
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for i in range(60):
    c = lingering(); fd = c.detach()
    t = threading.Thread(target=closes, args=(fd,)); t.start()
    libc.listen(fd, 1)
    t.join(0.1)
print("said", flush=True)
time.sleep(60)
'''
    p = w.serve(py, "-c", code, env={"PYTHONHOME": "/usr"})
    wait_for("it closes", lambda: "said" in p.output() or p.poll() is not None, 60)
    assert p.poll() is None, p.output()
    answers(w, "linger")
    assert w.pids() == before


main(globals())
