"""What lies in physical memory, each byte once: the leaves of ``dmi layers``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import dmi
from dmi._cgroup import Cgroup
from dmi._layers import Layer, Layers, Part
from dmi._leaves import Leaf, folded, short
from dmi.process import open_process
from dmi.process._leaves import _fitted
from dmi.process._spans import Claims

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
MIB = 1 << 20

# Something of everything: threads that sleep, one that has ended, shared memory of each sort, files
# that are mapped and deleted, blocks that malloc maps, private mappings of its own.
TARGET = r"""
import ctypes, mmap, os, sys, tempfile, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
ctypes.pythonapi.memset = libc.memset
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
big = [libc.malloc(size) for size in (5 << 20, 700_000, 9 << 20)]
for address, size in zip(big, (5 << 20, 700_000, 9 << 20)):
    libc.memset(address, 1, size)
folder = tempfile.mkdtemp()
path = os.path.join(folder, "a\nb \x1b[31m")
with open(path, "wb") as file:
    file.write(b"x" * (3 << 20))
    file.flush()
    os.fsync(file.fileno())
with open(path, "r+b") as file:
    deleted = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
deleted[0:4096 * 100] = b"y" * (4096 * 100)
os.unlink(path)
os.rmdir(folder)
shared = mmap.mmap(-1, 2 << 20)
shared[:] = b"s" * (2 << 20)
memfd = os.memfd_create("of-a-test")
os.ftruncate(memfd, 1 << 20)
mem = mmap.mmap(memfd, 0)
mem[:] = b"m" * (1 << 20)
libc.shmget.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
segment = libc.shmget(0, 1 << 20, 0o600)
libc.shmat.restype = ctypes.c_void_p
if segment >= 0:
    there = libc.shmat(segment, None, 0)
    libc.shmctl(segment, 0, None)
    libc.memset(there, 7, 1 << 20)
