"""What Python's objects cost on dmi: instructions beside pymalloc, counted by callgrind.

Ten small programs of the kinds that pyperformance has, each written here. Each runs in each way at
two lengths; the difference is the work alone, without the start and without the import of dmi.

    python -m benchmarks.objects [--python PATH] [--only NAME,...] [--ways install,preload]
        [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import dmi

# name: (rounds, program). work(n) does n rounds of the same.
PROGRAMS = {
    "trees": (6, """
class Node:
    __slots__ = ("left", "right")
    def __init__(self, left, right):
        self.left, self.right = left, right
def make(depth):
    return Node(None, None) if depth == 0 else Node(make(depth - 1), make(depth - 1))
def count(node):
    return 1 if node.left is None else 1 + count(node.left) + count(node.right)
def work(n):
    for _ in range(n):
        assert count(make(11)) == 2 ** 12 - 1
"""),
    "json": (6, """
import json
rows = [{"id": n, "name": f"row {n}", "tags": ["a", "b", str(n)], "value": n / 7}
        for n in range(400)]
def work(n):
    for _ in range(n):
        assert json.loads(json.dumps(rows)) == rows
"""),
    "strings": (5, """
import re
words = re.compile(r"[a-z]+([0-9]+)")
text = ",".join(f"word{k % 503}" for k in range(2000))
def work(n):
    for _ in range(n):
        table = {}
        for part in text.split(","):
            key = part.upper() + "-" + words.match(part).group(1)[::-1]
            table[key] = table.get(key, 0) + 1
        assert len("|".join(f"{k}={v}" for k, v in table.items()).split("|")) == 503
"""),
    "floats": (3, """
import math
def work(n):
    bodies = [[math.sin(k), math.cos(k), k * .1, 0.0, 0.0, 0.0, 1.0 + k] for k in range(5)]
    for _ in range(n * 150):
        for i, one in enumerate(bodies):
            for two in bodies[i + 1:]:
                d = [one[k] - two[k] for k in range(3)]
                f = .001 / (d[0] * d[0] + d[1] * d[1] + d[2] * d[2] + .1) ** 1.5
                for k in range(3):
                    one[3 + k] -= d[k] * two[6] * f
                    two[3 + k] += d[k] * one[6] * f
        for body in bodies:
            for k in range(3):
                body[k] += .001 * body[3 + k]
"""),
    "big ints": (3, """
def work(n):
    a, b, total = 0, 1, 0
    for _ in range(n * 3000):
        a, b = b, a + b
        total += b % 1000003
        if b.bit_length() > 2000: a, b = 0, 1
    assert total
"""),
    "queens": (4, """
from itertools import permutations
def work(n):
    for _ in range(n):
        size = 6
        columns = range(size)
        found = 0
        for row in permutations(columns):
            if size == len({row[i] + i for i in columns}) == len({row[i] - i for i in columns}):
                found += 1
        assert found == 4
"""),
    "deepcopy": (5, """
import copy
class Point:
    def __init__(self, x, y): self.x, self.y = x, y
thing = {"list": [1, 2, (3, 4), {"k": "v"}], "points": [Point(k, str(k)) for k in range(30)]}
def work(n):
    for _ in range(n * 4):
        other = copy.deepcopy(thing)
        assert other["points"][7].y == "7"
"""),
    "tasks": (4, """
import asyncio
async def leaf(k):
    await asyncio.sleep(0)
    return k
async def tree(depth):
    if depth == 0: return await leaf(1)
    return sum(await asyncio.gather(*[tree(depth - 1) for _ in range(3)]))
def work(n):
    for _ in range(n):
        assert asyncio.run(tree(5)) == 243
"""),
    "templates": (5, """
class Row:
    def __init__(self, **values): self.__dict__.update(values)
def render(rows):
    out = []
    for row in rows:
        out.append("<tr>")
        for name, value in sorted(row.__dict__.items()):
            out.append("<td class='%s'>%s</td>" % (name, str(value).replace("&", "&amp;")))
        out.append("</tr>")
    return "".join(out)
def work(n):
    for _ in range(n):
        assert render([Row(a=k, b=str(k), c=k * .5, d=None) for k in range(400)])
"""),
    "records": (4, """
from dataclasses import dataclass
from collections import defaultdict
@dataclass
class Order:
    number: int
    customer: str
    lines: list
