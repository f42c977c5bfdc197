"""A third set: other libraries and other situations than the first two. Programs and labels were
committed before their first run, and no label was changed after it. What that run and later ones
gave is in docs/diagnosis.md. `python -m tests.labelled.outside --set third`.

Servers are looked at, not the program that asks them: it leaves their number in ``look``.
"""

# ruff: noqa: E501

from __future__ import annotations

from typing import Final

from .programs import FIRST, GROWTH, NONE, SECOND, _p

__all__ = ["THIRD"]

_BSON: Final = "import bson; doc = bson.encode({f'k{i}': {'n': i, 's': 'text %d' % i} for i in range(30)}); bson.decode(doc)"
_XML: Final = (
    "import xmltodict; from concurrent.futures import ThreadPoolExecutor as T\n"
    "doc = '<r>' + ''.join(f'<a k=\"{i}\"><b>text {i}</b></a>' for i in range(100)) + '</r>'; xmltodict.parse(doc)\n"
    "def some(n): return [xmltodict.parse(doc) for _ in range(n)]"
)
_ZMQ: Final = (
    "import zmq; c = zmq.Context(); a = c.socket(zmq.PULL); a.set_hwm(0); a.bind('inproc://x')\n"
    "b = c.socket(zmq.PUSH); b.set_hwm(0); b.connect('inproc://x')\n"
    "def send(n):\n    for _ in range(n): b.send(b'x' * 4000)\nsend(10)"
)
_LRU: Final = (
    "import cachetools, itertools; c = cachetools.LRUCache(2_000); n = itertools.count()\n"
    "def fill(k):\n    for i in itertools.islice(n, k): c[i] = bytes(20_000)\nfill(2_500)"
)
_REDIS: Final = (
    "import atexit, redis, subprocess, time\n"
    "p = subprocess.Popen(['redis-server', '--port', '0', '--unixsocket', 'r', '--save', '', '--appendonly', 'no'], stdout=-3)\n"
    "atexit.register(p.kill); look = p.pid; r = redis.Redis(unix_socket_path='r')\n"
    "for _ in range(100):\n"
    "    try: r.ping(); break\n"
    "    except redis.ConnectionError: time.sleep(0.1)\n"
    "def fill(a, b):\n"
    "    for s in range(a, b, 1000):\n"
    "        q = r.pipeline(False); [q.set(f'k{i}', 'v' * 300) for i in range(s, s + 1000)]; q.execute()\n"
    "fill(0, 1000)"
)
_MEMCACHED: Final = (
    "import atexit, subprocess, time; from pymemcache.client.base import Client\n"
    "p = subprocess.Popen(['memcached', '-u', 'root', '-m', '48', '-s', 'm'], stdout=-3); atexit.register(p.kill)\n"
    "look = p.pid; time.sleep(1); c = Client('unix:m', default_noreply=False)\n"
    "def fill(a, b):\n"
    "    for s in range(a, b, 500): c.set_many({f'k{i}': 'v' * 500 for i in range(s, s + 500)})"
)
_NGINX: Final = (
    "import atexit, http.client, os, socket, subprocess, time\n"
    "s = socket.socket(); s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]; s.close()\n"
    "open('page', 'w').write('x' * 100_000); os.chmod('.', 0o755)\n"
    "open('conf', 'w').write('daemon off; master_process off; pid n.pid; error_log e; events {} http { access_log off; '\n"
    "    'client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5; '\n"
    "    'server { listen 127.0.0.1:%d; root %s; } }' % (port, os.getcwd()))\n"
    "p = subprocess.Popen(['nginx', '-p', os.getcwd(), '-c', 'conf'], stdout=-3, stderr=-3); atexit.register(p.kill)\n"
    "look = p.pid; time.sleep(1)\n"
    "def ask(n):\n"
    "    c = http.client.HTTPConnection('127.0.0.1', port)\n"
    "    for _ in range(n): c.request('GET', '/page'); assert len(c.getresponse().read()) == 100_000\n"
    "ask(100)"
)
_POSTGRES: Final = (
    "import atexit, os, psycopg, pwd, shutil, subprocess, tempfile, time\n"
    "d = tempfile.mkdtemp(); who = {}; atexit.register(shutil.rmtree, d, True)\n"
    "if os.getuid() == 0:\n"
    "    u = pwd.getpwnam('postgres'); os.chown(d, u.pw_uid, u.pw_gid); who = dict(user=u.pw_uid, group=u.pw_gid, extra_groups=[])\n"
    "subprocess.run(['initdb', '-D', d + '/db', '-A', 'trust', '-U', 'postgres', '-N'], check=True, stdout=-3, cwd=d, **who)\n"
    "p = subprocess.Popen(['postgres', '-D', d + '/db', '-k', d, '-h', '', '-c', 'shared_buffers=400MB', '-c', 'fsync=off', '-c', 'autovacuum=off',\n"
    "    '-c', 'max_parallel_workers_per_gather=0'], stdout=-3, stderr=-3, cwd=d, **who)\n"
    "atexit.register(p.wait, 10); atexit.register(p.terminate)\n"
    "def connect(): return psycopg.connect(host=d, user='postgres', autocommit=True)\n"
    "for _ in range(100):\n"
    "    try: a = connect(); break\n"
    "    except psycopg.OperationalError: time.sleep(0.1)\n"
    "b = connect(); look = b.execute('select pg_backend_pid()').fetchone()[0]\n"
)
_GO_MORE: Final = "more := func(n int) { for i := 0; i < n; i++ { b := make([]byte, 1<<20); for j := range b { b[j] = 1 }; x = append(x, b) } }; more(1)"

