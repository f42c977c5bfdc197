"""What glibc of every version leaves in memory, from core files made struct by struct."""

from __future__ import annotations

import random
import struct
import time
from typing import TYPE_CHECKING

import pytest

import dmi
from dmi.errors import DmiError
from dmi.process import open_core, text
from tests.python.images import HEAP, KEY, LIBC, Glibc, glibc_image
from tests.python.images_more import (
    ARENAS,
    EXTENTS,
    GO,
    MAPPED,
    MIMALLOC,
    PYTHON,
    SCATTERED,
    Pymalloc,
    jemalloc_image,
    musl_image,
    pymalloc_image,
    runtimes_image,
    scattered_image,
    stacks_image,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.reads

VERSIONS = (26, 27, 28, 29, 31, 32, 34, 35, 36, 41, 42, 43)


@pytest.mark.parametrize("minor", VERSIONS)
def test_arenas_of_each_version_are_what_was_put_there(minor: int, tmp_path: Path) -> None:
    image, expected = glibc_image(Glibc(minor))
    with open_core(image.save(tmp_path / "core")) as process:
        heaps = process.heaps()
        assert [heap.name for heap in heaps] == ["main arena", "thread arena"]
        for heap, right in zip(heaps, expected, strict=True):
            stats = heap.stats()
            details = stats.details or {}
            assert details["top"] == right.top
            assert details["bins"] == right.binned
            assert details["fastbins"] == right.fast
            assert details["tcache"] == right.tcache
            assert stats.busy == right.busy
            assert stats.unknown == 0
            assert stats.trim == right.trim
            assert stats.resident is None
        first = heaps[0].stats()
        assert (first.mapped_blocks, first.mapped) == (3, 600 << 10)


@pytest.mark.parametrize("minor", [7, 9, 10, 11, 12, 13, 14])
def test_pools_of_each_version_are_what_was_put_there(minor: int, tmp_path: Path) -> None:
    image, expected = pymalloc_image(Pymalloc(minor))
    with open_core(image.save(tmp_path / "core")) as process:
        heaps = [heap for heap in process.heaps() if heap.kind == "pymalloc"]
        assert len(heaps) == len(expected) == (2 if minor >= 13 else 1)
        for heap, right in zip(heaps, expected, strict=True):
            stats = heap.stats()
            details = stats.details or {}
            assert stats.busy == right.busy
            assert details["free_in_pools"] == right.free
            assert details["pools_used"] == right.used_pools
            assert stats.unknown == 0
            assert [segment.address for segment in heap.segments()] == sorted(right.arenas)
            blocks = [each for each in heap.walk() or () if each.kind == "lfh"]
            assert sum(each.size for each in blocks if each.state == "busy") == right.busy
            assert sum(each.size for each in blocks if each.state == "free") == right.free


@pytest.mark.parametrize("minor", [7, 11])
@pytest.mark.parametrize("header", [0, 1 << 40, 24])
def test_arenas_of_a_python_on_another_malloc_are_all_found(
    minor: int, header: int, tmp_path: Path
) -> None:
    image, (expected,) = pymalloc_image(Pymalloc(minor))
    (vector,) = struct.unpack_from("<Q", image.segments[PYTHON][0], 0x5000)
    image.put(vector - 8, header)
    # It was doubled for a third arena, of which nothing was used; behind it is somebody else's.
    version = Pymalloc(minor)
    pools = version.arena // version.pool
    third = ARENAS + 4 * version.arena
    image.add(third, version.arena)
    for index in range(15, 32):
        following = 0 if index == 31 else vector + 48 * (index + 1 + (index == 19))
        image.put(vector + 48 * index, 0, 0, 0, 0, following, 0)
    image.put(vector + 48 * 20, third, third, pools | pools << 32, 0, 0, 0)
    image.put(vector + 48 * 32, 3, 3, 3, 3, 3, 3)
    with open_core(image.save(tmp_path / "core")) as process:
        (heap,) = [heap for heap in process.heaps() if heap.kind == "pymalloc"]
        assert heap.stats().busy == expected.busy
        assert [segment.address for segment in heap.segments()] == [*expected.arenas, third]


def test_memory_of_jemalloc_is_told_by_its_tree(tmp_path: Path) -> None:
    image, extents = jemalloc_image()
    with open_core(image.save(tmp_path / "core")) as process:
        (heap,) = process.heaps()
        assert (heap.kind, heap.name) == ("jemalloc", "in libcarrier.so")
        assert heap.stats().busy is None
        spans = {(segment.address, segment.reserved) for segment in heap.segments()}
        assert (EXTENTS + 0x1000000, extents) in spans
    # The words of the tree lead to nothing: nobody is known.
    image.put(EXTENTS + (8 << 18) + 16, *[0] * 300)
    with open_core(image.save(tmp_path / "core")) as process:
        assert [heap.kind for heap in process.heaps()] == ["unknown"]


def test_words_that_lead_back_are_not_yet_musl(tmp_path: Path) -> None:
    image = musl_image()
    where = HEAP + 0x1000 + 24 + 40 * 3

    def kind() -> str:
        with open_core(image.save(tmp_path / "core")) as process:
            (heap,) = process.heaps()
            return heap.kind

    assert kind() == "musl"
    image.put(where + 32, 50 << 6)  # no size class
    assert kind() == "unknown"
    image.put(HEAP, where + 8)  # not one of an array
    image.put(where + 8, 0, 0, HEAP, 0, 9 << 6)
    assert kind() == "unknown"


def test_stacks_that_are_one_mapping_are_told_by_the_lists_of_the_loader(tmp_path: Path) -> None:
    def stacks() -> list[tuple[int, int]]:
        with open_core(image.save(tmp_path / "core")) as process:
            regions = process.address_summary().regions
        return [(each.start, each.end) for each in regions if each.usage == "Stack"]

    image, used, waiting = stacks_image()
    assert stacks() == sorted(used + waiting)
    with open_core(image.save(tmp_path / "core")) as process:
        names = {leaf.name: leaf.size for leaf in process.layers().leaves}
    assert names["stacks of ended threads"] == 6 * 0x21000
    # A list that does not lead back says nothing.
    block = waiting[1][1] - 0x940
    image.put(block + 0x2C0, block + 0x2C0)
    assert stacks() == used
    # Nor does a block that stands outside of what it says.
    image, used, waiting = stacks_image()
    image.put(used[0][1] - 0x940 + 0x690, used[0][0] + 0x100000)
    assert stacks() == waiting


def test_places_that_they_alone_take_tell_go_and_mimalloc(tmp_path: Path) -> None:
    with open_core(runtimes_image().save(tmp_path / "core")) as process:
        found = {heap.kind: [s.address for s in heap.segments()] for heap in process.heaps()}
    assert found == {"Go": [GO], "mimalloc": [MIMALLOC]}


@pytest.mark.parametrize("minor", [28, 36, 43])
def test_mapped_blocks_and_pieces_of_a_main_arena_are_found(minor: int, tmp_path: Path) -> None:
    image, _ = scattered_image(Glibc(minor))
    with open_core(image.save(tmp_path / "core")) as process:
        heap = process.heaps()[0]
        assert getattr(heap, "mapped", None) == tuple(
            (MAPPED + number * (200 << 10), 200 << 10) for number in range(3)
        )
        assert any(segment.address == SCATTERED for segment in heap.segments())
        found = process.find(SCATTERED + 0x1010)
        assert found is not None
        assert (found[1].state, found[1].size) == ("free", 0x1FFE0)


def test_what_a_thread_left_behind_in_the_heap_is_passed_over(tmp_path: Path) -> None:
    image, expected = glibc_image(Glibc(36))
    # The header of the third chunk is gone: up to the next one that proves itself nothing is known.
    with open_core(image.save(tmp_path / "core")) as process:
        chunks = list(process.heaps()[0].walk() or ())
    image.put(chunks[3].address + 8, 0xFFFFFFFFFFFFFFF0)
    with open_core(image.save(tmp_path / "core")) as process:
        stats = process.heaps()[0].stats()
        assert stats.unknown is not None
        # Only what the damage touches, not what follows.
        assert 0 < stats.unknown < 4096
        details = stats.details or {}
        assert details["bins"] == expected[0].binned
        assert details["top"] == expected[0].top


@pytest.mark.parametrize("minor", [26, 28])
def test_counts_of_a_cache_that_say_too_much_leave_no_less_than_nothing(
    minor: int, tmp_path: Path
) -> None:
    image, _ = glibc_image(Glibc(minor))
    data = image.segments[HEAP][0]
    assert int.from_bytes(data[8:16], "little") == 0x251
    # 64 counts of a byte each; a list that is empty stays so.
    counts = bytes(255 if count else 0 for count in data[16:80])
    image.put_bytes(HEAP + 16, counts)
    image.put(HEAP + 0x258, 0x100000 | 1)  # and one block takes the rest of the heap
    with open_core(image.save(tmp_path / "core")) as process:
        for heap in process.heaps():
            stats = heap.stats()
            assert (stats.busy or 0) >= 0
            assert (stats.busy_blocks or 0) >= 0


def test_a_top_without_room_for_a_chunk_is_unknown(tmp_path: Path) -> None:
    image, _ = glibc_image(Glibc(36))
    with open_core(image.save(tmp_path / "core")) as process:
        top = next(each for each in process.heaps()[1].walk() or () if each.kind == "top")
    image.put(top.address + 8, 5)
    with open_core(image.save(tmp_path / "core")) as process:
        last = list(process.heaps()[1].walk() or ())[-1]
        assert (last.address, last.size, last.state) == (top.address, top.size, "unknown")
        assert process.heaps()[1].stats().unknown == top.size


def test_a_core_that_was_cut_off_says_so(tmp_path: Path) -> None:
    image, _ = glibc_image(Glibc(36))
    whole = image.core()
    path = tmp_path / "core"
    path.write_bytes(whole[: len(whole) - 0x2000])
    with open_core(path) as process:
        process.heaps()
        assert any("cut off" in note for note in process.notes)


def look(path: Path) -> None:
    """Everything that a core can be asked."""
    try:
        with open_core(path) as process:
            for line in text.heap(process, "-v"):
                assert "\x1b" not in line
            for heap in process.heaps():
                for count, _ in enumerate(heap.walk() or ()):
                    assert count < 1 << 18
                heap.histogram()
            process.find(HEAP + 0x500)
    except (DmiError, OSError):
        pass


@pytest.mark.parametrize("minor", [28, 36, 43])
def test_words_at_random_never_crash_nor_hang(minor: int, tmp_path: Path) -> None:
    """The long way is tests/fuzz/cores.py."""
    image, _ = glibc_image(Glibc(minor))
    whole = image.core()
    chance = random.Random(minor)
    path = tmp_path / "core"
    values = [0, 1, 16, 0xFF0, 1 << 40, (1 << 64) - 16, HEAP, LIBC + 0x800, KEY, LIBC + 0x860]
    begun = time.monotonic()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 3, 30])):
            at = (
                chance.randrange(len(data) // 8) * 8
                if chance.random() < 0.5
                else (chance.randrange(0x3000) * 8 % len(data))
            )
            struct.pack_into("<Q", data, at, chance.choice([*values, chance.getrandbits(64)]))
        path.write_bytes(data)
        look(path)
        if time.monotonic() - begun > 2:
            break


def test_headers_that_promise_everything_take_nothing(tmp_path: Path) -> None:
    image, _ = glibc_image(Glibc(36))
    whole = bytearray(image.core())
    struct.pack_into("<H", whole, 56, 0xFFFE)
    path = tmp_path / "core"
    path.write_bytes(whole)
    look(path)
    whole = bytearray(image.core())
    struct.pack_into("<Q", whole, 64 + 56 + 32, 1 << 62)
    struct.pack_into("<Q", whole, 64 + 56 + 40, 1 << 46)
    path.write_bytes(whole)
    look(path)
    assert dmi.process.is_core(path)
