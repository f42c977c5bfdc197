"""A fifth set, in kinds that the first four hardly have: servers that fork, caches with and without
limits, shared memory, memory files, private copies of files, lazily freed and huge pages, deep
stacks, collectors, C++ with libraries of Debian. Programs and labels were committed before their
first run, and no label was changed after it. `python -m tests.labelled.outside --set fifth`.
"""

# ruff: noqa: E501

from __future__ import annotations

from typing import Final

from .programs import FIRST, GROWTH, NONE, SECOND, _p

__all__ = ["FIFTH"]

_SERVER: Final = (
    "import atexit, http.client, os, socket, subprocess, sys, time\n"
    "s = socket.socket(); s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]; s.close()\n"
    "def start(*command):\n"
    "    p = subprocess.Popen([sys.executable, '-m', *command], stdout=-3, stderr=-3); atexit.register(p.terminate); return p\n"
    "def ask(n):\n"
    "    for _ in range(n):\n"
    "        for again in range(100):\n"
    "            try: c = http.client.HTTPConnection('127.0.0.1', port); c.request('GET', '/'); got = c.getresponse().read(); break\n"
    "            except ConnectionError: time.sleep(0.1)\n"
    "        c.close()\n"
    "    return got\n"
)
_GUNICORN: Final = (
    _SERVER
    + "open('app.py', 'w').write('''import os, json\\nkept = []\\ndef app(environ, start):\\n    {}\\n"
    "    start(\"200 OK\", []); return [str(os.getpid()).encode()]\\n''')\n"
    "p = start('gunicorn', '-w', '1', '-b', f'127.0.0.1:{{port}}', 'app:app'); look = int(ask(40))"
)
_UVICORN: Final = (
    _SERVER
    + "open('app.py', 'w').write('''from starlette.applications import Starlette\\nfrom starlette.responses import JSONResponse\\n"
    'from starlette.routing import Route\\nasync def page(request): return JSONResponse([{"a": i} for i in range(2000)])\\n'
    "app = Starlette(routes=[Route(\"/\", page)])\\n''')\n"
    "p = start('uvicorn', '--port', str(port), '--log-level', 'error', 'app:app'); look = p.pid; ask(200)"
)
_DATES: Final = (
    "import functools, dateutil.parser\n@functools.lru_cache({})\n"
    "def read(text): return dateutil.parser.parse(text[:10]), [text] * 8\n"
    "def some(a, b): [read('2026-01-02 number %d' % i) for i in range(a, b)]\n"
)
_CACHE: Final = (
    "import cachetools, itertools, os; c = cachetools.TTLCache(2_000, 3600); n = itertools.count()\n"
    "def fill(k):\n    for i in itertools.islice(n, k): c[i] = os.urandom(20_000)\n"
)
_STRUCTS: Final = (
    "import msgspec\nclass P(msgspec.Struct):\n    a: list[str]\n    b: dict[str, int]\n"
    "doc = msgspec.json.encode(P(['text %d' % i for i in range(20)], {f'k{i}': i * 1000 for i in range(20)}))\n"
    "def some(n): return [msgspec.json.decode(doc, type=P) for _ in range(n)]\nsome(9)"
)
_CFFI: Final = (
    "import cffi; f = cffi.FFI(); f.cdef('void *malloc(size_t);'); c = f.dlopen(None)\n"
    "def leak(n):\n    for _ in range(n): f.memmove(c.malloc(5_000), b'x' * 5_000, 5_000)\nleak(9)"
)
_MEMFD: Final = (
    "import mmap, os, numpy as np; x = []\n"
    "def more():\n    fd = os.memfd_create('kept'); os.ftruncate(fd, 30_000_000); m = mmap.mmap(fd, 0); os.close(fd)\n"
    "    np.frombuffer(m, 'u1')[:] = 7; x.append(m)\n"
)
_C: Final = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
_STRINGS: Final = (
    "//\n" + _C + "#include <vector>\nstatic std::vector<char *> x;\n"
    "static void fill(size_t n) { for (size_t i = 0; i < n; i++) { x.push_back(new char[200]); memset(x.back(), 1, 200); } }\n"
    "static void keep(size_t each) { for (size_t i = 0; i < x.size(); i++) if (i % each) { delete[] x[i]; x[i] = 0; } }\n"
    "int main() { x.reserve(500000); fill(99);"
)
_PAGES: Final = (
    "//\n" + _C + "#include <sys/mman.h>\nstatic char *own(size_t n, int advice) {\n"
    "  char *p = (char *)mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);\n"
    "  if (advice) madvise(p, n, advice); memset(p, 1, n); return p; }\n"
    "int main() { char *p = own(1 << 20, 0);"
)
_XML2: Final = (
    "// -I/usr/include/libxml2 -lxml2\n"
    + _C
    + "#include <libxml/parser.h>\n#include <string>\n#include <vector>\nstatic std::vector<xmlDocPtr> x;\n"
    'static void read(size_t n) { std::string t = "<r>"; for (int i = 0; i < 60; i++) t += "<a k=\'1\'><b>some text in it</b></a>"; t += "</r>";\n'
    '  while (n--) x.push_back(xmlReadMemory(t.data(), (int)t.size(), "", 0, 0)); }\n'
    "int main() { x.reserve(20000); read(9);"
)
_GLIB: Final = (
    "// -I/usr/include/glib-2.0 -I/usr/lib/x86_64-linux-gnu/glib-2.0/include -lglib-2.0\n"
    + _C
    + "#include <glib.h>\n"
    "static GHashTable *t; static void add(int a, int b) { for (int i = a; i < b; i++) g_hash_table_insert(t, g_strdup_printf(\"key %d\", i), g_strnfill(150, 'x')); }\n"
    "int main() { t = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free); add(0, 9);"
)
_THREADS: Final = (
    "//\n" + _C + "#include <pthread.h>\n#include <unistd.h>\n#include <vector>\n"
    "static void *work(void *) { std::vector<char *> x; for (int i = 0; i < 60000; i++) { x.push_back(new char[200]); memset(x.back(), 1, 200); }\n"
    "  for (char *p : x) delete[] p; std::vector<char *>().swap(x); pause(); return 0; }\n"
    "static void *deep(void *) { volatile char *p = (char *)__builtin_alloca(40 << 20); for (long i = 0; i < (40 << 20); i += 4096) p[i] = 1; pause(); return 0; }\n"
    "static void start(void *(*f)(void *), int n) { pthread_attr_t a; pthread_attr_init(&a); pthread_attr_setstacksize(&a, 48 << 20);\n"
    "  while (n--) { pthread_t t; pthread_create(&t, &a, f, 0); } sleep(2); }\n"
    "int main() {"
)

