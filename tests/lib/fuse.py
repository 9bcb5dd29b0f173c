"""A file system of one file, /file, served by this process; it answers whom it likes (tests only)."""
import ctypes, os, struct, threading

LOOKUP, FORGET, GETATTR, OPEN, READ, INIT, RELEASE, FLUSH, OPENDIR, RELEASEDIR = 1, 2, 3, 14, 15, 26, 18, 25, 27, 29
ENOSYS, ENOENT = 38, 2


class OneFile:
    def __init__(self, mount, uid, content, answers, fd=None):
        """answers(pid) says whether that process is answered; whom it was refused is in `refused`."""
        self.mount, self.content, self.answers, self.refused = mount, content, answers, []
        self.fd = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.fd},rootmode=40000,user_id={uid},group_id={uid},allow_other".encode()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"onefile", mount.encode(), b"fuse", 0, options) < 0:
            e = ctypes.get_errno()
            os.close(self.fd)
            raise OSError(e, os.strerror(e))
        threading.Thread(target=self.serve, daemon=True).start()

    def close(self):
        os.system(f"umount -l {self.mount}")
        os.close(self.fd)

    def serve(self):
        while True:
            try:
                request = os.read(self.fd, 1 << 17)
            except OSError:
                return
            _, op, unique, node, _, _, pid = struct.unpack_from("<IIQQIII", request)
            if op == FORGET:
                continue
            if op != INIT and not self.answers(pid):
                self.refused.append(pid)
                continue
            error, body = self.answer(op, node, request[40:])
            try:
                os.write(self.fd, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)
            except OSError:
                pass  # whoever asked has gone

    def attr(self, node):
        size, mode = (0, 0o40755) if node == 1 else (len(self.content), 0o100755)
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def answer(self, op, node, body):
        if op == INIT:
            return 0, struct.pack("<IIIIHHIIHH8I", 7, 31, 131072, 0, 8, 8, 65536, 1, 0, 0, *[0] * 8)
        if op == LOOKUP:
            if body.rstrip(b"\0") != b"file":
                return ENOENT, b""
            return 0, struct.pack("<QQQQII", 2, 0, 0, 0, 0, 0) + self.attr(2)
        if op == GETATTR:
            return 0, struct.pack("<QII", 0, 0, 0) + self.attr(node)
        if op in (OPEN, OPENDIR):
            return 0, struct.pack("<QII", 0, 0, 0)
        if op == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return 0, self.content[offset:offset + size]
        if op in (RELEASE, RELEASEDIR, FLUSH):
            return 0, b""
        return ENOSYS, b""
