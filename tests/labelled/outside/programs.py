"""Programs that use libraries of others, what each does, and what is right to say: the labels.

Each runs through three phases: ``setup`` (imports, and a little work, so that what is loaded once
is loaded), ``peak``, ``rest``; after each a moment is taken from outside. ``kind`` and ``subject``
follow from what the phases do. They were written down before the first run, which found two
mistaken: the trees of Beautiful Soup were not collected yet, and what Ruby keeps after its peak was
called growing.

subject: a word that the verdict's subject contains; empty for none.
"""

# ruff: noqa: E501

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["PROGRAMS", "Program"]

NONE, FIRST, SECOND, GROWTH = "none", "first-order leak", "second-order leak", "growth"


@dataclass(frozen=True)
class Program:
    """A program and its label."""

    name: str
    needs: tuple[str, ...]
    """Packages of PyPI; npm:NAME and program:NAME for others."""
    on: str
    """python: pymalloc and glibc; malloc: glibc for objects too; dmi; node, perl, ruby."""
    kind: str
    subject: str
    setup: str
    peak: str
    rest: str
    wait: float = 0.5


def _p(
    name: str, needs: str, on: str, kind: str, subject: str, setup: str, peak: str, rest: str,
    wait: float = 0.5,
) -> Program:  # fmt: skip
    return Program(name, tuple(needs.split()), on, kind, subject, setup, peak, rest, wait)


_JSON: Final = "import orjson; doc = orjson.dumps({f'k{i}': [i, str(i) * 4] for i in range(20)})"
_LXML: Final = (
    "from lxml import etree; doc = b'<r>' + b''.join(b'<a k=\"%d\"><b>text %d</b></a>' % (i, i) "
    "for i in range(60)) + b'</r>'; etree.fromstring(doc)"
)

