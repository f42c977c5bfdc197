"""The layers of a process: what they hold, use and retain, here and elsewhere."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

import dmi
from dmi import _inspect, _layers
from dmi._layers import Layer, Part
from dmi._leaves import Leaf
from dmi.address import own_ranges, process_heaps, pymalloc_usage
from dmi.address._maps import parse_maps
from dmi.address._outside import outside_heaps
from dmi.cli import main

if TYPE_CHECKING:
    from dmi.address import Source

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
MIB = 1 << 20


def part(layers: dmi.Layers, number: str, begins: str) -> _layers.Part:
    return next(each for each in layers[number].parts if each.name.startswith(begins))


def hoard() -> None:
    with dmi.Heap("never", name="hoard") as heap:
        blocks = [heap.malloc(4000) for _ in range(20_000)]
        for address in blocks[:-1000]:
            heap.free(address)
        layers = dmi.layers()
        found = part(layers, "1a", f"dmi heap {heap.handle:x}")
        stats = heap.stats()
        assert (found.holds, found.uses) == (stats.committed, stats.busy)
        assert found.retains == stats.retained > 64 * MIB
        assert layers.stuck == found
        assert "hoard" in str(layers).splitlines()[-1]


@pytest.mark.keeps
def test_a_heap_stands_in_the_layer_of_custom_libraries() -> None:
    # In a process of its own: what other tests leave in malloc may be more.
    child = multiprocessing.get_context("spawn").Process(target=hoard)
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.mark.keeps
@pytest.mark.plain
def test_what_malloc_counts_without_a_place_is_not_of_unknown_use() -> None:
    # Above 32 MiB malloc maps every block for which nothing that was freed before has room.
    kept = [bytearray(300 * MIB) for _ in range(4)]
    with dmi.Heap("never", name="hoard") as heap:
        for address in [heap.malloc(4000) for _ in range(60_000)]:
            heap.free(address)
        layers = dmi.layers()
        there = sum(leaf.size for leaf in layers.leaves if leaf.name.startswith("glibc blocks"))
        assert there + layers.counted >= len(kept) * 300 * MIB
        assert layers.stuck == part(layers, "1a", f"dmi heap {heap.handle:x}"), str(layers)


def test_what_nobody_saw_in_memory_is_held_at_most() -> None:
    leaf = Leaf("heap", "V8", 500 * MIB, 40 * MIB, 0, allocator="V8")
    v8 = Layer("1a", "custom libraries", (Part("V8", 500 * MIB, None),))
    live = dmi.Layers(1, (v8,), leaves=(leaf,))
    core = dmi.Layers(1, (v8,), leaves=(replace(leaf, resident=None, swapped=None),))
    assert "V8 holds 512,000 KB, and" in str(live)
    assert "V8 holds at most 512,000 KB, and" in str(core)


def test_the_layers_close() -> None:
    layers = dmi.layers()
    assert [layer.number for layer in layers.layers] == ["1a", "1b", "1c", "2", "3"]
    for layer in layers.layers:
        for each in layer.parts:
            if each.holds is not None and each.uses is not None:
                assert each.retains == max(0, each.holds - each.uses)
    address = dmi.address_summary()
    virtual = layers["2"]
    assert virtual.holds is not None
    assert abs(virtual.holds - address.busy) < 32 * MIB
    assert dict(virtual.figures).keys() == {"MEM_IMAGE", "MEM_MAPPED", "MEM_PRIVATE"}
    resident = layers["3"].holds
    assert resident is not None
    assert 0 < resident <= virtual.holds


def test_glibc_says_what_it_holds() -> None:
    if _layers.glibc_malloc() is None:
        pytest.skip("another C library")
    libc = ctypes.CDLL("libc.so.6")
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    before = part(dmi.layers(), "1b", "glibc")
    block = libc.malloc(48 * MIB)
    during = part(dmi.layers(), "1b", "glibc")
    libc.free(block)
    after = part(dmi.layers(), "1b", "glibc")
    assert before.uses is not None
    assert during.uses is not None
    assert after.uses is not None
    assert 47 * MIB < during.uses - before.uses < 49 * MIB
    assert during.uses - after.uses > 47 * MIB


def test_python_objects_are_counted_in_their_pools() -> None:
    if os.environ.get("PYTHONMALLOC"):
        pytest.skip("Python runs without pymalloc")
    arenas = [(r.start, r.size) for r in dmi.address_summary().regions if r.usage == "HeapPymalloc"]
    if not arenas:
        pytest.skip("the arenas of this Python cannot be told")
    before = pymalloc_usage(None, arenas)
    # Blocks of 272 bytes, so many that most lie in arenas that did not exist yet.
    objects = [bytes(230) + bytes([i % 256]) for i in range(40_000)]
    arenas = [(r.start, r.size) for r in dmi.address_summary().regions if r.usage == "HeapPymalloc"]
    after = pymalloc_usage(None, arenas)
    assert before is not None
    assert after is not None
    expected = sum((sys.getsizeof(each) + 15) // 16 * 16 for each in objects)
    assert after - before == pytest.approx(expected, rel=0.25)


def test_another_process_tells_what_it_holds() -> None:
    program = "x = [bytes(300) for _ in range(50000)]; print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        layers = dmi.layers(child.pid)
        child.communicate("\n")
    assert layers.pid == child.pid
    malloc = part(layers, "1b", "glibc main arena")
    assert malloc.holds is not None
    assert malloc.uses is not None
    assert 0 < malloc.uses <= malloc.holds
    objects = part(layers, "1a", "pymalloc main interpreter")
    assert objects.uses is not None
    assert objects.uses > 15 * MIB
    resident = layers["3"].holds
    assert resident is not None
    assert resident > 15 * MIB
    assert str(child.pid) in str(layers)


HEAPS = """
import json, dmi
with dmi.Heap("never", name="one") as one, dmi.Heap("lazy:how=decommit", name="two") as two:
    for heap in (one, two):
        made = [heap.malloc(size) for size in (24, 700, 5000, 90_000) for _ in range(200)]
        for address in made[::3]:
            heap.free(address)
        heap.free(heap.malloc(30 << 20))
    two.trim()
    print(json.dumps([[h.handle, h.name, h.stats().as_dict(), h.segments()] for h in dmi.heaps()]))
    print(flush=True)
    input()
