"""Core files damaged at random, looked at in every way: no crash, hang, nor much memory.

    python -m tests.fuzz.cores [COUNT] [SEED]
    python -m tests.fuzz.cores --slice SECONDS FILE [FIRST]

Prints the seed of what went wrong; `python -m tests.fuzz.cores 1 SEED` makes the same file. A slice
takes so many seconds, goes on at the seed where FILE says that the last one ended (a new FILE: at
FIRST), and adds up in it what was tried, so that a large count is the sum of many short runs. FILE
is written before each batch: of a run that died the batch counts as gone wrong, and not as tried.
"""

from __future__ import annotations

import faulthandler
import json
import lzma
import random
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmi.errors import DmiError
from dmi.process import open_core, text
from tests.fuzz.claims import Claims
from tests.fuzz.damage import Sample
from tests.python.images import ARENA_HEAP, HEAP, KEY, LIBC, Glibc, glibc_image
from tests.python.images_more import (
    PLACES,
    Pymalloc,
    jemalloc_image,
    musl_image,
    pymalloc_image,
    runtimes_image,
    scattered_image,
    stacks_image,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dmi.process import Process

MOST_SECONDS = 5.0
MOST_HANGING = 60
"""Seconds after which a look is ended with a trace."""
MOST_MEMORY = 400 << 20
MOST_ADDRESSES = 4 << 30
MOST_RANGES = 1 << 20
BATCH = 500
DMI = Path(__file__).resolve().parents[1] / "golden" / "cores"
MINORS = (26, 28, 31, 34, 36, 42, 43)
PYTHONS = (7, 11, 12, 13)
VALUES = (*PLACES, HEAP + 0x290, LIBC + 0x800, KEY, LIBC + 0x860, ARENA_HEAP, ARENA_HEAP + 48)


def samples() -> list[Sample]:
    """Cores of each layout of glibc and of pymalloc, of others, and of dmi of several builds."""
    images = [
        *(glibc_image(Glibc(minor))[0] for minor in MINORS),
        *(scattered_image(Glibc(minor))[0] for minor in (31, 43)),
        *(pymalloc_image(Pymalloc(minor))[0] for minor in PYTHONS),
        jemalloc_image()[0],
        musl_image(),
        runtimes_image(),
        stacks_image()[0],
    ]
    found = [Sample(image.core(), VALUES) for image in images]
    return found + [
        Sample(lzma.decompress(each.read_bytes()), VALUES)
        for each in sorted(DMI.iterdir())
        if each.suffix == ".xz"
    ]


def look(path: Path, chance: random.Random) -> None:
    """Everything that a core can be asked; what takes most not of each."""
    try:
        with open_core(path) as process:
            for line in text.heap(process, "-v"):
                if not line.isprintable():
                    raise AssertionError(f"a line that a terminal would obey: {line!r}")
            _ask(process, chance)
    except (DmiError, OSError):
        pass


def _ask(process: Process, chance: random.Random) -> None:
    blocks, layers = chance.random() < 0.4, chance.random() < 0.4
    for heap in process.heaps():
        for number, each in enumerate((heap.walk() if blocks else None) or ()):
            if number > MOST_RANGES or each.size <= 0:
                raise AssertionError(f"a walk without an end, at {each}")
        heap.histogram()
        stats = heap.stats().as_dict()
        negative = [key for key, value in stats.items() if isinstance(value, int) and value < 0]
        if negative:
            raise AssertionError(f"below 0: {negative}")
    process.thread_caches()
    if layers:
        process.layers()
        process.find(chance.choice(VALUES))
    if chance.random() < 0.03:
        text.heap_data(process, "-v")
        text.heap_data(process, "-h")
        process.snapshot()


def attempt(seeds: Iterable[int], found: list[Sample]) -> tuple[int, int]:
    """How many were tried, and how many went wrong. One in eight is all claims."""
    tried = wrong = 0
    # A look at the largest takes ten times as long.
    weights = [4 if len(sample.whole) < 3 << 20 else 1 for sample in found]
    claims = Claims([sample.whole for sample in found])
    for seed in seeds:
        chance = random.Random(seed)
        sample = None if chance.random() < 0.125 else chance.choices(found, weights)[0]
        if sample is None:
            claims.write(chance)
        else:
            sample.damage(chance)
        begun = time.process_time()
        faulthandler.dump_traceback_later(MOST_HANGING, exit=True)
        try:
            look(claims.path if sample is None else sample.path, chance)
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
            wrong += 1
        faulthandler.cancel_dump_traceback_later()
        if time.process_time() - begun > MOST_SECONDS:
            print(f"seed {seed}: took {time.process_time() - begun:.1f} s", flush=True)
            wrong += 1
        if sample is not None:
            sample.mend()
        tried += 1
    return tried, wrong


def peak_memory() -> int:
    """Bytes that this process had in memory at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def slice_of(seconds: float, file: Path, first: int) -> int:
    """One slice, added to what the file says; 0 when nothing ever went wrong."""
    known: dict[str, Any] = {"tried": 0, "wrong": 0, "peak": 0, "next": first, "running": 0}
    if file.exists():
        known |= json.loads(file.read_text())
    if known["running"]:
        print(f"seed {known['next']} or one of the {known['running']} behind it ended the run")
        known["wrong"] += 1
        known["next"] += known["running"]
    found = samples()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        known["running"] = BATCH
        file.write_text(json.dumps(known))
        tried, wrong = attempt(range(known["next"], known["next"] + BATCH), found)
        known["tried"] += tried
        known["wrong"] += wrong
        known["next"] += tried
        known["peak"] = max(known["peak"], peak_memory())
        known["running"] = 0
        file.write_text(json.dumps(known))
    print(f"{known['tried']} core files in all, {known['wrong']} wrong; {known['peak'] >> 20} MiB")
    return 1 if known["wrong"] or known["peak"] > MOST_MEMORY else 0


def main(argv: list[str]) -> int:
    """Try; 0 when nothing went wrong."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    if argv[1:2] == ["--slice"]:
        return slice_of(float(argv[2]), Path(argv[3]), int(argv[4]) if len(argv) > 4 else 1)
    count = int(argv[1]) if len(argv) > 1 else 10_000
    first = int(argv[2]) if len(argv) > 2 else 1
    _, wrong = attempt(range(first, first + count), samples())
    peak = peak_memory()
    print(f"{count} core files, {wrong} wrong; {peak >> 20} MiB at most")
    return 1 if wrong or peak > MOST_MEMORY else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
