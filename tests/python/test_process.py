"""Heaps of processes that know nothing of dmi, from outside and from core files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import dmi
from dmi._layers import Layer, Layers, Part
from dmi.address._maps import parse_maps
from dmi.cli import main
from dmi.process import CoreError
from dmi.process._glibc_find import Space
from dmi.process._others import other_heaps
from dmi.process._rights import ShapeHeap
from dmi.windbg import Region

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

# What malloc says of itself, and how much a real malloc_trim gives; arenas of three threads and the
# main one, all with holes. It allocates nothing between its word and the look from outside.
TARGET = """
import ctypes, json, sys, threading
class Info(ctypes.Structure):
    _fields_ = [(n, ctypes.c_size_t) for n in "arena ordblks smblks hblks hblkhd usmblks fsmblks "
                "uordblks fordblks keepcost".split()]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
done, go = threading.Barrier(4), threading.Event()
keep = []
def work():
    blocks = [ctypes.create_string_buffer(2000 + 13000 * (n % 7 == 0)) for n in range(6000)]
    small = [bytearray(70) for n in range(3000)]
    del blocks[::2], small[::3]
    keep.append((blocks, small))
    done.wait()
    go.wait()
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
blocks = [ctypes.create_string_buffer(5000) for n in range(3000)]
del blocks[200:2900]
done.wait()
def resident():
    with open("/proc/self/smaps_rollup") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("Rss:"))
resident()
def say():
    info = libc.mallinfo2()
    print(json.dumps({n: getattr(info, n) for n, _ in Info._fields_}), flush=True)
say()
sys.stdin.readline()
before = resident()
libc.malloc_trim(0)
print(before - resident(), flush=True)
sys.stdin.readline()
"""


class Target:
    """The program above, at its word."""

    def __init__(self, before: str = "", **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", before + TARGET],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONMALLOC": "malloc", **environment},
        )
        assert self.process.stdout is not None
        self.info: dict[str, int] = json.loads(self.process.stdout.readline())
        self.wait_until_it_reads()

    def wait_until_it_reads(self) -> None:
        """It allocates a little before it waits for input."""
        for _ in range(1000):
            state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "S":
                return
            time.sleep(0.01)

    def go_on(self) -> int:
        """Let it trim; what that gave."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def target() -> Iterator[Target]:
    found = Target()
    yield found
    found.close()


def total(process: dmi.Process, name: str) -> int:
    return sum(getattr(heap.stats(), name) or 0 for heap in process.heaps() if heap.kind == "glibc")


def detail(process: dmi.Process, name: str) -> int:
    return sum((heap.stats().details or {}).get(name) or 0 for heap in process.heaps())


def check(process: dmi.Process, info: dict[str, int], unknown: int = 0) -> None:
    """The figures beside mallinfo2's, which counts cached chunks as used."""
    free = detail(process, "top") + detail(process, "bins") + detail(process, "fastbins")
    assert free == pytest.approx(info["fordblks"], rel=0.01)
    used = total(process, "committed") - free
    assert used == pytest.approx(info["uordblks"], rel=0.01)
    assert detail(process, "system") == pytest.approx(info["arena"], rel=0.01)
    main_arena = next(heap for heap in process.heaps() if heap.name == "main arena").stats()
    assert (main_arena.mapped, main_arena.mapped_blocks) == (info["hblkhd"], info["hblks"])
    assert total(process, "unknown") <= unknown