"""


@pytest.mark.keeps
def test_another_process_tells_of_its_dmi_heaps() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HEAPS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        told = json.loads(child.stdout.readline())
        assert child.stdout.readline() == "\n"
        found = process_heaps(child.pid)
        layers = dmi.layers(child.pid)
        summary = dmi.address_summary(child.pid)
        child.communicate("\n")
    assert [heap[1] for heap in told][-2:] == ["one", "two"]
    assert [(h.handle, h.name) for h in found] == [(each[0], each[1] or "") for each in told]
    for heap, (handle, name, stats, segments) in zip(found, told, strict=True):
        for key in ("reserved", "committed", "busy", "busy_blocks"):
            assert getattr(heap, key) == stats[key], key
        assert sorted(heap.segments) == sorted(tuple(each) for each in segments)
        held = part(layers, "1a", f"dmi heap {handle:x}" + (f" ({name})" if name else ""))
        assert (held.holds, held.uses) == (stats["committed"], stats["busy"])
    assert found[-2].committed > 30 * MIB
    assert summary.usage["HeapDmi"] >= sum(heap.reserved for heap in found)
    assert not summary.notes
    assert sum(summary.usage.values()) == summary.total


def test_heaps_of_processes_without_any() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        assert process_heaps(child.pid) == []
        child.kill()
    with pytest.raises(ProcessLookupError):
        process_heaps(2**22 + 1)
    with pytest.raises(ValueError, match="pid must be positive"):
        process_heaps(0)


def test_a_dmi_of_another_build_is_not_guessed_at() -> None:
    magic = _inspect.LAYOUT_MAGIC
    data = bytearray(magic + bytes(4096 - len(magic)))

    class Other:
        page = 4096

        def read(self, address: int, size: int) -> bytes | None:
            at = address - 0x7000_0000_0000
            return bytes(data[at : at + size]) if 0 <= at <= len(data) - size else None

    line = "700000000000-700000001000 r--p 00000000 08:01 5 /usr/lib/libdmi.so"
    assert outside_heaps(cast("Source", Other()), parse_maps(line)) == (
        [],
        "its dmi is of another version or build",
    )
    data[:] = bytes(4096 - len(magic)) + magic  # what should follow is not there
    heaps, why = outside_heaps(cast("Source", Other()), parse_maps(line))
    assert not heaps
    assert "cannot be read" in why


def test_a_process_that_is_not_there() -> None:
    with pytest.raises(ProcessLookupError):
        dmi.layers(2**22 + 1)
    with pytest.raises(ValueError):
        dmi.layers(0)


def test_status_stands_in_where_the_rollup_may_not_be_read() -> None:
    found = _layers.physical_memory()
    assert found["Rss"] > MIB
    assert found["Pss"] <= found["Rss"]


def test_this_process_knows_its_ranges_without_their_names(heap: dmi.Heap) -> None:
    address = heap.malloc(64 * MIB)
    assert any(start <= address < start + size for start, size, *_ in own_ranges())
    summary = dmi.address_summary()
    region = next(r for r in summary.regions if r.start <= address < r.end)
    assert region.usage == "HeapDmi"
    assert sum(size for _, size, *_ in own_ranges()) <= summary.usage["HeapDmi"]


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [layer["number"] for layer in values["layers"]] == ["1a", "1b", "1c", "2", "3"]
    assert main(["layers", "--pid", str(os.getpid())]) == 0
    text = capsys.readouterr().out
    for word in ("Holds", "Uses", "Retains", "virtual memory", "PSS"):
        assert word in text
    assert main(["layers", "--pid", str(2**22 + 1)]) == 2
    capsys.readouterr()
