"""Huge pages: the option, what it keeps and why, and what the kernel says about it."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

import dmi

UNIT = 2 << 20
SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def offered_by_the_system() -> bool:
    return SWITCH.exists() and "[never]" not in SWITCH.read_text()


needs_huge = pytest.mark.skipif(
    not offered_by_the_system(), reason="this system has no transparent huge pages to give"
)


def in_huge_pages(heap: dmi.Heap) -> int:
    """Bytes of the heap's ranges that the kernel backs with huge pages."""
    ranges = [(s.address, s.address + s.reserved) for s in heap.segments()]
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            low, high = (int(end, 16) for end in head.split("-"))
            inside = any(low < end and high > begin for begin, end in ranges)
        elif inside and head == "AnonHugePages:":
            total += int(line.split()[1]) * 1024
    return total


def quarters(heap: dmi.Heap, units: int) -> list[int]:
    """Blocks of a quarter of a unit, all written; those that share a unit stand side by side."""
    blocks = sorted(heap.malloc(UNIT // 4) for _ in range(units * 4))
    for block in blocks:
        dmi.ffi.memmove(dmi.ffi.cast("char *", block), b"\1" * (UNIT // 4), UNIT // 4)
    return blocks


def test_the_options_are_checked_and_reported() -> None:
    with dmi.Heap() as heap:
        assert not heap.huge_pages
        assert heap.huge_split == 0.25
    with dmi.Heap(huge_pages=True, huge_split=0.4) as heap:
        assert heap.huge_pages
        assert heap.huge_split == 0.4
        assert dmi.Heap.from_handle(heap.handle).huge_split == 0.4
    with pytest.raises(TypeError, match="huge_pages must be True or False"):
        dmi.Heap(huge_pages=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="huge_split must be a number"):
        dmi.Heap(huge_split="1")  # type: ignore[arg-type]
    for share in (0, -0.1, 1.01, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="huge_split must be above 0"):
            dmi.Heap(huge_split=share)


@pytest.mark.keeps
@needs_huge
def test_less_than_the_share_stays_and_the_reason_says_so() -> None:
    with dmi.Heap(huge_pages=True, clock="manual") as heap:
        blocks = quarters(heap, 1)
        assert heap.realloc(blocks[1], UNIT // 8) == blocks[1]
        before = heap.stats(detail=True)
        heap.advance(10)
        after = heap.stats(detail=True)
        after.check()
        assert after.committed == before.committed
        assert after.reasons is not None
        assert after.reasons["commit_granularity"] == UNIT // 8
        assert after.reasons["delay"] == 0
        assert "huge page" in str(heap.explain())
        for block in blocks:
            heap.free(block)
        heap.advance(10)
        assert heap.stats().committed < UNIT // 4


@needs_huge
def test_the_walk_and_the_numbers_give_the_same_reasons() -> None:
    with dmi.Heap(huge_pages=True, clock="manual") as heap:
        blocks = sorted(heap.malloc(4096) for _ in range(4000))
        for block in blocks[::9]:
            heap.free(block)
        heap.free(heap.malloc(200_000))
        heap.advance(10)
        reasons = heap.stats(detail=True).reasons
        assert reasons is not None
        assert reasons["commit_granularity"] > 1 << 20
        found = dict.fromkeys(reasons, 0)
        for part in heap.walk():
            if part.reason is not None:
                found[part.reason] += part.size
        assert found == reasons


@needs_huge
def test_huge_pages_come_go_whole_are_split_and_come_again() -> None:
    with dmi.Heap(huge_pages=True, clock="manual") as heap, dmi.Heap(clock="manual") as plain:
        quarters(plain, 4)
        assert in_huge_pages(plain) == 0
        blocks = quarters(heap, 16)
        have = in_huge_pages(heap)
        if have < 12 * UNIT:
            pytest.skip("the kernel has no huge pages to spare just now")
        units: dict[int, list[int]] = {}
        for block in blocks:
            units.setdefault(block // UNIT, []).append(block)
        full = [unit for unit in units.values() if len(unit) == 4]
        assert len(full) >= 12
        # Three units go whole: nothing is split for them.
        for block in full[0] + full[1] + full[2]:
            heap.free(block)
        heap.advance(10)
        stats = heap.stats(detail=True)
        assert stats.reasons is not None
        assert stats.reasons["commit_granularity"] == 0
        assert in_huge_pages(heap) >= have - 3 * UNIT
        # Of three more a quarter goes each.
        for unit in full[3:6]:
            heap.free(unit[0])
        resident = stats.resident
        heap.advance(10)
        stats = heap.stats(detail=True)
        assert resident is not None
        assert stats.resident is not None
        assert resident - stats.resident == 3 * UNIT // 4
        # Of the six some may have had none from the start.
        assert in_huge_pages(heap) <= (len(full) - 6) * UNIT
        # When the rest of them goes, fresh huge pages may come.
        for unit in full[3:6]:
            for block in unit[1:]:
                heap.free(block)
        heap.advance(10)
        left = in_huge_pages(heap)
        quarters(heap, 6)
        assert in_huge_pages(heap) > left


MEMORY = Path("/sys/fs/cgroup/memory")

GIVE_BACK = """
import sys, dmi
heap = dmi.Heap(huge_pages=True, clock="manual")
used = lambda: int(open(sys.argv[1]).read())
blocks = sorted(heap.malloc(1 << 19) for _ in range(256))
for block in blocks:
    dmi.ffi.memmove(dmi.ffi.cast("char *", block), bytes(b"1") * (1 << 19), 1 << 19)
full = used()
for block in blocks[::2]:
    heap.free(block)
heap.advance(10)
print(full - used(), heap.stats().decommit_bytes)
"""


@needs_huge
@pytest.mark.skipif(not MEMORY.is_dir(), reason="no cgroup v1 memory controller to ask")
def test_the_kernel_really_has_the_memory_back() -> None:
    """Resident falls with the page table; what counts is what the kernel has charged."""
    group = MEMORY / f"dmi-huge-{mmap.PAGESIZE}-{id(MEMORY)}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup may be made here: {error}")
    try:
        done = subprocess.run(
            ["sh", "-ec", f'echo $$ > {group}/cgroup.procs; exec "$0" -c "$1" "$2"',
             sys.executable, GIVE_BACK, f"{group}/memory.usage_in_bytes"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        group.rmdir()
    assert done.returncode == 0, done.stderr
    back, claimed = map(int, done.stdout.split())
    assert claimed >= 60 << 20
    # Charges are settled in batches of some pages a processor.
    assert back > claimed * 0.9


@needs_huge
def test_metadata_has_no_huge_pages() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    with dmi.Heap(huge_pages=True, clock="manual") as heap:
        handle = dmi.ffi.cast("void *", heap.handle)
        before = resident()
        # In C nothing of a block is touched before its owner does it.
        blocks = [dmi.lib.dmi_heap_malloc(handle, UNIT // 4) for _ in range(4 * 32)]
        assert heap.stats().committed >= 32 * UNIT
        assert len(heap.segments()) >= 4
        assert resident() - before < UNIT
        for block in blocks:
            dmi.lib.dmi_heap_free(handle, block)
