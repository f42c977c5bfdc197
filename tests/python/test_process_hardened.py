"""Hardened heaps from outside: blocks that wait in a quarantine are free, as the inside says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import dmi
from dmi.address import process_heaps
from dmi.process import open_core

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

# 9,000 blocks of four sizes, of which some are freed again, by this thread and by another one.
CHILD = """
import sys, threading
import dmi
heap = dmi.Heap("never", hardened=True, name="hard")
kept = [heap.malloc(24 + n % 4 * 100) for n in range(9000)]
def drop(blocks):
    for block in blocks:
        heap.free(block)
drop(kept[::3])
other = threading.Thread(target=drop, args=(kept[1::30],))
other.start()
other.join()
print(flush=True)
sys.stdin.readline()
stats = heap.stats()
print(stats.busy, stats.busy_blocks, stats.committed, flush=True)
sys.stdin.readline()
"""


def figures(process: dmi.Process) -> tuple[int, int, int]:
    (heap,) = (each for each in process.heaps() if each.kind == "dmi")
    stats = heap.stats()
    rows = list(heap.walk() or ())
    busy = [row for row in rows if row.state == "busy"]
    assert (len(busy), sum(row.size for row in busy)) == (stats.busy_blocks, stats.busy)
    assert sum(row.total for row in heap.histogram() or ()) == stats.busy
    return stats.busy or 0, stats.busy_blocks or 0, stats.committed or 0


def test_what_waits_in_a_quarantine_is_free_from_every_side(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        with dmi.open_process(child.pid) as process:
            before = figures(process)
        (seen,) = process_heaps(child.pid)
        core = None
        if shutil.which("gcore"):
            made = subprocess.run(
                ["gcore", "-o", str(tmp_path / "core"), str(child.pid)],
                capture_output=True, check=True, timeout=60,
            )  # fmt: skip
            # It gives up a mapping at the first guard page: then the file has zeros for the heap.
            lost = re.findall(rb"Memory read failed.* at (0x[0-9a-f]+)", made.stderr)
            if not any(int(at, 16) < 1 << 47 for at in lost):
                with open_core(tmp_path / f"core.{child.pid}") as process:
                    core = figures(process)
        # To look from within lets everything out of the quarantines.
        child.stdin.write("\n")
        child.stdin.flush()
        inside = tuple(int(word) for word in child.stdout.readline().split())
        with dmi.open_process(child.pid) as process:
            after = figures(process)
        child.communicate("\n")
    assert inside[1] == 9000 - 3000 - 300
    assert before == inside
    assert after == inside
    assert core in (None, inside)
    assert (seen.busy, seen.busy_blocks) == inside[:2]
