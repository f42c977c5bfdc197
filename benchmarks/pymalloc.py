"""What it costs CPython to get its objects from malloc, and what dmi sees then.

Small programs of the kinds that pyperformance has, each written here, run on every Python that is
found, in three ways that take turns: with pymalloc, with PYTHONMALLOC=malloc on the C library, and
with PYTHONMALLOC=malloc and dmi preloaded. Printed are CPU time and peak resident size as ratios to
pymalloc of the same round: median, and the quartiles in brackets. A fourth line, pymalloc against
itself, says what the machine's noise is.

    python -m benchmarks.pymalloc [--rounds 9] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import dmi
from tools.interpreters import find

# name: program. Each does the same work on every run and takes about a second.
PROGRAMS = {
    "objects": """
class Node:
    __slots__ = ("left", "right")
    def __init__(self, left, right):
        self.left, self.right = left, right
def make(depth):
    return Node(None, None) if depth == 0 else Node(make(depth - 1), make(depth - 1))
def count(node):
    return 1 if node.left is None else 1 + count(node.left) + count(node.right)
for _ in range(12):
    assert count(make(14)) == 2 ** 15 - 1
""",
    "strings": """
words = ["word%d" % (n % 5003) for n in range(150000)]
for _ in range(4):
    table = {}
    for word in words:
        key = word.upper() + "-" + word[::-1]
        table[key] = table.get(key, 0) + 1
    text = ",".join(f"{key}={value}" for key, value in table.items())
    parts = [part.split("=") for part in text.split(",")]
    assert len(parts) == len(table) == 5003
""",
    "json": """
import json
rows = [{"id": n, "name": f"row {n}", "tags": ["a", "b", str(n)], "value": n / 7}
        for n in range(6000)]
for _ in range(8):
    rows = json.loads(json.dumps(rows))
assert rows[5999]["id"] == 5999
""",
    "big ints": """
a, b = 0, 1
total = 0
for n in range(25000):
    a, b = b, a + b
    total += b % 1000003
assert total
""",
    "nbody": """
import math
bodies = [[math.sin(k), math.cos(k), k * .1, 0.0, 0.0, 0.0, 1.0 + k] for k in range(5)]
for _ in range(9000):
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
""",
    "peak": """
live = [(n, str(n), [n]) for n in range(300000)]
del live[::2]
for _ in range(3):
    live += [(n, str(n), [n]) for n in range(60000)]
    del live[:60000]
assert len(live) == 150000
""",
}

WAYS = ("pymalloc", "pymalloc again", "malloc, C library", "malloc, dmi")

# What malloc was asked for, of 200,000 tuples of an int and a string, and a buffer of 50 MB. Where
# dmi is preloaded, dmi answers.
SEEN = """
import ctypes
NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]
ask = ctypes.CDLL(None).mallinfo2
ask.restype = Info
def busy():
    info = ask()
    return info.uordblks + info.hblkhd
before = busy()
objects = [(n, str(n)) for n in range(200000)]
buffer = bytearray(50_000_000)
print((busy() - before) / 1e6)
"""


def environment(way: str) -> dict[str, str]:
    kept = {
        key: value
        for key, value in os.environ.items()
        if key != "LD_PRELOAD" and not key.startswith("PYTHON")
    }
    if way.startswith("malloc"):
        kept["PYTHONMALLOC"] = "malloc"
    if way == "malloc, dmi":
        kept["LD_PRELOAD"] = dmi.get_preload_path()
    return kept


def measure(python: Path, program: Path, way: str) -> tuple[float, float]:
    """CPU seconds and peak resident KiB of one run."""
    child = subprocess.Popen([python, "-s", program], env=environment(way))
    _pid, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    if status:
        raise SystemExit(f"{python} {program.stem} {way}: status {status}")
    return usage.ru_utime + usage.ru_stime, float(usage.ru_maxrss)


def seen(python: Path, pythonmalloc: str) -> float:
    """MB that dmi, preloaded, sees of the program SEEN."""
    surroundings = environment("malloc, dmi") | {"PYTHONMALLOC": pythonmalloc}
    done = subprocess.run(
        [python, "-s", "-c", SEEN], check=True, capture_output=True, text=True, env=surroundings
    )
    return float(done.stdout)


def spread(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description="What PYTHONMALLOC=malloc costs.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found, _refused = find()
    raw: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, text in PROGRAMS.items():
            program = Path(folder, f"bench_{name.replace(' ', '_')}.py")
            program.write_text(text)
            for turn in range(options.rounds):
                for python in found:
                    # Another order each time, so that no way always follows the same other.
                    for step in range(len(WAYS)):
                        way = WAYS[(turn + step) % len(WAYS)]
                        cpu, rss = measure(python.path, program, way)
                        raw.append(
                            {"program": name, "python": python.tag, "round": turn, "way": way,
                             "cpu": cpu, "rss": rss}
                        )  # fmt: skip
            print(f"{name} done", file=sys.stderr, flush=True)
    value = {(r["program"], r["python"], r["round"], r["way"]): r for r in raw}
    for what, title in (("cpu", "CPU time"), ("rss", "peak resident size")):
        print(f"\n{title}, as a ratio to pymalloc: median (quartiles) of {options.rounds} rounds")
        print(f"{'':10} {'':6} " + "".join(f"{way:>22}" for way in WAYS[1:]))
        for python in found:
            every: dict[str, list[float]] = {way: [] for way in WAYS}
            for name in PROGRAMS:
                line = f"{name:10} {python.tag:6} "
                for way in WAYS[1:]:
                    ratios = [
                        value[name, python.tag, turn, way][what]
                        / value[name, python.tag, turn, "pymalloc"][what]
                        for turn in range(options.rounds)
                    ]
                    every[way].append(statistics.median(ratios))
                    line += f"{spread(ratios):>22}"
                print(line)
            mean = "".join(f"{statistics.geometric_mean(every[way]):>22.2f}" for way in WAYS[1:])
            print(f"{'mean':10} {python.tag:6} {mean}")
    print("\nWhat dmi sees of 200,000 small objects and a buffer of 50 MB, MB")
    for python in found:
        each = {way: seen(python.path, way) for way in ("pymalloc", "malloc")}
        print(f"{python.tag:6} " + "  ".join(f"{way} {mb:.1f}" for way, mb in each.items()))
    if options.json:
        options.json.write_text(json.dumps(raw, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
