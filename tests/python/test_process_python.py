"""pymalloc of processes from outside, beside what Python says of itself."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import dmi

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dmi.process import ForeignStats

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

TARGET = """
import sys
kept = [(n, str(n), {n: n}) for n in range(60000)]
few = kept[::700]
del kept[20000:50000]
sys._debugmallocstats()
sys.stderr.flush()
print(flush=True)
sys.stdin.readline()
"""
# What Python prints, and what of ours it is.
WORDS = {
    "bytes in allocated blocks": "busy",
    "bytes in available blocks": "free_in_pools",
    "unused pools": "empty_pools",
    "arenas allocated current": "arenas",
}


def figures(stats: ForeignStats) -> dict[str, int]:
    details = stats.details or {}
    return {
        "busy": stats.busy or 0,
        "free_in_pools": details["free_in_pools"] or 0,
        "empty_pools": (details["free_pools"] or 0) + (details["never_used"] or 0),
        "arenas": details["arenas"] or 0,
    }


def said(text: str) -> dict[str, int]:
    """The same of _debugmallocstats, whose first part is pymalloc's."""
    found: dict[str, int] = {}
    for line in text.split("\n"):
        for words, name in WORDS.items():
            if words in line and "=" in line:
                found.setdefault(name, int(line.rpartition("=")[2].replace(",", "")))
    return found


@pytest.fixture
def target() -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", TARGET],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    text = ""
    while not re.search(r"# bytes lost to arena alignment.*\n+Total", text):
        text += process.stderr.readline()
    process.stdout.readline()
    yield process, text
    process.kill()
    process.communicate()


def test_pymalloc_is_what_python_says(target: tuple[subprocess.Popen[str], str]) -> None:
    process, text = target
    with dmi.open_process(process.pid) as opened:
        found = [heap for heap in opened.heaps() if heap.kind == "pymalloc"]
        assert [heap.name for heap in found] == ["main interpreter"]
        stats = found[0].stats()
        ours, theirs = figures(stats), said(text)
        assert theirs["arenas"] == ours["arenas"]
        for name in ("busy", "free_in_pools", "empty_pools"):
            assert ours[name] == pytest.approx(theirs[name], rel=0.01), name
        assert stats.unknown == 0
        assert stats.reserved == sum(segment.reserved for segment in found[0].segments())


def test_blocks_of_pools_cover_the_arenas(target: tuple[subprocess.Popen[str], str]) -> None:
    with dmi.open_process(target[0].pid) as opened:
        heap = next(heap for heap in opened.heaps() if heap.kind == "pymalloc")
        stats, end, last = heap.stats(), 0, 0
        sums: dict[str, int] = {}
        for found in heap.walk() or ():
            assert found.segment != last or found.address == end
            end, last = found.address + found.size, found.segment
            sums[found.state] = sums.get(found.state, 0) + found.size
        assert sums["busy"] == stats.busy
        assert sums["free"] == stats.free
        assert sums["overhead"] == stats.overhead
        assert sum(row.total for row in heap.histogram() or ()) == stats.busy
        for pin in heap.pins(5) or ():
            assert pin.pinned > 0
