"""What freed large blocks leave: no larger heap, and no fresh pages for the next request."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from test_preload import build, succeeded

import dmi

if TYPE_CHECKING:
    from pathlib import Path

    from test_preload import Build

__all__ = ["build"]
MIB = 1 << 20

# A library that gives back at every chance keeps nothing to look at.
pytestmark = pytest.mark.keeps

linux = pytest.mark.skipif(sys.platform != "linux", reason="there is no LD_PRELOAD")


def without(program: Path, way: str) -> int:
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    done = subprocess.run([program, way], env=environment, capture_output=True, check=True)
    return int(done.stdout)


@linux
@pytest.mark.parametrize(("way", "most"), [("vector", 1.1), ("mix", 1.05)])
def test_the_peak_is_as_glibc_s(build: Build, way: str, most: float) -> None:
    program = build("large.c")
    theirs = without(program, way)
    assert int(succeeded(program, way)) <= most * theirs


@linux
def test_a_pair_of_malloc_and_free_faults_once(build: Build) -> None:
    pages = 4 * 48 * 20 * MIB // os.sysconf("SC_PAGESIZE")
    assert int(succeeded(build("large.c"), "pair")) < pages // 20


@linux
def test_a_freed_block_serves_smaller_ones(build: Build) -> None:
    program = build("large.c")
    assert int(succeeded(program, "pieces")) < 1000
    for policy in ("never", "eager", "lazy:how=decommit", "lazy:how=offer", "decay"):
        succeeded(program, "pieces", options=f"decommit={policy}")


@linux
@pytest.mark.alone
def test_a_block_grows_without_a_second_one(build: Build) -> None:
    assert int(succeeded(build("large.c"), "grow")) < 80


@linux
def test_a_vector_that_grows_again_finds_the_room_of_the_last_one(build: Build) -> None:
    pages = 19 * 16 * MIB // os.sysconf("SC_PAGESIZE")
    assert int(succeeded(build("large.c"), "again")) < pages // 5


@linux
@pytest.mark.parametrize("policy", ["lazy", "eager", "never", "lazy:how=decommit"])
def test_blocks_that_grow_in_turn_keep_what_they_hold(build: Build, policy: str) -> None:
    succeeded(build("large.c"), "turns", options=f"decommit={policy}")


@linux
@pytest.mark.parametrize("policy", ["", "never", "eager", "lazy:how=decommit"])
def test_a_hopeless_request_changes_nothing(build: Build, policy: str) -> None:
    options = f"decommit={policy}" if policy else ""
    if policy == "eager":
        assert succeeded(build("large.c"), "grow", options=options)
        return
    assert succeeded(build("hopeless.c"), options=options) == "ok\n"


def test_pieces_of_kept_blocks_close_the_account() -> None:
    with dmi.Heap(decommit="never", clock="manual") as heap:
        whole = 200 * MIB
        heap.free(heap.malloc(200 * MIB))
        held = [heap.malloc(size * MIB) for size in (17, 5, 30, 21)]
        heap.free(held[1])
        heap.free(held[2])
        held = [held[0], held[3], heap.malloc(33 * MIB)]
        stats = heap.stats(detail=True)
        stats.check()
        assert stats.virtual_blocks == 3
        assert stats.committed == whole
        heap.validate()
        ranges = list(heap.walk())
        assert sum(found.size for found in ranges) == whole
        assert len([found for found in ranges if found.state == "busy"]) == 3
        for address in held:
            found = dmi.find(address + 12345)
            assert found is not None
            assert found.address == address
        larger = heap.realloc(held[0], 20 * MIB)
        heap.stats(detail=True).check()
        for address in (larger, *held[1:]):
            heap.free(address)
        with pytest.raises(dmi.HeapError):
            heap.free(larger)
        heap.trim()
        assert heap.stats().committed == 0


@pytest.mark.parametrize("how", ["lazy", "lazy:how=decommit", "eager"])
@pytest.mark.parametrize("size", [40_000, 1 * MIB, 20 * MIB])
def test_a_hardened_heap_withholds_what_was_large(how: str, size: int) -> None:
    with dmi.Heap(decommit=how, hardened=True, clock="manual") as heap:
        gone: list[int] = []
        for _ in range(50):
            one = heap.malloc(size)
            assert one not in gone[-4:]
            ctypes.memset(one, 1, size)
            heap.free(one)
            gone.append(one)
            for address in gone[-4:]:
                with pytest.raises(dmi.HeapError):
                    heap.free(address)
            stats = heap.stats(detail=True)
            stats.check()
            assert stats.busy == 0
            assert sum(found.size for found in heap.walk()) == stats.reserved
            heap.validate()
        assert stats.committed < MIB
        assert stats.reserved < 100 * MIB
        heap.trim()
        assert heap.stats().reserved <= 4 * MIB


@linux
@pytest.mark.parametrize("size", [40_000, 1 * MIB, 20 * MIB])
def test_what_a_hardened_heap_withholds_cannot_be_read(size: int) -> None:
    script = f"""
import ctypes, dmi
heap = dmi.Heap(hardened=True)
block = heap.malloc({size})
ctypes.memset(block, 65, {size})
heap.free(block)
print(ctypes.string_at(block, 16))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    told = size < 16 * MIB
    assert ("the block was freed" in done.stderr) == told
    assert done.returncode == -(signal.SIGABRT if told else signal.SIGSEGV)


@linux
@pytest.mark.parametrize(("how", "then"), [("lazy", "lazy"), ("lazy:how=decommit", "lazy")])
@pytest.mark.parametrize(
    "place",
    ["larger + size_of(larger)", "virtual + size_of(virtual)", "segment - 1", "segment - 4096"],
)
def test_fences_of_a_hardened_heap_cannot_be_touched(how: str, then: str, place: str) -> None:
    script = f"""
import ctypes, sys, dmi
heap = dmi.Heap(decommit={how!r}, hardened=True)
blocks = [heap.malloc(100_000) for _ in range(3)]
larger, virtual = blocks[1], heap.malloc(20 << 20)
heap.decommit = {then!r}
segment = min(found.address for found in heap.walk() if found.address < virtual or
              found.address > virtual + (20 << 20))
size_of = lambda block: (heap.usable_size(block) + 8 + 4095) // 4096 * 4096
for block in (larger, virtual):
    ctypes.memset(block, 1, heap.usable_size(block))
heap.validate()
heap.stats(detail=True).check()
heap.free(blocks[0])
print("so far", flush=True)
ctypes.memset({place}, 1, 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "so far\n", done.stderr
    told = place.startswith("larger")
    assert ("this is behind the end of the block" in done.stderr) == told
    assert done.returncode == -(signal.SIGABRT if told else signal.SIGSEGV)


def test_what_is_kept_goes_after_its_delay_whoever_uses_its_neighbours() -> None:
    with dmi.Heap(decommit="lazy", clock="manual") as heap:
        kept = heap.malloc(60 * MIB)
        ctypes.memset(kept, 1, 60 * MIB)
        heap.free(kept)
        before = heap.stats().committed
        one = heap.malloc(20 * MIB)
        assert heap.stats().committed == before
        for _ in range(8):
            heap.advance(0.5)
            heap.free(one)
            one = heap.malloc(20 * MIB)
        assert heap.stats().committed < 22 * MIB
        heap.free(one)
