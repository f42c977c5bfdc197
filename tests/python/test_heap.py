"""dmi.Heap: options, raw addresses, life and death."""

from __future__ import annotations

import ctypes
import gc
import random
import subprocess
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, SupportsIndex

import pytest

import dmi

if TYPE_CHECKING:
    from collections.abc import Callable

KIB = 1024
MIB = 1024 * KIB

OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"decommit": "sometimes"}, ValueError, "decommit"),
    ({"decommit": ""}, ValueError, "decommit"),
    ({"decommit": "lazy:delay=soon"}, ValueError, "delay"),
    ({"decommit": "lazy:delay=-1"}, ValueError, "delay"),
    ({"decommit": "lazy:speed=1"}, ValueError, "speed"),
    ({"decommit": "never,eager"}, ValueError, "decommit"),
    ({"decommit": "lazy\0"}, ValueError, "decommit"),
    ({"decommit": 3}, TypeError, "decommit"),
    ({"decommit": None}, TypeError, "decommit"),
    ({"decommit": b"lazy"}, TypeError, "decommit"),
    ({"name": b"bytes"}, TypeError, "name"),
    ({"name": 5}, TypeError, "name"),
    ({"name": "x" * 48}, ValueError, "47"),
    ({"name": "a\0b"}, ValueError, "name"),
    ({"name": "\ud800"}, ValueError, "name"),
    ({"max_size": 0}, ValueError, "max_size"),
    ({"max_size": -1}, ValueError, "max_size"),
    ({"max_size": 1 << 60}, dmi.SizeError, "max_size"),
    ({"max_size": 1.5}, TypeError, "max_size"),
    ({"max_size": "1G"}, TypeError, "max_size"),
    ({"max_size": True}, TypeError, "max_size"),
    ({"lfh": 1}, TypeError, "lfh"),
    ({"lfh": None}, TypeError, "lfh"),
    ({"hardened": "yes"}, TypeError, "hardened"),
    ({"thread_safe": 0}, TypeError, "thread_safe"),
    ({"clock": "sun"}, ValueError, "clock"),
    ({"clock": None}, TypeError, "clock"),
    ({"colour": "red"}, TypeError, "colour"),
]


@pytest.mark.parametrize(("options", "error", "named"), OPTIONS, ids=repr)
def test_bad_options_name_the_argument(
    options: dict[str, Any], error: type[Exception], named: str, no_heap_left: None
) -> None:
    with pytest.raises(error, match=named):
        dmi.Heap(**options)


SIZES: list[tuple[Any, type[Exception]]] = [
    (0, ValueError),
    (-1, ValueError),
    (-(1 << 70), ValueError),
    ((1 << 47) + 1, dmi.SizeError),
    (1 << 63, dmi.SizeError),
    ((1 << 64) - 1, dmi.SizeError),
    (1 << 64, dmi.SizeError),
    ((1 << 64) + 64, dmi.SizeError),
    (1 << 200, dmi.SizeError),
    (1.0, TypeError),
    ("64", TypeError),
    (None, TypeError),
    (b"64", TypeError),
    ([], TypeError),
]


@pytest.mark.parametrize(("size", "error"), SIZES, ids=repr)
@pytest.mark.parametrize("call", ["malloc", "alloc", "calloc", "realloc", "resize"])
def test_bad_sizes_change_nothing(
    heap: dmi.Heap, call: str, size: Any, error: type[Exception]
) -> None:
    address = heap.malloc(100)
    block = heap.alloc(100)
    before = heap.stats()
    calls: dict[str, Callable[[Any], object]] = {
        "malloc": heap.malloc,
        "alloc": heap.alloc,
        "calloc": heap.calloc,
        "realloc": lambda size: heap.realloc(address, size),
        "resize": block.resize,
    }
    with pytest.raises(error, match="size"):
        calls[call](size)
    assert heap.stats().busy == before.busy
    assert heap.stats().busy_blocks == before.busy_blocks
    heap.free(address)


def test_a_size_error_is_both_a_value_error_and_a_memory_error(heap: dmi.Heap) -> None:
    for caught in (ValueError, MemoryError, dmi.DmiError):
        with pytest.raises(caught):
            heap.malloc(1 << 62)