FIFTH: Final = (
    # Servers that fork, looked at in the worker.
    _p("gunicorn's worker keeps what it answered", "gunicorn", "python", GROWTH, "glibc",
       _GUNICORN.format('kept.append(os.urandom(20_000))'), "ask(1_500)", "ask(1_500)"),
    _p("gunicorn's worker answers", "gunicorn", "python", NONE, "",
       _GUNICORN.format('json.loads(json.dumps([{"a": i} for i in range(2_000)]))'), "ask(300)", "ask(300)"),
    _p("uvicorn answers", "uvicorn starlette", "python", NONE, "", _UVICORN, "ask(300)", "ask(300)"),
    _p("joblib works in children", "joblib numpy", "python", NONE, "",
       "import joblib, math; p = joblib.Parallel(2)\ndef some(n): return sum(p(joblib.delayed(math.sqrt)(i) for i in range(n)))\nsome(500)",
       "some(1_500)", "some(1_500)"),
    _p("a session of requests", "requests", "python", NONE, "",
       "import http.server, threading, requests\nclass H(http.server.BaseHTTPRequestHandler):\n"
       "    def do_GET(self): self.send_response(200); self.send_header('Content-Length', '30000'); self.end_headers(); self.wfile.write(b'x' * 30_000)\n"
       "    def log_message(self, *a): pass\n"
       "h = http.server.ThreadingHTTPServer(('127.0.0.1', 0), H); threading.Thread(target=h.serve_forever, daemon=True).start()\n"
       "s = requests.Session()\ndef some(n): [s.get(f'http://127.0.0.1:{h.server_port}/').content for _ in range(n)]\nsome(100)",
       "some(300)", "some(300)"),
    # Caches.
    _p("a cache without a limit", "python-dateutil", "python", GROWTH, "pymalloc", _DATES.format("None") + "some(0, 9)",
       "some(9, 40_000)", "some(40_000, 80_000)"),
    _p("a cache with a limit", "python-dateutil", "python", NONE, "", _DATES.format("5_000") + "some(0, 9_000)",
       "some(9_000, 18_000)", "some(18_000, 27_000)"),
    _p("a cache that fills up to its limit", "cachetools", "python", FIRST, "glibc", _CACHE + "fill(9)", "fill(3_000)", "fill(3_000)"),
    _p("a cache on the disk", "diskcache", "python", NONE, "",
       "import diskcache, os; c = diskcache.Cache('c'); t = os.urandom(60_000)\ndef some(a, b): [c.set(i, t) for i in range(a, b)]\nsome(0, 100)",
       "some(100, 500)", "some(500, 900)"),
    _p("labels without end", "prometheus-client", "python", GROWTH, "pymalloc",
       "import prometheus_client as m; c = m.Counter('n', 'n', ['user'])\ndef some(a, b): [c.labels(f'user {i}').inc() for i in range(a, b)]\nsome(0, 9)",
       "some(9, 20_000)", "some(20_000, 40_000)"),
    _p("spans that nobody exports", "opentelemetry-sdk", "python", GROWTH, "",
       "from opentelemetry.sdk.trace import TracerProvider as P; from opentelemetry.sdk.trace.export import SimpleSpanProcessor as S\n"
       "from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter as E\n"
       "p = P(); p.add_span_processor(S(E())); t = p.get_tracer('x')\n"
       "def some(n):\n    for i in range(n):\n        with t.start_as_current_span('s', attributes={'a': i}): pass\nsome(9)", "some(10_000)", "some(10_000)"),
    _p("fakeredis adds up", "fakeredis", "python", GROWTH, "pymalloc",
       "import fakeredis; r = fakeredis.FakeRedis()\ndef some(a, b): [r.set(f'k{i}', 'x' * 300) for i in range(a, b)]\nsome(0, 9)", "some(9, 25_000)", "some(25_000, 50_000)"),
    # Python objects.
    _p("tasks that wait for ever", "", "python", GROWTH, "pymalloc",
       "import asyncio; loop = asyncio.new_event_loop(); x = []\nasync def wait(): await loop.create_future()\n"
       "def add(n): x.extend(loop.create_task(wait()) for _ in range(n)); loop.run_until_complete(asyncio.sleep(0))\nadd(9)", "add(50_000)", "add(50_000)"),
    _p("circles without a collector", "anytree", "python", GROWTH, "pymalloc",
       "import gc; gc.disable(); from anytree import Node\ndef some(n):\n    for _ in range(n):\n        r = Node('r'); [Node('n', parent=r) for _ in range(20)]\nsome(9)",
       "some(3_000)", "some(3_000)"),
    _p("msgspec keeps one in sixty", "msgspec", "python", SECOND, "pymalloc", _STRUCTS, "x = some(40_000)", "x = x[::60]"),
    _p("msgspec keeps few on dmi", "msgspec", "dmi", NONE, "", _STRUCTS, "x = some(40_000)", "x = x[::4_000]", 4),
    _p("msgspec adds up on dmi", "msgspec", "dmi", GROWTH, "dmi", _STRUCTS, "x = some(10_000)", "x += some(10_000)"),
    _p("pandas keeps one row in a hundred", "pandas", "python", SECOND, "pymalloc",
       "import pandas as pd; pd.Series(['a', 'b'], dtype=object)[::2].copy()",
       "s = pd.Series(['some text %d' % i for i in range(900_000)], dtype=object)", "s = s[::100].copy()"),
    # Large blocks of C and Rust.
    _p("views hold their arrays", "numpy", "python", GROWTH, "glibc", "import numpy as np; x = []\ndef some(n): x.extend(np.ones(4_000_000)[:3] for _ in range(n))",
       "some(3)", "some(3)"),
    _p("arrow on malloc keeps half", "pyarrow", "python", FIRST, "glibc",
       "import os; os.environ['ARROW_DEFAULT_MEMORY_POOL'] = 'system'; import pyarrow as pa, pyarrow.compute as pc; a = pa.array(range(1_000_000)); pc.add(a, 1)",
       "x = [pc.add(a, i) for i in range(20)]", "x = x[:10]"),
    _p("tokenizers keep what they read", "tokenizers", "python", FIRST, "glibc",
       "from tokenizers import Tokenizer, models, pre_tokenizers as p; t = Tokenizer(models.WordLevel({'a': 0, '[UNK]': 1}, unk_token='[UNK]'))\n"
       "t.pre_tokenizer = p.Whitespace(); t.encode('a b c')", "x = [t.encode('a b c ' * 100) for _ in range(3_000)]", "len(x)"),
    _p("an index of places stays", "rtree", "python", FIRST, "glibc", "from rtree import index; i = index.Index(); i.insert(0, (0, 0, 1, 1))",
       "[i.insert(n, (n % 300, n // 300, n % 300 + 1, n // 300 + 1), obj='text %d' % n) for n in range(40_000)]", "i.get_bounds()"),
    _p("bitmaps stay, on dmi", "pyroaring", "dmi", FIRST, "dmi", "from pyroaring import BitMap; BitMap(range(0, 9_000, 2))",
       "x = [BitMap(range(i, i + 200_000, 2)) for i in range(1_500)]", "len(x)"),
    _p("pillow makes small pictures", "pillow", "python", NONE, "",
       "import io; from PIL import Image; b = io.BytesIO(); Image.effect_noise((1600, 1200), 50).convert('RGB').save(b, 'jpeg'); raw = b.getvalue()\n"
       "def some(n):\n    for _ in range(n):\n        p = Image.open(io.BytesIO(raw)); p.thumbnail((99, 99))\nsome(9)", "some(30)", "some(30)"),
    _p("a library leaks", "cffi", "python", GROWTH, "glibc", _CFFI, "leak(6_000)", "leak(6_000)"),
    _p("a library leaks, on dmi", "cffi", "dmi", GROWTH, "dmi", _CFFI, "leak(6_000)", "leak(6_000)"),
    # Pages that no malloc has.
    _p("memory files add up", "numpy", "python", GROWTH, "outside", _MEMFD, "more()", "more()"),
    _p("a private copy of a file", "numpy", "python", GROWTH, "outside",
       "import numpy as np; np.ones(8_000_000).tofile('f'); m = np.memmap('f', mode='c', dtype='f8'); m.sum()", "m[:4_000_000] = 2", "m[4_000_000:] = 2"),
    _p("pages freed lazily", "program:g++", "c++", NONE, "", _PAGES, "p = own(80 << 20, 0);", "madvise(p, 80 << 20, MADV_FREE);"),
    _p("huge pages stay", "program:g++", "c++", GROWTH, "outside", _PAGES, "p = own(64 << 20, MADV_HUGEPAGE);", "p = own(64 << 20, MADV_HUGEPAGE);"),
    _p("a deep stack", "program:g++", "c++", GROWTH, "outside", _THREADS, "start(deep, 1);", "start(deep, 1);"),
    # C++, on glibc and on dmi.
    _p("strings, one in eighty stays", "program:g++", "c++", SECOND, "glibc", _STRINGS, "fill(400000);", "keep(80);"),
    _p("strings, few stay, on dmi", "program:g++", "c++ dmi", NONE, "", _STRINGS, "fill(400000);", "keep(4000);", 4),
    _p("threads let go and wait, on dmi", "program:g++", "c++ dmi", NONE, "", _THREADS, "start(work, 8);", "sleep(1);", 4),
    _p("libxml2 keeps half", "program:g++ program:xml2-config", "c++", FIRST, "glibc", _XML2, "read(4000);", "while (x.size() > 2000) { xmlFreeDoc(x.back()); x.pop_back(); }"),
    _p("a table of glib adds up", "program:g++", "c++", GROWTH, "glibc", _GLIB, "add(9, 150000);", "add(150000, 300000);"),
    # Other languages.
    _p("awk counts and counts", "program:gawk", "gawk -f", GROWTH, "glibc", "x[0] = 1", 'for (i = 0; i < 200000; i++) x["key " i] = "text " i', 'for (i = 0; i < 200000; i++) x["more " i] = "text " i'),
    _p("tcl appends", "program:tclsh", "tcl", GROWTH, "glibc", "set x {}", "for {set i 0} {$i < 200000} {incr i} {lappend x [string repeat x 100]$i}", "for {set i 0} {$i < 200000} {incr i} {lappend x [string repeat y 100]$i}"),
    _p("octave keeps a matrix", "program:octave-cli", "octave --norc", FIRST, "glibc", "a = ones(9); b = a * 2;", "x = ones(6e6, 1); y = x * 2;", "clear x;"),
    _p("sbcl conses", "program:sbcl", "sbcl --script", GROWTH, "outside", "(defvar *x* nil)", "(push (make-array 6000000 :initial-element 1) *x*)", "(push (make-array 6000000 :initial-element 1) *x*)"),
    _p("guile conses", "program:guile", "guile --no-auto-compile -s", GROWTH, "outside", "(define x '())", "(set! x (cons (make-vector 6000000 1) x))", "(set! x (cons (make-vector 6000000 1) x))"),
    _p("memory of wasm", "program:node", "node", GROWTH, "outside", "let x = [];", "x.push(new WebAssembly.Memory({initial: 800})); new Uint8Array(x[0].buffer).fill(1);",
       "x.push(new WebAssembly.Memory({initial: 800})); new Uint8Array(x[1].buffer).fill(1);"),
    _p("lru-cache at its limit", "npm:lru-cache", "node", NONE, "",
       "const { LRUCache } = require('lru-cache'); const c = new LRUCache({max: 5000}); let n = 0;\nconst some = k => { for (let i = 0; i < k; i++) c.set(n++, 'text '.repeat(50) + n); }; some(300000);",
       "some(300000);", "some(300000);"),
    _p("ruby keeps its strings, on dmi", "program:ruby", "ruby dmi", FIRST, "dmi", "a = ['x' * 2_000]", "30_000.times { a << 'x' * 2_000 }", "a << 'y'"),
    _p("perl keeps a hash, on dmi", "program:perl", "perl dmi", FIRST, "dmi", "my %h; $h{0} = 1;", "$h{$_} = 'x' x ($_ % 300) for 1..200000;", "my $n = keys %h;"),
)  # fmt: skip
