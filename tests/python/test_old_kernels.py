"""Fences of hardened heaps before Linux 6.13: protections, which cut mappings and are counted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from test_preload import build

import dmi

if TYPE_CHECKING:
    from test_preload import Build

__all__ = ["build"]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is no seccomp"),
    pytest.mark.timeout(300),
]

# A size in the middle of its pages, what a block of it takes, and how an address is protected.
BEGIN = """
import ctypes, dmi
SIZE = 100_000
def size_of(block):
    return (heap.usable_size(block) + 8 + 4095) // 4096 * 4096
def rights(address):
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            if start <= address < end:
                return line.split()[1]
def fenced(block):
    return rights(block + size_of(block)).startswith("---")
heap = dmi.Heap(hardened=True)
"""


def run(build: Build, script: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [build("before_guards.c"), sys.executable, "-c", BEGIN + script],
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("no seccomp here")
    return done


def test_a_fence_is_a_protection_and_goes_with_its_block(build: Build) -> None:
    done = run(
        build,
        """
blocks = [heap.malloc(SIZE) for _ in range(20)] + [heap.malloc(20 << 20)]
assert all(fenced(block) for block in blocks)
for block in blocks:
    ctypes.memset(block, 1, heap.usable_size(block))
assert heap.stats(detail=True).refused_calls == 0
heap.stats(detail=True).check()
heap.validate()
for block in blocks[::2]:
    heap.free(block)
    assert rights(block) in (None, "---p"), rights(block)
heap.stats(detail=True).check()
for block in blocks[1::2]:
    heap.free(block)
heap.trim()
heap.stats(detail=True).check()
heap.validate()
again = [heap.malloc(SIZE) for _ in range(60)]
for block in again:
    ctypes.memset(block, 2, heap.usable_size(block))
    assert fenced(block)
print("well")
""",
    )
    assert (done.stdout, done.stderr) == ("well\n", "")


@pytest.mark.parametrize(
    "place",
    ["larger + size_of(larger)", "virtual + size_of(virtual)", "freed + 4096", "segment - 1"],
)
def test_a_touch_is_told_as_on_newer_kernels(build: Build, place: str) -> None:
    done = run(
        build,
        f"""
freed, larger, virtual = heap.malloc(SIZE), heap.malloc(SIZE), heap.malloc(20 << 20)
segment = min(found.address for found in heap.walk() if found.address < virtual or
              found.address > virtual + (20 << 20))
heap.free(freed)
print("so far", flush=True)
ctypes.memset({place}, 1, 1)
""",
    )
    assert done.stdout == "so far\n", done.stderr
    told = place.startswith(("larger", "freed"))
    assert ("access(" in done.stderr) == told
    assert done.returncode == -(signal.SIGABRT if told else signal.SIGSEGV)


def test_fences_beyond_the_map_limit_are_not_made_and_counted(build: Build) -> None:
    """What a fence cuts is counted, and counted back: the same room has the same number again."""
    done = run(
        build,
        """
def fill():
    blocks = []
    before = heap.stats().refused_calls
    while heap.stats().refused_calls == before:
        blocks.append(heap.malloc(SIZE))
    return blocks
first = heap.malloc(SIZE)
dmi.lib.dmi_set_map_limit(200)
counts = []
for _ in range(6):
    blocks = fill()
    with open("/proc/self/maps") as maps:
        assert sum("---p" in line for line in maps) >= len(blocks) - 1
    assert all(fenced(block) for block in blocks[:-1])
    assert not fenced(blocks[-1])
    assert 20 < len(blocks) <= 100, len(blocks)
    counts.append(len(blocks))
    ctypes.memset(blocks[-1], 1, heap.usable_size(blocks[-1]))
    heap.stats(detail=True).check()
    heap.validate()
    for block in blocks:
        heap.free(block)
    heap.trim()
    heap.stats(detail=True).check()
assert max(counts) - min(counts) <= 1, counts
assert len(set(counts[3:])) == 1, counts
assert fenced(first)
print("well")
""",
    )
    assert (done.stdout, done.stderr) == ("well\n", "")


@pytest.mark.long
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_attacks_on_large_blocks_get_nothing_there_either(build: Build, tmp_path: Path) -> None:
    program = tmp_path / "attacks"
    source = Path(__file__).parents[1] / "attacks" / "attacks.c"
    command = ["gcc", "-O1", "-fno-builtin", "-pthread", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run(
        [build("before_guards.c"), program, "all", "200000"],
        env=os.environ | {"LD_PRELOAD": dmi.get_preload_path(), "DMI_OPTIONS": "hardened=on"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("no seccomp here")
    cells = {name: cell.split(":")[1] for name, cell in map(str.split, done.stdout.splitlines())}
    assert len(cells) > 100
    assert not [name for name, cell in cells.items() if set(cell) & set("X?")]
    assert cells["double_at_once"] == "ff"
