"""Core files with words changed at random, looked at in every way: no crash, hang, nor much memory.

    python -m tests.fuzz.cores [COUNT] [SEED]

Prints the seed of what went wrong; `python -m tests.fuzz.cores 1 SEED` makes the same file.
"""

from __future__ import annotations

import random
import resource
import struct
import sys
import tempfile
import time
from pathlib import Path

from dmi.errors import DmiError
from dmi.process import open_core, text
from tests.python.images import ARENA_HEAP, HEAP, KEY, LIBC, Glibc, glibc_image

MOST_SECONDS = 5.0
MOST_MEMORY = 400 << 20
MINORS = (26, 28, 31, 34, 36, 42, 43)


def mutated(whole: bytes, chance: random.Random) -> bytes:
    """A few words changed, most of them where structs lie; sometimes cut off."""
    values = [
        0, 1, 16, 17, 33, 0xFF0, 1 << 40, (1 << 64) - 16, HEAP, HEAP + 0x290, LIBC + 0x800, KEY,
        LIBC + 0x860, ARENA_HEAP, ARENA_HEAP + 48,
    ]  # fmt: skip
    data = bytearray(whole)
    for _ in range(chance.choice((1, 2, 5, 50))):
        span = chance.choice((0x400, 0x6000, len(data)))
        at = chance.randrange(min(span, len(data) - 8) // 8) * 8
        word = chance.choice(
            (chance.choice(values), chance.getrandbits(chance.choice((8, 48, 64))))
        )
        if chance.random() < 0.3:
            word = struct.unpack_from("<Q", data, at)[0] ^ 1 << chance.randrange(64)
        struct.pack_into("<Q", data, at, word)
    if chance.random() < 0.05:
        del data[chance.randrange(len(data)) :]
    return bytes(data)


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


def main(argv: list[str]) -> int:
    """Try; 0 when nothing went wrong."""
    count = int(argv[1]) if len(argv) > 1 else 10_000
    first = int(argv[2]) if len(argv) > 2 else 1
    whole = {minor: glibc_image(Glibc(minor))[0].core() for minor in MINORS}
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="dmi-") as folder:
        path = Path(folder) / "core"
        for seed in range(first, first + count):
            chance = random.Random(seed)
            path.write_bytes(mutated(whole[chance.choice(MINORS)], chance))
            begun = time.monotonic()
            try:
                look(path)
            except Exception as error:
                print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
                wrong += 1
            if time.monotonic() - begun > MOST_SECONDS:
                print(f"seed {seed}: took {time.monotonic() - begun:.1f} s", flush=True)
                wrong += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{count} core files, {wrong} wrong; {peak >> 20} MiB at most")
    return 1 if wrong or peak > MOST_MEMORY else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