def work(n):
    for _ in range(n):
        orders = [Order(k, f"c{k % 37}", [(k, j, j * 1.5) for j in range(k % 6)])
                  for k in range(1500)]
        sums = defaultdict(float)
        for order in orders:
            for _number, _line, price in order.lines: sums[order.customer] += price
        assert len(sums) == 37
        orders.sort(key=lambda order: (order.customer, -order.number))
        del orders[::2]
"""),
}  # fmt: skip

WAYS = ("pymalloc", "preload", "install", "contexts")
# Under callgrind all takes some fifty times as long, but not the delay after which dmi gives pages
# back: without this it would be at that in every round, and the more so the busier the machine is.
POLICY = "lazy:delay=50"
INSTALL = f"import dmi; dmi.python.install(dmi.Heap({POLICY!r}))\n"
# The garbage collector begins from the same state whatever was imported: else one way has a full
# collection more within what is measured, which may be two per cent of it.
BEGIN = "import gc; gc.collect()\n"
CONTEXTS = INSTALL + 'dmi.python.heap("work").__enter__()\n'
# Above 4 GiB, as without valgrind, which maps low: an id() below 1 GiB is an int of one digit,
# and is hashed in fewer instructions.
CALLGRIND = (
    *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
    "--aspace-minaddr=0x100000000",
)
_COLLECTED = re.compile(r"Collected : (\d+)")


def count(python: str, program: str, way: str, rounds: int) -> int:
    """Instructions of a program that does so many rounds."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key != "LD_PRELOAD" and not key.startswith("PYTHON")
    }
    # Whatever the environment starts with.
    kept |= {"PYTHONHASHSEED": "0", "DMI_PYTHON": "0"}
    # Valgrind counts each byte of rep movsb, which the C library copies blocks of some KiB with.
    kept["GLIBC_TUNABLES"] = ":".join(
        f"glibc.cpu.x86_rep_{name}_threshold=1000000000" for name in ("movsb", "stosb")
    )
    kept["PYTHONPATH"] = str(Path(dmi.__file__).parent.parent)
    if way == "preload":
        kept |= {"PYTHONMALLOC": "malloc", "LD_PRELOAD": dmi.get_preload_path()}
        kept["DMI_OPTIONS"] = f"decommit={POLICY}"
    # Imported everywhere, so that the garbage collector finds as many objects.
    start = {"install": INSTALL, "contexts": CONTEXTS}.get(way, "import dmi; dmi.python\n")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "program.py")
        script.write_text(f"{start}{program}\n{BEGIN}work({rounds})\n")
        done = subprocess.run(
            [*CALLGRIND, python, script],
            capture_output=True,
            text=True,
            check=False,
            env=kept,
        )
    found = _COLLECTED.search(done.stderr)
    if done.returncode or not found:
        raise SystemExit(f"{way}: status {done.returncode}\n{done.stderr[-2000:]}")
    return int(found[1])


def main() -> int:
    parser = argparse.ArgumentParser(description="Instructions of Python programs on dmi.")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--only", default=",".join(PROGRAMS))
    parser.add_argument("--ways", default=",".join(WAYS[1:]))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ways = ["pymalloc", *options.ways.split(",")]
    ratios: dict[str, list[float]] = {way: [] for way in ways}
    raw: dict[str, dict[str, int]] = {}
    print(f"{'':12}{'pymalloc, M':>12}" + "".join(f"{way:>10}" for way in ways[1:]))
    for name in options.only.split(","):
        rounds, program = PROGRAMS[name]
        count(options.python, program, "contexts", 1)  # or somebody else's first run compiles
        raw[name] = {
            way: count(options.python, program, way, 2 * rounds)
            - count(options.python, program, way, rounds)
            for way in ways
        }
        base = raw[name]["pymalloc"]
        line = f"{name:12}{base / 1e6:12.1f}"
        for way in ways[1:]:
            ratios[way].append(raw[name][way] / base)
            line += f"{raw[name][way] / base:10.3f}"
        print(line, flush=True)
    means = "".join(f"{statistics.geometric_mean(ratios[way]):10.3f}" for way in ways[1:])
    print(f"{'mean':24}{means}")
    if options.json:
        options.json.write_text(json.dumps(raw, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
