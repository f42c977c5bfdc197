"""A second set, which the judge was never tuned on: programs and labels were committed before their
first run, and no label was changed after it. `python -m tests.labelled.outside --set fresh`.
"""

# ruff: noqa: E501

from __future__ import annotations

from typing import Final

from .programs import FIRST, GROWTH, NONE, SECOND, _p

__all__ = ["FRESH"]

_CSV: Final = (
    "import csv, io; text = '\\n'.join(','.join(f'field {i} {j}' for j in range(12)) for i in range(40)); "
    "rows = lambda: list(csv.reader(io.StringIO(text))); rows()"
)

FRESH: Final = (
    # Allocators whose use nobody sees from outside: that they hold more is all that can be said.
    _p("polars keeps its frames", "polars", "python", GROWTH, "outside",
       "import polars as pl; pl.DataFrame({'a': [1]}).sum()",
       "x = [pl.DataFrame({'a': range(3_000_000)}) for _ in range(3)]", "x.append(1)"),
    _p("duckdb keeps a table", "duckdb", "python", GROWTH, "outside",
       "import duckdb; c = duckdb.connect(); c.execute('select 1').fetchall()",
       "c.execute('create table t as select random() r, hash(i) h from range(6000000) g(i)')", "c.execute('select count(*) from t').fetchall()"),
    _p("arrow keeps its arrays", "pyarrow", "python", GROWTH, "outside",
       "import pyarrow as pa; pa.array([1])",
       "import array; raw = array.array('q', range(3_000_000)); x = [pa.array(raw) for _ in range(4)]; del raw", "x.append(1)"),
    _p("php keeps an array", "program:php", "php", GROWTH, "outside", "$a = [1];",
       "for ($i = 0; $i < 300000; $i++) $a[] = str_repeat('x', 100 + $i % 200);", "$a[] = 'y';"),
    # Small objects.
    _p("regex keeps half", "regex", "python", FIRST, "pymalloc",
       "import regex; e = regex.compile(r'(?P<a>\\d+)-(?P<b>\\w+)'); e.match('1-a')",
       "x = [e.match('%d-%s' % (i, 'abc' * (1 + i % 9))).groupdict() for i in range(120_000)]", "del x[60_000:]"),
    _p("attrs adds up", "attrs", "python", GROWTH, "pymalloc",
       "import attrs\n@attrs.define\nclass A:\n    a: str\n    b: list\nA('x', [])",
       "x = [A('name %d' % i, [i]) for i in range(80_000)]", "x += [A('name %d' % i, [i]) for i in range(80_000)]"),
    _p("sorted dict keeps one in two hundred", "sortedcontainers", "python", SECOND, "pymalloc",
       "from sortedcontainers import SortedDict as D; D(a=1)",
       "x = D(('key %d' % i, ('value %d' % i) * 8) for i in range(160_000))",
       "x = D((k, v) for n, (k, v) in enumerate(x.items()) if n % 200 == 0)"),
    _p("a cache without a limit", "", "python", GROWTH, "pymalloc",
       "import functools\n@functools.lru_cache(None)\ndef f(i):\n    return 'page %d ' % i * 12\nf(0)",
       "[f(i) for i in range(150_000)]", "[f(i) for i in range(150_000, 300_000)]"),
    # The same rows three times over.
    _p("csv keeps few, malloc", "", "malloc", SECOND, "glibc", _CSV,
       "x = [rows() for _ in range(2_000)]", "x = x[::50]"),
    _p("csv keeps few on dmi", "", "dmi", NONE, "", _CSV,
       "x = [rows() for _ in range(2_000)]", "x = x[::400]", 4),
    _p("csv keeps half on dmi", "", "dmi", FIRST, "dmi", _CSV,
       "x = [rows() for _ in range(2_000)]", "del x[1_000:]", 4),
    # Buffers.
    _p("buffers add up", "", "python", GROWTH, "glibc", "x = [bytearray(9)]",
       "x += [bytearray(b'x' * 90_000) for _ in range(400)]", "x += [bytearray(b'x' * 90_000) for _ in range(400)]"),
    _p("buffers are let go", "", "python", NONE, "", "x = [bytearray(9)]",
       "x = [bytearray(b'x' * 30_000_000) for _ in range(4)]", "x = []"),
    _p("zlib lets go", "", "python", NONE, "", "import zlib; raw = zlib.compress(bytes(90_000_000))",
       "x = zlib.decompress(raw)", "del x"),
    _p("sqlite keeps its pages", "", "python", FIRST, "glibc",
       "import sqlite3; c = sqlite3.connect(':memory:'); c.execute('create table t(a, b)')",
       "c.executemany('insert into t values(?, ?)', ((i, 'x' * 500) for i in range(80_000)))",
       # A database keeps the pages of rows that were deleted.
       "c.execute('delete from t where a % 2'); c.commit()"),
    _p("lua keeps half", "program:lua5.4", "lua", FIRST, "glibc", "a = {}",
       "for i = 1, 200000 do a[i] = string.rep('x', 200) .. i end",
       "for i = 100001, 200000 do a[i] = nil end; collectgarbage()"),
    # Memory that no malloc has.
    _p("mappings of its own", "", "python", GROWTH, "outside", "import mmap; x = []",
       "x += [mmap.mmap(-1, 20 << 20) for _ in range(3)]; [m.write(b'x' * (20 << 20)) for m in x]",
       "y = mmap.mmap(-1, 20 << 20); y.write(b'x' * (20 << 20))"),
    _p("a mapping that comes and goes", "", "python", NONE, "", "import mmap",
       "x = mmap.mmap(-1, 60 << 20); x.write(b'x' * (60 << 20))", "x.close()"),
)  # fmt: skip
