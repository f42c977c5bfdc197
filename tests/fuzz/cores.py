"""Core files with words changed at random, looked at in every way: no crash, hang, nor much memory.

    python -m tests.fuzz.cores [COUNT] [SEED]
    python -m tests.fuzz.cores --slice SECONDS FILE

Prints the seed of what went wrong; `python -m tests.fuzz.cores 1 SEED` makes the same file. A slice
takes so many seconds, goes on at the seed where FILE says that the last one ended, and adds up in
it what was tried, so that a large count is the sum of many short runs.
"""

from __future__ import annotations

import json
import lzma
import mmap
import os
import random
import resource
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dmi.errors import DmiError
from dmi.process import open_core, text
from tests.python.images import ARENA_HEAP, HEAP, KEY, LIBC, Glibc, glibc_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_SECONDS = 5.0
MOST_MEMORY = 400 << 20
DMI = Path(__file__).resolve().parents[1] / "golden" / "cores"
MINORS = (26, 28, 31, 34, 36, 42, 43)


VALUES = (
    0, 1, 16, 17, 33, 0xFF0, 1 << 40, (1 << 64) - 16, HEAP, HEAP + 0x290, LIBC + 0x800, KEY,
    LIBC + 0x860, ARENA_HEAP, ARENA_HEAP + 48,
)  # fmt: skip


class Sample:
    """A core file in memory, changed and mended in place: a look costs enough without copies."""

    def __init__(self, whole: bytes) -> None:
        self.whole = whole
        self.file = os.memfd_create("dmi-core", os.MFD_CLOEXEC)
        os.truncate(self.file, len(whole))
        self.data = mmap.mmap(self.file, len(whole))
        self.data[:] = whole
        self.changed: list[int] = []
        self.cut = len(whole)

    @property
    def path(self) -> Path:
        """A name that opens it."""
        return Path(f"/proc/self/fd/{self.file}")

    def mutate(self, chance: random.Random) -> None:
        """A few words changed, most of them where structs lie; sometimes cut off."""
        size = len(self.whole)
        for _ in range(chance.choice((1, 2, 5, 50))):
            span = chance.choice((0x400, 0x6000, size))
            at = chance.randrange(min(span, size - 8) // 8) * 8
            word = chance.choice(
                (chance.choice(VALUES), chance.getrandbits(chance.choice((8, 48, 64))))
            )
            if chance.random() < 0.3:
                word = struct.unpack_from("<Q", self.data, at)[0] ^ 1 << chance.randrange(64)
            struct.pack_into("<Q", self.data, at, word)
            self.changed.append(at)
        if chance.random() < 0.05:
            self.cut = chance.randrange(size)
            os.truncate(self.file, self.cut)

    def mend(self) -> None:
        """As it was."""
        size = len(self.whole)
        if self.cut < size:
            os.truncate(self.file, size)
            self.data[self.cut :] = self.whole[self.cut :]
            self.cut = size
        for at in self.changed:
            self.data[at : at + 8] = self.whole[at : at + 8]
        self.changed.clear()


def look(path: Path) -> None:
    """Everything that a core can be asked."""
    try:
        with open_core(path) as process:
            for _ in text.heap(process, "-v"):
                pass
            for heap in process.heaps():
                for count, _ in enumerate(heap.walk() or ()):
                    if count > 1 << 20:
                        raise AssertionError("a walk without an end")
                heap.histogram()
            process.address_summary()
    except (DmiError, OSError):
        pass


def samples() -> list[Sample]:
    """Cores of each layout of glibc, and of dmi of several builds."""
    found = [Sample(glibc_image(Glibc(minor))[0].core()) for minor in MINORS]
    return found + [
        Sample(lzma.decompress(each.read_bytes()))
        for each in sorted(DMI.iterdir())
        if each.suffix == ".xz"
    ]


def attempt(seeds: Iterable[int]) -> tuple[int, int]:
    """How many were tried, and how many went wrong."""
    found = samples()
    tried = wrong = 0
    for seed in seeds:
        chance = random.Random(seed)
        sample = chance.choice(found)
        sample.mutate(chance)
        begun = time.process_time()
        try:
            look(sample.path)
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
            wrong += 1
        if time.process_time() - begun > MOST_SECONDS:
            print(f"seed {seed}: took {time.process_time() - begun:.1f} s", flush=True)
            wrong += 1
        sample.mend()
        tried += 1
        if tried % 10_000 == 0:
            print(f"{tried} tried", flush=True)
    return tried, wrong


def peak_memory() -> int:
    """Bytes that this process had in memory at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def until(seconds: float, first: int) -> Iterator[int]:
    """Seeds until the time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield first
        first += 1


def slice_of(seconds: float, file: Path) -> int:
    """One slice, added to what the file says; 0 when nothing ever went wrong."""
    known = {"tried": 0, "wrong": 0, "peak": 0, "next": 1}
    if file.exists():
        known |= json.loads(file.read_text())
    tried, wrong = attempt(until(seconds, known["next"]))
    known["tried"] += tried
    known["wrong"] += wrong
    known["next"] += tried
    known["peak"] = max(known["peak"], peak_memory())
    file.write_text(json.dumps(known))
    print(f"{known['tried']} core files in all, {known['wrong']} wrong; {known['peak'] >> 20} MiB")
    return 1 if known["wrong"] or known["peak"] > MOST_MEMORY else 0


def main(argv: list[str]) -> int:
    """Try; 0 when nothing went wrong."""
    if argv[1:2] == ["--slice"]:
        return slice_of(float(argv[2]), Path(argv[3]))
    count = int(argv[1]) if len(argv) > 1 else 10_000
    first = int(argv[2]) if len(argv) > 2 else 1
    _, wrong = attempt(range(first, first + count))
    peak = peak_memory()
    print(f"{count} core files, {wrong} wrong; {peak >> 20} MiB at most")
    return 1 if wrong or peak > MOST_MEMORY else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
