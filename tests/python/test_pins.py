"""Which blocks pin free bytes, walks as arrays, and what is new since a mark."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

import dmi
from dmi.walk import KIND_CODES, STATE_CODES, Range

PAGE = 4096


def expected_lfh(heap: dmi.Heap) -> dict[int, int]:
    """Pinned bytes of every block of a bucket, from a walk, page by page."""
    busy: dict[int, set[Range]] = defaultdict(set)
    free: dict[int, int] = defaultdict(int)
    for found in heap.walk():
        if found.state not in ("busy", "free") or found.kind == "virtual":
            continue
        for page in range(found.address // PAGE, (found.end - 1) // PAGE + 1):
            if found.state == "busy":
                busy[page].add(found)
            else:
                low, high = page * PAGE, (page + 1) * PAGE
                free[page] += min(found.end, high) - max(found.address, low)
    pinned: dict[int, int] = defaultdict(int)
    for page, owners in busy.items():
        if len(owners) == 1:
            (owner,) = owners
            if owner.kind == "lfh" and free[page]:
                pinned[owner.address] += free[page]
    return pinned


@pytest.mark.parametrize("sizes", [(64,), (1000,), (3000, 5000), (24, 300, 9000, 12_000)])
def test_pins_of_buckets_are_those_of_a_model(sizes: tuple[int, ...]) -> None:
    rng = random.Random(4)
    with dmi.Heap("never") as heap:
        blocks = [heap.malloc(rng.choice(sizes)) for _ in range(6000)]
        for address in rng.sample(blocks, 5500):
            heap.free(address)
        model = expected_lfh(heap)
        found = heap.pins(10**6)
        lfh = {r.address for r in heap.walk() if r.kind == "lfh"}
        assert {pin.address: pin.pinned for pin in found if pin.address in lfh} == model
        assert model
        assert found == sorted(found, key=lambda pin: (-pin.pinned, pin.address))
        assert heap.pins(7) == found[:7]
        assert heap.pins(0) == []
        assert all(pin.size == heap.usable_size(pin.address) for pin in found)


@pytest.mark.keeps
@pytest.mark.parametrize("lfh", [True, False])
def test_a_block_that_is_freed_lets_go_what_it_pinned(lfh: bool) -> None:
    rng = random.Random(9)
    with dmi.Heap("never", lfh=lfh) as heap:
        live = [heap.malloc(rng.randint(1, 12_000)) for _ in range(3000)]
        rng.shuffle(live)
        for address in live[300:]:
            heap.free(address)
        checked = 0
        while pins := heap.pins(1):
            (pin,) = pins
            before = heap.stats(detail=True)
            heap.free(pin.address)
            after = heap.stats(detail=True)
            assert before.reclaimable is not None
            assert after.reclaimable is not None
            gained = after.reclaimable - before.reclaimable
            # What comes free with it besides: its own bytes, tags that are tags no more, and the
            # tail of a run that held nothing else, which is shorter than a block.
            assert pin.pinned <= gained <= pin.pinned + 2 * pin.size + 64
            checked += 1
        assert checked > 100
        assert heap.stats().busy_blocks < 300


def test_nothing_is_pinned_where_nothing_is_free(heap: dmi.Heap) -> None:
    assert heap.pins() == []
    block = heap.malloc(16 * PAGE)
    large = heap.malloc(64 << 20)
    assert all(pin.address not in (block, large) for pin in heap.pins())
    with pytest.raises(ValueError, match="top must be 0 or more"):
        heap.pins(-1)
    with pytest.raises(TypeError, match="top must be an int"):
        heap.pins(True)


def test_a_walk_as_an_array_has_the_same_ranges(heap: dmi.Heap) -> None:
    pytest.importorskip("numpy")
    rng = random.Random(2)
    blocks = [heap.malloc(rng.choice((16, 100, 4000, 100_000))) for _ in range(5000)]
    for address in blocks[::3]:
        heap.free(address)
    heap.trim()
    array, walk = heap.walk_array(), heap.ranges()
    assert array.dtype.itemsize == 40
    assert len(array) == len(walk)
    for row, found in zip(array.tolist(), walk, strict=True):
        address, size, kind, state, bucket, _flags, segment = row
        assert (address, size, bucket, segment) == (
            found.address, found.size, found.bucket, found.segment,
        )  # fmt: skip
        assert (kind, state) == (KIND_CODES[found.kind], STATE_CODES[found.state])
    busy = array[array["state"] == STATE_CODES["busy"]]
    assert int(busy["size"].sum()) == heap.stats().busy
    assert int(array["size"].sum()) == heap.stats().reserved
    with pytest.raises(ValueError):
        array["size"] = 0


def test_what_came_and_what_went(heap: dmi.Heap) -> None:
    stays, goes = heap.malloc(200), [heap.malloc(size) for size in (200, 9000, 64 << 20)]
    earlier = heap.ranges()
    for address in goes:
        heap.free(address)
    comes = {heap.malloc(size) for size in (50, 70_000)}
    came, went = heap.ranges().busy_changes(earlier)
    assert {found.address for found in came} == comes
    assert {found.address for found in went} == set(goes)
    assert stays not in comes
    assert all(found.state == "busy" for found in came + went)


def test_what_is_new_since_a_mark(heap: dmi.Heap) -> None:
    old = [heap.malloc(200) for _ in range(1000)]
    mark = heap.mark()
    assert heap.blocks_since(mark) == []
    new = {heap.malloc(size) for size in (200, 200, 50, 9000, 70_000, 64 << 20)}
    assert {found.address for found in heap.blocks_since(mark)} == new
    for address in old:
        heap.free(address)
    assert {found.address for found in heap.blocks_since(mark)} == new
    heap.free(new.pop())
    assert {found.address for found in heap.blocks_since(mark)} == new
    with dmi.Heap() as other, pytest.raises(dmi.HeapError, match="the mark is of heap"):
        other.blocks_since(mark)
