"""Freed small blocks of hardened heaps: how long they wait, where they come back, what is found."""

from __future__ import annotations

import ctypes

import pytest

import dmi

# A library that gives back at every chance empties quarantines in each slow path.
pytestmark = pytest.mark.keeps

KIB = 1024
# Bytes of a request, and how many others of its size are freed before a block may come back.
WAITS = [(1, 8), (24, 8), (200, 8), (500, 4), (2000, 4), (5000, 2), (32000, 2)]


@pytest.mark.parametrize(("size", "others"), WAITS)
def test_a_block_waits_until_others_were_freed(size: int, others: int) -> None:
    with dmi.Heap(hardened=True, clock="manual") as heap:
        heap.malloc(size)  # the first of a size is of the free list
        came_back: list[int] = []
        for _ in range(60):
            block = heap.malloc(size)
            heap.free(block)
            for after in range(1000):
                other = heap.malloc(size)
                if other == block:
                    came_back.append(after)
                heap.free(other)
                if other == block:
                    break
        assert len(came_back) == 60
        assert min(came_back) >= others
        assert len(set(came_back)) > 1  # nobody can tell when
        heap.stats(detail=True).check()
        heap.validate()


@pytest.mark.parametrize(("size", "others"), WAITS)
def test_blocks_come_back_in_no_order(size: int, others: int) -> None:
    # With 24 blocks a round, two of 20 orders agree once in 150 times.
    with dmi.Heap(hardened=True, clock="manual") as heap:
        orders = set()
        for _ in range(20):
            blocks = [heap.malloc(size) for _ in range(96)]
            for block in blocks:
                heap.free(block)
            again = [heap.malloc(size) for _ in range(96)]
            orders.add(tuple(blocks.index(block) for block in again if block in blocks))
            for block in again:
                heap.free(block)
        assert len(orders) == 20, others


@pytest.mark.parametrize("size", [1, 24, 1000, 20000])
def test_a_canary_that_was_hit_while_the_block_waited_is_found(size: int) -> None:
    with dmi.Heap("never", hardened=True) as heap:
        heap.malloc(size)  # the first of a size is of the free list
        block = heap.malloc(size)
        behind = block + heap.usable_size(block)
        heap.free(block)
        ctypes.memset(behind, ctypes.string_at(behind, 1)[0] ^ 0xFF, 1)
        for _ in range(2000):
            one = heap.malloc(size)
            if one == block:
                break
            heap.free(one)
        assert one == block
        with pytest.raises(dmi.HeapError, match="overwritten"):
            heap.free(block)


def test_what_waits_stays_within_its_bound() -> None:
    """All sizes at once: a block that waits counts as free, but its page stays."""
    with dmi.Heap(hardened=True, clock="manual") as heap:
        for size in range(8, 32 * KIB, 104):
            blocks = [heap.malloc(size) for _ in range(40)]
            for block in blocks:
                heap.free(block)
        stats = heap.stats(detail=True)  # looks, and so lets all of them go
        stats.check()
        assert stats.busy == 0
        heap.trim()
        assert heap.stats().committed <= 64 * KIB
