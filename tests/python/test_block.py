"""dmi.Block: a buffer that looks after itself."""

from __future__ import annotations

import ctypes
import gc
import io
import sys
from typing import Any

import pytest

import dmi

SIZES = [1, 15, 16, 17, 100, 4095, 4096, 4097, 70_000, 700_000, 5_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_a_block_is_a_writable_buffer_of_its_size(heap: dmi.Heap, size: int) -> None:
    block = heap.alloc(size)
    assert len(block) == block.size == size
    assert block.usable_size >= size
    assert block.heap is heap
    view = memoryview(block)
    assert (view.nbytes, view.format, view.readonly, view.itemsize) == (size, "B", False, 1)
    view[0] = 1
    view[-1] = 2
    assert ctypes.string_at(block.address + size - 1, 1) == b"\x02"
    view.release()
    block.free()
    assert heap.stats().busy == 0


@pytest.mark.parametrize("size", SIZES)
def test_calloc_is_zero_also_where_memory_was_used_before(heap: dmi.Heap, size: int) -> None:
    for _ in range(3):
        dirty = [heap.alloc(size) for _ in range(20)]
        for block in dirty:
            memoryview(block)[:] = b"\xff" * size
        del dirty, block
        clean = [heap.calloc(size) for _ in range(20)]
        assert all(bytes(block) == bytes(size) for block in clean)


@pytest.mark.parametrize("align", [1, 2, 8, 16, 32, 64, 256, 4096, 8192, 65536, 1 << 20])
@pytest.mark.parametrize("zero", [False, True])
def test_alignment(heap: dmi.Heap, align: int, zero: bool) -> None:
    make = heap.calloc if zero else heap.alloc
    blocks = [make(size, align=align) for size in (1, 100, 5000, 70_000)]
    for block in blocks:
        assert block.address % align == 0
        if zero:
            assert bytes(block) == bytes(block.size)
        memoryview(block)[:] = b"\x11" * block.size
    for block in blocks:
        block.resize(block.size * 3)
        assert block.address % align == 0
        assert bytes(block)[: block.size // 3] == b"\x11" * (block.size // 3)
        block.free()
    assert heap.stats().busy == 0


@pytest.mark.parametrize(
    ("align", "error"),
    [
        (0, ValueError),
        (3, ValueError),
        (-16, ValueError),
        (1 << 60, dmi.SizeError),
        (1.0, TypeError),
        ("16", TypeError),
    ],
    ids=repr,
)
def test_bad_alignment(heap: dmi.Heap, align: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="align"):
        heap.alloc(100, align=align)
    with pytest.raises(error, match="align"):
        heap.calloc(100, align=align)
    assert heap.stats().busy == 0


def test_resize_keeps_the_contents(heap: dmi.Heap) -> None:
    block = heap.alloc(10)
    memoryview(block)[:] = b"0123456789"
    for size in (11, 100, 5000, 80_000, 2_000_000, 300, 20, 10):
        block.resize(size)
        assert len(block) == size
        assert bytes(block)[:10] == b"0123456789"
    block.resize(4)
    assert bytes(block) == b"0123"


def test_live_buffers_forbid_free_resize_and_destroy(heap: dmi.Heap) -> None:
    block = heap.alloc(100)
    view = memoryview(block)
    half = view[50:]
    for act in (block.free, lambda: block.resize(10), heap.destroy):
        with pytest.raises(BufferError, match="exported"):
            act()
    view.release()
    with pytest.raises(BufferError):
        block.free()
    half[:] = b"y" * 50
    half.release()
    block.resize(10)
    block.free()


def test_a_view_outlives_the_names(no_heap_left: None) -> None:
    view = memoryview(dmi.Heap().alloc(1000))
    gc.collect()
    view[:] = b"z" * 1000
    assert bytes(view) == b"z" * 1000
    del view


def test_a_freed_block_is_refused(heap: dmi.Heap) -> None:
    block = heap.alloc(100)
    block.free()
    assert block.freed
    assert "freed" in repr(block)
    for act in (
        block.free,
        lambda: block.resize(10),
        lambda: block.address,
        lambda: block.size,
        lambda: block.usable_size,
        lambda: len(block),
        lambda: memoryview(block),
        block.__enter__,
    ):
        with pytest.raises(dmi.HeapError, match="freed") as caught:
            act()
        assert caught.value.fault == "free"


def test_with_frees_at_the_end(heap: dmi.Heap) -> None:
    with heap.alloc(100) as block:
        assert heap.stats().busy_blocks == 1
    assert block.freed
    assert heap.stats().busy_blocks == 0
    with heap.alloc(100) as block:
        block.free()
    with pytest.raises(KeyError), heap.alloc(100):
        raise KeyError
    assert heap.stats().busy_blocks == 0


def test_with_refuses_to_pull_the_memory_from_under_a_view(heap: dmi.Heap) -> None:
    with pytest.raises(BufferError), heap.alloc(100) as block:
        view = memoryview(block)
    view[0] = 1
    view.release()
    block.free()


def test_the_memory_goes_with_the_object(heap: dmi.Heap) -> None:
    blocks = [heap.alloc(100) for _ in range(1000)]
    assert heap.stats().busy_blocks == 1000
    del blocks
    assert heap.stats().busy_blocks == 0


def test_raw_free_of_a_block_is_noticed_when_the_block_goes(
    heap: dmi.Heap, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    block = heap.alloc(100)
    heap.free(block.address)
    del block
    assert [type(entry.exc_value) for entry in seen] == [dmi.HeapError]


def test_an_overflow_is_noticed_when_the_block_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with dmi.Heap(hardened=True) as heap:
        block = heap.alloc(100)
        ctypes.memset(block.address + block.usable_size, 0xEE, 4)
        del block
    assert [entry.exc_value.fault for entry in seen] == ["overflow"]


def test_other_consumers_of_buffers(heap: dmi.Heap) -> None:
    block = heap.calloc(64)
    assert io.BytesIO(b"abc" * 30).readinto(block) == 64
    assert bytes(block) == (b"abc" * 30)[:64]
    array = (ctypes.c_uint32 * 16).from_buffer(block)
    array[0] = 0x01020304
    with pytest.raises(BufferError):
        block.free()
    del array
    gc.collect()
    assert bytes(block)[:4] in (b"\x04\x03\x02\x01", b"\x01\x02\x03\x04")
    block.free()


def test_a_block_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError, match="alloc"):
        dmi.Block()


@pytest.mark.parametrize("call", ["alloc", "calloc"])
def test_every_way_to_call(heap: dmi.Heap, call: str) -> None:
    make: Any = getattr(heap, call)
    inherited: Any = getattr(dmi._core.HeapCore, call)
    blocks = [
        make(100),
        make(size=100),
        make(100, align=None),
        make(size=100, align=64),
        inherited(heap, 100),
        getattr(dmi.Heap, call)(heap, 100),
    ]
    assert [block.size for block in blocks] == [100] * 6
    assert blocks[3].address % 64 == 0
    for wrong in (
        make,
        lambda: make(100, 64),
        lambda: make(100, alignment=64),
        lambda: make(100, size=100),
        lambda: inherited(5, 100),
    ):
        with pytest.raises(TypeError):
            wrong()
    del blocks
    assert heap.stats().busy_blocks == 0


def test_no_memory_is_told_whichever_way_was_called() -> None:
    with dmi.Heap(max_size=1 << 20) as heap:
        for call in (heap.alloc, heap.calloc):
            for options in ({}, {"align": 64}):
                with pytest.raises(dmi.SizeError, match="max_size"):
                    call(2 << 20, **options)
                held: list[dmi.Block] = []
                with pytest.raises(MemoryError, match="max_size"):
                    held.extend(call(100_000, **options) for _ in range(100))
                held.clear()
                assert heap.stats().busy_blocks == 0


def test_objects_that_are_used_again_know_nothing_of_their_past(heap: dmi.Heap) -> None:
    with dmi.Heap() as other:
        for round_ in range(300):
            blocks = [(heap, other)[n % 2].calloc(n + 1) for n in range(round_ % 70 + 1)]
            for number, block in enumerate(blocks):
                assert block.heap is (heap, other)[number % 2]
                assert len(block) == number + 1
                assert not block.freed
                with memoryview(block) as view:
                    view[number] = 1
            for block in blocks[::3]:
                block.free()
            del blocks, block, view
        assert heap.stats().busy_blocks == other.stats().busy_blocks == 0


def test_a_heap_that_holds_its_own_block_is_collected(no_heap_left: None) -> None:
    class Cache(dmi.Heap):
        block: dmi.Block

    heap = Cache(name="circle")
    handle = heap.handle
    heap.block = heap.alloc(100)
    del heap
    gc.collect()
    assert handle not in [heap.handle for heap in dmi.heaps()]
