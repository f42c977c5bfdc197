"""A fourth set, written after what the third one found was mended: once more other libraries and
situations. Programs and labels were committed before their first run, and no label was changed
after it. `python -m tests.labelled.outside --set fourth`.
"""

# ruff: noqa: E501

from __future__ import annotations

from typing import Final

from .programs import FIRST, GROWTH, NONE, SECOND, _p

__all__ = ["FOURTH"]

_CBOR: Final = "import cbor2; doc = cbor2.dumps({f'k{i}': {'n': i, 's': 'text %d' % i} for i in range(30)}); cbor2.loads(doc)"
_AVRO: Final = (
    "import fastavro, io; s = fastavro.parse_schema({'type': 'record', 'name': 'r', 'fields': [{'name': f'f{i}', 'type': 'string'} for i in range(20)]})\n"
    "b = io.BytesIO(); fastavro.schemaless_writer(b, s, {f'f{i}': 'text %d' % i for i in range(20)}); raw = b.getvalue()\n"
    "def some(n): return [fastavro.schemaless_reader(io.BytesIO(raw), s) for _ in range(n)]\nsome(9)"
)
_SHAPES: Final = "from shapely.geometry import Point; Point(0, 0).buffer(1, 32)"
_SQLITE: Final = (
    "import atexit, subprocess\n"
    "p = subprocess.Popen(['sqlite3', ':memory:'], stdin=-1, stdout=-1, text=True, bufsize=1); atexit.register(p.kill); look = p.pid\n"
    "def ask(text): p.stdin.write(text + '\\n.print done\\n'); p.stdin.flush(); [0 for _ in iter(p.stdout.readline, 'done\\n')]\n"
    "def fill(a, b): ask(f\"insert into t with recursive c(i) as (values({a}) union all select i + 1 from c where i + 1 < {b}) select i, printf('%.900c', 'x') from c;\")\n"
    "ask('create table t(a, b);'); fill(0, 9)"
)

