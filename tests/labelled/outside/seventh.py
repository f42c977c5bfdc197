"""A seventh set, of kinds that the six before do not have, each after public reports of memory that
does not come back: containers that keep their room, pools above malloc, locked stacks, one block on
top of the heap, settings of malloc, two allocators in one process, what tracebacks, warnings and
waiting generators hold, rows deleted from a database in memory, buffers of the kernel. Programs and
labels were committed before their first run, and no label was changed after it.
`python -m tests.labelled.outside --set seventh`.
"""

# ruff: noqa: E501

from __future__ import annotations

from typing import Final

from .programs import FIRST, GROWTH, NONE, SECOND, _p

__all__ = ["SEVENTH"]

_C: Final = (
    "//\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <malloc.h>\n#include <vector>\n#include <memory>\n"
    "__attribute__((noinline)) static char *own(size_t n) { char *p = (char *)malloc(n); memset(p, 1, n); return p; }\n"
    "static std::vector<char *> x;\nstatic void fill(size_t n) { while (n--) x.push_back(own(200)); }\n"
)
_CLEARED: Final = (
    _C + "static std::vector<std::vector<char>> v(2000);\n"
    "static void use(size_t n) { for (auto &each : v) each.assign(n, 'x'); }\nint main() { use(99);"
)
_POOLED: Final = (
    _C
    + "#include <memory_resource>\n#include <list>\nstatic std::pmr::unsynchronized_pool_resource pool;\n"
    "static std::pmr::list<std::pmr::vector<char>> l(&pool);\n"
    "static void more(int n) { while (n--) l.emplace_back(200, 'x'); }\nint main() { more(9);"
)
_THREADS: Final = (
    _C + "#include <pthread.h>\n#include <sys/mman.h>\n#include <unistd.h>\n"
    "static void *wait_(void *) { pause(); return 0; }\n"
    "static void more(int n) { pthread_t t; while (n--) pthread_create(&t, 0, wait_, 0); }\n"
)
_HANDED: Final = (
    _C + "#include <pthread.h>\n"
    "static void *work(void *p) { auto *y = (std::vector<char *> *)p; y->reserve(40000); for (int i = 0; i < 40000; i++) y->push_back(own(200)); return 0; }\n"
    "static std::vector<char *> y[8];\n"
    "static void wave() { pthread_t t[8]; for (int i = 0; i < 8; i++) pthread_create(t + i, 0, work, y + i); for (auto each : t) pthread_join(each, 0); }\n"
    "static void keep(size_t n) { for (auto &each : y) for (size_t i = 0; i < each.size(); i++) if (i % n) { free(each[i]); each[i] = 0; } }\n"
    "int main() { fill(9);"
)
_TWO: Final = (
    _C + "#include <dlfcn.h>\nstatic void *(*other)(size_t);\n"
    "static void more(size_t n) { while (n--) { char *p = (char *)other(200); memset(p, 1, 200); } }\n"
    'int main() { other = (void *(*)(size_t))dlsym(dlopen("libjemalloc.so.2", RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND), "malloc"); if (!other) return 1; more(9); fill(9);'
)
_ERRORS: Final = (
    "kept = []\ndef fail(n):\n    body = bytes(20_000)\n    return body[n // 0]\n"
    "def more(n):\n    for i in range(n):\n        try: fail(i)\n        except ZeroDivisionError as e: kept.append(e)\nmore(9)"
)
_WARNED: Final = (
    "import warnings; warnings.simplefilter('default'); import io, sys; sys.stderr = io.StringIO()\n"
    "def more(a, b):\n    for i in range(a, b): warnings.warn('page %d took too long: %s' % (i, 'text ' * 40))\n"
    "    sys.stderr = io.StringIO()\nmore(0, 99)"
)
_ROWS: Final = (
    "import sqlite3; db = sqlite3.connect(':memory:', isolation_level=None); db.execute('create table t(a, b)')\n"
    "def more(n): db.executemany('insert into t values(?, ?)', ((i, 'text %d ' % i * 20) for i in range(n)))\nmore(99)"
)
_SSL: Final = "import ssl\nkept = []\ndef more(n): kept.extend(ssl.create_default_context() for _ in range(n))\nmore(2)"
_WAITING: Final = (
    "kept = []\ndef page(n):\n    parts = ['part %d' % i for i in range(n)]\n    yield parts\n    return len(parts)\n"
    "def more(n):\n    for _ in range(n): g = page(60); next(g); kept.append(g)\nmore(9)"
)
_UNREAD: Final = (
    "import socket\nkept = []\ndef more(n):\n    for _ in range(n):\n        a, b = socket.socketpair(); a.setblocking(False); kept.append((a, b))\n"
    "        try:\n            while True: a.send(bytes(4_096))\n        except BlockingIOError: pass\nmore(2)"
)
_SHARED: Final = (
    "from multiprocessing.shared_memory import SharedMemory as S\nkept = []\n"
    "def more(n):\n    for _ in range(n): s = S(create=True, size=10 << 20); s.buf[:] = bytes(10 << 20); s.unlink(); kept.append(s)\nmore(1)"
)
_NATIVE: Final = (
    "import ctypes; c = ctypes.CDLL(None); c.malloc.restype = ctypes.c_void_p; c.malloc.argtypes = [ctypes.c_size_t]\n"
    "def more(n):\n    for _ in range(n): ctypes.memset(c.malloc(3_000), 1, 3_000)\nmore(9)"
)
_LOCAL: Final = (
    "import threading; own = threading.local(); stop = threading.Event()\n"
    "def work(): own.rows = ['text %d' % i for i in range(20_000)]; done.release(); stop.wait()\n"
    "done = threading.Semaphore(0)\ndef more(n):\n    for _ in range(n): threading.Thread(target=work, daemon=True).start()\n"
    "    for _ in range(n): done.acquire()\nmore(1)"
)

