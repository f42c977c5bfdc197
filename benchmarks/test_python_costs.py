"""What a block costs from Python: dmi beside bytearray, ctypes, cymem and NumPy.

Every benchmark does LOOPS operations a call, so a time divided by LOOPS is the time of one. `floor`
is an empty pair of Cython functions, below which nothing called from Python can go.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import dmi

if TYPE_CHECKING:
    from types import ModuleType

    from pytest_benchmark.fixture import BenchmarkFixture

LOOPS = 1000

Native = Callable[[str], "ModuleType"]
Make = Callable[[int], Any]
Drop = Callable[[Any], Any]
# Make and drop; without a drop the object goes with its last reference.
Way = tuple[Make, Drop | None]


def _libc() -> Way:
    libc = ctypes.CDLL(None)
    malloc, free = libc.malloc, libc.free
    malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    free.argtypes, free.restype = [ctypes.c_void_p], None
    return malloc, free


def _numpy() -> Way:
    numpy = pytest.importorskip("numpy")
    empty, kind = numpy.empty, numpy.dtype("u1")
    return lambda size: empty(size, kind), None


def _pool(native: Native) -> Way:
    pytest.importorskip("cymem")
    caller = native("pool").Caller()
    return caller.alloc, caller.free


def _address() -> Way:
    address = pytest.importorskip("cymem.cymem").Address
    return lambda size: address(1, size), None


def _floor(native: Native) -> Way:
    module = native("floor")
    return module.m, module.f


def _way(name: str, heap: dmi.Heap, native: Native) -> Way:
    if name == "dmi malloc":
        return heap.malloc, heap.free
    if name == "dmi Block":
        return heap.alloc, None
    if name == "dmi Block.free":
        return heap.alloc, dmi.Block.free
    if name == "bytearray":
        return bytearray, None
    if name == "ctypes malloc":
        return _libc()
    if name == "cymem Pool":
        return _pool(native)
    if name == "cymem Address":
        return _address()
    if name == "numpy.empty":
        return _numpy()
    assert name == "floor"
    return _floor(native)


WAYS = (
    "dmi malloc",
    "dmi Block",
    "dmi Block.free",
    "bytearray",
    "ctypes malloc",
    "cymem Pool",
    "cymem Address",
    "numpy.empty",
    "floor",
)


def _pairs(make: Make, drop: Drop | None, size: int) -> None:
    if drop is None:
        for _ in itertools.repeat(None, LOOPS):
            make(size)
    else:
        for _ in itertools.repeat(None, LOOPS):
            drop(make(size))


@pytest.mark.parametrize("size", [64, 1024, 65536])
@pytest.mark.parametrize("name", WAYS)
def test_pair(benchmark: BenchmarkFixture, native: Native, name: str, size: int) -> None:
    """Allocate and free at once."""
    benchmark.group = f"pair of {size:,} B"
    benchmark.extra_info["operations"] = LOOPS
    with dmi.Heap(name="pair") as heap:
        make, drop = _way(name, heap, native)
        benchmark(_pairs, make, drop, size)
        assert heap.stats().busy_blocks == 0


@pytest.mark.parametrize("size", [64, 1024, 65536])
def test_side_by_side(
    benchmark: BenchmarkFixture, native: Native, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    """Pairs of all five in turn, so that what else the machine does meets all alike.

    Prints the least time of each, and the two ratios that have a bound.
    """
    benchmark.group = f"five ways in turn, {size:,} B"
    names = ("floor", "dmi malloc", "bytearray", "dmi Block", "dmi Block.free")
    with dmi.Heap(name="in turn") as heap:
        ways = {name: _way(name, heap, native) for name in names}
        least = dict.fromkeys(names, math.inf)

        def turn() -> None:
            for name, (make, drop) in ways.items():
                start = time.perf_counter()
                _pairs(make, drop, size)
                least[name] = min(least[name], (time.perf_counter() - start) / LOOPS)

        benchmark.pedantic(turn, rounds=300, warmup_rounds=10)
        assert heap.stats().busy_blocks == 0
    ratios = {
        "dmi malloc / floor": least["dmi malloc"] / least["floor"],
        "dmi Block / bytearray": least["dmi Block"] / least["bytearray"],
        "dmi Block.free / bytearray": least["dmi Block.free"] / least["bytearray"],
    }
    benchmark.extra_info.update(ratios, ns={name: 1e9 * seconds for name, seconds in least.items()})
    with capsys.disabled():
        print(f"\n{size:,} B: " + ", ".join(f"{n} {1e9 * t:.1f} ns" for n, t in least.items()))
        print("    " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))


def _hold(make: Make, drop: Drop | None, size: int) -> None:
    held = [make(size) for _ in itertools.repeat(None, LOOPS)]
    if drop is not None:
        for item in held:
            drop(item)


@pytest.mark.parametrize("size", [64, 1024])
@pytest.mark.parametrize("name", [name for name in WAYS if name != "floor"])
def test_hold(benchmark: BenchmarkFixture, native: Native, name: str, size: int) -> None:
    """Allocate many, then free them all in order."""
    benchmark.group = f"{LOOPS:,} live blocks of {size:,} B"
    benchmark.extra_info["operations"] = LOOPS
    with dmi.Heap(name="hold") as heap:
        make, drop = _way(name, heap, native)
        benchmark(_hold, make, drop, size)
        assert heap.stats().busy_blocks == 0


@pytest.mark.parametrize("name", ["dmi", "bytearray", "cymem Pool"])
def test_zeroed(benchmark: BenchmarkFixture, native: Native, name: str) -> None:
    """Allocate zeroed memory: all three promise it."""
    benchmark.group = "zeroed pair of 4,096 B"
    benchmark.extra_info["operations"] = LOOPS
    with dmi.Heap(name="zeroed") as heap:
        make, drop = (heap.calloc, None) if name == "dmi" else _way(name, heap, native)
        benchmark(_pairs, make, drop, 4096)


def _fill(view: memoryview, data: bytes) -> int:
    total = 0
    for _ in itertools.repeat(None, LOOPS):
        view[:] = data
        total += view[-1]
    return total


def _export(owner: Any) -> None:
    for _ in itertools.repeat(None, LOOPS):
        memoryview(owner).release()


def _owner(name: str, heap: dmi.Heap, size: int) -> Any:
    if name == "dmi Block":
        return heap.alloc(size)
    if name == "bytearray":
        return bytearray(size)
    if name == "ctypes array":
        return (ctypes.c_ubyte * size)()
    return pytest.importorskip("numpy").empty(size, "u1")


OWNERS = ("dmi Block", "bytearray", "ctypes array", "numpy.empty")


@pytest.mark.parametrize("name", OWNERS)
def test_buffer_export(benchmark: BenchmarkFixture, name: str) -> None:
    """Export the buffer and release it."""
    benchmark.group = "memoryview of 4,096 B"
    benchmark.extra_info["operations"] = LOOPS
    with dmi.Heap(name="export") as heap:
        owner = _owner(name, heap, 4096)
        benchmark(_export, owner)
        del owner


@pytest.mark.parametrize("name", OWNERS)
def test_buffer_fill(benchmark: BenchmarkFixture, name: str) -> None:
    """Write all of the buffer and read a byte."""
    size = 4096
    benchmark.group = "fill 4,096 B through a memoryview"
    benchmark.extra_info["operations"] = LOOPS
    with dmi.Heap(name="fill") as heap:
        owner = _owner(name, heap, size)
        with memoryview(owner) as exported, exported.cast("B") as view:
            assert benchmark(_fill, view, bytes([7]) * size) == 7 * LOOPS
        del owner


SIZES = tuple(64 * 3**n // 2**n for n in range(18))  # by half, to 62 KiB


def _grow_block(heap: dmi.Heap) -> None:
    block = heap.alloc(SIZES[0])
    for size in SIZES[1:]:
        block.resize(size)
    block.free()


def _grow_raw(realloc: Callable[[int, int], int], malloc: Make, free: Drop) -> None:
    address = malloc(SIZES[0])
    for size in SIZES[1:]:
        address = realloc(address, size)
    free(address)


def _grow_bytearray() -> None:
    data = bytearray(SIZES[0])
    for size in SIZES[1:]:
        data.extend(bytes(size - len(data)))


@pytest.mark.parametrize("name", ["dmi Block", "dmi realloc", "ctypes realloc", "bytearray"])
def test_grow(benchmark: BenchmarkFixture, name: str) -> None:
    """Grow one block by half, seventeen times."""
    benchmark.group = "grow from 64 B to 62 KiB by half"
    benchmark.extra_info["operations"] = len(SIZES) - 1
    with dmi.Heap(name="grow") as heap:
        if name == "dmi Block":
            benchmark(_grow_block, heap)
        elif name == "dmi realloc":
            benchmark(_grow_raw, heap.realloc, heap.malloc, heap.free)
        elif name == "ctypes realloc":
            malloc, free = _libc()
            assert free is not None
            realloc = ctypes.CDLL(None).realloc
            realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
            realloc.restype = ctypes.c_void_p
            benchmark(_grow_raw, realloc, malloc, free)
        else:
            benchmark(_grow_bytearray)
        assert heap.stats().busy_blocks == 0


def _heap_life() -> None:
    with dmi.Heap() as heap:
        for size in range(16, 176, 16):
            heap.malloc(size)


def test_heap_life(benchmark: BenchmarkFixture) -> None:
    """Create a heap, take ten blocks, destroy it."""
    benchmark.group = "a heap for ten blocks"
    before = len(dmi.heaps())
    benchmark(_heap_life)
    assert len(dmi.heaps()) == before
