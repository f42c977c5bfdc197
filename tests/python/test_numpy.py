"""NumPy on a heap: the handler of NEP 49, and single arrays."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import mmap
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import dmi
from dmi import _numpy


def owner(array: np.ndarray) -> dmi.Heap | None:
    found = dmi.find(array.ctypes.data)
    return found.heap if found else None


def elsewhere() -> dmi.Heap | None:
    """Where arrays lie that dmi.numpy has nothing to do with: on a heap where malloc is dmi's."""
    found = owner(np.ones(100))
    assert (found is None) == (dmi.find(id(bytes(203))) is None)
    return found


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_arrays_made_inside_lie_on_the_heap_and_others_do_not() -> None:
    usual = elsewhere()
    with dmi.Heap() as heap:
        outside = np.ones(1000)
        with dmi.numpy.use(heap):
            made = [np.zeros((100, 100)), np.ones(10), np.arange(7), np.empty((0, 3))]
            made.append(made[0] + 1)
        after = np.ones(1000)
        assert [owner(array) for array in made] == [heap] * 5
        assert owner(outside) is usual
        assert owner(after) is usual
        assert not made[0].any()
        assert made[4].sum() == 10_000
        del made
        assert heap.stats().busy_blocks == 0


def test_an_array_outlives_the_block_the_handler_and_the_heap_object() -> None:
    heap = dmi.Heap(name="outlived")
    with dmi.numpy.use(heap):
        array = np.arange(100_000)
    del heap
    gc.collect()
    assert owner(array) is not None
    # numpy frees and resizes with the handler that made the array, also out here.
    array.resize((300_000,), refcheck=False)
    found = owner(array)
    assert found is not None
    assert found.name == "outlived"
    assert array[:100_000].sum() == sum(range(100_000))
    del array, found
    gc.collect()
    assert not [heap for heap in dmi.heaps() if heap.name == "outlived"]


def test_a_heap_with_live_arrays_is_not_destroyed() -> None:
    heap = dmi.Heap()
    with dmi.numpy.use(heap):
        array = np.ones(1000)
    with pytest.raises(dmi.HeapError, match="1 of its busy blocks belong to other code"):
        heap.destroy()
    assert array.sum() == 1000
    del array
    heap.destroy()
    assert heap.closed


def test_arrays_of_a_heap_destroyed_by_force_are_freed_without_harm() -> None:
    heap = dmi.Heap()
    with dmi.numpy.use(heap):
        array = np.ones(1000)
    heap.destroy(force=True)
    del array
    gc.collect()


def test_uses_nest_and_end_with_an_exception() -> None:
    usual = elsewhere()
    with dmi.Heap() as one, dmi.Heap() as two:
        with dmi.numpy.use(one):
            with contextlib.suppress(KeyError), dmi.numpy.use(two):
                inner = np.ones(10)
                raise KeyError
            outer = np.ones(10)
        assert owner(inner) is two
        assert owner(outer) is one
        assert owner(np.ones(10)) is usual
        del inner, outer


def test_one_use_is_used_once_at_a_time() -> None:
    usual = elsewhere()
    with dmi.Heap() as heap:
        use = dmi.numpy.use(heap)
        with use, pytest.raises(RuntimeError, match="in use already"), use:
            pass
        with use:
            array = np.ones(3)
        assert owner(array) is heap
        assert owner(np.ones(3)) is usual
        del array


def test_what_the_heap_refuses_to_free_is_reported_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: reported.append(it.exc_value))
    heap = dmi.Heap(name="written over", hardened=True)
    with dmi.numpy.use(heap):
        array = np.ones(100, np.uint8)
    address = array.ctypes.data
    ctypes.memset(address, 0, array.nbytes + 16)
    del array
    (error,) = reported
    assert isinstance(error, dmi.HeapError)
    assert (error.address, error.fault) == (address, "overflow")
    assert "(written over): bytes behind the end" in str(error)