THIRD: Final = (
    # Pictures, figures, numbers.
    _p("opencv lets go", "opencv-python-headless", "python", NONE, "",
       "import cv2, numpy as np; a = np.ones((4000, 4000, 3), 'u1'); b = cv2.GaussianBlur(a, (9, 9), 0); del b",
       "x = [cv2.GaussianBlur(a, (9, 9), i) for i in range(4)]", "del x"),
    _p("opencv keeps its frames", "opencv-python-headless", "python", FIRST, "glibc",
       "import cv2, numpy as np; a = np.ones((540, 960, 3), 'u1'); b = cv2.resize(a, (1920, 1080))",
       "x = [cv2.resize(a, (1920, 1080)) for _ in range(30)]", "len(x)"),
    _p("matplotlib figures that nobody closes", "matplotlib", "python", FIRST, "glibc",
       "import matplotlib; matplotlib.use('agg'); import matplotlib.pyplot as plt\n"
       "def draw():\n    f = plt.figure(figsize=(20, 15)); f.add_subplot().plot(range(9)); f.canvas.draw(); return f\nplt.close(draw())",
       "for _ in range(12): draw()", "import gc; gc.collect()"),
    _p("scikit-learn adds up trees", "scikit-learn", "python", GROWTH, "glibc",
       "import numpy as np; from sklearn.neighbors import KDTree; a = np.random.default_rng(1).random((300_000, 8)); KDTree(a[:99])",
       "x = [KDTree(a) for _ in range(2)]", "x += [KDTree(a) for _ in range(2)]"),
    _p("faiss keeps its index", "faiss-cpu numpy", "python", FIRST, "glibc",
       "import faiss, numpy as np; i = faiss.IndexFlatL2(128); i.add(np.ones((10, 128), 'f4'))",
       "i.add(np.ones((200_000, 128), 'f4'))", "i.ntotal"),
    _p("numexpr lets go", "numexpr numpy", "python", NONE, "",
       "import numexpr, numpy as np; a = np.ones(6_000_000); numexpr.evaluate('a * 2').sum()",
       "x = [numexpr.evaluate('a * 2 + 1') for _ in range(4)]", "del x"),
    _p("arrow lets go", "pyarrow", "python", NONE, "",
       "import pyarrow as pa, pyarrow.compute as pc; a = pa.array(range(3_000_000)); pc.add(a, 1)",
       "x = [pc.add(a, i) for i in range(5)]", "del x; pa.default_memory_pool().release_unused()", 3),
    # Files, and what is written to them.
    _p("hdf5 reads and writes", "h5py numpy", "python", NONE, "",
       "import h5py, numpy as np; f = h5py.File('a', 'w'); f['x'] = np.ones(9)",
       "f['y'] = np.ones(8_000_000); z = f['y'][:]", "del z; f.flush()"),
    _p("a file that is written through memory", "numpy", "python", NONE, "",
       "import numpy as np; m = np.memmap('f', 'u1', 'w+', shape=80 << 20); m[:9] = 1", "m[:] = 1", "m.flush()"),
    _p("lmdb is read", "lmdb", "python", NONE, "",
       "import lmdb; e = lmdb.open('d', map_size=1 << 30)\n"
       "for t in range(80):\n"
       "    with e.begin(write=True) as w: [w.put(b'%08d' % (t * 1000 + i), b'x' * 1000) for i in range(1000)]\n"
       "e.close(); e = lmdb.open('d', readonly=True)",
       "with e.begin() as t: print(sum(len(v) for _, v in t.cursor()), file=open('n', 'w'))",
       "with e.begin() as t: print(sum(len(v) for _, v in t.cursor()), file=open('n', 'w'))"),
    _p("lmdb keeps the pages of a transaction", "lmdb", "python", FIRST, "glibc",
       "import lmdb; e = lmdb.open('d', map_size=1 << 30)\n"
       "def put(n):\n    with e.begin(write=True) as w: [w.put(b'%08d' % i, b'x' * 1000) for i in range(n)]\nput(10)",
       "put(60_000)", "e.sync()"),
    _p("sqlite keeps its page cache", "apsw", "python", FIRST, "glibc",
       "import apsw, subprocess, sys\n"
       "subprocess.run([sys.executable, '-c', 'import apsw; c = apsw.Connection(\"a\"); c.execute(\"create table t(a, b)\")\\n'\n"
       "    'with c: c.executemany(\"insert into t values(?, ?)\", ((i, \"x\" * 1000) for i in range(80_000)))'], check=True)\n"
       "c = apsw.Connection('a'); c.execute('pragma cache_size=-200000').fetchall(); c.execute('select 1').fetchall()",
       "c.execute('select sum(length(b)) from t').fetchall()", "c.execute('select sum(length(b)) from t').fetchall()"),
    # Web and queues.
    _p("aiohttp keeps what it was sent", "aiohttp", "python", GROWTH, "glibc",
       "import asyncio, aiohttp; from aiohttp import web\nkept = []\n"
       "async def take(r): kept.append(await r.read()); return web.Response(text='ok')\n"
       "async def start():\n"
       "    app = web.Application(); app.router.add_post('/', take); run = web.AppRunner(app); await run.setup()\n"
       "    s = web.TCPSite(run, '127.0.0.1', 0); await s.start(); return s._server.sockets[0].getsockname()[1]\n"
       "async def send(n):\n"
       "    async with aiohttp.ClientSession() as c:\n"
       "        for _ in range(n):\n"
       "            async with c.post(f'http://127.0.0.1:{port}/', data=b'x' * 30_000) as a: await a.text()\n"
       "loop = asyncio.new_event_loop(); port = loop.run_until_complete(start()); loop.run_until_complete(send(50))",
       "loop.run_until_complete(send(2_500))", "loop.run_until_complete(send(2_500))"),
    _p("flask answers", "flask", "python", NONE, "",
       "import flask; app = flask.Flask('a')\n@app.route('/')\ndef page(): return 'x' * 50_000\n"
       "c = app.test_client()\ndef ask(n): [c.get('/').data for _ in range(n)]\nask(100)",
       "ask(1_500)", "ask(1_500)"),
    _p("django remembers its queries", "django", "python", FIRST, "glibc",
       "import django; from django.conf import settings\n"
       "settings.configure(DEBUG=True, DATABASES={'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}})\n"
       "django.setup(); from django.db import connection\n"
       "def ask(n):\n    with connection.cursor() as c: [c.execute(\"select '%s'\" % ('x' * 6000)).fetchall() for _ in range(n)]\nask(10)",
       "ask(10_000)", "ask(10_000)"),
    _p("celery's queue that nobody reads", "celery", "python", GROWTH, "glibc",
       "from celery import Celery; app = Celery('a', broker='memory://')\n"
       "def send(n): [app.send_task('t', ['x' * 20_000]) for _ in range(n)]\nsend(20)",
       "send(2_500)", "send(2_500)"),
    _p("zeromq's queue that nobody reads", "pyzmq", "python", GROWTH, "glibc", _ZMQ, "send(20_000)", "send(20_000)"),
    _p("zeromq's queue that nobody reads on dmi", "pyzmq", "dmi", GROWTH, "dmi", _ZMQ, "send(20_000)", "send(20_000)"),
    _p("zstandard keeps a compressor each", "zstandard", "python", FIRST, "glibc",
       "import os, zstandard; raw = os.urandom(1 << 20); zstandard.ZstdCompressor(level=12).compress(raw)",
       "x = [zstandard.ZstdCompressor(level=12).compressobj() for _ in range(8)]; [o.compress(raw) for o in x]", "len(x)"),
    # Caches and objects.
    _p("a cache at its limit", "cachetools", "python", NONE, "", _LRU, "fill(10_000)", "fill(10_000)"),
    _p("a cache at its limit on dmi", "cachetools", "dmi", NONE, "", _LRU, "fill(10_000)", "fill(10_000)", 4),
    _p("bson keeps one in forty", "pymongo", "python", SECOND, "pymalloc", _BSON,
       "x = [bson.decode(doc) for _ in range(12_000)]", "x = x[::40]"),
    _p("bson keeps one in forty, malloc", "pymongo", "malloc", SECOND, "glibc", _BSON,
       "x = [bson.decode(doc) for _ in range(12_000)]", "x = x[::40]"),
    _p("bson keeps few and trims", "pymongo", "malloc", NONE, "", _BSON + "; import ctypes",
       "x = [bson.decode(doc) for _ in range(12_000)]", "x = x[::400]; ctypes.CDLL(None).malloc_trim(0)"),
    _p("bson keeps few on dmi", "pymongo", "dmi", NONE, "", _BSON,
       "x = [bson.decode(doc) for _ in range(12_000)]", "x = x[::400]", 4),
    _p("openpyxl keeps a workbook", "openpyxl", "python", FIRST, "pymalloc",
       "import openpyxl; w = openpyxl.Workbook(); s = w.active; s.append(['a'])",
       "for i in range(15_000): s.append(['text %d %d' % (i, j) for j in range(10)])", "s.max_row"),
    _p("rdflib adds up", "rdflib", "python", GROWTH, "pymalloc",
       "from rdflib import Graph, URIRef as U, Literal as L; g = Graph()\n"
       "def add(a, b):\n    for i in range(a, b): g.add((U('http://e/s%d' % i), U('http://e/p%d' % (i % 7)), L('v %d' % i)))\nadd(0, 10)",
       "add(10, 20_000)", "add(20_000, 40_000)"),
    _p("html trees that nobody collects", "html5lib", "python", GROWTH, "pymalloc",
       "import gc, html5lib; gc.disable(); doc = ''.join(f'<p id={i}><b>{i}</b> text</p>' for i in range(60))\n"
       "def parse(n):\n    for _ in range(n): html5lib.parse(doc, treebuilder='dom')\nparse(1)",
       "parse(120)", "parse(120)"),
    # Threads and processes.
    _p("threads leave their arenas", "xmltodict", "malloc", SECOND, "glibc", _XML,
       "with T(8) as t: x = list(t.map(some, [150] * 8))", "x = [d for each in x for d in each[::50]]"),
    _p("threads leave nothing on dmi", "xmltodict", "dmi", NONE, "", _XML,
       "with T(8) as t: x = list(t.map(some, [150] * 8))", "x = [d for each in x for d in each[::150]]", 4),
    _p("a pool of processes", "numpy", "python", NONE, "",
       "import multiprocessing, numpy as np; x = np.ones(3_000_000)\ndef f(i): return float((x * i).sum())\n"
       "p = multiprocessing.get_context('fork').Pool(2); p.map(f, range(4))",
       "p.map(f, range(40))", "p.map(f, range(40))"),
    _p("shared memory adds up", "numpy", "python", GROWTH, "outside",
       "import numpy as np; from multiprocessing.shared_memory import SharedMemory as S; x = []\n"
       "def more(n):\n"
       "    for _ in range(n): x.append(S(create=True, size=20 << 20)); np.frombuffer(x[-1].buf, 'u1')[:] = 1\n",
       "more(3)", "more(3)"),
    # Servers.
    _p("redis fills up", "program:redis-server redis", "python", GROWTH, "jemalloc", _REDIS, "fill(0, 200_000)", "fill(200_000, 400_000)"),
    _p("redis is flushed", "program:redis-server redis", "python", NONE, "", _REDIS, "fill(0, 200_000)", "r.flushall(); r.memory_purge()", 3),
    _p("memcached at its limit", "program:memcached pymemcache", "python", NONE, "", _MEMCACHED + "\nfill(0, 150_000)",
       "fill(150_000, 300_000)", "fill(300_000, 450_000)"),
    _p("memcached fills up to its limit", "program:memcached pymemcache", "python", FIRST, "glibc", _MEMCACHED + "\nfill(0, 500)",
       "fill(0, 150_000)", "fill(150_000, 300_000)"),
    _p("nginx serves a file", "program:nginx", "python", NONE, "", _NGINX, "ask(3_000)", "ask(3_000)"),
    _p("postgres reads its shared buffers", "program:postgres psycopg[binary]", "python", NONE, "",
       _POSTGRES + "a.execute('create table t as select i, repeat(chr(97), 900) s from generate_series(1, 80000) g(i)'); a.execute('select sum(length(s)) from t')",
       "b.execute('select sum(length(s)) from t').fetchall()", "b.execute('select sum(length(s)) from t').fetchall()"),
    _p("postgres prepares and prepares", "program:postgres psycopg[binary]", "python", GROWTH, "glibc",
       _POSTGRES + "query = ' union all '.join(f'select relname, {i} from pg_class where oid = {i}' for i in range(20))\n"
       "def prepare(a, c):\n    for i in range(a, c): b.execute(f'prepare s{i} as {query}'); b.execute(f'execute s{i}').fetchall()\nprepare(0, 2)",
       "prepare(2, 300)", "prepare(300, 600)"),
    # Other languages.
    _p("java keeps its arrays", "program:javac", "java", GROWTH, "outside",
       "java.util.List<byte[]> x = new java.util.ArrayList<>(); for (int i = 0; i < 5; i++) x.add(new byte[1 << 20]);",
       "for (int i = 0; i < 60; i++) { byte[] b = new byte[1 << 20]; java.util.Arrays.fill(b, (byte) 1); x.add(b); }",
       "for (int i = 0; i < 60; i++) { byte[] b = new byte[1 << 20]; java.util.Arrays.fill(b, (byte) 1); x.add(b); }"),
    _p("java in a heap of fixed size", "program:javac", "java -Xms96m -Xmx96m -XX:+AlwaysPreTouch", NONE, "",
       "byte[] b = null; for (int i = 0; i < 500; i++) b = new byte[1 << 20];",
       "for (int i = 0; i < 500; i++) b = new byte[1 << 20];", "for (int i = 0; i < 500; i++) b = new byte[1 << 20];"),
    _p("go keeps its slices", "program:go", "go", GROWTH, "Go", _GO_MORE, "more(80)", "more(80)"),
    _p("go gives back", "program:go", "go", NONE, "", _GO_MORE, "more(80)", "x = x[:1:1]; x = append([][]byte{}, x...); debug.FreeOSMemory()"),
    _p("r keeps one in six", "program:Rscript", "r", FIRST, "glibc", "x <- rnorm(9)",
       "x <- lapply(1:6, function(i) rnorm(5e6))", "x <- x[1]; invisible(gc())"),
    _p("r lets go", "program:Rscript", "r", NONE, "", "x <- rnorm(9); invisible(gc())",
       "x <- lapply(1:6, function(i) rnorm(5e6))", "x <- NULL; invisible(gc())"),
    _p("immutable adds up", "npm:immutable", "node", GROWTH, "outside",
       "const { Map } = require('immutable'); let m = Map(); const add = (a, b) => { m = m.withMutations(w => { for (let i = a; i < b; i++) w.set('k' + i, {i, s: 'text ' + i}); }); }; add(0, 10)",
       "add(10, 200000)", "add(200000, 400000)"),
    _p("node keeps its buffers", "program:node", "node", GROWTH, "glibc", "const x = [Buffer.alloc(9)]",
       "for (let i = 0; i < 6; i++) x.push(Buffer.alloc(10 << 20).fill(1))", "for (let i = 0; i < 6; i++) x.push(Buffer.alloc(10 << 20).fill(1))"),
    _p("node lets its buffers go", "program:node", "node", NONE, "",
       "require('v8').setFlagsFromString('--expose-gc'); const gc = require('vm').runInNewContext('gc'); let x = [Buffer.alloc(20 << 20).fill(1)]; x = []; gc()",
       "for (let i = 0; i < 6; i++) x.push(Buffer.alloc(20 << 20).fill(1))", "x = []; gc(); gc()", 1.5),
    _p("ruby keeps one in two hundred", "program:ruby", "ruby", SECOND, "glibc",
       "$a = []\ndef peak() $a = (1..300000).map { |i| 'x' * (100 + i % 200) } end\ndef rest() $a = $a.each_slice(200).map(&:first) end",
       "peak; nil", "rest; 3.times { GC.start }"),
    _p("php lets go", "program:php", "php", NONE, "", "$a = [1];",
       "for ($i = 0; $i < 300000; $i++) $a[] = str_repeat('x', 100 + $i % 200);", "$a = []; gc_collect_cycles(); gc_mem_caches();"),
)  # fmt: skip
