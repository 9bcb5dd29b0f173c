#!/usr/bin/env python3
"""Unmodified programs under Belay: PostgreSQL, nginx, memcached, socat, python3's http.server, a static binary."""
import glob, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from belaytest import *

LISTEN = """
version: 1
rules:
  - {{ name: listens, allow: bind, from: {{ program: server }}, port: {port} }}
  - {{ name: client, allow: connect, from: {{ program: client }}, to: {{ program: server }}, port: {port} }}
"""


def test_postgresql_with_psql_and_pgbench(w):
    pg = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not pg:
        raise Skip("PostgreSQL is not installed")
    pg = pg[-1]
    import pwd
    uid = pwd.getpwnam("postgres").pw_uid if ROOT else UID
    if uid not in (u.pw_uid for u in pwd.getpwall()):
        raise Skip("PostgreSQL wants a user with a name")
    if not w.host:
        w.become(uid)
    data = os.path.join(w.tmp, "pg")
    os.makedirs(data)
    if ROOT:
        os.chown(data, uid, uid)
    w.cmd(f"{pg}/initdb", "-D", data, "-A", "trust", "-U", "test", "--no-sync", uid=uid, timeout=120, cwd="/")
    w.start()
    w.enroll(f"{pg}/postgres", "server", "--jit")
    w.enroll(f"{pg}/psql", "client")
    w.enroll(f"{pg}/pgbench", "client")
    w.policy(LISTEN.format(port=5432))
    s = w.serve(f"{pg}/postgres", "-D", data, "-c", "listen_addresses=127.0.0.1", "-k", data, "-F", uid=uid, cwd="/")
    db = ("-h", "127.0.0.1", "-U", "test", "postgres")
    wait_for("PostgreSQL is up", lambda: "ready to accept" in s.output() or s.poll() is not None, 30)
    assert s.poll() is None, s.output()
    assert w.run(f"{pg}/psql", "-Atc", "select 6*7", *db, uid=uid, cwd="/").stdout.strip() == "42"
    w.run(f"{pg}/pgbench", "-i", "-q", *db, uid=uid, timeout=120, cwd="/")
    r = w.run(f"{pg}/pgbench", "-c", "4", "-j", "2", "-t", "50", *db, uid=uid, timeout=120, cwd="/")
    assert "number of failed transactions: 0" in r.stdout, r


def test_nginx_with_curl(w):
    need("nginx", "curl")
    w.start()
    w.enroll("/usr/sbin/nginx", "server")
    w.enroll("/usr/bin/curl", "client")
    w.policy(LISTEN.format(port=8080))
    worker = "user www-data;" if w.host else ""
    page = file_for(w, "index.html", "from nginx\n")
    conf = file_for(w, "nginx.conf", f"""
daemon off; pid {w.tmp}/nginx.pid; error_log stderr; {worker} worker_processes 2;
events {{ worker_connections 256; }}
http {{ access_log off; client_body_temp_path {w.tmp}/b; proxy_temp_path {w.tmp}/p; fastcgi_temp_path {w.tmp}/f;
  uwsgi_temp_path {w.tmp}/u; scgi_temp_path {w.tmp}/s;
  server {{ listen 127.0.0.1:8080; listen [::1]:8080; root {w.tmp}; }} }}
""")
    s = w.serve("nginx", "-e", "stderr", "-c", conf)
    wait_for("nginx answers\n", lambda: w.run("curl", "-s", "http://127.0.0.1:8080/index.html", check=False).stdout
             == "from nginx\n" or s.poll() is not None)
    assert s.poll() is None, s.output()
    assert w.run("curl", "-s", "http://[::1]:8080/index.html").stdout == "from nginx\n"
    if w.host:
        children = open(f"/proc/{s.pid}/task/{s.pid}/children").read().split()
        assert children and all(os.stat(f"/proc/{c}").st_uid not in (0,) for c in children), "workers are not www-data"


def test_memcached(w):
    need("memcached", "socat")
    w.start()
    w.enroll("/usr/bin/memcached", "server")
    w.enroll("/usr/bin/socat", "client")
    w.policy(LISTEN.format(port=11211))
    user = ["-u", "nobody"] if w.host else []
    s = w.serve("memcached", "-l", "127.0.0.1", "-p", "11211", "-U", "0", *user)
    ask = "set k 0 0 2\r\nhi\r\nget k\r\nquit\r\n"
    out = wait_for("memcached answers", lambda: w.run("socat", "-", "TCP:127.0.0.1:11211", check=False, input=ask).stdout)
    assert "STORED" in out and "VALUE k 0 2" in out, out


def test_a_server_that_forks_for_each_connection(w):
    need("socat", "curl")
    w.start()
    w.enroll("/usr/bin/socat", "server")
    w.enroll("/usr/bin/cat", "server")
    w.enroll("/usr/bin/curl", "client")
    w.policy(LISTEN.format(port=7000))
    w.serve("socat", "TCP-LISTEN:7000,fork,reuseaddr,bind=127.0.0.1", "EXEC:cat,nofork")
    for _ in range(3):
        out = wait_for("socat answers", lambda: w.run("curl", "-s", "-m", "2", "--http0.9", "telnet://127.0.0.1:7000",
                                                      check=False, input="echo\n", timeout=10).stdout)
        assert out == "echo\n", out


def test_a_channel_does_not_survive_an_image_not_granted_it(w):
    need("socat", "curl")
    w.start()
    w.enroll("/usr/bin/socat", "server")
    w.enroll("/usr/bin/curl", "client")
    w.policy(LISTEN.format(port=7001))
    s = w.serve("socat", "TCP-LISTEN:7001,fork,reuseaddr,bind=127.0.0.1", "EXEC:cat,nofork")
    time.sleep(0.5)
    r = w.run("curl", "-s", "-m", "2", "telnet://127.0.0.1:7001", check=False, input="echo\n", timeout=10)
    assert "echo" not in r.stdout, "cat, which nobody enrolled, served the channel"