class Index:
    """An integer by protocol only, as NumPy's are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def test_anything_with_index_is_a_size_and_an_address(heap: dmi.Heap) -> None:
    address = heap.malloc(Index(100))
    assert heap.usable_size(Index(address)) >= 100
    address = heap.realloc(Index(address), Index(5000))
    heap.free(Index(address))
    assert heap.stats().busy == 0


BAD_ADDRESSES: list[tuple[Any, type[Exception]]] = [
    (-1, ValueError),
    (1 << 64, ValueError),
    (1.5, TypeError),
    ("0x10", TypeError),
    (None, TypeError),
]


@pytest.mark.parametrize(("address", "error"), BAD_ADDRESSES, ids=repr)
def test_bad_addresses_name_the_argument(
    heap: dmi.Heap, address: Any, error: type[Exception]
) -> None:
    for call in (heap.free, heap.usable_size, heap.check):
        with pytest.raises(error, match="address"):
            call(address)
    with pytest.raises(error, match="address"):
        heap.realloc(address, 10)


# 64-bit values that a page map might fall over: low, high, non-canonical, 5-level, kernel.
FOREIGN = [
    1,
    8,
    16,
    4096,
    0x7FFF_FFFF_FFFF_FFF0,
    0x8000_0000_0000,
    0x0000_7FFF_FFFF_F000,
    0x0080_0000_0000_0000,
    0x00FF_FFFF_FFFF_FFF0,
    0xDEAD_BEEF_DEAD_BEE0,
    0xFFFF_8000_0000_0000,
    0xFFFF_FFFF_FFFF_FFF0,
    0xFFFF_FFFF_FFFF_FFFF,
]


@pytest.mark.parametrize("address", FOREIGN, ids=hex)
def test_foreign_addresses_are_refused_and_named(heap: dmi.Heap, address: int) -> None:
    with pytest.raises(dmi.HeapError, match=f"{address:#x}") as caught:
        heap.free(address)
    assert caught.value.address == address
    assert caught.value.fault == "foreign"
    with pytest.raises(dmi.HeapError):
        heap.realloc(address, 10)
    assert dmi.find(address) is None


def test_memory_of_others_is_foreign(heap: dmi.Heap) -> None:
    buffer = ctypes.create_string_buffer(4096)
    for offset in (0, 16, 100):
        with pytest.raises(dmi.HeapError) as caught:
            heap.free(ctypes.addressof(buffer) + offset)
        assert caught.value.fault in ("foreign", "other heap", "interior")


SPREAD = [1, 16, 17, 64, 100, 1000, 4096, 5000, 20 * KIB, 100 * KIB, 600 * KIB, 3 * MIB]


@pytest.mark.parametrize("size", SPREAD)
def test_interior_addresses_are_refused(heap: dmi.Heap, size: int) -> None:
    address = heap.malloc(size)
    usable = heap.usable_size(address)
    assert usable >= size
    for offset in {1, 7, 8, 16, usable // 2, usable - 1} & set(range(1, usable)):
        with pytest.raises(dmi.HeapError) as caught:
            heap.free(address + offset)
        assert caught.value.fault == "interior"
        assert caught.value.address == address + offset
        found = dmi.find(address + offset)
        assert found is not None
        assert (found.heap, found.address, found.offset) == (heap, address, offset)
        assert f"{address:#x}" in str(caught.value), "the block is not named"
    heap.check(address)
    heap.free(address)


@pytest.mark.parametrize("size", SPREAD)
@pytest.mark.parametrize("lfh", [True, False])
def test_a_second_free_is_refused(size: int, lfh: bool) -> None:
    with dmi.Heap("never", lfh=lfh) as heap:
        addresses = [heap.malloc(size) for _ in range(40)]
        for address in addresses:
            heap.free(address)
            with pytest.raises(dmi.HeapError) as caught:
                heap.free(address)
            assert caught.value.fault in ("free", "foreign")
        for address in addresses:
            with pytest.raises(dmi.HeapError):
                heap.free(address)
            with pytest.raises(dmi.HeapError):
                heap.realloc(address, 10)
        assert heap.stats().busy == 0
        heap.validate()


def test_a_block_of_another_heap_is_refused(heap: dmi.Heap) -> None:
    with dmi.Heap(name="neighbour") as other:
        address = other.malloc(100)
        with pytest.raises(dmi.HeapError, match="neighbour") as caught:
            heap.free(address)
        assert caught.value.fault == "other heap"
        with pytest.raises(dmi.HeapError):
            heap.realloc(address, 10)
        other.free(address)


def test_free_of_zero_does_nothing(heap: dmi.Heap) -> None:
    heap.free(0)
    assert heap.stats().busy == 0


@pytest.mark.parametrize("size", SPREAD)
def test_raw_blocks_are_aligned_and_hold_their_bytes(heap: dmi.Heap, size: int) -> None:
    addresses = [heap.malloc(size) for _ in range(30)]
    for number, address in enumerate(addresses):
        assert address % 16 == 0
        ctypes.memset(address, number + 1, size)
    for number, address in enumerate(addresses):
        assert ctypes.string_at(address, size) == bytes([number + 1]) * size
    assert heap.stats().busy == sum(heap.usable_size(a) for a in addresses)
    for address in addresses:
        heap.free(address)
    assert heap.stats().busy == 0


def test_realloc_keeps_the_contents(heap: dmi.Heap) -> None:
    rng = random.Random(1)
    address = heap.realloc(0, 1)
    ctypes.memset(address, 0x5A, 1)
    size = 1
    for _ in range(60):
        wanted = rng.choice(SPREAD) + rng.randrange(100)
        address = heap.realloc(address, wanted)
        kept = min(size, wanted)
        assert ctypes.string_at(address, kept) == b"\x5a" * kept
        ctypes.memset(address, 0x5A, wanted)
        size = wanted
    heap.free(address)
    assert heap.stats().busy == 0


@pytest.mark.parametrize("size", SPREAD)
def test_hardened_finds_an_overflow_at_free(size: int) -> None:
    with dmi.Heap("never", hardened=True, name="hard") as heap:
        address = heap.malloc(size)
        behind = address + heap.usable_size(address)
        ctypes.memset(behind, ctypes.string_at(behind, 1)[0] ^ 0xFF, 1)
        with pytest.raises(dmi.HeapError, match="overwritten") as caught:
            heap.free(address)
        assert caught.value.fault == "overflow"
        assert caught.value.address == address


def test_out_of_memory_leaves_the_heap_as_it_was() -> None:
    with dmi.Heap(max_size=8 * MIB) as heap:
        addresses: list[int] = []
        with pytest.raises(MemoryError, match="max_size"):
            addresses.extend(heap.malloc(300 * KIB) for _ in range(1000))
        assert addresses
        before = heap.stats()
        for _ in range(3):
            with pytest.raises(MemoryError):
                heap.malloc(300 * KIB)
            with pytest.raises(MemoryError):
                heap.realloc(addresses[0], 7 * MIB)
        after = heap.stats(detail=True)
        assert (after.busy, after.busy_blocks) == (before.busy, before.busy_blocks)
        assert after.reserved <= 8 * MIB
        after.check()
        heap.validate()
        for address in addresses:
            heap.free(address)
        with pytest.raises(dmi.SizeError, match="max_size"):
            heap.malloc(8 * MIB + 1)


def test_options_can_be_read_back() -> None:
    policy = dmi.Decommit("threshold", block=8192, total=1 << 20, combine="or")
    with dmi.Heap(
        policy,
        name="grün",
        max_size=64 * MIB,
        lfh=False,
        hardened=True,
        clock="manual",
        thread_safe=False,
    ) as heap:
        assert heap.decommit == policy
        assert (heap.name, heap.max_size, heap.clock) == ("grün", 64 * MIB, "manual")
        assert (heap.lfh, heap.hardened, heap.thread_safe) == (False, True, False)
        assert not heap.is_default
        assert "grün" in repr(heap)
    with dmi.Heap() as heap:
        assert (heap.name, heap.max_size, heap.clock) == ("", None, "os")
        assert (heap.lfh, heap.hardened, heap.thread_safe) == (True, False, True)
        assert heap.decommit.when == "lazy"


@pytest.mark.keeps
def test_a_heap_of_one_thread_sees_to_itself_while_the_scavenger_serves_others() -> None:
    policy = "lazy:delay=0.1"
    with dmi.Heap(policy) as other, dmi.Heap(policy, thread_safe=False) as heap:
        for address in [heap.malloc(500) for _ in range(8000)]:
            heap.free(address)
        before = heap.stats().committed
        until = time.monotonic() + 10
        while heap.stats().committed > before / 2 and time.monotonic() < until:
            for address in [other.malloc(4096) for _ in range(1000)]:
                other.free(address)
            heap.free(heap.malloc(40_000))
            time.sleep(0.02)
        assert heap.stats().committed <= before / 2


def test_a_destroyed_heap_is_refused_by_everything(no_heap_left: None) -> None:
    heap = dmi.Heap(name="gone")
    address = heap.malloc(100)
    block = heap.alloc(100)
    heap.destroy()
    heap.destroy()
    assert heap.closed
    assert "destroyed" in repr(heap)
    calls: list[Callable[[], object]] = [
        lambda: heap.malloc(10),
        lambda: heap.alloc(10),
        lambda: heap.calloc(10),
        lambda: heap.free(address),
        lambda: heap.realloc(address, 10),
        lambda: heap.check(address),
        lambda: heap.stats(),
        lambda: heap.stats(detail=True),
        lambda: heap.summary(),
        lambda: heap.walk(),
        lambda: heap.segments(),
        lambda: heap.histogram(),
        lambda: heap.validate(),
        lambda: heap.trim(),
        lambda: heap.explain(),
        lambda: heap.advance(1),
        lambda: heap.decommit,
        lambda: setattr(heap, "decommit", "never"),
        lambda: heap.name,
        lambda: heap.__enter__(),
        lambda: dmi.Heap.from_handle(heap.handle),
        lambda: block.free(),
        lambda: block.resize(5),
        lambda: block.address,
        lambda: block.size,
        lambda: memoryview(block),  # type: ignore[arg-type,unused-ignore]
    ]
    for call in calls:
        with pytest.raises(dmi.HeapError, match=r"destroyed|freed"):
            call()
    assert block.freed
    assert heap not in dmi.heaps()


def test_a_heap_that_was_never_opened_is_refused() -> None:
    heap: dmi.Heap = dmi.Heap.__new__(dmi.Heap)
    with pytest.raises(dmi.HeapError):
        heap.malloc(10)
    with pytest.raises(dmi.HeapError):
        heap.stats()
    heap.destroy()
    heap.__init__("never")  # type: ignore[misc]
    with pytest.raises(dmi.HeapError, match="open"):
        heap.__init__("never")  # type: ignore[misc]
    heap.destroy()


def test_the_heap_goes_with_its_last_reference(no_heap_left: None) -> None:
    heap = dmi.Heap(name="short")
    handle = heap.handle
    seen = weakref.ref(heap)
    block = heap.alloc(1000)
    heap.malloc(50)
    del heap
    gc.collect()
    assert seen() is not None, "a Block keeps its heap alive"
    memoryview(block)[:] = b"x" * 1000
    del block
    gc.collect()
    assert seen() is None
    assert handle not in [heap.handle for heap in dmi.heaps()]


def test_heaps_lists_them_oldest_first_and_as_the_same_objects() -> None:
    with dmi.Heap(name="one") as one, dmi.Heap(name="two") as two:
        listed = dmi.heaps()
        assert listed.index(one) < listed.index(two)
        assert any(heap is one for heap in listed)
        text = dmi.summary()
        for heap in (one, two):
            assert f"{heap.handle:016x}" in text
        assert dmi.summary([one]).count(f"{two.handle:016x}") == 0
        parsed = dmi.windbg.parse(text)
        rows = {row.handle: row for table in parsed.heaps for row in table.rows}
        assert rows[one.handle] == one.row()


def test_the_default_heap_cannot_be_destroyed() -> None:
    heap = dmi.default_heap()
    assert heap.is_default
    assert dmi.default_heap().handle == heap.handle
    with pytest.raises(dmi.HeapError):
        heap.destroy()
    address = heap.malloc(100)
    heap.free(address)


def test_a_heap_made_in_c_is_listed_and_not_owned() -> None:
    lib, ffi = dmi.lib, dmi.ffi
    handle = lib.dmi_heap_create(ffi.NULL)
    number = int(ffi.cast("uintptr_t", handle))
    try:
        view = next(heap for heap in dmi.heaps() if heap.handle == number)
        address = view.malloc(100)
        assert lib.dmi_usable_size(ffi.cast("void *", address)) >= 100
        with pytest.raises(dmi.HeapError):
            view.destroy()
        del view
        gc.collect()
        assert lib.dmi_heap_valid(handle) == 1
    finally:
        assert lib.dmi_heap_destroy(handle) == 0
    with pytest.raises(dmi.HeapError):
        dmi.Heap.from_handle(number)


def test_advance_wants_a_manual_clock_and_a_sane_time() -> None:
    with dmi.Heap() as heap, pytest.raises(dmi.HeapError, match="manual"):
        heap.advance(1)
    with dmi.Heap(clock="manual") as heap:
        start = heap.time
        heap.advance(2.5)
        heap.advance(0)
        assert heap.time - start == pytest.approx(2.5)
        for bad in (-1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="seconds"):
                heap.advance(bad)
        for wrong in ("1", None, True):
            with pytest.raises(TypeError, match="seconds"):
                heap.advance(wrong)  # type: ignore[arg-type]


@pytest.mark.keeps
def test_trim_gives_back_what_the_system_confirms() -> None:
    with dmi.Heap("never") as heap:
        addresses = [heap.malloc(4000) for _ in range(2000)]
        for address in addresses:
            ctypes.memset(address, 1, 4000)
        for address in addresses[:-1]:
            heap.free(address)
        before = heap.stats(detail=True)
        assert before.retained > 7 * MIB
        report = heap.trim()
        after = heap.stats(detail=True)
        assert report.decommitted == before.committed - after.committed
        assert report.decommitted > 7 * MIB
        assert report.confirmed >= 0.9 * report.decommitted
        assert report.calls >= 1
        assert after.page_bound is not None
        assert after.resident is not None
        assert after.resident <= before.committed - report.decommitted + MIB
        heap.free(addresses[-1])


def test_a_subclass_may_override_the_raw_calls() -> None:
    class Counting(dmi.Heap):
        calls = 0

        def malloc(self, size: SupportsIndex, /) -> int:
            Counting.calls += 1
            return super().malloc(size)

    class Mixed(Counting):
        pass

    for kind in (Counting, Mixed):
        with kind() as counting:
            counting.free(counting.malloc(100))
            assert counting.stats().busy == 0
    assert Counting.calls == 2
    with dmi.Heap() as plain, pytest.raises(TypeError):
        Mixed.free(plain, plain.malloc(10))


def test_threads_share_a_heap() -> None:
    with dmi.Heap(name="shared") as heap:
        errors: list[BaseException] = []

        def work(seed: int) -> None:
            rng = random.Random(seed)
            live: list[tuple[int, int]] = []
            try:
                for _ in range(3000):
                    if live and rng.random() < 0.5:
                        address, size = live.pop(rng.randrange(len(live)))
                        assert ctypes.string_at(address, size) == bytes([seed]) * size
                        heap.free(address)
                    else:
                        size = rng.randrange(1, 3000)
                        address = heap.malloc(size)
                        ctypes.memset(address, seed, size)
                        live.append((address, size))
                    if rng.random() < 0.01:
                        heap.stats(detail=True).check()
                for address, _ in live:
                    heap.free(address)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        heap.validate()
        assert heap.stats().busy == 0


def test_exit_with_everything_alive_is_quiet() -> None:
    program = """
import atexit, dmi
heap = dmi.Heap(name="kept")
keep = [heap.alloc(n) for n in range(1, 500)]
views = [memoryview(block) for block in keep]
raw = [heap.malloc(n) for n in range(1, 500)]
cycle = []; cycle.append((cycle, heap, keep))
default = dmi.default_heap().alloc(100)
atexit.register(lambda: heap.alloc(10))
"""
    answer = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
