"""What dmi has mapped for itself is told by name from outside, and is neither unknown nor a
stack."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import dmi
from dmi._inspect import LAYOUT_MAGIC
from dmi.address._maps import parse_maps

if not sys.platform.startswith("linux"):
    pytest.skip("processes are looked at from outside on Linux", allow_module_level=True)

from dmi.address._own_tables import own_tables
from dmi.process._own_tables import KIND

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = "x = [bytes(200 + i % 50) for i in range(100_000)]; print(flush=True); input()"
ROOT = 0x7F0000001000
LIST = 0x7F0000002000
MAPS = f"{ROOT:x}-{ROOT + 0x1000:x} rw-p 00000000 08:01 7 /lib/libdmi.so\n"


class Memory:
    """A process with one mapping of dmi's library, and whatever a list may say."""

    page = 4096

    def __init__(self, pointers: int = 7, own: int = LIST, begin: bytes = b"") -> None:
        fields = 2
        size = 32 + 8 * pointers + 32 * fields
        head = LAYOUT_MAGIC + struct.pack("<4I", size, 3, 48, fields)
        words = [0] * pointers
        if pointers > 6:
            words[6] = own
        root = head + struct.pack(f"<{pointers}Q", *words) + bytes(32 * fields)
        self._parts = {ROOT: root.ljust(4096, b"\0"), LIST: begin.ljust(8192, b"\xff")}

    def read(self, address: int, size: int) -> bytes | None:
        for start, data in self._parts.items():
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        return None


def listed(memory: Memory) -> list[tuple[int, int, str]]:
    return [tuple(each) for each in own_tables(memory, parse_maps(MAPS))]  # type: ignore[arg-type,misc]


def area(start: int, size: int, name: bytes) -> bytes:
    return struct.pack("<QQ16s", start, size, name)


def test_they_are_told_by_name(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "dmi", "run", "--profile", str(tmp_path / "p.json"), "--sample", "1",
        "--cost", "off", "--", sys.executable, "-c", PROGRAM,
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            with dmi.open_process(child.pid) as process:
                heaps = {(heap.kind, heap.name): heap.stats() for heap in process.heaps()}
                profiler = heaps[KIND, "profiler"]
                assert (profiler.resident or 0) > 1 << 20
                assert not any(kind == "unknown" for kind, _ in heaps)
                leaves = {leaf.name: leaf for leaf in dmi.layers(child.pid).leaves}
                assert (leaves["dmi: profiler"].resident or 0) > 1 << 20
                memory = process.snapshot("now").memory or {}
                # Guards stand around them, as around stacks.
                assert memory.get("Stack", 0) < 1 << 20
        finally:
            child.communicate(b"\n", timeout=30)


def test_builds_before_the_list_have_none() -> None:
    assert listed(Memory(pointers=6)) == []


def test_a_list_is_read_up_to_what_it_has() -> None:
    areas = area(0x1000, 0x2000, b"dmi-watch") + area(0, 0, b"") + area(0x9000, 0x1000, b"new")
    memory = Memory(begin=struct.pack("<QQ", 3, 32) + areas)
    assert listed(memory) == [(0x1000, 0x2000, "profiler"), (0x9000, 0x1000, "tables")]


@pytest.mark.parametrize(
    "begin",
    [
        struct.pack("<QQ", 1 << 40, 32),
        struct.pack("<QQ", 3, 33),
        struct.pack("<QQ", 0, 32),
        struct.pack("<QQ", 1, 32) + area(0x1001, 0x1000, b"x"),
        struct.pack("<QQ", 1, 32) + area(0x1000, 1 << 63, b"x"),
    ],
)
def test_a_damaged_list_is_none(begin: bytes) -> None:
    assert listed(Memory(begin=begin)) == []


@pytest.mark.parametrize("own", [0, 4, 1 << 62])
def test_a_list_that_is_nowhere_is_none(own: int) -> None:
    assert listed(Memory(own=own)) == []


def test_what_nobody_wrote_to_is_no_unknown_heap() -> None:
    """Stacks of threads that come and go, and room that a program keeps, cost nothing."""
    program = (
        "import mmap; kept = [mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)]\n"
        "print(flush=True); input(); kept[0].write(bytes(8 << 20)); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            found = []
            for _ in range(2):
                child.stdout.readline()
                with dmi.open_process(child.pid) as process:
                    found.append({heap.kind for heap in process.heaps()})
                child.stdin.write(b"\n")
                child.stdin.flush()
        finally:
            child.wait(timeout=30)
    assert ["unknown" in kinds for kinds in found] == [False, True]


@pytest.mark.skipif(shutil.which("gcore") is None, reason="gcore is not here")
def test_a_core_shows_them_by_what_they_hold_not_by_what_is_mapped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dmi", "run", "--", sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            gcore = ["gcore", "-o", str(tmp_path / "core"), str(child.pid)]
            made = subprocess.run(gcore, capture_output=True, check=False, timeout=60)
            with dmi.open_process(child.pid) as process:
                live = {heap.kind for heap in process.heaps()}
        finally:
            child.communicate(b"\n", timeout=30)
    if made.returncode:
        pytest.skip("gcore may not look at processes here")
    with dmi.open_core(tmp_path / f"core.{child.pid}") as process:
        # The page map spans 300 MB of addresses, of which some pages are written to.
        heaps = {(heap.kind, heap.name): heap.stats() for heap in process.heaps()}
        assert all((stats.committed or 0) < 64 << 20 for stats in heaps.values())
        assert {kind for kind, _ in heaps} - {"dmi tables"} == live - {"dmi tables"}
        names = {leaf.name for leaf in process.layers().leaves}
        assert "dmi: page map" in names