SEVENTH: Final = (
    # C++: room that containers and pools keep is busy to malloc.
    _p("cleared vectors keep their room", "program:g++", "c++", FIRST, "glibc", _CLEARED, "use(40000);", "for (auto &each : v) each.clear();"),
    _p("cleared vectors keep their room, on dmi", "program:g++", "c++ dmi", FIRST, "dmi", _CLEARED, "use(40000);", "for (auto &each : v) each.clear();"),
    _p("a pool keeps what its lists let go", "program:g++", "c++", FIRST, "glibc", _POOLED, "more(300000);", "l.clear();"),
    _p("a buffer that doubled goes back", "program:g++", "c++", NONE, "", _C + "int main() { char *p = own(1 << 20);",
       "for (size_t n = 2 << 20; n <= 256 << 20; n *= 2) { p = (char *)realloc(p, n); memset(p, 1, n); }", "p = (char *)realloc(p, 1 << 20);"),
    _p("one block on top of the heap", "program:g++", "c++", SECOND, "glibc", _C + "int main() { x.reserve(500000); fill(9);",
       "fill(400000);", "for (size_t i = 9; i + 1 < x.size(); i++) free(x[i]);"),
    _p("one block on top of the heap, on dmi", "program:g++", "c++ dmi", NONE, "", _C + "int main() { x.reserve(500000); fill(9);",
       "fill(400000);", "for (size_t i = 9; i + 1 < x.size(); i++) free(x[i]);", 4),
    _p("pages on request", "program:g++", "c++", GROWTH, "glibc", _C + "static void more(int n) { void *p; while (n--) { if (posix_memalign(&p, 4096, 4096)) abort(); memset(p, 1, 4096); } }\nint main() { more(9);",
       "more(10000);", "more(10000);"),
    _p("stacks of threads are locked", "program:g++", "c++", GROWTH, "", _THREADS + "int main() { if (mlockall(MCL_CURRENT | MCL_FUTURE)) return 1; more(1);",
       "more(10);", "more(10);"),
    _p("stacks of threads are not locked", "program:g++", "c++", NONE, "", _THREADS + "int main() { more(1);", "more(10);", "more(10);"),
    _p("malloc is told to keep its top", "program:g++", "c++", SECOND, "glibc", _C + "int main() { mallopt(M_TRIM_THRESHOLD, 1 << 30); x.reserve(500000); fill(9);",
       "fill(400000);", "for (size_t i = 9; i < x.size(); i++) free(x[i]);"),
    _p("what threads made is freed by another", "program:g++", "c++", SECOND, "glibc", _HANDED, "wave();", "keep(100);"),
    _p("two allocators, the other one grows", "program:g++", "c++ GLIBC_TUNABLES=glibc.rtld.optional_static_tls=16384", GROWTH, "jemalloc", _TWO, "more(150000); fill(100000);",
       "more(150000); for (size_t i = 9; i < x.size(); i++) free(x[i]);"),
    # Python: what holds on where nobody looks.
    _p("tracebacks hold what was local", "", "python", GROWTH, "glibc", _ERRORS, "more(2_000)", "more(2_000)"),
    _p("tracebacks hold what was local, on dmi", "", "dmi", GROWTH, "dmi", _ERRORS, "more(2_000)", "more(2_000)"),
    _p("warnings remember every text", "", "python", GROWTH, "pymalloc", _WARNED, "more(99, 40_000)", "more(40_000, 80_000)"),
    _p("rows deleted from a database in memory", "", "python", FIRST, "glibc", _ROWS, "more(300_000)", "db.execute('delete from t')"),
    _p("rows deleted and the room given back", "", "python", NONE, "", _ROWS, "more(300_000)", "db.execute('delete from t'); db.execute('vacuum')"),
    _p("a context of ssl for each request", "", "python", GROWTH, "glibc", _SSL, "more(60)", "more(60)"),
    _p("generators that wait", "", "python", GROWTH, "pymalloc", _WAITING, "more(4_000)", "more(4_000)"),
    _p("sockets that nobody reads", "", "python", NONE, "", _UNREAD, "more(100)", "more(100)"),
    _p("shared memory of multiprocessing", "", "python", GROWTH, "outside", _SHARED, "more(4)", "more(4)"),
    _p("a bytearray that was emptied", "", "python", NONE, "", "b = bytearray(1_000)", "b.extend(bytes(90 << 20))", "del b[1_000:]"),
    _p("native code that does not free", "", "python", GROWTH, "glibc", _NATIVE, "more(9_000)", "more(9_000)"),
    _p("rows of threads that wait", "", "python", GROWTH, "pymalloc", _LOCAL, "more(10)", "more(10)"),
)  # fmt: skip
