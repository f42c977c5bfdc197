"""The address summary: its identities on real processes, its owners on real and on made-up ones."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import re
import struct
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

import dmi
from dmi import _inspect, windbg
from dmi.address import NotSupportedError, address_summary, summarise
from dmi.address._windows import windows_regions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
MIB = 1 << 20


def assert_identities(summary: windbg.AddressSummary) -> None:
    assert summary.disagreements() == ()
    for table in (summary.usage, summary.type, summary.state):
        assert sum(table.values()) == summary.total
    busy = summary.total - summary.free
    assert busy == summary.busy == sum(region.size for region in summary.regions)
    assert summary.state["MEM_COMMIT"] + summary.state["MEM_RESERVE"] == busy
    assert sum(summary.type[k] for k in ("MEM_IMAGE", "MEM_MAPPED", "MEM_PRIVATE")) == busy
    assert sum(summary.protect.values()) == summary.state["MEM_COMMIT"]
    regions = summary.regions
    assert all(a.end <= b.start for a, b in itertools.pairwise(regions))
    for style in ("old", "new"):
        (again,) = windbg.parse(windbg.format_address_summary(summary, style)).addresses
        assert (again.usage, again.type, again.state) == (
            summary.usage, summary.type, summary.state,
        )  # fmt: skip
        assert again.disagreements() == ()


# -- made-up processes ------------------------------------------------------------------------


@dataclass
class Fake:
    """A process that exists only here."""

    text: str
    memory: dict[int, bytes] = field(default_factory=dict)
    readable: bool = True
    pointers: list[int] = field(default_factory=list)
    spans: dict[str, int] = field(default_factory=dict)
    page: int = 4096

    def maps(self) -> str:
        return self.text

    def read(self, address: int, size: int) -> bytes | None:
        if not self.readable:
            return None
        out = bytearray(size)
        for start, data in self.memory.items():
            low, high = max(start, address), min(start + len(data), address + size)
            if low < high:
                out[low - address : high - address] = data[low - start : high - start]
        return bytes(out)

    def present(self, address: int, pages: int) -> Sequence[bool] | None:
        return [True] * pages if self.readable else None

    def stack_pointers(self) -> list[int]:
        return self.pointers

    def elf_span(self, path: str) -> int | None:
        return self.spans.get(path)


def line(start: int, end: int, perms: str = "rw-p", name: str = "", inode: int = 0) -> str:
    return f"{start:x}-{end:x} {perms} 00000000 00:00 {inode} {name}\n"


def sizes(summary: windbg.AddressSummary) -> dict[str, int]:
    assert_identities(summary)
    return {name: size for name, size in summary.usage.items() if size and name != "Free"}


def test_names_types_and_states() -> None:
    text = (
        line(0x10000, 0x12000, "r-xp", "/bin/program", 7)
        + line(0x12000, 0x13000, "---p", "/bin/program", 7)
        + line(0x13000, 0x14000, "rw-p", "[heap]")
        + line(0x20000, 0x24000, "rw-p", "[anon:dmi segment]")
        + line(0x24000, 0x25000, "---p")
        + line(0x30000, 0x31000, "r--p", "/data", 8)
        + line(0x31000, 0x32000, "rw-s", "/memfd:x (deleted)", 9)
        + line(0x40000, 0x41000, "rw-p", "[stack]")
        + line(0x50000, 0x51000, "r--p", "[vvar]")
        + line(0x51000, 0x52000, "r-xp", "[vdso]")
        + line(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, "--xp", "[vsyscall]")
    )
    summary = summarise(Fake(text))
    assert sizes(summary) == {
        "Image": 0x3000, "HeapBrk": 0x1000, "HeapDmi": 0x4000, "Other": 0x1000,
        "MappedFile": 0x2000, "Stack": 0x1000, "Kernel": 0x2000,
    }  # fmt: skip
    assert summary.total == 1 << 47
    assert summary.state["MEM_RESERVE"] == 0x2000
    assert summary.type["MEM_IMAGE"] == 0x4000  # the vdso is an image as well
    assert summary.type["MEM_MAPPED"] == 0x3000
    assert summary.protect == {
        "PAGE_EXECUTE_READ": 0x3000, "PAGE_READWRITE": 0x7000, "PAGE_READONLY": 0x2000,
    }  # fmt: skip


def test_segments_that_the_caller_knows() -> None:
    summary = summarise(Fake(line(0x10000, 0x40000)), [(0x20000, 0x8000), (0x3F000, 0x10000)])
    assert sizes(summary) == {"HeapDmi": 0x9000, "Other": 0x27000}
    assert [region.usage for region in summary.regions] == [
        "Other", "HeapDmi", "Other", "HeapDmi",
    ]  # fmt: skip


def test_reserve_only_mappings_are_committed_where_they_were_touched() -> None:
    smaps = (
        line(0x100000, 0x200000) + "Rss: 8 kB\nSwap: 4 kB\nVmFlags: rd wr mr mw me nr \n"
        + line(0x200000, 0x300000) + "Rss: 8 kB\nSwap: 0 kB\nVmFlags: rd wr mr mw me ac \n"
    )  # fmt: skip
    summary = summarise(Fake(smaps))
    assert summary.state["MEM_COMMIT"] == 12 * 1024 + 0x100000
    assert [region.resident for region in summary.regions] == [8192, 8192]
    assert sizes(summary) == {"Other": 0x200000}


def test_overlapping_lines_count_once() -> None:
    text = line(0x1000, 0x3000) + line(0x2000, 0x4000) + line(0x3000, 0x4000, "r--p")
    assert sizes(summarise(Fake(text))) == {"Other": 0x3000}


def test_a_larger_address_space() -> None:
    summary = summarise(Fake(line(1 << 50, (1 << 50) + 0x1000)))
    assert summary.total == 1 << 52
    assert_identities(summary)


def test_the_zero_filled_end_of_an_image() -> None:
    text = line(0x10000, 0x12000, "r-xp", "/lib/a.so", 7) + line(0x12000, 0x16000)
    summary = summarise(Fake(text, spans={"/lib/a.so": 0x3000}))
    assert sizes(summary) == {"Image": 0x3000, "Other": 0x3000}
    assert summary.type["MEM_IMAGE"] == 0x3000


def heap_info(base: int, writable: int, previous: int = 0, arena: int | None = None) -> bytes:
    where = base + 0x30 if arena is None else arena
    return struct.pack("<4Q", where, previous, writable, writable)


class TestGlibcArenas:
    base = 0x7F0000000000
    text = line(base, base + 0x21000) + line(base + 0x21000, base + 64 * MIB, "---p")

    def test_by_content(self) -> None:
        known = Fake(self.text, {self.base: heap_info(self.base, 0x21000)})
        assert sizes(summarise(known)) == {"HeapGlibcArena": 64 * MIB}
        assert summarise(known).state["MEM_RESERVE"] == 64 * MIB - 0x21000

    def test_second_heap_of_an_arena(self) -> None:
        last = self.base - 64 * MIB
        info = heap_info(self.base, 0x21000, previous=last, arena=last + 0x30)
        assert sizes(summarise(Fake(self.text, {self.base: info}))) == {"HeapGlibcArena": 64 * MIB}

    @pytest.mark.parametrize(
        "info",
        [
            bytes(32),
            heap_info(base, 0x22000),
            heap_info(base, 0x20001),
            heap_info(base, 0x21000, previous=base + 8),
            heap_info(base, 0x21000, arena=base + 64 * MIB + 0x30),
            heap_info(base, 0x21000, arena=base + 0x3000),
        ],
    )
    def test_the_shape_alone_is_not_enough(self, info: bytes) -> None:
        assert sizes(summarise(Fake(self.text, {self.base: info}))) == {"Other": 64 * MIB}

    def test_by_shape_where_memory_cannot_be_read(self) -> None:
        summary = summarise(Fake(self.text, readable=False))
        assert sizes(summary) == {"HeapGlibcArena": 64 * MIB}
        assert any("cannot be read" in note for note in summary.notes)

    def test_two_that_the_kernel_merged(self) -> None:
        full, size = self.base, 64 * MIB
        text = line(full, full + size + 0x21000)
        text += line(full + size + 0x21000, full + 2 * size + 0x5000, "---p")
        infos = {
            full: heap_info(full, size),
            full + size: heap_info(full + size, 0x21000, full, full + 0x30),
        }
        assert sizes(summarise(Fake(text, infos))) == {
            "HeapGlibcArena": 2 * size, "Other": 0x5000,
        }  # fmt: skip


class TestStacks:
    def thread(self, end: int) -> dict[int, bytes]:
        block = end - 0x900
        return {block: struct.pack("<3Q", block, 0x1234, block)}

    def test_behind_a_guard(self) -> None:
        text = line(0x10000, 0x11000, "---p") + line(0x11000, 0x31000)
        assert sizes(summarise(Fake(text, self.thread(0x31000)))) == {"Stack": 0x21000}
        assert sizes(summarise(Fake(text))) == {"Other": 0x21000}

    def test_by_its_stack_pointer(self) -> None:
        text = line(0x10000, 0x11000, "---p") + line(0x11000, 0x31000)
        fake = Fake(text, readable=False, pointers=[0x30F00, 0x999999])
        assert sizes(summarise(fake)) == {"Stack": 0x21000}

    def test_a_neighbour_merged_above_it_is_not_stack(self) -> None:
        text = line(0x10000, 0x11000, "---p") + line(0x11000, 0x131000)
        fake = Fake(text, self.thread(0x31000), pointers=[0x30000])
        assert sizes(summarise(fake)) == {"Stack": 0x21000, "Other": 0x100000}


class TestPymalloc:
    python = line(0x10000, 0x11000, "r-xp", "/usr/lib/libpython3.11.so.1.0", 7)

    def pool(self, address: int, arena: int, size_class: int = 3, size: int = 16384) -> bytes:
        block = 16 * (size_class + 1)
        return struct.pack(
            "<QQQQ4I", 5, address + 48 + block, 0, 0, arena, size_class, 48 + block, size - block
        )

    def test_arenas_inside_a_merged_mapping(self) -> None:
        start = 0x7F0000003000
        text = self.python + line(start, start + 3 * MIB)
        first = start + MIB + -(start + MIB) % 16384
        memory = {a: self.pool(a, 0) for a in (first, first + 16384)}
        summary = summarise(Fake(text, memory))
        assert sizes(summary) == {"Image": 0x1000, "HeapPymalloc": MIB, "Other": 2 * MIB}
        (arena,) = (r for r in summary.regions if r.usage == "HeapPymalloc")
        assert arena.start == start + MIB

    def test_only_in_processes_with_python(self) -> None:
        start = 0x7F0000000000
        memory = {start: self.pool(start, 0)}
        assert sizes(summarise(Fake(line(start, start + MIB), memory))) == {"Other": MIB}

    def test_older_pythons_have_smaller_arenas(self) -> None:
        start = 0x7F0000000000
        text = self.python.replace("3.11", "3.9") + line(start, start + MIB)
        memory = {start: self.pool(start, 0, size=4096)}
        assert sizes(summarise(Fake(text, memory)))["HeapPymalloc"] == MIB // 4

    def test_newer_pythons_name_them(self) -> None:
        text = self.python + line(0x20000, 0x30000, name="[anon:cpython:pymalloc]")
        assert sizes(summarise(Fake(text)))["HeapPymalloc"] == 0x10000

    def test_chance_bytes_are_no_pool(self) -> None:
        start = 0x7F0000000000
        text = self.python + line(start, start + MIB)
        for position in (0, 8, 36, 40, 44):
            data = bytearray(self.pool(start, 0))
            data[position : position + 4] = b"\xff\xff\x00\x00"
            assert "HeapPymalloc" not in sizes(summarise(Fake(text, {start: bytes(data)})))


# -- real processes ---------------------------------------------------------------------------

CHILD = """
import ctypes, sys, threading
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
quiet = threading.Event()
ready = threading.Barrier(4)
def work():
    for _ in range(500):
        libc.malloc(ctypes.c_size_t(5000))
    ready.wait()
    quiet.wait()
threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
held = [str(number) for number in range(200_000)]
ready.wait()
sys._debugmallocstats()
sys.stderr.flush()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def child() -> Iterator[tuple[int, str]]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONMALLOC", "LD_PRELOAD")}
    environment.pop("MALLOC_ARENA_MAX", None)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
        reader.start()
        assert process.stdout.readline() == "ready\n"
        while not any("arenas allocated current" in text for text in lines):
            reader.join(0.01)
        try:
            yield process.pid, "".join(lines)
        finally:
            process.stdin.close()
            process.wait()
            reader.join()


@linux
def test_owners_in_another_process() -> None:
    with child() as (pid, stats):
        summary = address_summary(pid)
    assert_identities(summary)
    arenas = re.search(r"arenas allocated current\s+=\s+([0-9,]+)", stats)
    assert arenas
    count = int(arenas[1].replace(",", ""))
    # The interpreter's own count; one arena may be younger than it, or hold no pool in memory.
    assert count > 10
    assert abs(summary.usage["HeapPymalloc"] - count * MIB) <= MIB
    heaps = [r for r in summary.regions if r.usage == "HeapGlibcArena"]
    writable = [r for r in heaps if r.state == "MEM_COMMIT"]
    assert len({r.start // (64 * MIB) for r in heaps}) == 3
    assert sum(r.size for r in writable) >= 3 * 500 * 5000
    assert all(r.start % (64 * MIB) == 0 for r in writable)
    stacks = [r for r in summary.regions if r.usage == "Stack" and r.state == "MEM_COMMIT"]
    assert len(stacks) == 4
    assert summary.usage["HeapBrk"] > 0
    assert summary.usage["Other"] < summary.busy // 4


@pytest.mark.plain
@linux
def test_this_process(tmp_path: Path) -> None:
    before = address_summary()
    assert_identities(before)
    file = tmp_path / "data"
    file.write_bytes(bytes(MIB))
    reserved = 32 * MIB
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), MIB, prot=mmap.PROT_READ) as data:
        with mmap.mmap(-1, reserved, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0):
            after = address_summary()
        assert_identities(after)
        assert any(r.name == str(file) and r.usage == "MappedFile" for r in after.regions)
        assert len(data) == MIB
    assert after.usage["MappedFile"] - before.usage["MappedFile"] == MIB
    assert after.state["MEM_RESERVE"] - before.state["MEM_RESERVE"] == reserved