class Allocator(ctypes.Structure):
    """PyDataMemAllocator, as NEP 49 has it."""

    _fields_ = (
        ("ctx", ctypes.c_void_p),
        ("malloc", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)),
        ("calloc", ctypes.CFUNCTYPE(ctypes.c_void_p, *[ctypes.c_void_p] * 3)),
        ("realloc", ctypes.CFUNCTYPE(ctypes.c_void_p, *[ctypes.c_void_p] * 3)),
        ("free", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)),
    )


class Handler(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("allocator", Allocator),
    )


def handler_of(capsule: object) -> Handler:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return Handler.from_address(pointer(capsule, b"mem_handler"))


@pytest.mark.parametrize("size", [0, 1, 99, 1 << 40])
def test_the_size_that_comes_with_a_free_is_not_believed(size: int) -> None:
    with dmi.Heap() as heap:
        capsule = _numpy.make_handler(heap)
        handler = handler_of(capsule)
        assert (handler.name, handler.version) == (b"dmi", 1)
        use = handler.allocator
        blocks = [use.malloc(use.ctx, 100), use.calloc(use.ctx, 10, 10), use.malloc(use.ctx, 5000)]
        blocks[0] = use.realloc(use.ctx, blocks[0], 3_000_000)
        assert heap.stats().busy_blocks == 3
        for block in blocks:
            use.free(use.ctx, block, size)
        assert heap.stats().busy_blocks == 0
        heap.stats(detail=True).check()
        heap.validate()


def test_pointers_that_are_none_of_the_heap_are_refused_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: reported.append(it.exc_value))
    with dmi.Heap() as heap, dmi.Heap() as other:
        capsule = _numpy.make_handler(heap)
        use = handler_of(capsule).allocator
        block, foreign = use.malloc(use.ctx, 100), other.malloc(100)
        for wrong in (block + 16, foreign, id(heap)):
            assert use.realloc(use.ctx, wrong, 1000) is None
            use.free(use.ctx, wrong, 100)
        faults = [error.fault for error in reported if isinstance(error, dmi.HeapError)]
        nobodys = "foreign" if dmi.find(id(heap)) is None else "other heap"
        assert faults == [fault for fault in ("interior", "other heap", nobodys) for _ in "12"]
        assert [str(error).split(":")[0].split("(")[0] for error in reported][:2] == [
            "realloc by NumPy",
            "free by NumPy",
        ]
        use.free(use.ctx, block, 100)
        other.free(foreign)


def test_uses_that_end_out_of_order_or_elsewhere_are_refused_and_change_nothing() -> None:
    before = _numpy.get_handler()
    first, second = dmi.Heap(), dmi.Heap()
    outer, inner = dmi.numpy.use(first), dmi.numpy.use(second)
    outer.__enter__()
    with pytest.raises(RuntimeError, match="the last one first"), inner:
        outer.__exit__(None, None, None)
    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(outer.__exit__, None, None, None).exception()
    assert isinstance(error, RuntimeError)
    assert owner(np.ones(1000)) is first
    outer.__exit__(None, None, None)
    with pytest.raises(RuntimeError, match="ends where it began"):
        outer.__exit__(None, None, None)
    assert _numpy.get_handler() is before


def test_tasks_have_their_handlers_each() -> None:
    heaps = [dmi.Heap(), dmi.Heap()]
    usual = elsewhere()

    async def work(heap: dmi.Heap) -> None:
        with dmi.numpy.use(heap):
            for _ in range(3):
                before = np.ones(1000)
                await asyncio.sleep(0)
                assert owner(before) is owner(np.ones(1000)) is heap
                assert await asyncio.create_task(begun_inside()) is heap
        assert owner(np.ones(1000)) is usual

    async def begun_inside() -> dmi.Heap | None:
        await asyncio.sleep(0)
        return owner(np.ones(1000))

    async def both() -> None:
        await asyncio.gather(*(work(heap) for heap in heaps for _ in range(3)))

    asyncio.run(both())
    assert [heap.stats().busy_blocks for heap in heaps] == [0, 0]


