"""What dmi counts is what the kernel says."""

from __future__ import annotations

import ctypes
import mmap
import random
import sys
import threading
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
    pointers = [
        heap.malloc(chance.choice((24, 100, 400, 1500, 6000, 40000))) for _ in range(blocks)
    ]
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


@pytest.mark.keeps
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


@pytest.mark.keeps  # until the scavenger comes
def test_no_delay_is_needed_by_hand_when_a_scavenger_is_there() -> None:
    """A heap on the OS clock that falls silent gives back by itself.

    The scavenger leaves alone the page of the block that this thread would be handed next, one of
    each bucket at most, since it might be handing it out at that moment.
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


LOADED_LATE = "libanl.so.1"  # a part of glibc that nothing here uses


@pytest.mark.keeps
@pytest.mark.timeout(300)
def test_a_hundred_thousand_ranges_leave_the_program_its_mappings() -> None:
    """Strict decommit of every other page: more ranges than Linux allows mappings."""
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    wanted, pairs = 100_000, 100_100
    if limit > 2 * wanted:
        pytest.skip(f"vm.max_map_count is {limit}: nothing to fall back from")
    with dmi.Heap("never:how=decommit", clock="manual", name="split") as heap:
        pages = [heap.malloc(mmap.PAGESIZE) for _ in range(2 * pairs)]
        pages.sort()
        for page in pages[::2]:
            heap.free(page)
        before = len(MAPS.read_text().splitlines())
        report = heap.trim()
        stats = heap.stats(detail=True)
        stats.check()
        assert stats.uncommitted_ranges >= wanted
        assert report.decommitted >= wanted * mmap.PAGESIZE
        # It says what it fell back to, and the kernel says the same.
        assert stats.refused_calls > 0
        assert stats.decommit_refused_bytes > 0
        assert writable(ranges(heap)) == stats.committed + stats.decommit_refused_bytes
        explained = {figure.name: figure for figure in heap.explain().figures}
        assert explained["decommit_refused_bytes"].value == stats.decommit_refused_bytes
        assert "VMA limit" in explained["decommit_refused_bytes"].meaning
        # What was refused is discarded all the same: nobody's memory is held for it.
        assert stats.resident is not None
        assert stats.resident <= stats.committed
        # Half of the limit is the program's: it starts threads and loads libraries.
        now = len(MAPS.read_text().splitlines())
        assert 10_000 < now - before <= limit // 2 + 100
        assert LOADED_LATE not in MAPS.read_text()
        ctypes.CDLL(LOADED_LATE)
        assert LOADED_LATE in MAPS.read_text()
        seen: list[int] = []
        threads = [threading.Thread(target=seen.append, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(seen) == list(range(20))
        # And all of it can be used again.
        again = [heap.malloc(mmap.PAGESIZE) for _ in range(pairs)]
        for page in again:
            ctypes.memset(page, 1, mmap.PAGESIZE)
        heap.validate()
        used = heap.stats()
        assert used.busy >= 2 * pairs * mmap.PAGESIZE
        assert writable(ranges(heap)) == used.committed + used.decommit_refused_bytes
        for page in pages[1::2] + again:
            heap.free(page)
    assert len(MAPS.read_text().splitlines()) < before


def kernel_resident(heap: dmi.Heap) -> int:
    """Rss of the heap's ranges, from smaps."""
    wanted, total, inside = ranges(heap), 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first:
            low, high = (int(end, 16) for end in first.split("-"))
            inside = any(low < a + n and a < high for a, n in wanted)
        elif inside and first == "Rss:":
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.keeps
@pytest.mark.parametrize("how", ["discard", "decommit", "offer"])
def test_trim_reports_what_the_kernel_sees(how: str) -> None:
    """Of pages that were all touched, each that trim gives back leaves physical memory."""
    with dmi.Heap(f"never:how={how}", clock="manual") as heap:
        chance = random.Random(6)
        blocks = []
        for _ in range(20_000):
            size = chance.choice((100, 1500, 6000, 40_000))
            blocks.append(heap.malloc(size))
            ctypes.memset(blocks[-1], 1, size)
        chance.shuffle(blocks)
        for block in blocks[2000:]:
            heap.free(block)
        before = kernel_resident(heap)
        report = heap.trim()
        fallen = before - kernel_resident(heap)
        assert report.decommitted > 100 << 20
        # Metadata lies in the same mappings; trim writes some.
        assert abs(fallen - report.decommitted) < 2 << 20
        assert abs(report.confirmed - report.decommitted) < 1 << 20


def test_a_large_block_is_not_written_to_be_zero() -> None:
    size = 256 << 20

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    with dmi.Heap("never") as heap:
        first = heap.calloc(size)
        memoryview(first)[:: mmap.PAGESIZE << 8] = b"\xff" * (size // (mmap.PAGESIZE << 8))
        first.free()
        before = resident()
        again = heap.calloc(size)
        assert resident() < before + (size >> 4)
        assert not any(memoryview(again)[:: mmap.PAGESIZE << 8])
