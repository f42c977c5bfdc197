"""Blocks that did not come through a Heap object, and what destroy() makes of them."""

from __future__ import annotations

import gc

import pytest

import dmi
from dmi.pool import Pool


def test_destroy_refuses_while_other_code_has_blocks() -> None:
    ffi, lib = dmi.ffi, dmi.lib
    heap = dmi.Heap(name="shared")
    handle = ffi.cast("void *", heap.handle)
    mine = [heap.malloc(100) for _ in range(5)]
    kept = heap.alloc(5)
    theirs = [lib.dmi_heap_malloc(handle, 1 << n) for n in range(4, 20)]
    with pytest.raises(dmi.HeapError, match=r"\(shared\).*16 of its busy blocks.*force=True"):
        heap.destroy()
    heap.free(mine.pop())
    kept.free()
    for block in theirs[1:]:
        lib.dmi_heap_free(handle, block)
    with pytest.raises(dmi.HeapError, match="1 of its busy blocks"):
        heap.destroy()
    assert not heap.closed
    lib.dmi_heap_free(handle, theirs[0])
    heap.destroy()  # its own raw blocks go with it, as ever
    assert heap.closed


def test_destroy_by_force_takes_all_along() -> None:
    heap = dmi.Heap()
    dmi.lib.dmi_heap_malloc(dmi.ffi.cast("void *", heap.handle), 100)
    heap.destroy(force=True)
    assert heap.closed


def test_a_heap_whose_object_goes_stays_for_the_blocks_of_others() -> None:
    ffi, lib = dmi.ffi, dmi.lib
    heap = dmi.Heap(name="orphan")
    handle = ffi.cast("void *", heap.handle)
    block = ffi.cast("char *", lib.dmi_heap_malloc(handle, 100))
    del heap
    gc.collect()
    assert lib.dmi_heap_valid(handle) == 1
    block[99] = b"x"
    assert [heap.name for heap in dmi.heaps()].count("orphan") == 1
    assert lib.dmi_heap_destroy(handle) == 0


def test_realloc_and_resize_keep_the_account() -> None:
    heap = dmi.Heap()
    address = heap.realloc(0, 10)
    address = heap.realloc(address, 100_000)
    block = heap.alloc(10, align=256)
    block.resize(100_000)
    block.free()
    stranger = dmi.lib.dmi_heap_malloc(dmi.ffi.cast("void *", heap.handle), 10)
    with pytest.raises(dmi.HeapError, match="1 of its busy blocks"):
        heap.destroy()
    dmi.lib.dmi_free(stranger)
    heap.free(address)
    heap.destroy()


def test_cffi_gc_gives_blocks_back() -> None:
    ffi, lib = dmi.ffi, dmi.lib
    with dmi.Heap() as heap:
        handle = ffi.cast("void *", heap.handle)
        block = ffi.gc(
            lib.dmi_heap_malloc(handle, 1000), lambda gone: lib.dmi_heap_free(handle, gone), 1000
        )
        assert heap.stats().busy_blocks == 1
        del block
        gc.collect()
        assert heap.stats().busy_blocks == 0


def test_cffi_allocator_on_a_heap() -> None:
    ffi, lib = dmi.ffi, dmi.lib
    with dmi.Heap() as heap:
        handle = ffi.cast("void *", heap.handle)
        new = ffi.new_allocator(
            alloc=lambda size: lib.dmi_heap_calloc(handle, 1, size),
            free=lambda block: lib.dmi_heap_free(handle, block),
            should_clear_after_alloc=False,
        )
        numbers = new("int[]", 1000)
        found = dmi.find(int(ffi.cast("uintptr_t", numbers)))
        assert found is not None
        assert found.heap is heap
        assert list(numbers) == [0] * 1000
        del numbers
        gc.collect()
        assert heap.stats().busy_blocks == 0


def test_a_pool_names_its_heap() -> None:
    with dmi.Heap() as heap:
        pool = Pool(heap)
        assert (pool.heap, pool.size, pool.addresses, pool.refs) == (heap, 0, {}, [])
        assert Pool().heap is None
        with pytest.raises(TypeError, match=r"dmi\.Heap or None"):
            Pool(5)  # type: ignore[arg-type]
    with pytest.raises(dmi.HeapError, match="destroyed"):
        Pool(heap)
