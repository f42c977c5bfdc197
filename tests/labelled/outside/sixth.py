"""A sixth set: other libraries and languages once more, children that share pages with their parent,
files in memory, threads that come and go, mappings of which half went, a top of the heap that stays,
collectors, growth too small to mind. Programs and labels were committed before their first run and
before what the doctor learned after the fifth set, and no label was changed after it.
`python -m tests.labelled.outside --set sixth`.
"""

# ruff: noqa: E501

from __future__ import annotations

from typing import Final

from .programs import FIRST, GROWTH, NONE, SECOND, _p

__all__ = ["SIXTH"]

_SIMPLE: Final = (
    "import simplejson; doc = simplejson.dumps([['n%d' % i, i * 1000, 'text %d' % i] for i in range(20)])\n"
    "def some(n): return [simplejson.loads(doc) for _ in range(n)]\nsome(9)"
)
_DOGPILE: Final = (
    "import os; from dogpile.cache import make_region; r = make_region().configure('dogpile.cache.memory')\n"
    "def ask(a, b):\n    for i in range(a, b): r.get_or_create('page %d' % i, lambda: os.urandom(8_000))\nask(0, 9)"
)
_CHILD: Final = (
    "import os, immutables\nx = [immutables.Map({{'key %d' % i: 'text %d' % i for i in range(200_000)}})]\n"
    "a, b = os.pipe(); c, d = os.pipe(); look = os.fork()\n"
    "if not look:\n    os.close(b)\n    while n := os.read(a, 1):\n        {}\n        os.write(d, b'.')\n    os._exit(0)\n"
    "def ask(): os.write(b, b'.'); os.read(c, 1)\nask()"
)
_XLSX: Final = (
    "import xlsxwriter; w = xlsxwriter.Workbook('a.xlsx', {'constant_memory': True, 'tmpdir': '/dev/shm'}); s = w.add_worksheet()\n"
    "def rows(a, b):\n    for i in range(a, b): s.write_row(i, 0, [i, 'text %d' % i] * 5)\nrows(0, 2_000)"
)
_C: Final = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <vector>\n"
_OWN: Final = (
    _C
    + "__attribute__((noinline)) static char *own(size_t n) { char *p = (char *)malloc(n); memset(p, 1, n); return p; }\n"
    "static std::vector<char *> x;\nstatic void fill(size_t n) { while (n--) x.push_back(own(200)); }\n"
    "static void keep(size_t each) { for (size_t i = 0; i < x.size(); i++) if (i % each) { free(x[i]); x[i] = 0; } }\n"
)
_WAVES: Final = (
    "//\n" + _OWN + "#include <pthread.h>\n"
    "static void *work(void *) { std::vector<char *> y; for (int i = 0; i < 40000; i++) y.push_back(own(200)); for (char *p : y) free(p); return 0; }\n"
    "static void wave(int n) { std::vector<pthread_t> t(n); for (auto &a : t) pthread_create(&a, 0, work, 0); for (auto &a : t) pthread_join(a, 0); }\n"
    "int main() { wave(8); wave(8);"
)
_SEGMENTS: Final = (
    "//\n" + _C + "#include <sys/ipc.h>\n#include <sys/shm.h>\n"
    "static void more() { int k = shmget(IPC_PRIVATE, 30 << 20, 0600); char *p = (char *)shmat(k, 0, 0); memset(p, 1, 30 << 20); shmctl(k, IPC_RMID, 0); }\n"
    "int main() {"
)
_HALF: Final = "//\n" + _C + "#include <sys/mman.h>\nint main() { char *p = 0;"
_JEMALLOC: Final = (
    "// -l:libjemalloc.so.2\n"
    + _OWN
    + 'extern "C" int mallctl(const char *, void *, size_t *, void *, size_t);\nint main() { x.reserve(500000); fill(9);'
)
_YAML: Final = (
    "// -lyaml\n" + _C + "#include <yaml.h>\n#include <string>\nstatic void read(int n) {\n"
    '  std::string t; for (int i = 0; i < 20; i++) t += "key " + std::to_string(i) + ": some text in it\\n";\n'
    "  while (n--) { yaml_parser_t p; yaml_document_t d; yaml_parser_initialize(&p); yaml_parser_set_input_string(&p, (const unsigned char *)t.data(), t.size());\n"
    "    yaml_parser_load(&p, &d); yaml_parser_delete(&p); } }\n"
    "int main() { read(9);"
)
_BOEHM: Final = (
    "// -lgc\n"
    + _C
    + "#include <gc.h>\nstatic char *volatile x;\nstatic void some(int n) { while (n--) { x = (char *)GC_MALLOC(200); memset(x, 1, 200); } }\n"
    "int main() { GC_INIT(); some(600000);"
)
_LIBXML: Final = "use XML::LibXML; my $p = XML::LibXML->new; my $t = '<r>' . ('<a k=\"1\"><b>some text in it</b></a>' x 60) . '</r>'; my @x = ($p->parse_string($t));"
_DOM: Final = (
    "$t = '<r>' . str_repeat('<a k=\"1\"><b>some text in it</b></a>', 60) . '</r>'; $x = [];\n"
    "function more($n) { global $x, $t; for ($i = 0; $i < $n; $i++) { $d = new DOMDocument; $d->loadXML($t); $x[] = $d; } }\nmore(9);"
)
_BOXES: Final = "let fill = |n: usize| -> Vec<Vec<u8>> { (0..n).map(|i| vec![1u8; 150 + i % 100]).collect() }; let mut x = fill(9);"
_FIXED: Final = "java -Xms64m -Xmx64m -XX:+AlwaysPreTouch"
_JAVA: Final = (
    "Runnable r = () -> { byte[] b = new byte[1 << 18]; java.util.Arrays.fill(b, (byte) 1); };\n"
    "Runnable some = () -> { for (int i = 0; i < 200; i++) { Thread t = new Thread(r); t.start(); try { t.join(); } catch (InterruptedException e) { } } };\n"
    "some.run(); some.run();"
)