FOURTH: Final = (
    # Large blocks.
    _p("bitarray adds up", "bitarray", "python", GROWTH, "glibc",
       "from bitarray import bitarray\ndef bits():\n    b = bitarray(160_000_000); b.setall(1); return b\nbits()",
       "x = [bits() for _ in range(3)]", "x += [bits() for _ in range(3)]"),
    _p("gmpy2 keeps its numbers", "gmpy2", "python", FIRST, "glibc",
       "import gmpy2; gmpy2.mpz(1) << 900", "x = [(gmpy2.mpz(1) << 8_000_000) + i for i in range(60)]", "len(x)"),
    _p("scikit-image lets go", "scikit-image", "python", NONE, "",
       "import numpy as np; from skimage.filters import gaussian; a = np.ones((3000, 3000)); gaussian(a[:99, :99])",
       "x = [gaussian(a) for _ in range(3)]", "del x"),
    _p("xarray keeps its data", "xarray", "python", FIRST, "glibc",
       "import numpy as np, xarray as xr; xr.Dataset({'a': ('x', np.ones(9))}) * 2",
       "d = xr.Dataset({c: ('x', np.ones(6_000_000)) for c in 'abcd'})", "float(d.a[0])"),
    _p("lz4 lets go", "lz4", "python", NONE, "",
       "import lz4.frame; raw = lz4.frame.compress(bytes(80_000_000)); lz4.frame.decompress(lz4.frame.compress(b'x'))",
       "x = lz4.frame.decompress(raw)", "del x"),
    _p("cryptography adds up tokens", "cryptography", "python", GROWTH, "glibc",
       "from cryptography.fernet import Fernet; f = Fernet(Fernet.generate_key()); x = [f.encrypt(b'x')]",
       "x += [f.encrypt(b'x' * 15_000) for _ in range(2_500)]", "x += [f.encrypt(b'x' * 15_000) for _ in range(2_500)]"),
    # Small ones.
    _p("cbor keeps one in forty", "cbor2", "python", SECOND, "pymalloc", _CBOR,
       "x = [cbor2.loads(doc) for _ in range(12_000)]", "x = x[::40]"),
    _p("cbor keeps one in forty, malloc", "cbor2", "malloc", SECOND, "glibc", _CBOR,
       "x = [cbor2.loads(doc) for _ in range(12_000)]", "x = x[::40]"),
    _p("cbor keeps few on dmi", "cbor2", "dmi", NONE, "", _CBOR,
       "x = [cbor2.loads(doc) for _ in range(12_000)]", "x = x[::400]", 4),
    _p("cbor in threads that wait, on dmi", "cbor2", "dmi", NONE, "", _CBOR + "\nimport threading, queue\nq = queue.Queue()",
       "def work():\n    x = [cbor2.loads(doc) for _ in range(600)]; del x; q.get()\n"
       "t = [threading.Thread(target=work, daemon=True) for _ in range(12)]; [a.start() for a in t]\nimport time; time.sleep(2)", "pass", 4),
    _p("avro adds up", "fastavro", "python", GROWTH, "pymalloc", _AVRO, "x = some(15_000)", "x += some(15_000)"),
    _p("avro adds up on dmi", "fastavro", "dmi", GROWTH, "dmi", _AVRO, "x = some(15_000)", "x += some(15_000)"),
    _p("lark keeps its trees", "lark", "python", FIRST, "pymalloc",
       "from lark import Lark; p = Lark('start: n (\"+\" n)*\\nn: /[0-9]+/', parser='lalr'); p.parse('1+2')",
       "x = [p.parse('+'.join(map(str, range(100)))) for _ in range(500)]", "len(x)"),
    _p("shapely keeps its shapes", "shapely", "python", FIRST, "glibc", _SHAPES,
       "x = [Point(i, 0).buffer(1, 32) for i in range(25_000)]", "len(x)"),
    _p("shapely keeps its shapes on dmi", "shapely", "dmi", FIRST, "dmi", _SHAPES,
       "x = [Point(i, 0).buffer(1, 32) for i in range(25_000)]", "len(x)"),
    _p("intervals that stay", "intervaltree", "python", FIRST, "pymalloc",
       "from intervaltree import Interval, IntervalTree; IntervalTree([Interval(0, 1)])",
       "x = IntervalTree(Interval(i, i + 3, 'text %d' % i) for i in range(40_000))", "len(x)"),
    _p("tinydb adds up", "tinydb", "python", GROWTH, "pymalloc",
       "from tinydb import TinyDB; from tinydb.storages import MemoryStorage; d = TinyDB(storage=MemoryStorage); d.insert({'a': 1})",
       "d.insert_multiple({'a': i, 'b': 'text %d' % i} for i in range(60_000))",
       "d.insert_multiple({'a': i, 'b': 'text %d' % i} for i in range(60_000))"),
    # Steady work.
    _p("mistune renders", "mistune", "python", NONE, "",
       "import mistune; doc = '# t\\n' + 'some *text* and `code`\\n\\n' * 60\ndef some(n): [mistune.html(doc) for _ in range(n)]\nsome(60)", "some(200)", "some(200)"),
    _p("peewee asks", "peewee", "python", NONE, "",
       "import peewee as p; d = p.SqliteDatabase(':memory:')\nclass T(p.Model):\n    a = p.TextField()\n    class Meta: database = d\n"
       "d.create_tables([T]); T.insert_many([{'a': 'x' * 90} for _ in range(900)]).execute()\ndef some(n): [list(T.select()) for _ in range(n)]\nsome(9)", "some(60)", "some(60)"),
    _p("marshmallow dumps", "marshmallow", "python", NONE, "",
       "from marshmallow import Schema, fields\nclass S(Schema):\n    a = fields.Str(); b = fields.Int()\n"
       "def some(n): [S(many=True).dump([{'a': 'x', 'b': i} for i in range(300)]) for _ in range(n)]\nsome(9)", "some(90)", "some(90)"),
    _p("psutil looks around", "psutil", "python", NONE, "",
       "import psutil\ndef some(n): [list(psutil.process_iter(['name', 'memory_info'])) for _ in range(n)]\nsome(5)", "some(15)", "some(15)"),
    _p("greenlets come and go", "gevent", "python", NONE, "",
       "import gevent; gevent.joinall([gevent.spawn(gevent.sleep, 0.01) for _ in range(300)])",
       "x = [gevent.spawn(gevent.sleep, 60) for _ in range(300)]; gevent.sleep(0.1)", "gevent.killall(x); x = None"),
    _p("work in other processes", "gmpy2", "python", NONE, "",
       "import gmpy2; from concurrent.futures import ProcessPoolExecutor as E\ndef f(i): return int(gmpy2.fac(20_000 + i) % 97)\n"
       "e = E(2); list(e.map(f, range(4)))", "list(e.map(f, range(40)))", "list(e.map(f, range(40)))"),
    # Other programs.
    _p("the shell of sqlite keeps its rows", "program:sqlite3", "python", FIRST, "glibc", _SQLITE, "fill(9, 60_000)", "ask('select count(*) from t;')"),
    _p("the shell of sqlite adds up", "program:sqlite3", "python", GROWTH, "glibc", _SQLITE, "fill(9, 60_000)", "fill(60_000, 120_000)"),
    _p("perl keeps what it decoded", "program:perl", "perl", FIRST, "glibc",
       "use JSON::PP; my $j = JSON::PP->new; my @x = ($j->decode('{\"a\":[1]}'));",
       "push @x, $j->decode('{\"a\":[1,2,3,4,5,6,7,8],\"b\":\"' . ('x' x 300) . '\"}') for 1..12000;", "my $n = @x;"),
    _p("lua keeps its strings", "program:lua5.4", "lua", FIRST, "glibc", "a = {}",
       "for i = 1, 200000 do a[i] = string.rep('x', 200) .. i end", "collectgarbage()"),
    _p("java keeps direct buffers", "program:javac", "java", GROWTH, "glibc",
       "java.util.List<java.nio.ByteBuffer> x = new java.util.ArrayList<>(); java.nio.ByteBuffer.allocateDirect(9);",
       "for (int i = 0; i < 3; i++) { java.nio.ByteBuffer b = java.nio.ByteBuffer.allocateDirect(20 << 20); while (b.hasRemaining()) b.put((byte) 1); x.add(b); }",
       "for (int i = 0; i < 3; i++) { java.nio.ByteBuffer b = java.nio.ByteBuffer.allocateDirect(20 << 20); while (b.hasRemaining()) b.put((byte) 1); x.add(b); }"),
    _p("go makes garbage", "program:go", "go", NONE, "",
       "some := func(n int) { for i := 0; i < n; i++ { b := make([]byte, 1<<18); for j := range b { b[j] = 1 }; x = [][]byte{b} } }; some(300)", "some(600)", "some(600)"),
    _p("r adds up", "program:Rscript", "r", GROWTH, "glibc", "x <- list(rnorm(9)); invisible(gc())",
       "x <- c(x, lapply(1:3, function(i) rnorm(5e6)))", "x <- c(x, lapply(1:3, function(i) rnorm(5e6)))"),
    _p("php adds up", "program:php", "php", GROWTH, "outside", "$a = [1];",
       "for ($i = 0; $i < 200000; $i++) $a[] = str_repeat('x', 100 + $i % 200);", "for ($i = 0; $i < 200000; $i++) $a[] = str_repeat('y', 100 + $i % 200);"),
    _p("ruby adds up", "program:ruby", "ruby", GROWTH, "glibc", "$a = ['x' * 1_000_000]",
       "60.times { $a << 'x' * 1_000_000 }", "60.times { $a << 'x' * 1_000_000 }"),
)  # fmt: skip
