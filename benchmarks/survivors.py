"""200,000 dicts of which a random tenth stays: what stays resident, and what an answer to it gives.

Ways: pymalloc; PYTHONMALLOC=malloc on the C library, jemalloc, mimalloc and dmi;
dmi.python.install() alone, with the survivors made in a context of their own, and with survivors
that nobody knew beforehand copied into one.

    python -m benchmarks.survivors [--python PATH] [--seconds 4]
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.peaks import START, measure, ways

PROGRAM = """
base = resident()
chosen = set(random.sample(range(200000), 20000))
def make(n): return {"id": n, "name": f"name {n % 10}", "v": n / 3}
kept = []
if WAY == "made":
    passing = []
    for n in range(200000):
        if n in chosen:
            with dmi.python.heap("survivors"): kept.append(make(n))
        else: passing.append(make(n))
    peak = resident()
    del passing
else:
    everything = [make(n) for n in range(200000)]
    peak = resident()
    kept = [everything[n] for n in chosen]
    if WAY == "copied": kept = dmi.python.copy_into("survivors", kept)
    del everything
del chosen
gc.collect()
time.sleep(SECONDS)
result = {"base": base, "peak": peak, "end": resident()}
if WAY in ("made", "copied"):
    row = next(row for row in dmi.python.usage() if row.name == "survivors")
    result |= {"busy": row.busy, "bound": row.page_bound, "held": row.committed}
elif WAY in ("install", "dmi"):
    import dmi
    heaps = [heap.stats(detail=True) for heap in dmi.heaps()]
    for name, field in (("busy", "busy"), ("bound", "page_bound"), ("held", "committed")):
        result[name] = sum(getattr(each, field) for each in heaps)
print(json.dumps(result))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="What 20,000 survivors of 200,000 dicts keep.")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    start = START.replace('"install", "context"', '"install", "made", "copied"')
    environments = {way: env for way, env in ways().items() if way != "context"}
    environments |= {"made": {}, "copied": {}}
    print(
        "MiB above what was resident before; of dmi's heaps (of the context's, where there is one)"
    )
    print("what is busy, the page bound and what is committed, as a ratio to busy\n")
    print(f"{'way':10} {'peak':>8} {'after':>8} {'busy':>8} {'bound':>8} {'held':>8}")
    for way, environment in environments.items():
        found = measure(options.python, start + PROGRAM, way, options.seconds, environment)
        line = f"{way:10}"
        for name in ("peak", "end"):
            line += f" {(found[name] - found['base']) / 2**20:8.1f}"
        if "busy" in found:
            line += f" {found['busy'] / 2**20:8.1f}"
            for name in ("bound", "held"):
                line += f" {found[name] / found['busy']:8.3f}"
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
