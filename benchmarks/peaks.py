"""What stays resident after peaks of small objects, on dmi and on what Python has otherwise.

Programs of the kinds that public reports are about. Each makes a peak, drops it, keeps a little of
what it made (a cache, one row in a thousand), goes on with small requests for some seconds, and
says what is resident then. Ways: pymalloc; PYTHONMALLOC=malloc on the C library, jemalloc, mimalloc
and dmi; dmi.python.install(); and the same with the peak in a context. On dmi the bound is known:
the pages that hold a byte in use, and what lies outside of dmi's heaps.

    python -m benchmarks.peaks [--python PATH] [--seconds 4] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dmi

START = """
import gc, json, os, random, sys, time
WAY, SECONDS = sys.argv[1], float(sys.argv[2])
def resident():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(l.split()[1]) * 1024 for l in file if l.startswith("Rss:"))
if WAY in ("install", "context"):
    import dmi
    dmi.python.install()
random.seed(1)
"""
END = """
import contextlib
def inside():
    if WAY != "context": return contextlib.nullcontext()
    return dmi.python.heap("peak", fresh=True)
base = resident()
prepared = prepare()
kept = []
peak_size = 0
with inside():
    for _ in range(2):
        thing = peak(prepared)
        peak_size = max(peak_size, resident())
        kept += keep(thing)
        del thing
del prepared
gc.collect()
if WAY == "context":
    kept = dmi.python.copy_into("kept", kept)
    dmi.python.clear_free_lists()
until = time.monotonic() + SECONDS
while time.monotonic() < until:
    small = [str(n) for n in range(200)]
    time.sleep(0.02)
end = resident()
result = {"base": base, "peak": peak_size, "end": end}
if WAY in ("install", "context", "dmi"):
    import dmi
    heaps = [h.stats(detail=True) for h in dmi.heaps()]
    bound = sum(h.page_bound + h.metadata_committed for h in heaps)
    outside = end - sum(h.resident for h in heaps)
    result |= {"bound": bound, "outside": outside}
print(json.dumps(result))
"""

# name: (what must be importable, program with prepare, peak and keep).
PROGRAMS = {
    "json": ("json", """
def prepare():
    return json.dumps([{"id": n, "name": f"user {n}", "tags": ["a", str(n)], "score": n / 7,
                        "address": {"city": f"city {n % 100}", "zip": str(n)}}
                       for n in range(120000)])
def peak(text): return json.loads(text)
def keep(rows): return rows[::1000]
"""),
    "rows": ("sqlalchemy", """
from sqlalchemy import Float, String, create_engine, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
class Base(DeclarativeBase): pass
class Row(Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))
    value: Mapped[float] = mapped_column(Float)
def prepare():
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.execute(insert(Row), [{"name": f"row {n}", "value": n / 3} for n in range(60000)])
        session.commit()
    return engine
def peak(engine):
    session = Session(engine, expire_on_commit=False)
    return session, session.scalars(select(Row)).all()
def keep(found):
    session, rows = found
    names = [row.name for row in rows[::1000]]
    session.close()
    return names
"""),
    "requests": ("json", """
def prepare(): return None
class Request:
    def __init__(self, n):
        self.headers = {f"H-{k}": f"value {k} {n}" for k in range(12)}
        self.cookies, self.session = {"id": str(n)}, {"user": n, "cart": list(range(n % 30))}
def view(request, n):
    items = [{"pk": k, "title": f"item {k} of {n}", "price": k * 1.5} for k in range(60)]
    body = "".join(f"<li>{i['title']}: {i['price']}</li>" for i in items)
    return {"status": 200, "body": body, "items": items, "request": request}
def peak(_): return [view(Request(n), n) for n in range(2500)]
def keep(answers): return [(a["request"].session["user"], a["body"][:20]) for a in answers[::100]]
"""),
    "columns": ("pandas", """
import pandas
def prepare(): return None
def peak(_):
    frame = pandas.DataFrame({"key": [f"key {n % 5000}" for n in range(200000)],
                              "text": [f"some text {n}" for n in range(200000)]}, dtype=object)
    frame["upper"] = frame["text"].map(str.upper)
    return frame
def keep(frame): return list(frame["upper"][::1000])
"""),
}  # fmt: skip

LIBRARIES = {"jemalloc": "libjemalloc.so.2", "mimalloc": "libmimalloc.so.2"}


def ways() -> dict[str, dict[str, str]]:
    """Each way to run a program, with its environment."""
    found = {"pymalloc": {}, "glibc": {"PYTHONMALLOC": "malloc"}}
    for name, file in LIBRARIES.items():
        path = next(Path("/usr/lib").glob(f"*/{file}"), None)
        if path:
            found[name] = {"PYTHONMALLOC": "malloc", "LD_PRELOAD": str(path)}
    found["dmi"] = {"PYTHONMALLOC": "malloc", "LD_PRELOAD": dmi.get_preload_path()}
    return found | {"install": {}, "context": {}}


def measure(
    python: str, text: str, way: str, seconds: float, environment: dict[str, str]
) -> dict[str, int]:
    """What one run of a program says, the last line that it prints."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key != "LD_PRELOAD" and not key.startswith("PYTHON")
    }
    kept |= environment | {"DMI_PYTHON": "0", "PYTHONPATH": str(Path(dmi.__file__).parent.parent)}
    done = subprocess.run(
        [python, "-c", text, way, str(seconds)],
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{way}: {done.stderr[-2000:]}")
    found: dict[str, int] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="What stays after peaks of small objects.")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--only", default=",".join(PROGRAMS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    raw: dict[str, Any] = {}
    print("MiB above what was resident before the peak; bound: resident / (bound + outside)\n")
    print(f"{'program':10} {'way':10} {'peak':>8} {'after':>8} {'bound':>8}")
    for name in options.only.split(","):
        needs, program = PROGRAMS[name]
        there = subprocess.run([options.python, "-c", f"import {needs}"], check=False)
        if there.returncode:
            print(f"{name:10} left out: no {needs}")
            continue
        text = START + program + END
        for way, environment in ways().items():
            found = measure(options.python, text, way, options.seconds, environment)
            raw.setdefault(name, {})[way] = found
            above, base = found["end"] - found["base"], found["base"]
            bound = "-"
            if "bound" in found:
                bound = f"{found['end'] / (found['bound'] + found['outside']):.3f}"
            line = f"{name:10} {way:10} {(found['peak'] - base) / 2**20:8.1f}"
            print(f"{line} {above / 2**20:8.1f} {bound:>8}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(raw, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