private = mmap.mmap(-1, 6 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
private[:] = b"p" * (6 << 20)
def nap():
    here = ctypes.create_string_buffer(1000)
    time.sleep(600)
threads = [threading.Thread(target=nap, daemon=True) for _ in range(3)]
[t.start() for t in threads]
gone = threading.Thread(target=lambda: None)
gone.start()
gone.join()
with open(f"/proc/self/task/{threads[1].native_id}/comm", "w") as file:
    file.write("napper\n")
print(threads[1].native_id, segment, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def target() -> Iterator[tuple[int, int, int]]:
    """pid, the number of the thread called napper, the number of its SysV segment or -1."""
    with subprocess.Popen(
        [sys.executable, "-c", TARGET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        thread, segment = map(int, child.stdout.readline().split())
        # It writes first and then waits, which may take one more page.
        before = -1
        while before != (before := held(child.pid)):
            time.sleep(0.2)
        yield child.pid, thread, segment
        child.kill()


def held(pid: int) -> int:
    """Rss and Swap by an independent reading, in bytes."""
    text = Path(f"/proc/{pid}/smaps").read_bytes()
    return sum(int(n) * 1024 for n in re.findall(rb"(?m)^(?:Rss|Swap): +(\d+) kB", text))


def leaf(layers: Layers, begins: str) -> Leaf:
    return next(each for each in layers.leaves if each.name.startswith(begins))


def test_leaves_add_up_to_what_the_system_counts(target: tuple[int, int, int]) -> None:
    layers = dmi.layers(target[0])
    total = sum(each.holds or 0 for each in layers.leaves)
    assert total == layers["3"].holds == held(target[0])


def test_every_owner_has_his_leaf(target: tuple[int, int, int]) -> None:
    pid, thread, segment = target
    layers = dmi.layers(pid)
    assert leaf(layers, "glibc blocks mapped").resident == pytest.approx(14.7 * MIB, rel=0.05)
    assert (leaf(layers, f"stack of thread {thread} (napper)").resident or 0) >= 4096
    assert (leaf(layers, f"stack of thread {pid} (").resident or 0) >= 4096
    assert leaf(layers, "shared memory /dev/zero").resident == 2 * MIB
    assert leaf(layers, "shared memory /memfd:of-a-test").resident == MIB
    if segment >= 0:
        assert leaf(layers, "shared memory /SYSV").resident == MIB
    copied = next(each for each in layers.leaves if "a\\012b" in each.name)
    assert "\x1b" not in copied.name
    assert "(deleted)" in copied.name
    # Where the folder lies in memory all of it is dirty.
    assert copied.dirty in (400 << 10, 3 * MIB)


def test_of_many_processes_each_closes() -> None:
    seen = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid() or seen == 6:
            continue
        try:
            with open_process(int(entry.name)) as process:
                moment = process.moment()
                if any(mapping.resident is None for mapping in moment.mappings):
                    continue
                layers = process.layers()
        except (OSError, ProcessLookupError):
            continue
        total = sum(m.resident + (m.swapped or 0) for m in moment.mappings if m.resident)
        assert sum(each.holds or 0 for each in layers.leaves) == total == layers["3"].holds
        seen += 1
    assert seen


def test_this_process_closes_too() -> None:
    layers = dmi.layers()
    assert sum(each.holds or 0 for each in layers.leaves) == layers["3"].holds


def test_the_table_ends_with_the_sum(target: tuple[int, int, int]) -> None:
    lines = str(dmi.layers(target[0])).splitlines()
    start = next(i for i, line in enumerate(lines) if "each byte once" in line)
    end = next(i for i, line in enumerate(lines) if line.startswith("     sum"))
    rows = [line.split() for line in lines[start + 1 : end]]
    # Rounding down takes less than a KB from each.
    shown = sum(int(row[-3].replace(",", "")) for row in rows)
    total = int(lines[end].split()[1].replace(",", ""))
    assert total - len(rows) <= shown <= total
    assert all(line.isprintable() for line in lines)


def test_a_core_has_leaves_of_unknown_residence(
    target: tuple[int, int, int], tmp_path: Path
) -> None:
    gcore = "/usr/bin/gcore"
    if not Path(gcore).exists():
        pytest.skip("needs gcore")
    subprocess.run(
        [gcore, "-o", str(tmp_path / "core"), str(target[0])], capture_output=True, check=False
    )
    (path,) = tmp_path.iterdir()
    with dmi.open_core(path) as process:
        layers = process.layers()
    assert {each.resident for each in layers.leaves} == {None}
    assert layers.holder is None
    assert leaf(layers, "glibc blocks mapped").size == pytest.approx(14.7 * MIB, rel=0.05)
    assert leaf(layers, f"stack of thread {target[1]}").size > MIB
    assert json.loads(json.dumps(layers.as_dict()))["leaves"][0]["holds"] is None


def test_shares_fit_the_total() -> None:
    page = 4096
    assert _fitted([page, 2 * page], [page, 4 * page], 3 * page, page) == [page, 2 * page]
    for counts, sizes, total in (
        ([8, 8, 8], [8, 8, 8], 10),
        ([0, 0], [3, 9], 7),
        ([5, 1], [5, 9], 14),
        ([0, 0], [0, 0], 2),
    ):
        pages = [count * page for count in counts]
        shares = _fitted(pages, [size * page for size in sizes], total * page, page)
        assert sum(shares) == total * page
        assert all(share >= 0 for share in shares)


def test_who_claims_first_has_it() -> None:
    claims = Claims()
    claims.add([(10, 20), (15, 25)], 0)
    claims.add([(0, 12), (22, 40)], 1)
    assert list(claims.cut(0, 50)) == [(0, 10, 1), (10, 25, 0), (25, 40, 1), (40, 50, None)]
    assert list(claims.cut(12, 13)) == [(12, 13, 0)]


def test_long_tables_fold_without_losing_a_byte() -> None:
    leaves = [Leaf("file", f"/f{n}", 10, n, 0, 0, 0, 0) for n in range(100)]
    shown = folded([*leaves, Leaf("kernel", "[vdso]", 1, 1, 0, 0, 0, 0)], 10)
    assert len(shown) == 12
    assert sum(each.holds or 0 for each in shown) == sum(range(100)) + 1
    assert short("     a name that is long", 15) == "     .. is long"


def test_a_larger_one_whose_use_is_unknown_keeps_others_from_being_named() -> None:
    known = Part("glibc", 100, 40)
    pool = Leaf("shared memory", "shared memory /dev/shm/pool", 90, 61, 0, 0, 0, 0)
    layer = Layer("1b", "language runtime", (known,))
    found = Layers(1, (layer,), leaves=(pool,))
    assert found.stuck is None
    assert found.unknown is not None
    assert found.unknown.name == pool.name
    # Reserved memory is no memory: of what holds much and has little of it, nothing is feared.
    reserved = Part("V8", 5000, None, resident=50)
    assert Layers(1, (Layer("1b", "runtime", (known, reserved)),)).stuck == known


def test_the_cgroup_comes_first() -> None:
    parts = {"anonymous": 5 << 20, "file": 2 << 20, "shared": 1 << 20, "sockets": None}
    group = Cgroup("/a\x1b", 8 << 20, 16 << 20, parts)
    text = str(Layers(1, (), cgroup=group)).splitlines()
    assert text[0].startswith("Cgroup /a\\x1b")
    assert text[1].split()[-3:] == ["8,192", "16,384", "8,192"]
    assert next(line for line in text if "sockets" in line).split()[-1] == "-"


HUGE = r"""
import ctypes, sys
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.mallopt(-3, 32 << 20)  # the brk heap grows and stays, before any of it is touched
libc.mallopt(-1, 1 << 30)
room = libc.malloc(24 << 20)
libc.free(room)
libc.madvise((room + (2 << 20) - 1) & -(2 << 20), 8 << 20, 14)
made = [libc.malloc(64 << 10) for _ in range(300)]
for address in made:
    libc.memset(address, 1, 64 << 10)
for address in made[::2]:
    libc.free(address)
print("ready", flush=True)
sys.stdin.readline()
"""


def test_free_pages_on_huge_pages_are_told() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HUGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        with open_process(child.pid) as process:
            layers = process.layers()
            known = any(mapping.huge for mapping in process.moment().mappings)
        child.kill()
    if not known:
        pytest.skip("the kernel gave no huge pages")
    figures = dict(layers["1b"].figures)
    if "free, whole pages, on huge pages" not in figures:
        pytest.skip("the kernel does not tell what lies on huge pages")
    # Half of what lies on the four or five huge pages is free, but for the ends of blocks.
    assert 3 * MIB < figures["free, whole pages, on huge pages"] < 6 * MIB


def test_a_32_bit_program_is_refused_by_name(tmp_path: Path) -> None:
    source, program = tmp_path / "narrow.c", tmp_path / "narrow"
    source.write_text('void _start(void) { for (;;) __asm__ volatile("int $0x80" : : "a"(29)); }\n')
    made = subprocess.run(
        ["gcc", "-m32", "-nostdlib", "-static", "-o", str(program), str(source)],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("the compiler makes no 32-bit programs")
    try:
        child = subprocess.Popen([str(program)])
    except OSError:
        pytest.skip("the kernel runs no 32-bit programs")
    try:
        layers = dmi.layers(child.pid)
        assert any("32-bit" in note for note in layers.notes)
        assert layers["1a"].parts == layers["1b"].parts == ()
        assert sum(each.holds or 0 for each in layers.leaves) == layers["3"].holds
    finally:
        child.kill()
        child.wait()
