"""The layers of a process: what they hold, use and retain, here and elsewhere."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys

import pytest

import dmi
from dmi import _layers
from dmi.address import own_ranges, pymalloc_usage
from dmi.cli import main

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
MIB = 1 << 20


def part(layers: dmi.Layers, number: str, begins: str) -> _layers.Part:
    return next(each for each in layers[number].parts if each.name.startswith(begins))


@pytest.mark.keeps
def test_a_heap_stands_in_the_layer_of_custom_libraries() -> None:
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
    assert part(layers, "1b", "malloc").uses is None
    resident = layers["3"].holds
    assert resident is not None
    assert resident > 15 * MIB
    assert str(child.pid) in str(layers)


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