SIXTH: Final = (
    # Small objects of Python.
    _p("simplejson keeps one in eighty", "simplejson", "python", SECOND, "pymalloc", _SIMPLE, "x = some(20_000)", "x = x[::80]"),
    _p("simplejson keeps few on dmi", "simplejson", "dmi", NONE, "", _SIMPLE, "x = some(20_000)", "x = x[::4_000]", 4),
    _p("a trie of strings stays", "pygtrie", "python", FIRST, "pymalloc",
       "import pygtrie; t = pygtrie.CharTrie(); t['a'] = 1", "t.update(('key %d' % i, i) for i in range(60_000))", "len(t)"),
    _p("pyparsing parses", "pyparsing", "python", NONE, "",
       "import pyparsing as p; e = p.Group(p.Word(p.nums) + p.Optional(',').suppress())[1, ...]; doc = ', '.join(map(str, range(200)))\n"
       "def some(n): [e.parse_string(doc) for _ in range(n)]\nsome(30)", "some(60)", "some(60)"),
    _p("pygments colours", "pygments", "python", NONE, "",
       "import pygments, inspect, argparse; from pygments.lexers import PythonLexer as L; from pygments.formatters import HtmlFormatter as F\n"
       "doc = inspect.getsource(argparse)[:20_000]\ndef some(n): [pygments.highlight(doc, L(), F()) for _ in range(n)]\nsome(15)", "some(30)", "some(30)"),
    _p("tasks of trio come and go", "trio", "python", NONE, "",
       "import trio\nasync def all(n):\n    async with trio.open_nursery() as t:\n        for _ in range(n): t.start_soon(trio.sleep, 0.1)\n"
       "def some(n): trio.run(all, n)\nsome(2_000); some(2_000)", "some(2_000)", "some(2_000)"),
    _p("a registry grows a little", "blinker", "python", NONE, "",
       "import blinker; s = blinker.signal('a'); x = []\ndef more(n):\n    for i in range(n): f = lambda s, i=i: i; x.append(f); s.connect(f)\nmore(9)",
       "more(500)", "more(500)"),
    # Caches, with a limit and without.
    _p("loguru's last lines", "loguru", "python", NONE, "",
       "import collections, loguru; last = collections.deque(maxlen=5_000); loguru.logger.remove(); loguru.logger.add(lambda m: last.append(str(m)))\n"
       "def some(n):\n    for i in range(n): loguru.logger.info('line {}', i)\nsome(12_000)", "some(12_000)", "some(12_000)"),
    _p("dogpile remembers every page", "dogpile.cache", "python", GROWTH, "glibc", _DOGPILE, "ask(9, 4_000)", "ask(4_000, 8_000)"),
    _p("dogpile remembers every page, on dmi", "dogpile.cache", "dmi", GROWTH, "dmi", _DOGPILE, "ask(9, 4_000)", "ask(4_000, 8_000)"),
    _p("mnemonist at its limit", "npm:mnemonist", "node", NONE, "",
       "const L = require('mnemonist/lru-cache'); const c = new L(5000); let n = 0;\nconst some = k => { for (let i = 0; i < k; i++) c.set(n++, 'text '.repeat(50) + n); }; some(300000);",
       "some(300000);", "some(300000);"),
    # Files.
    _p("a trie in a mapped file", "marisa-trie", "python", NONE, "",
       "import marisa_trie; marisa_trie.Trie('key %d' % (i * 7919 % 1_000_003) for i in range(400_000)).save('t'); t = marisa_trie.Trie().mmap('t')\n"
       "def some(a, b): return sum('key %d' % i in t for i in range(a, b))\nsome(0, 900)", "some(0, 200_000)", "some(200_000, 400_000)"),
    _p("a sheet written to memory's files", "xlsxwriter", "python", NONE, "", _XLSX, "rows(2_000, 20_000)", "rows(20_000, 40_000)"),
    _p("segments of system v add up", "program:g++", "c++", GROWTH, "outside", _SEGMENTS, "more();", "more();"),
    # Children.
    _p("a child reads what it inherited", "immutables", "python", NONE, "", _CHILD.format("sum(map(len, x[0].values()))"), "ask()", "ask()"),
    _p("a child adds to what it inherited", "immutables", "python", GROWTH, "pymalloc",
       _CHILD.format("x.append(immutables.Map({'more %d %d' % (len(x), i): 'text %d' % i for i in range(100_000)}))"), "ask()", "ask()"),
    _p("loky works in children", "loky", "python", NONE, "",
       "from loky import get_reusable_executor as g; e = g(2)\ndef some(n): return sum(e.map(len, ['text'] * n))\nsome(300)", "some(900)", "some(900)"),
    # Arrays.
    _p("rapidfuzz compares", "rapidfuzz numpy", "python", NONE, "",
       "from rapidfuzz.process import cdist; w = ['some word %d' % i for i in range(1_500)]\ndef some(n):\n    for _ in range(n): cdist(w, w)\nsome(3)", "some(3)", "some(3)"),
    # C++ with libraries of Debian.
    _p("half of a mapping goes", "program:g++", "c++", GROWTH, "outside", _HALF,
       "p = (char *)mmap(0, 80 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); memset(p, 1, 80 << 20);", "madvise(p, 40 << 20, MADV_DONTNEED);"),
    _p("threads come and go", "program:g++", "c++", NONE, "", _WAVES, "wave(8);", "wave(8);"),
    _p("threads come and go, on dmi", "program:g++", "c++ dmi", NONE, "", _WAVES, "wave(8);", "wave(8);", 4),
    _p("huge pages of malloc, one block in eighty stays", "program:g++", "c++ GLIBC_TUNABLES=glibc.malloc.hugetlb=1", SECOND, "glibc",
       "//\n" + _OWN + "int main() { x.reserve(500000); fill(99);", "fill(400000);", "keep(80);"),
    _p("the top of the heap stays", "program:g++", "c++", SECOND, "glibc",
       # A large block that goes raises the size from which malloc maps, and what it keeps at the top.
       "//\n" + _OWN + "int main() { free(own(20 << 20));", "for (int i = 0; i < 3; i++) x.push_back(own(10 << 20));", "for (char *p : x) free(p);"),
    _p("jemalloc is purged", "program:g++", "c++", NONE, "", _JEMALLOC, "fill(400000);",
       'keep(~0ul); mallctl("thread.tcache.flush", 0, 0, 0, 0); mallctl("arena.4096.purge", 0, 0, 0, 0);'),
    _p("documents of libyaml are forgotten", "program:g++", "c++", GROWTH, "glibc", _YAML, "read(3000);", "read(3000);"),
    _p("garbage of libgc", "program:g++", "c++", NONE, "", _BOEHM, "some(600000);", "some(600000);"),
    # Perl, PHP, Ruby, Lua: malloc below, and on two of them dmi.
    _p("circles of perl", "program:perl", "perl", GROWTH, "glibc",
       "sub more { for (1..$_[0]) { my $a = {n => 'x' x 100}; my $b = {a => $a}; $a->{b} = $b; } } more(9);", "more(50000);", "more(50000);"),
    _p("perl keeps half of its documents", "program:perl", "perl", FIRST, "glibc", _LIBXML, "push @x, $p->parse_string($t) for 1..4000;", "$#x = 1999;"),
    _p("php keeps its documents", "program:php", "php", FIRST, "glibc", _DOM, "more(2000);", "count($x);"),
    _p("php keeps its documents, on dmi", "program:php", "php dmi", FIRST, "dmi", _DOM, "more(2000);", "count($x);"),
    _p("ruby keeps what it parsed", "program:ruby", "ruby", FIRST, "glibc",
       "require 'json'; doc = JSON.generate((1..60000).map { |i| 'text ' * 120 + i.to_s }); JSON.parse('[1]')", "$x = JSON.parse(doc)", "$x.size"),
    _p("garbage of ruby", "program:ruby", "ruby", NONE, "", "def some(n) n.times { |i| 'x' * (100 + i % 200) } end\nsome(900_000)", "some(300_000)", "some(300_000)"),
    _p("garbage of lua", "program:lua5.4", "lua", NONE, "", "local function some(n) for i = 1, n do local t = {string.rep('x', 200) .. i} end end\nsome(500000)", "some(300000)", "some(300000)"),
    # Runtimes with heaps of their own.
    _p("yaml keeps its trees", "npm:yaml", "node", GROWTH, "outside",
       "const Y = require('yaml'); let t = ''; for (let i = 0; i < 60; i++) t += `k${i}: [1, 2, some text ${i}]\\n`; const x = [Y.parseDocument(t)];",
       "for (let i = 0; i < 500; i++) x.push(Y.parseDocument(t));", "for (let i = 0; i < 500; i++) x.push(Y.parseDocument(t));"),
    _p("pypy adds up", "program:pypy3", "pypy", GROWTH, "", "x = []\ndef more(n): x.append([str(i) * 9 for i in range(n)])\nmore(9)", "more(400_000)", "more(400_000)"),
    _p("garbage of pypy", "program:pypy3", "pypy", NONE, "", "def some(n):\n    for i in range(n): [i, str(i)]\nsome(2_000_000)", "some(2_000_000)", "some(2_000_000)"),
    _p("garbage of sbcl", "program:sbcl", "sbcl --script", NONE, "", "(defvar *x* nil) (defun churn (n) (dotimes (i n) (setf *x* (make-array 100 :initial-element i)))) (churn 400000)",
       "(churn 300000)", "(churn 300000)"),
    _p("ocaml keeps its bytes", "program:ocaml", "ocaml", FIRST, "glibc",
       "let x = ref [];; let more n = for _ = 1 to n do x := Bytes.make 100_000 'x' :: !x done;; more 2;;", "more 500;;", "ignore (List.length !x);;"),
    _p("erlang adds up", "program:escript", "erlang", GROWTH, "", "put(a, []),",
       "put(b, [binary:copy(<<1>>, 200000) || _ <- lists:seq(1, 200)]),", "put(c, [binary:copy(<<1>>, 200000) || _ <- lists:seq(1, 200)]),"),
    _p("mono adds up", "program:mono program:mcs", "mono", GROWTH, "outside",
       "var x = new List<byte[]>(); Action<int> more = n => { for (int i = 0; i < n; i++) { var b = new byte[1 << 20]; for (int j = 0; j < b.Length; j++) b[j] = 1; x.Add(b); } }; more(2);",
       "more(40);", "more(40);"),
    _p("prolog asserts", "program:swipl", "prolog", GROWTH, "", "assertz(fact(0, none)),",
       "forall(between(1, 100000, I), (format(atom(T), 'some text ~w', [I]), assertz(fact(I, T)))),",
       "forall(between(100001, 200000, J), (format(atom(U), 'some text ~w', [J]), assertz(fact(J, U)))),"),
    _p("java's threads come and go", "program:javac", _FIXED, NONE, "", _JAVA, "some.run();", "some.run();"),
    _p("rust keeps one in a hundred", "program:rustc", "rust", SECOND, "glibc", _BOXES, "x = fill(400_000);", "x = x.into_iter().step_by(100).collect(); x.shrink_to_fit();"),
    _p("rust keeps its boxes, on dmi", "program:rustc", "rust dmi", FIRST, "dmi", _BOXES, "x = fill(300_000);", "x.truncate(200_000);"),
)  # fmt: skip
