"""A small service that leaks in the second order, watched layer by layer, and then cured.

The service answers requests. Each builds a document out of many small pieces of uneven size, and
leaves one small session record behind that lives on. It frees every piece, so no tool that looks
for missing frees finds anything. Still the process stays as large as at its busiest hour: the
records stand scattered among what the pieces left.

    python examples/second_order_leak.py            all three acts
    python examples/second_order_leak.py --requests 2000

Act 1 runs it on glibc's malloc. Act 2 asks who holds the memory. Act 3 runs the same service on a
heap of dmi. Every number is measured; nothing sleeps but for the delay of the policy.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import subprocess
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import dmi

if TYPE_CHECKING:
    from collections.abc import Callable

DELAY = 0.2
"""Seconds for which the cured service's heap keeps a free page."""


class Allocator(Protocol):
    """What the service needs: raw memory."""

    malloc: Callable[[int], int]
    free: Callable[[int], None]


class Glibc:
    """The malloc of the C library."""

    def __init__(self) -> None:
        libc = ctypes.CDLL("libc.so.6")
        libc.malloc.restype = ctypes.c_void_p
        libc.malloc.argtypes = [ctypes.c_size_t]
        libc.free.restype = None
        libc.free.argtypes = [ctypes.c_void_p]
        self.malloc: Callable[[int], int] = libc.malloc
        self.free: Callable[[int], None] = libc.free


class Service:
    """Holds the pieces of open requests and one record for each session."""

    def __init__(self, memory: Allocator) -> None:
        self.memory = memory
        self.random = random.Random(1)
        self.open: deque[list[int]] = deque()
        self.sessions: list[int] = []

    def piece(self, size: int) -> int:
        """A block whose every page was written to, as a real program does."""
        block = self.memory.malloc(size)
        ctypes.memset(block, 1, size)
        return block

    def request(self) -> None:
        """Open a request: 40 pieces, and in the middle of them the record that stays."""
        sizes = [int(self.random.lognormvariate(7, 0.8)) + 16 for _ in range(40)]
        pieces = [self.piece(size) for size in sizes[:20]]
        self.sessions.append(self.piece(200))
        pieces += [self.piece(size) for size in sizes[20:]]
        self.open.append(pieces)

    def answer(self) -> None:
        """Close the oldest request: every piece is freed, the record is not."""
        for block in self.open.popleft():
            self.memory.free(block)

    def expire(self) -> None:
        """Nine sessions in ten end."""
        self.random.shuffle(self.sessions)
        for _ in range(len(self.sessions) * 9 // 10):
            self.memory.free(self.sessions.pop())


def day(service: Service, requests: int, watch: Callable[[str], None]) -> None:
    """A quiet morning, a peak at which requests pile up, and the evening."""
    for _ in range(requests // 20):
        service.request()
    watch("before")
    for _ in range(requests):
        service.request()
    watch("peak")
    while len(service.open) > requests // 20:
        service.answer()
    service.expire()
    watch("after")


def show(label: str, busy: int, committed: int) -> None:
    """One line: what is in use, what is held, what the process has in memory."""
    resident = dmi.layers()["3"].holds or 0
    print(
        f"  {label:<8}{busy >> 10:>10,} KB busy{committed >> 10:>12,} KB committed"
        f"{resident >> 10:>12,} KB resident"
    )


def on_glibc(requests: int) -> None:
    """Acts 1 and 2."""
    moments: list[dmi.Snapshot] = []

    def watch(label: str) -> None:
        moments.append(dmi.snapshot(label=label))
        outside = moments[-1].outside
        malloc = next(each for each in outside if each["name"] == "glibc malloc")
        show(label, malloc["busy"], malloc["committed"])

    print("Act 1: the service on glibc's malloc\n")
    service = Service(Glibc())
    day(service, requests, watch)
    print("\nAct 2: in which layer is it?\n")
    print(dmi.layers())
    print("\nWhat the doctor says of the three moments\n")
    print(dmi.diagnose(*moments))


def on_dmi(requests: int) -> None:
    """Act 3."""
    print(f"Act 3: the same service on dmi.Heap(decommit='lazy:delay={DELAY}')\n")
    moments: list[dmi.Snapshot] = []
    with dmi.Heap(f"lazy:delay={DELAY}", name="service") as heap:

        def watch(label: str) -> None:
            if label == "after":
                time.sleep(10 * DELAY)
            moments.append(dmi.snapshot(label=label))
            stats = heap.stats()
            show(label, stats.busy, stats.committed)

        service = Service(heap)
        day(service, requests, watch)
        stats = heap.stats(detail=True)
        print(
            "\n  The page bound, below which no allocator can go that leaves blocks in place, is\n"
            f"  {(stats.page_bound or 0) >> 10:,} KB; committed is "
            f"{stats.committed_per_page_bound:.2f} times as much."
        )
        pins = heap.pins(3)
        print("\n  The blocks that keep most free bytes from going back:")
        for pin in pins:
            print(f"    {pin.address:#x}: {pin.size} bytes pin {pin.pinned:,}")
        print("\nWhat !heap -s says\n")
        print(heap.summary())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=4000, help="at the peak (default: 4000)")
    parser.add_argument("--act", choices=("glibc", "dmi"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.act:
        {"glibc": on_glibc, "dmi": on_dmi}[args.act](args.requests)
        return 0
    for number, act in enumerate(("glibc", "dmi")):
        if number:
            print("\n" + "-" * 79 + "\n", flush=True)
        # A process for each, so that neither finds what the other left behind.
        command = [sys.executable, __file__, "--act", act, "--requests", str(args.requests)]
        subprocess.run(command, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