@pytest.mark.parametrize(
    "tunables",
    [
        "",
        "glibc.malloc.mmap_threshold=4194304",
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.hugetlb=2",
        "glibc.malloc.tcache_count=0",
        "glibc.malloc.mxfast=0",
        "glibc.malloc.arena_max=1",
    ],
)
def test_arenas_of_another_process_are_what_malloc_says(tunables: str) -> None:
    found = Target(GLIBC_TUNABLES=tunables)
    try:
        with dmi.open_process(found.process.pid) as process:
            # Pieces that no bin leads to are unknown, where the main arena is mapped in pieces.
            check(process, found.info, unknown=1 << 30 if "hugetlb=2" in tunables else 0)
            expected = total(process, "trim")
            gained = found.go_on()
            # Huge pages make a trim of a part of one give nothing, or all of it.
            if "hugetlb" not in tunables:
                assert abs(expected - gained) <= max(1 << 20, gained // 50)
    finally:
        found.close()


BLOCKED = """
import ctypes, mmap
libc = ctypes.CDLL(None)
libc.sbrk.restype = libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
end = (libc.sbrk(0) + 0x40fff) & ~0xfff
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10
assert libc.mmap(end, 4096, mmap.PROT_READ, flags, -1, 0) == end
"""


def test_a_main_arena_whose_brk_heap_could_not_grow() -> None:
    found = Target(BLOCKED)
    try:
        with dmi.open_process(found.process.pid) as process:
            # What lies in the pieces that no bin leads to is unknown, and little.
            check(process, found.info, unknown=8 << 20)
            main_arena = next(heap for heap in process.heaps() if heap.name == "main arena")
            assert len(main_arena.segments()) > 1
    finally:
        found.close()


def core_of(pid: int, folder: Path) -> Path:
    if shutil.which("gcore") is None:
        pytest.skip("gcore is not installed (Debian: gdb)")
    subprocess.run(
        ["gcore", "-o", str(folder / "core"), str(pid)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder / f"core.{pid}"


def test_a_core_file_says_the_same_as_the_process(target: Target, tmp_path: Path) -> None:
    with dmi.open_process(target.process.pid) as process:
        live = [(heap.handle, heap.stats(), list(heap.walk() or ())) for heap in process.heaps()]
    core = core_of(target.process.pid, tmp_path)
    with dmi.open_core(core) as process:
        assert process.pid == target.process.pid
        check(process, target.info)
        for (handle, stats, walk), heap in zip(live, process.heaps(), strict=True):
            assert heap.handle == handle
            assert list(heap.walk() or ()) == walk
            dead = heap.stats()
            # A core file does not know what was in memory.
            assert dead.resident is None
            for name in (
                "reserved",
                "committed",
                "busy",
                "free",
                "free_blocks",
                "unknown",
                "pinned",
            ):
                assert getattr(dead, name) == getattr(stats, name)


def test_ranges_cover_each_heap_without_gap_or_overlap(target: Target) -> None:
    with dmi.open_process(target.process.pid) as process:
        for heap in process.heaps():
            if heap.kind != "glibc":
                continue
            stats, end, last = heap.stats(), 0, 0
            sums: dict[str, int] = {}
            for found in heap.walk() or ():
                assert found.segment != last or found.address == end
                end, last = found.address + found.size, found.segment
                sums[found.state] = sums.get(found.state, 0) + found.size
            assert sums["busy"] == stats.busy
            assert sums["free"] == stats.free
            assert sum(row.total for row in heap.histogram() or ()) == stats.busy
            middle = next(f for f in heap.walk() or () if f.state == "busy" and f.size > 64)
            assert process.find(middle.address + 40) == (heap, middle)
        assert process.find(8) is None


def test_the_command_shows_a_process_and_its_core(
    target: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> str:
        assert main(["heap", *words]) == 0
        return capsys.readouterr().out

    pid = str(target.process.pid)
    table = said("-s", "--pid", pid)
    assert table.count(" glibc\n") == 4
    core = str(core_of(target.process.pid, tmp_path))
    assert said("-s", core) == table
    rows: list[dict[str, Any]] = json.loads(said("-s", "--json", "--pid", pid))
    assert {row["kind"] for row in rows} == {"glibc"}
    assert said("-stat", core) == said("-stat", "--pid", pid)
    assert said("-flt", "r", "7d0", "7f0", core) == said("-flt", "r", "7d0", "7f0", "--pid", pid)
    assert "chunk busy" in said("-h", f"{rows[1]['handle']:x}", "--pid", pid)


def test_what_is_no_process_and_no_core_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProcessLookupError):
        dmi.open_process(4194303)
    with pytest.raises(TypeError, match="pid must be an int"):
        dmi.open_process("1")  # type: ignore[arg-type]
    with pytest.raises(CoreError, match="not a core file"):
        dmi.open_core(sys.executable)
    packed = tmp_path / "core.zst"
    packed.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    assert main(["heap", "-s", str(packed)]) == 2
    assert "zstd -d" in capsys.readouterr().err
    assert main(["heap", "-s", "--pid", "1", str(packed)]) == 2
    assert "not both" in capsys.readouterr().err


def test_the_arena_that_retains_most_is_named(target: Target, tmp_path: Path) -> None:
    layers = dmi.layers(target.process.pid)
    assert layers.stuck is not None
    assert layers.stuck.name.startswith("glibc ")
    core = core_of(target.process.pid, tmp_path)
    with dmi.open_core(core) as process:
        dead = process.layers()
    assert dead.stuck == layers.stuck
    assert dead["3"].holds is None
    for words in (["layers"], ["address", "--summary"]):
        assert main([*words, str(core)]) == 0


def test_nobody_is_named_while_a_larger_ones_use_is_unknown() -> None:
    known, larger = Part("glibc", 100, 40), Part("jemalloc", 61, None)
    found = Layers(1, (Layer("1b", "language runtime", (known, larger)),))
    assert found.stuck is None
    assert found.unknown == larger
    assert "cannot be said" in str(found)
    smaller = Layers(1, (Layer("1b", "runtime", (known, Part("jemalloc", 59, None))),))
    assert smaller.stuck == known


class _Unreadable:
    """A process of which only the mappings are known."""

    page = 4096
    stands_still = False

    def read_into(self, address: int, room: memoryview) -> int:
        return 0

    def read(self, address: int, size: int) -> bytes | None:
        return None

    def next_there(self, address: int) -> int:
        return address

    def pagemap(self, address: int, pages: int) -> bytes | None:
        return None


class _Summary:
    """Regions alone."""

    def __init__(self, *regions: Region) -> None:
        self.regions = regions


def test_memory_that_no_heap_explains_is_held_by_the_allocator_whose_file_is_mapped() -> None:
    def other(start: int, size: int) -> Region:
        return Region(start, size, "Other", "MEM_PRIVATE", "PAGE_READWRITE", size, "", size)

    library = "1000-2000 r-xp 0 00:01 7 /usr/lib/x86_64-linux-gnu/libjemalloc.so.2\n"
    space = Space(parse_maps(library))
    summary: Any = _Summary(other(1 << 32, 5 << 20), other(2 << 32, 3 << 20))
    known = ShapeHeap("glibc", [(2 << 32, 1 << 20, 1 << 20, None)])
    memory: Any = _Unreadable()
    ((found,), _) = other_heaps(memory, space, summary, [known])
    stats = found.stats()
    assert (stats.kind, stats.committed, stats.busy) == ("jemalloc", 7 << 20, None)
    ((found,), _) = other_heaps(memory, Space([]), summary, [known])
    assert (found.kind, found.stats().busy) == ("unknown", None)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="gives up a right that only root has",
)
def test_without_rights_it_says_what_everybody_may_know(target: Target) -> None:
    found = subprocess.run(
        ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", sys.executable, "-m",
         "dmi", "heap", "-s", "--pid", str(target.process.pid)],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert "its memory may not be read" in found
    assert "SYS_PTRACE" in found
    assert "kubectl debug" in found
    assert "VmRSS" in found
    # Nothing is made up: what is not known is a dash.
    assert " glibc" not in found or " - " in found


def _shapes(maps: str, file: bytes) -> list[tuple[str, int | None]]:
    """Kind and committed bytes of what is found in these mappings, of which the first is a program
    with that text in it."""

    class Memory(_Unreadable):
        def read_into(self, address: int, room: memoryview) -> int:
            size = min(len(file), len(room)) if address == 0x1000 else 0
            room[:size] = file[:size]
            return size

    mappings = parse_maps(maps)
    regions = [
        Region(m.start, m.size, "Other", "MEM_PRIVATE", "PAGE_READWRITE", m.size, "", m.size)
        for m in mappings
        if m.perms == "rw-p" and not m.has_file
    ]
    memory: Any = Memory()
    summary: Any = _Summary(*regions)
    found, _ = other_heaps(memory, Space(mappings), summary, [])
    return [(each.kind, each.stats().committed) for each in found]


PROGRAM = "1000-2000 r-xp 0 00:01 7 /nonexistent/server\n"


def test_googles_tcmalloc_has_whole_gib_and_what_the_program_carries_along_has_not() -> None:
    carried = b"tcmalloc.pageheap_unmapped_bytes\0Cannot create a handle without a HandleScope\0"
    region = (
        "e6ec0000000-e6effe00000 ---p 00000000 00:00 0\n"
        "e6effe00000-e6f00000000 rw-p 00000000 00:00 0\n"
    )
    assert _shapes(PROGRAM + region, carried) == [("tcmalloc", 2 << 20)]
    # Without the allocator in a file, the same place says nothing.
    assert _shapes(PROGRAM + region, b"nothing") == [("unknown", 2 << 20)]
    # A range that ends elsewhere may be anybody's.
    elsewhere = region.replace("e6f00000000", "e6f00100000")
    assert _shapes(PROGRAM + elsewhere, carried) == [("tcmalloc or V8", 3 << 20)]


@pytest.mark.parametrize(
    "mark", [b"\xff Go buildinf:", b"runtime: out of memory: cannot allocate "]
)
def test_go_is_found_where_it_takes_places_at_random(mark: bytes) -> None:
    arena = (
        "3dbd9c000000-3dbd9c800000 ---p 00000000 00:00 0\n"
        "3dbd9c800000-3dbd9d000000 rw-p 00000000 00:00 0\n"
        "3dbd9d000000-3dbda0000000 ---p 00000000 00:00 0\n"
    )
    small = "7fae59b20000-7fae5be00000 rw-p 00000000 00:00 0\n"
    assert _shapes(PROGRAM + arena + small, mark) == [("Go", (8 << 20) + 0x22E0000)]
    # A library in Go that has no arena has nothing.
    library = PROGRAM.replace("server", "plugin.so")
    assert _shapes(library + small, mark) == [("unknown", 0x22E0000)]
