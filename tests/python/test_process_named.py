"""Mappings that glibc named (``glibc.mem.decorate_maps=1``), as a kernel shows them that can."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dmi.address._maps import ProcSource
from dmi.process import open_process
from dmi.process._threads import Stacks, threads_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.reads,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc"),
]
PROGRAM = """
import ctypes, sys, threading
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
ready, quiet = threading.Barrier(4), threading.Event()
def work():
    blocks = [libc.malloc(ctypes.c_size_t(5000)) for _ in range(600)]
    for block in blocks[::2]:
        libc.free(block)
    ready.wait()
    quiet.wait()
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
ended = [threading.Thread(target=lambda: None) for _ in range(2)]
[each.start() for each in ended], [each.join() for each in ended]
kept = [{"n": n} for n in range(30_000)]
large = bytearray(3 << 20), libc.malloc(ctypes.c_size_t(5 << 20))
ctypes.memset(large[1], 1, 5 << 20)
ready.wait()
print("ready", flush=True)
sys.stdin.readline()
"""
_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ 0$")


@pytest.fixture(scope="module", params=[sys.executable, "/usr/bin/python3"])
def target(request: pytest.FixtureRequest) -> Iterator[int]:
    """A Python that waits, with arenas, mapped blocks and stacks of threads."""
    if not Path(request.param).exists():
        pytest.skip(f"needs {request.param}")
    child = subprocess.Popen(
        [request.param, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        before = ""
        while before != (before := Path(f"/proc/{child.pid}/smaps_rollup").read_text()):
            pass
        yield child.pid
        child.kill()


def figures(pid: int) -> list[object]:
    """All that is told of it. Where nobody is known, a name of glibc's may stand instead."""
    with open_process(pid) as process:
        heaps = [(heap.kind, heap.name, heap.stats()) for heap in process.heaps()]
        leaves: Counter[str] = Counter()
        for leaf in process.layers().leaves:
            nobody = leaf.name.startswith(("[anon: glibc: ", "anonymous, of nobody"))
            leaves["nobody" if nobody else leaf.name] += leaf.holds or 0
        regions = [(r.start, r.end, r.usage) for r in process.address_summary().regions]
        return [heaps, leaves, regions, process.trim(), process.gaps]


def test_every_block_that_malloc_mapped_is_found(target: int) -> None:
    """Beside arenas of Python's too, whose looks tell where they begin to within a few pages."""
    with open_process(target) as process:
        heap = next(heap for heap in process.heaps() if heap.kind == "glibc")
        found = [size for _, size in getattr(heap, "mapped", ())]
        assert len(found) == heap.stats().mapped_blocks
        assert sum(found) == heap.stats().mapped
        (part,) = (p for p in process.layers()["1b"].parts if p.name == "glibc main arena")
        assert part.resident is not None
        assert part.resident >= (heap.stats().resident or 0) + (7 << 20)


def names(pid: int) -> dict[int, str]:
    """What glibc would call each of its anonymous mappings, by where it begins."""
    found: dict[int, str] = {}
    with open_process(pid) as process:
        mapped = [start for heap in process.heaps() for start, _ in getattr(heap, "mapped", ())]
        stacks = Stacks(process.reader, pid, threads_of(process.reader))
        usage = {r.start: r.usage for r in process.address_summary().regions}
        image = ""
        for mapping in process.moment().mappings:
            if mapping.has_file:
                image = mapping.name
            if mapping.name or mapping.shared:
                continue
            kind = usage.get(mapping.start, "")
            if kind == "HeapGlibcArena":
                found[mapping.start] = "malloc arena"
            elif kind == "Stack":
                owner = stacks.owner(mapping, mapping.start, mapping.end).split()
                waits = owner[:3] == ["stacks", "of", "ended"]
                found[mapping.start] = "unused stack" if waits else f"pthread stack: {owner[3]}"
            elif kind == "Image":
                found[mapping.start] = f".bss {image}"
            elif any(mapping.start <= start < mapping.end for start in mapped):
                found[mapping.start] = "malloc"
            elif mapping.perms[:2] == "rw":
                found[mapping.start] = "loader malloc"
    return found


def test_names_of_glibc_change_nothing(target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = figures(target)
    named = names(target)
    kinds = {name.split(":")[0].split(" ")[0] for name in named.values()}
    assert kinds >= {"malloc", "pthread", "unused", ".bss"}
    assert "malloc arena" in named.values()
    text = ProcSource._text
    seen: set[int] = set()

    def with_names(self: ProcSource, name: str) -> str:
        lines = text(self, name).splitlines()
        for number, line in enumerate(lines):
            found = _HEADER.match(line.rstrip())
            title = named.get(int(found[1], 16)) if found else None
            if title:
                seen.add(int(found[1], 16) if found else 0)
                lines[number] = f"{line.rstrip():<72} [anon: glibc: {title}]"
        return "\n".join(lines) + "\n"

    monkeypatch.setattr(ProcSource, "_text", with_names)
    assert figures(target) == plain
    assert seen == set(named)