@pytest.mark.long
@linux
def test_while_other_threads_map_and_unmap() -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            mmap.mmap(-1, 3 * MIB).close()

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert_identities(address_summary())
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@linux
def test_known_ranges_of_this_process() -> None:
    with mmap.mmap(-1, 4 * MIB) as area:
        import ctypes

        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
        summary = address_summary(dmi_ranges=lambda: [(address, 2 * MIB)])
    assert_identities(summary)
    assert summary.usage["HeapDmi"] == 2 * MIB


@linux
@pytest.mark.parametrize("how", ["discard", "decommit"])
def test_state_is_what_the_kernel_charges(how: str) -> None:
    with dmi.Heap(f"never:how={how}") as heap:
        address = heap.malloc(100)
        (segment,) = heap.segments()
        assert 0 < segment.committed < segment.reserved // 2
        low, high = segment.address, segment.address + segment.reserved
        found = [r for r in address_summary().regions if low <= r.start < high]
        charged = sum(region.committed for region in found)
        assert charged >= segment.reserved if how == "discard" else charged < segment.reserved // 2
        heap.free(address)


def test_a_mapping_of_several_owners_is_shared_by_what_is_known() -> None:
    """Reserved without a charge, the kernel says only what was touched of the whole."""
    text = (
        "10000000-11000000 rw-p 00000000 00:00 0 \n"
        "Rss:                6144 kB\nSwap:                  0 kB\nVmFlags: rd wr mr mw me nr \n"
    )
    start, known = 0x10400000, (0x10400000, 4 * MIB, 3 * MIB)

    def held(*ranges: tuple[int, int] | tuple[int, int, int]) -> tuple[list[int], int]:
        summary = summarise(Fake(text), ranges)
        assert_identities(summary)
        by_owner = [r.committed for r in summary.regions if r.usage == "HeapDmi"]
        return by_owner, summary.state["MEM_COMMIT"]

    assert held(known) == ([3 * MIB], 6 * MIB)
    # By size where it is not known; never more than was touched; neighbours are one piece.
    assert held((start, 4 * MIB)) == ([3 * MIB // 2], 6 * MIB)
    assert held((start, 4 * MIB, 64 * MIB)) == ([4 * MIB], 6 * MIB)
    assert held(known, (start + 4 * MIB, 4 * MIB, MIB)) == ([4 * MIB], 6 * MIB)
    # A damaged snapshot may say anything.
    assert held(known, known, (start + MIB, 4 * MIB, 1 << 60))[1] == 6 * MIB
    assert held((start, 0, 5))[0] == []


@pytest.mark.parametrize(
    ("pid", "error", "message"),
    [
        (0, ValueError, "positive"),
        (-1, ValueError, "positive"),
        ("1", TypeError, "int or None"),
        (True, TypeError, "int or None"),
    ],
)
def test_wrong_pids(pid: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        address_summary(pid)


@linux
def test_processes_that_are_not_there() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with pytest.raises(ProcessLookupError, match=f"no process {process.pid}"):
        address_summary(process.pid)


def test_systems_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "sunos5")
    with pytest.raises(NotSupportedError, match="sunos5"):
        address_summary()


# -- Windows, whose half in C is tested by tests/c/test_os_windows.c ----------------------------


WINDOWS_END = 0x7FFF0000
WINDOWS_REGIONS = [
    (0x0, 0x10000, 0, 0x10000, 0, 0, ""),
    (0x10000, 0x1000, 5, 0x1000, 0x1000000, 0x80, "\\Device\\a.exe"),
    (0x11000, 0x2000, 6, 0x1000, 0x40000, 0x02, "\\Device\\b"),
    (0x13000, 0x4000, 3, 0x1000, 0x20000, 0x104, ""),
    (0x17000, 0x8000, 3, 0x2000, 0x20000, 0, ""),
    (0x1F000, 0x10000, 1, 0x1000, 0x20000, 0x04, ""),
    (0x2F000, 0x20000, 2, 0x1000, 0x20000, 0x04, ""),
    (0x4F000, 0x1000, 4, 0x1000, 0x20000, 0x04, ""),
    (0x50000, 0x40000, 99, 0x2000, 0x20000, 0, ""),
    (0x90000, WINDOWS_END - 0x90000, 0, 0x10000, 0, 0, ""),
]


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """This system as Windows, as far as the address space goes; the pids that were asked for."""
    asked: list[int] = []

    def regions(pid: int) -> tuple[int, list[tuple[int, int, int, int, int, int, str]]]:
        asked.append(pid)
        if pid == 4711:
            raise OSError(3, "No such process")
        return WINDOWS_END, WINDOWS_REGIONS

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr("dmi.address._windows.address_regions", regions)
    return asked


def test_windows_regions_become_the_three_tables(windows: list[int]) -> None:
    summary = address_summary()
    assert_identities(summary)
    assert windows == [0]
    assert summary.total == WINDOWS_END
    assert dict(summary.usage) == {
        "HeapDmi": 0x10000, "HeapSystem": 0x20000, "Stack": 0xC000, "TebPeb": 0x1000,
        "Image": 0x1000, "MappedFile": 0x2000, "Other": 0x40000,
        "Free": WINDOWS_END - 0x80000,
    }  # fmt: skip
    assert dict(summary.type) == {
        "<free>": WINDOWS_END - 0x80000, "MEM_IMAGE": 0x1000, "MEM_MAPPED": 0x2000,
        "MEM_PRIVATE": 0x7D000,
    }  # fmt: skip
    assert summary.state["MEM_RESERVE"] == 0x48000
    assert dict(summary.protect) == {
        "PAGE_EXECUTE_WRITECOPY": 0x1000, "PAGE_READONLY": 0x2000,
        "PAGE_READWRITE|PAGE_GUARD": 0x4000, "PAGE_READWRITE": 0x31000,
    }  # fmt: skip
    assert [r.name for r in summary.regions if r.name] == ["\\Device\\a.exe", "\\Device\\b"]
    assert summary.largest["Free"] == (0x90000, WINDOWS_END - 0x90000)


def test_windows_processes_by_number(windows: list[int]) -> None:
    assert address_summary(17).total == WINDOWS_END
    assert windows == [17]
    with pytest.raises(ProcessLookupError):
        address_summary(4711)


@linux
def test_the_core_says_that_files_tell_it_here() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)) as caught:
        _inspect.address_regions(0)
    assert caught.value.errno == errno.ENOSYS
    with pytest.raises(ProcessLookupError, match="no process"):
        windows_regions(1 << 70)
