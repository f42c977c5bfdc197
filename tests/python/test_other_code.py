"""Blocks that did not come through a Heap object, and what destroy() makes of them."""

from __future__ import annotations

import errno
import gc

import pytest

import dmi
from dmi.pool import Address, Default_Free, Default_Malloc, Pool


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
            Pool(5)  # type: ignore[call-overload]
    with pytest.raises(dmi.HeapError, match="destroyed"):
        Pool(heap)


# ---- holds ---------------------------------------------------------------------------------------


def test_a_held_heap_is_not_destroyed_and_says_who_holds_it() -> None:
    ffi, lib = dmi.ffi, dmi.lib
    heap = dmi.Heap(name="shared")
    handle = ffi.cast("void *", heap.handle)
    assert heap.holders() == {"dmi.Heap": 1}
    assert lib.dmi_heap_hold(handle, b"reader") == 0
    assert lib.dmi_heap_hold(handle, b"reader") == 0
    assert lib.dmi_heap_hold(handle, b"writer") == 0
    lib.dmi_heap_malloc(handle, 100)
    message = (
        r"\(shared\) cannot be destroyed: reader holds it 2 times; writer holds it; "
        r"1 of its busy blocks belong to other code"
    )
    with pytest.raises(dmi.HeapError, match=message):
        heap.destroy()
    assert heap.holders() == {"dmi.Heap": 1, "reader": 2, "writer": 1}
    with pytest.raises(dmi.HeapError, match="reader holds it"), heap:
        pass
    heap.destroy(force=True)
    assert heap.closed
    with pytest.raises(dmi.HeapError, match="destroyed"):
        heap.holders()


def test_a_hold_is_right_wherever_blocks_wander() -> None:
    # What a count of blocks cannot tell: one that Python allocated goes away on the other side, and
    # the other side has one of its own.
    ffi, lib = dmi.ffi, dmi.lib
    heap = dmi.Heap()
    handle = ffi.cast("void *", heap.handle)
    lib.dmi_heap_hold(handle, b"other")
    mine = heap.malloc(100)
    lib.dmi_heap_free(handle, ffi.cast("void *", mine))
    theirs = lib.dmi_heap_malloc(handle, 100)
    with pytest.raises(dmi.HeapError, match="other holds it"):
        heap.destroy()
    heap.free(int(ffi.cast("uintptr_t", theirs)))
    lib.dmi_heap_unhold(handle, b"other")
    heap.destroy()


def test_c_code_cannot_destroy_a_heap_of_pythons() -> None:
    ffi, lib = dmi.ffi, dmi.lib
    heap = dmi.Heap()
    handle = ffi.cast("void *", heap.handle)
    with memoryview(heap.alloc(100)) as buffer:
        assert lib.dmi_heap_destroy(handle) == -1
        assert ffi.errno == errno.EBUSY
        buffer[99] = 1
    heap.destroy()


def test_blocks_hold_a_heap_made_elsewhere_but_raw_addresses_do_not() -> None:
    ffi, lib = dmi.ffi, dmi.lib
    handle = lib.dmi_heap_create(ffi.NULL)
    view = dmi.Heap.from_handle(int(ffi.cast("uintptr_t", handle)))
    view.malloc(100)
    assert view.holders() == {}
    blocks = [view.alloc(100), view.calloc(10, align=4096), view.alloc(1)]
    assert view.holders() == {"dmi.Block": 1}
    blocks[0].resize(100_000)
    blocks[0].free()
    blocks[1].resize(100_000)
    del view
    blocks.pop()
    gc.collect()
    assert lib.dmi_heap_destroy(handle) == -1
    blocks.clear()
    gc.collect()
    assert lib.dmi_heap_destroy(handle) == 0


def test_an_object_that_goes_leaves_a_held_heap_alone() -> None:
    ffi, lib = dmi.ffi, dmi.lib
    heap = dmi.Heap()
    handle = ffi.cast("void *", heap.handle)
    lib.dmi_heap_hold(handle, b"other")
    del heap
    gc.collect()
    assert lib.dmi_heap_valid(handle) == 1
    lib.dmi_heap_unhold(handle, b"other")
    assert lib.dmi_heap_destroy(handle) == 0


def test_pools_and_arrays_hold_their_heap_while_they_have_blocks() -> None:
    numpy = pytest.importorskip("numpy")
    heap = dmi.Heap()
    address = Address(10, 10, heap)
    used = dmi.numpy.use(heap)
    with used:
        arrays = [numpy.zeros(1000) for _ in range(3)]
    arrays[0].resize(5000, refcheck=False)
    assert heap.holders() == {"dmi.Heap": 1, "dmi.numpy": 1, "dmi.pool": 1}
    del address
    with pytest.raises(dmi.HeapError, match=r"destroyed: dmi\.numpy holds it; 3 of its busy"):
        heap.destroy()
    arrays.clear()
    gc.collect()
    assert heap.holders() == {"dmi.Heap": 1}
    heap.destroy()


def test_blocks_change_sides_by_saying_so() -> None:
    ffi, lib = dmi.ffi, dmi.lib
    heap = dmi.Heap()
    handle = ffi.cast("void *", heap.handle)
    given = heap.malloc(100)
    heap.hand_over(given)
    with pytest.raises(dmi.HeapError, match="1 of its busy blocks"):
        heap.destroy()
    lib.dmi_heap_free(handle, ffi.cast("void *", given))
    kept = [heap.malloc(100) for _ in range(3)]
    taken = int(ffi.cast("uintptr_t", lib.dmi_heap_malloc(handle, 100)))
    heap.take_over(taken)
    heap.free(taken)
    for wrong in (taken, kept[0] + 16, 4096):
        with pytest.raises(dmi.HeapError):
            heap.take_over(wrong)
        with pytest.raises(dmi.HeapError):
            heap.hand_over(wrong)
    heap.destroy()


# ---- pools ---------------------------------------------------------------------------------------


def test_pools_and_addresses_want_one_source() -> None:
    both = Default_Malloc, Default_Free
    with dmi.Heap() as heap:
        assert (Pool(heap).pymalloc, Pool(heap).pyfree) == (None, None)
        assert (Pool().pymalloc, Pool().pyfree) == both
        assert (Pool(*both).pymalloc, Address(1, 1, *both).pyfree) == both
        with pytest.raises(TypeError, match="not both"):
            Pool(heap, pymalloc=Default_Malloc)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="go together"):
            Pool(Default_Malloc)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="go together"):
            Address(1, 1, pyfree=Default_Free)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="twice"):
            Pool(*both, pymalloc=Default_Malloc)  # type: ignore[call-overload]
        address = Address(3, 100, heap)
        assert heap.usable_size(address.addr) >= 300
        assert address.heap is heap
        del address
        with pytest.raises(MemoryError):
            Address(1 << 62, 8, heap)
        with pytest.raises(MemoryError):
            Address(1 << 62, 8, *both)


def test_a_pool_in_a_cycle_gives_its_blocks_back() -> None:
    with dmi.Heap() as heap:
        address = Address(1, 100, heap)
        pool = Pool(heap)
        pool.own_pyref([pool, address])
        assert heap.stats().busy_blocks == 1
        del pool, address
        gc.collect()
        assert heap.stats().busy_blocks == 0
        assert heap.holders() == {"dmi.Heap": 1}


def test_zero_bytes_are_warned_of_where_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Address(0, 8).addr
    monkeypatch.setattr("dmi.pool.WARN_ZERO_ALLOC", True)
    with pytest.warns(UserWarning, match="zero bytes"):
        assert Address(0, 8).addr
