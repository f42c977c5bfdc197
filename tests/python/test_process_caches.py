"""What each thread's cache of malloc holds, from outside and from a core file."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dmi.process import Process, open_core, open_process, text
from dmi.process._thread_caches import _MOST_BLOCKS, _SMALL, _bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.reads,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc"),
]
PROGRAM = """
import ctypes, sys, threading
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
ready, quiet, said = threading.Barrier(4), threading.Event(), []
def work(count):
    blocks = [libc.malloc(ctypes.c_size_t(200)) for _ in range(count)]
    for block in blocks:
        libc.free(block)
    said.append((threading.get_native_id(), count))
    ready.wait()
    quiet.wait()
for count in (2, 4, 6):
    threading.Thread(target=work, args=(count,), daemon=True).start()
ready.wait()
print(*[f"{thread}:{count}" for thread, count in said], flush=True)
sys.stdin.readline()
"""
Target = tuple[int, dict[int, int]]


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """A process, and how many blocks of 208 bytes each of its threads has freed last."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        words = child.stdout.readline().split()
        yield child.pid, {int(a): int(b) for a, b in (word.split(":") for word in words)}
        child.kill()


def judge(process: Process, main: int, freed: dict[int, int]) -> None:
    caches = {cache.thread: cache for cache in process.thread_caches()}
    if main not in caches:
        pytest.skip("a glibc whose loader has no lists of threads")
    assert set(caches) == {main, *freed}
    # Each freed as many as it said, and a little more beside that is the same for all.
    small, middle, large = sorted(freed, key=freed.__getitem__)
    for one, other in ((small, middle), (middle, large)):
        assert 2 <= caches[other].blocks - caches[one].blocks <= 4
        assert 416 <= (caches[other].size or 0) - (caches[one].size or 0) <= 640
    details = [heap.stats().details or {} for heap in process.heaps() if heap.kind == "glibc"]
    sizes = [cache.size for cache in caches.values()]
    assert None not in sizes
    assert sum(size or 0 for size in sizes) == sum(d["tcache"] or 0 for d in details)
    total = sum(d["tcache_blocks"] or 0 for d in details)
    assert sum(cache.blocks for cache in caches.values()) == total


def test_the_caches_of_all_threads_are_the_total(target: Target) -> None:
    with open_process(target[0]) as process:
        judge(process, *target)


def test_a_core_file_tells_them_too(target: Target, tmp_path: Path) -> None:
    if shutil.which("gcore") is None:
        pytest.skip("needs gcore")
    subprocess.run(
        ["gcore", "-o", str(tmp_path / "core"), str(target[0])], check=True, capture_output=True
    )
    with open_core(tmp_path / f"core.{target[0]}") as process:
        judge(process, *target)
        lines = list(text.heap(process, "-v"))
    at = lines.index("caches of threads, which malloc_trim does not touch:")
    assert {int(line.split()[1]) for line in lines[at + 1 : at + 5]} == {target[0], *target[1]}


def test_where_there_is_none_nothing_is_told() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        with open_process(child.pid) as process:
            assert len(process.thread_caches()) <= 1
    finally:
        child.kill()
        child.wait()


class Holey:
    """Memory of which one page is not there."""

    def read(self, address: int, size: int) -> bytes | None:
        if address >= 0x2000:
            return None
        return struct.pack("<3Q", 0, 2000 | 1, 0x3010 ^ (address + 16) >> 12)[:size]


def test_a_cache_that_cannot_be_read_whole_has_no_size() -> None:
    large = _SMALL + 1
    assert _bytes(Holey(), large, 1, 0x1010) == 2000  # type: ignore[arg-type]
    assert _bytes(Holey(), large, 2, 0x1010) is None  # type: ignore[arg-type]
    assert _bytes(Holey(), large, _MOST_BLOCKS + 1, 0x1010) is None  # type: ignore[arg-type]
    assert _bytes(Holey(), 0, 3, 0) == 96  # type: ignore[arg-type]
