"""What dmi counts is what the kernel says."""

from __future__ import annotations

import mmap
import random
import sys
import time
from pathlib import Path

import pytest

import dmi

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")

MAPS = Path("/proc/self/maps")


def writable(ranges: list[tuple[int, int]]) -> int:
    """Writable bytes of the ranges (address, size) in this process's map."""
    total = 0
    for line in MAPS.read_text().splitlines():
        span, access = line.split()[:2]
        low, high = (int(end, 16) for end in span.split("-"))
        if "w" in access:
            total += sum(max(0, min(high, a + n) - max(low, a)) for a, n in ranges)
    return total


def ranges(heap: dmi.Heap) -> list[tuple[int, int]]:
    return [(s.address, s.reserved) for s in heap.segments()]


def fragmented(heap: dmi.Heap, blocks: int, seed: int) -> list[int]:
    """Allocate blocks of many sizes, free nine in ten; what is left."""
    chance = random.Random(seed)
    pointers = [heap.malloc(chance.choice((24, 100, 400, 1500, 6000, 40000))) for _ in range(blocks)]
    chance.shuffle(pointers)
    keep = blocks // 10
    for pointer in pointers[keep:]:
        heap.free(pointer)
    return pointers[:keep]


@pytest.mark.parametrize("when", ["never", "eager", "lazy", "decay", "threshold", "budget"])
def test_strict_committed_is_what_the_kernel_lets_be_written(when: str) -> None:
    with dmi.Heap(decommit=dmi.Decommit.parse(f"{when}:how=decommit"), clock="manual") as heap:
        big = heap.malloc(40 << 20)
        left = fragmented(heap, 4000, 1)
        heap.advance(10)
        stats = heap.stats(detail=True)
        stats.check()
        assert writable(ranges(heap)) == stats.committed + stats.decommit_refused_bytes
        heap.free(big)
        for pointer in left:
            heap.free(pointer)
        heap.trim()
        stats = heap.stats(detail=True)
        assert stats.busy == 0
        assert writable(ranges(heap)) == stats.committed + stats.decommit_refused_bytes


def test_strict_decommit_lowers_the_kernels_charge() -> None:
    def charged() -> int:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("Committed_AS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no Committed_AS")

    size = 256 << 20
    with dmi.Heap(decommit=dmi.Decommit.parse("lazy:how=decommit"), clock="manual") as heap:
        blocks = [heap.malloc(1 << 20) for _ in range(size >> 20)]
        high = charged()
        for block in blocks:
            heap.free(block)
        heap.trim()
        # Other processes move the figure too, by far less than this.
        assert high - charged() > size // 2


def test_discard_keeps_resident_below_committed_and_trim_below_its_claim() -> None:
    with dmi.Heap(decommit="never") as heap:
        left = fragmented(heap, 20000, 2)
        stats = heap.stats(detail=True)
        assert stats.resident is not None
        assert 0 < stats.resident <= stats.committed
        report = heap.trim()
        after = heap.stats(detail=True)
        assert report.decommitted > 0
        assert stats.committed - after.committed == report.decommitted
        assert after.resident is not None
        # Pages that were committed but never touched have nothing to give.
        assert 0 < stats.resident - after.resident <= report.decommitted
        assert after.resident <= after.committed
        for pointer in left:
            heap.free(pointer)


def test_no_delay_is_needed_by_hand_when_a_scavenger_is_there() -> None:
    """A heap on the OS clock that falls silent gives back by itself.

    The scavenger leaves alone the page of the block that this thread would be handed next, one of each
    bucket at most, since it might be handing it out at that moment.
    """
    slack = 72 * mmap.PAGESIZE
    with dmi.Heap(decommit=dmi.Decommit(when="lazy", delay=0.05)) as heap:
        left = fragmented(heap, 20000, 3)
        retained = heap.stats().committed
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            time.sleep(0.05)
            stats = heap.stats(detail=True)
            if stats.reclaimable is not None and stats.reclaimable <= slack:
                break
        assert stats.reclaimable is not None
        assert stats.reclaimable <= slack
        assert stats.committed < retained
        for pointer in left:
            heap.free(pointer)
