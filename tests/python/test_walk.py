"""Lazy walks: bounded memory, beside threads, why bytes are retained; and what validate() names."""

from __future__ import annotations

import ctypes
import itertools
import random
import threading
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

import dmi


@pytest.fixture
def heap() -> dmi.Heap:
    return dmi.Heap("never", clock="manual")


def test_parts_make_the_whole_walk(heap: dmi.Heap) -> None:
    rng = random.Random(3)
    blocks = [heap.malloc(rng.choice((16, 48, 700, 9000))) for _ in range(150_000)]
    blocks += [heap.malloc(300_000), heap.malloc(20 << 20)]
    for address in blocks[::2]:
        heap.free(address)
    whole, parts = list(heap.ranges()), list(heap.walk())
    assert len(whole) > 2 * 65536  # several parts
    assert parts == whole
    assert list(heap.walk().select(state="busy", at_least=700)) == [
        found for found in whole if found.state == "busy" and found.size >= 700
    ]
    assert heap.walk().histogram() == heap.ranges().histogram()
    assert sum(found.size for found in parts) == heap.stats().reserved
    for one, two in itertools.pairwise(parts):
        assert one.end <= two.address


def test_a_walk_needs_bounded_memory(heap: dmi.Heap) -> None:
    for _ in range(400_000):
        heap.malloc(16)
    tracemalloc.start()
    try:
        count = sum(1 for _ in heap.walk())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == len(heap.ranges()) >= 400_000
    assert most < 8 << 20 < heap.ranges().records.nbytes


@pytest.mark.keeps
def test_reasons_of_the_ranges_are_those_of_the_counters() -> None:
    heap = dmi.Heap("lazy:delay=1", clock="manual")
    blocks = [heap.malloc(100) for _ in range(5000)]
    large = [heap.malloc(50_000) for _ in range(5)]
    for address in (*blocks[1000:3000], *blocks[3001::2], *large):
        heap.free(address)
    stats = heap.stats(detail=True)
    assert stats.reasons is not None
    told: Counter[str | None] = Counter()
    for found in heap.walk():
        told[found.reason] += found.size
        assert (found.reason is None) == (found.state in ("busy", "uncommitted"))
        assert found.reason is None or found.reason in stats.reasons
    assert told["overhead"] == stats.reasons["overhead"]
    assert sum(size for reason, size in told.items() if reason) == stats.retained
    assert told["delay"] >= stats.reasons["delay"] > 0
    assert told["pinned"] > 0


def test_a_heap_that_goes_ends_the_walk() -> None:
    heap = dmi.Heap("never")
    for _ in range(200_000):
        heap.malloc(16)
    found = iter(heap.walk())
    next(found)
    heap.destroy()
    with pytest.raises(dmi.HeapError, match="destroyed"):
        list(found)
    with pytest.raises(dmi.HeapError, match="destroyed"):
        heap.walk()


def test_a_walk_beside_threads_meets_each_living_block_once() -> None:
    heap = dmi.Heap("lazy:delay=0.01")
    kept = {heap.malloc(size % 900 + 1) for size in range(30_000)}
    stop = threading.Event()

    def work(seed: int) -> None:
        rng = random.Random(seed)
        mine: list[int] = []
        while not stop.is_set():
            mine += [heap.malloc(rng.choice((40, 400, 30_000))) for _ in range(200)]
            rng.shuffle(mine)
            while len(mine) > 300:
                heap.free(mine.pop())
        for address in mine:
            heap.free(address)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            last, seen = 0, 0
            for found in heap.walk():
                assert found.address >= last
                last = found.end
                seen += found.state == "busy" and found.address in kept
            assert seen == len(kept)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# ---- damage, named ---------------------------------------------------------------------------


def _write(address: int, word: int) -> int:
    place = ctypes.c_uint64.from_address(address)
    before, place.value = place.value, word
    return before


def _damaged(heap: dmi.Heap) -> dmi.HeapError:
    with pytest.raises(dmi.HeapError, match="is damaged at 0x") as caught:
        heap.validate()
    assert caught.value.fault == "corrupt"
    return caught.value


def test_validate_names_a_damaged_tag_and_its_neighbours() -> None:
    heap = dmi.Heap("never", lfh=False)
    blocks = [heap.malloc(200) for _ in range(8)]
    heap.validate()
    before = _write(blocks[4] - 8, 0x1234567812345678)
    error = _damaged(heap)
    assert error.address == blocks[4] - 8
    assert "tag" in str(error)
    assert f"{blocks[3]:#x}" in str(error)  # the block before it
    _write(blocks[4] - 8, before)
    heap.validate()


def test_validate_names_a_damaged_link_of_a_free_list_block() -> None:
    heap = dmi.Heap("never", lfh=False)
    blocks = [heap.malloc(200) for _ in range(8)]
    heap.free(blocks[3])
    before = _write(blocks[3], 0x4141414141414141)
    error = _damaged(heap)
    assert error.address == blocks[3] - 8
    assert "links" in str(error)
    assert "0x4141414141414141" not in str(
        error
    )  # nor what it decodes to: together they are the key
    _write(blocks[3], before)
    heap.validate()


def test_validate_names_a_damaged_link_of_a_bucket() -> None:
    heap = dmi.Heap("never")
    blocks = [heap.malloc(64) for _ in range(300)]
    for address in blocks[200:220]:
        heap.free(address)
    place = dmi.find(blocks[210])
    assert place is not None
    assert (place.kind, place.state) == ("lfh", "free")
    before = _write(blocks[210], blocks[210] + 24)
    error = _damaged(heap)
    assert error.address == blocks[210]
    assert "link" in str(error)
    assert "subsegment" in str(error)
    # The walk says so too, and goes on.
    reasons = Counter(found.reason for found in heap.walk())
    assert reasons["damaged"] == 1
    assert sum(found.size for found in heap.walk()) == heap.stats().reserved
    _write(blocks[210], before)
    heap.validate()


def test_validate_names_a_damaged_descriptor() -> None:
    heap = dmi.Heap("never")
    blocks = [heap.malloc(64) for _ in range(300)]
    place = dmi.find(blocks[250])
    assert place is not None
    # Descriptors lie before the segment's first page; the one of this run is found by its head, the
    # block that is handed out next.
    following = heap.malloc(64)
    heap.free(following)
    descriptor = _descriptor_with_head(place.segment, following)
    before = _write(descriptor + 24, 0)  # block_size, seen, capacity, carved
    error = _damaged(heap)
    _write(descriptor + 24, before)
    assert error.address == descriptor
    assert "descriptor" in str(error)
    heap.validate()


def _descriptor_with_head(segment: int, head: int) -> int:
    """Descriptors are 128 bytes each, aligned, and begin with the head of their list."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(bound, 16) for bound in line.split()[0].split("-"))
        if low < segment <= high:
            break
    else:
        raise AssertionError("the segment's metadata is not mapped")
    for address in range(segment - 128, low, -128):
        if ctypes.c_uint64.from_address(address).value == head:
            return address
    raise AssertionError("no descriptor has that head")