PROGRAMS: Final = (
    # Arrays above every threshold are mapped on their own and go back when they are freed.
    _p("numpy lets go", "numpy", "python", NONE, "", "import numpy as np; np.ones(9).sum()",
       "x = [np.ones(6_000_000) for _ in range(5)]", "del x"),
    _p("numpy keeps one in five", "numpy", "python", FIRST, "glibc", "import numpy as np; np.ones(9)",
       "x = [np.ones(6_000_000) for _ in range(5)]", "x = x[:1]"),
    _p("numpy adds up", "numpy", "python", GROWTH, "glibc", "import numpy as np; np.ones(9)",
       "x = [np.ones(6_000_000) for _ in range(2)]", "x += [np.ones(6_000_000) for _ in range(2)]"),
    _p("numpy file that is read", "numpy", "python", NONE, "",
       "import numpy as np, tempfile; f = tempfile.NamedTemporaryFile(dir='.'); "
       "np.ones(20_000_000).tofile(f); f.flush()",
       "m = np.memmap(f.name, mode='r', dtype='f8'); m.sum()", "m.sum()"),
    _p("pandas lets go", "pandas", "python", NONE, "", "import pandas as pd; pd.DataFrame({'a': [1]})",
       "d = pd.DataFrame({c: range(6_000_000) for c in 'ab'}); e = d * 2", "del d, e"),
    _p("pandas keeps a copy", "pandas", "python", FIRST, "glibc",
       "import pandas as pd; pd.DataFrame({'a': [1]}) * 2",
       "d = pd.DataFrame({c: range(6_000_000) for c in 'abc'}); e = d * 2", "del d"),
    # Small blocks, some of which stay: what was freed around them cannot go back.
    _p("lxml keeps some documents", "lxml", "python", SECOND, "glibc", _LXML,
       "x = [etree.fromstring(doc) for _ in range(12_000)]", "x = x[::40]"),
    _p("lxml keeps half", "lxml", "python", FIRST, "glibc", _LXML,
       "x = [etree.fromstring(doc) for _ in range(8_000)]", "del x[4_000:]"),
    _p("lxml adds up", "lxml", "python", GROWTH, "glibc", _LXML,
       "x = [etree.fromstring(doc) for _ in range(4_000)]",
       "x += [etree.fromstring(doc) for _ in range(4_000)]"),
    _p("lxml keeps few documents on dmi", "lxml", "dmi", NONE, "", _LXML,
       "x = [etree.fromstring(doc) for _ in range(12_000)]", "x = x[::400]", 4),
    _p("lxml keeps half on dmi", "lxml", "dmi", FIRST, "dmi", _LXML,
       "x = [etree.fromstring(doc) for _ in range(8_000)]", "del x[4_000:]", 4),
    _p("orjson keeps some", "orjson", "python", SECOND, "pymalloc", _JSON,
       "x = [orjson.loads(doc) for _ in range(40_000)]", "x = x[::200]"),
    _p("orjson keeps some, malloc", "orjson", "malloc", SECOND, "glibc", _JSON,
       "x = [orjson.loads(doc) for _ in range(40_000)]", "x = x[::200]"),
    _p("orjson keeps few on dmi", "orjson", "dmi", NONE, "", _JSON,
       "x = [orjson.loads(doc) for _ in range(40_000)]", "x = x[::4_000]", 4),
    _p("msgpack keeps a cache", "msgpack", "python", FIRST, "pymalloc",
       "import msgpack; doc = msgpack.packb({str(i): [i, i * 'x'] for i in range(40)})",
       "x = {i: msgpack.unpackb(doc) for i in range(24_000)}",
       "[x.pop(i) for i in range(16_000, 24_000)]"),
    _p("yaml adds up", "pyyaml", "python", GROWTH, "pymalloc",
       "import yaml; doc = yaml.dump([{'a': i, 'b': str(i)} for i in range(30)])",
       "x = [yaml.load(doc, yaml.CSafeLoader) for _ in range(1_200)]",
       "x += [yaml.load(doc, yaml.CSafeLoader) for _ in range(1_200)]"),
    _p("yaml adds up on dmi", "pyyaml", "dmi", GROWTH, "dmi",
       "import yaml; doc = yaml.dump([{'a': i, 'b': str(i)} for i in range(30)])",
       "x = [yaml.load(doc, yaml.CSafeLoader) for _ in range(1_200)]",
       "x += [yaml.load(doc, yaml.CSafeLoader) for _ in range(1_200)]"),
    _p("beautiful soup keeps some pages", "beautifulsoup4", "python", SECOND, "pymalloc",
       "from bs4 import BeautifulSoup as B; "
       "doc = ''.join(f'<p id={i}><b>{i}</b> text</p>' for i in range(60)); B(doc, 'html.parser')",
       # A tree refers to itself: it is freed by the collector of cycles.
       "x = [B(doc, 'html.parser') for _ in range(900)]", "x = x[::30]; import gc; gc.collect()"),
    _p("networkx keeps its graph", "networkx", "python", FIRST, "pymalloc",
       "import networkx as nx; nx.path_graph(9)",
       "g = nx.path_graph(120_000); h = nx.path_graph(120_000)", "del h"),
    _p("pydantic adds up", "pydantic", "python", GROWTH, "pymalloc",
       "from pydantic import BaseModel\nclass M(BaseModel):\n    a: int\n    b: str\nM(a=1, b='x')",
       "x = [M(a=i, b=str(i)) for i in range(60_000)]",
       "x += [M(a=i, b=str(i)) for i in range(60_000)]"),
    _p("sqlalchemy keeps its rows", "sqlalchemy", "python", FIRST, "glibc",
       "import sqlalchemy as sa\n"
       "e = sa.create_engine('sqlite://', poolclass=sa.pool.StaticPool)\n"
       "c = e.connect(); c.execute(sa.text('create table t(a, b)'))",
       "c.execute(sa.text('insert into t values(:a, :b)'), [{'a': i, 'b': 'x' * 400} "
       "for i in range(60_000)])", "c.commit()"),
    _p("protobuf keeps some messages", "protobuf", "python", SECOND, "glibc",
       "from google.protobuf.struct_pb2 import Struct\ns = Struct(); s.update({f'k{i}': 'v' * 50 for "
       "i in range(40)}); raw = s.SerializeToString()",
       "x = [Struct.FromString(raw) for _ in range(12_000)]", "x = x[::40]"),
    _p("twenty threads that wait", "requests", "python", NONE, "",
       "import requests, threading, time",
       "t = [threading.Thread(target=time.sleep, args=(60,), daemon=True) for _ in range(20)]; "
       "[a.start() for a in t]", "pass"),
    _p("twenty threads that wait on dmi", "requests", "dmi", NONE, "",
       "import requests, threading, time",
       "t = [threading.Thread(target=time.sleep, args=(60,), daemon=True) for _ in range(20)]; "
       "[a.start() for a in t]", "pass"),
    _p("four children", "numpy", "python", NONE, "",
       "import numpy as np, os, time; x = np.ones(3_000_000)",
       "kids = [os.fork() for _ in range(2)]\nif 0 in kids:\n    time.sleep(60); os._exit(0)",
       "[os.kill(k, 9) for k in kids]; [os.wait() for k in kids]"),
    _p("pillow keeps pictures", "pillow", "python", FIRST, "glibc",
       "from PIL import Image; Image.new('RGB', (9, 9))",
       "x = [Image.new('RGB', (3000, 3000), i) for i in range(6)]", "x = x[:3]"),
    _p("scipy keeps a matrix", "scipy", "python", FIRST, "glibc",
       "import scipy.sparse as s; s.eye(9).tocsr()",
       "x = [s.eye(3_000_000).tocsr() for _ in range(3)]", "x = x[:1]"),
    _p("jinja lets go", "jinja2", "python", NONE, "",
       "import jinja2; t = jinja2.Template('{{ x * n }}'); t.render(x='a', n=9)",
       "o = [t.render(x='abc', n=14_000_000) for _ in range(3)]", "del o"),
    _p("lodash keeps its objects", "npm:lodash", "node", GROWTH, "outside",
       "const _ = require('lodash'); let x = _.range(9)",
       "x = _.range(400000).map(i => ({i, s: 'text ' + i}))", "x.push(1)"),
    _p("perl keeps a hash", "program:perl", "perl", FIRST, "glibc", "my %h; $h{0} = 1;",
       "$h{$_} = 'x' x ($_ % 300) for 1..200000;", "delete $h{$_} for 100000..200000;"),
    _p("ruby keeps an array", "program:ruby", "ruby", FIRST, "glibc", "a = []",
       "a = (1..400000).map { |i| 'x' * (100 + i % 200) }", "a << 'y'"),
)  # fmt: skip