def test_other_threads_keep_their_handler_and_may_free() -> None:
    seen: list[dmi.Heap | None] = []
    usual = elsewhere()
    with dmi.Heap() as heap:
        with dmi.numpy.use(heap):
            threads = [
                threading.Thread(target=lambda: seen.append(owner(np.ones(100)))) for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            arrays = [np.full(50 + n, n) for n in range(200)]
        assert seen == [usual] * 3
        freer = threading.Thread(target=arrays.clear)
        freer.start()
        freer.join()
        assert heap.stats(detail=True).busy_blocks == 0


def test_threads_that_enter_share_a_heap() -> None:
    errors: list[str] = []
    with dmi.Heap() as heap:

        def work(seed: int) -> None:
            with dmi.numpy.use(heap):
                kept = []
                for n in range(300):
                    array = np.full((n * 37 + seed) % 5000 + 1, seed)
                    if owner(array) is not heap:
                        errors.append("elsewhere")
                    kept.append(array)
                    if n % 3:
                        kept.pop(len(kept) // 2)
                if any((array != seed).any() for array in kept):
                    errors.append("overwritten")

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert heap.stats(detail=True).busy_blocks == 0


def test_no_memory_is_a_memory_error() -> None:
    with dmi.Heap(max_size=1 << 22) as heap, dmi.numpy.use(heap), pytest.raises(MemoryError):
        np.ones(1 << 20)


@pytest.mark.parametrize("wrong", [None, 5, "heap"])
def test_what_is_no_heap_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"heap must be a dmi\.Heap"):
        dmi.numpy.use(wrong)  # type: ignore[arg-type]


def test_a_destroyed_heap_is_refused() -> None:
    heap = dmi.Heap()
    heap.destroy()
    with pytest.raises(dmi.HeapError, match="destroyed"):
        dmi.numpy.use(heap)


@pytest.mark.parametrize("align", [16, 64, 4096])
@pytest.mark.parametrize("shape", [7, (3, 5), (), (0, 4), [2, 2]])
def test_empty_and_zeros(shape: int | tuple[int, ...], align: int) -> None:
    with dmi.Heap() as heap:
        for make in (heap.empty, heap.zeros):
            array = make(shape, np.int32, align=align)
            model = np.empty(shape, np.int32)
            assert (array.shape, array.dtype) == (model.shape, model.dtype)
            assert array.flags.c_contiguous
            assert array.flags.writeable
            assert array.ctypes.data % align == 0
            assert owner(array) is heap
            array[...] = 5
            assert (array == 5).all()
            del array
        assert not heap.zeros(shape).any()
        assert heap.zeros(shape).dtype == np.float64


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1, 300 << 20])
def test_large_arrays_are_zero_without_being_written(size: int) -> None:
    with dmi.Heap() as heap:
        before = resident()
        array = heap.zeros(size, np.uint8, align=4096)
        assert resident() < before + (2 << 20)
        assert array.ctypes.data % 4096 == 0
        assert not array[::4096].any()
        del array
        with pytest.raises(ValueError, match="power of two"):
            heap.zeros(size, align=3)


def test_an_array_keeps_its_heap() -> None:
    heap = dmi.Heap()
    array = heap.zeros((4, 4))
    with pytest.raises(BufferError):
        heap.destroy()
    part = array[1:]
    del array
    gc.collect()
    with pytest.raises(BufferError):
        heap.destroy()
    del part
    gc.collect()
    heap.destroy()


def test_wrong_shapes_and_types_are_refused() -> None:
    with dmi.Heap() as heap:
        with pytest.raises(TypeError, match="must not hold Python objects"):
            heap.empty(3, object)
        with pytest.raises(ValueError, match="negative"):
            heap.empty((3, -1))
        with pytest.raises(TypeError, match="shape must be"):
            heap.zeros((3, 1.5))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="power of two"):
            heap.zeros(3, align=48)
        with pytest.raises(dmi.SizeError):
            heap.zeros((1 << 40, 1 << 40))