def script_serves(w, line, **how):
    """The script counts when it is started, and only then; beyond its #! line nothing else differs."""
    if not ROOT:
        raise Skip("a script counts only from a file its user cannot write: root must place it")
    need("curl")
    w.start()
    d = tempfile.mkdtemp(prefix="belay-script-", dir="/usr/local")
    try:
        os.chmod(d, 0o755)
        p = os.path.join(d, "serve")
        with open(p, "w") as f:
            f.write(line + "\nfrom http.server import *\n"
                    "ThreadingHTTPServer(('127.0.0.1', 8000), SimpleHTTPRequestHandler).serve_forever()\n")
        os.chmod(p, 0o755)
        w.enroll("/usr/bin/python3", "server", "--script", p)
        w.enroll("/usr/bin/curl", "client")
        w.policy(LISTEN.format(port=8000))
        file_for(w, "page.txt", "from python\n")
        s = w.serve(p, cwd=w.tmp, **how)
        wait_for("http.server answers", lambda: w.run("curl", "-s", "http://127.0.0.1:8000/page.txt", check=False).stdout
                 == "from python\n" or s.poll() is not None)
        assert s.poll() is None, s.output()
        for by_hand in (["python3", p], ["/usr/bin/env", "python3", p]):
            r = w.run(*by_hand, check=False, timeout=20)
            assert r.returncode and "ermission" in r.stderr, f"the interpreter alone passed as the script: {by_hand}"
    finally:
        shutil.rmtree(d)


def test_http_server_as_a_script(w):
    script_serves(w, "#!/usr/bin/python3 -Es")


def test_http_server_as_a_script_over_env(w):
    script_serves(w, "#!/usr/bin/env python3", options=["--as", "server"])


def test_a_static_binary(w):
    need("gcc", "redis-server")
    src = file_for(w, "s.c", r'''
#include <arpa/inet.h>
#include <stdio.h>
#include <unistd.h>
int main(void) { struct sockaddr_in a = {AF_INET, htons(6379), {htonl(INADDR_LOOPBACK)}}; char b[64];
  int s = socket(AF_INET, SOCK_STREAM, 0); if (connect(s, (void *)&a, sizeof a)) { perror("connect"); return 1; }
  if (write(s, "PING\r\n", 6) != 6) return 2; ssize_t n = read(s, b, sizeof b); if (n < 1) return 3;
  return write(1, b, (size_t)n) != n; }''')
    exe = os.path.join(w.tmp, "static")
    w.cmd("gcc", "-static", "-O1", "-o", exe, src)
    w.start()
    w.enroll("/usr/bin/redis-server", "server")
    w.enroll(exe, "client")
    w.policy(LISTEN.format(port=6379))
    s = w.serve("redis-server", "--port", "6379", "--save", "", "--dir", w.tmp)
    wait_for("redis is up", lambda: "Ready to accept" in s.output())
    assert w.run(exe).stdout == "+PONG\n"


def test_dual_stack_and_ipv6(w):
    need("socat", "curl")
    w.start()
    w.enroll("/usr/bin/socat", "server")
    w.enroll("/usr/bin/curl", "client")
    w.policy(LISTEN.format(port=7002))
    s = w.serve("socat", "TCP6-LISTEN:7002,fork,reuseaddr,ipv6only=0", "SYSTEM:true")
    s2 = w.run("curl", "-s", "-m", "2", "telnet://127.0.0.1:7002", check=False, input="", timeout=10)
    ok = lambda host: w.run("curl", "-s", "-m", "2", f"telnet://{host}:7002", check=False, input="", timeout=10).returncode != 7
    wait_for("an IPv6 client", lambda: ok("[::1]"))
    wait_for("an IPv4 client of a dual-stack listener", lambda: ok("127.0.0.1"))


def test_preloaded_library_disqualifies(w):
    need("gcc", "redis-server", "redis-cli")
    src = file_for(w, "l.c", "int nothing_at_all(void) { return 1; }\n")
    lib = os.path.join(w.tmp, "l.so")
    w.cmd("gcc", "-shared", "-fPIC", "-o", lib, src)
    w.start()
    w.enroll("/usr/bin/redis-server", "server")
    w.enroll("/usr/bin/redis-cli", "client")
    w.policy(LISTEN.format(port=6379))
    s = w.serve("redis-server", "--port", "6379", "--save", "", "--dir", w.tmp)
    wait_for("redis is up", lambda: "Ready to accept" in s.output())
    assert w.run("redis-cli", "PING").stdout.strip() == "PONG"
    r = w.run("redis-cli", "PING", check=False, env={"LD_PRELOAD": lib})
    assert "PONG" not in r.stdout, "a foreign library was loaded and the program still passed"
    r = w.run("/lib64/ld-linux-x86-64.so.2", "/usr/bin/redis-cli", "PING", check=False)
    assert "PONG" not in r.stdout, "ld.so identified a program"


def test_ipc_namespace_is_the_trees_own(w):
    need("ipcmk", "ipcs")
    w.start()
    assert "0x" not in w.run("sh", "-c", "ipcmk -M 4096 >/dev/null; true").stdout
    out = w.run("sh", "-c", "ipcmk -M 4096 >/dev/null; ipcs -m").stdout
    assert "4096" in out
    assert "4096" not in w.run("ipcs", "-m").stdout, "System V memory leaked out of its run tree"
    w.run("sh", "-c", "echo x > /dev/shm/belay-test-inside")
    assert not os.path.exists("/dev/shm/belay-test-inside")


if __name__ == "__main__":
    main(globals())
