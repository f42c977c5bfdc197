"""dmi's heaps of other builds, in cores that those builds left (tests/golden/cores/make.py)."""

from __future__ import annotations

import lzma
import sys
from pathlib import Path

import pytest

import dmi

if not sys.platform.startswith("linux"):
    pytest.skip("core files are read on Linux", allow_module_level=True)

CORES = Path(__file__).resolve().parents[1] / "golden" / "cores"


@pytest.mark.parametrize("build", ["layout2", "layout3-placed", "layout3"])
def test_heaps_of_builds_since_layout_2_are_read_by_their_table(build: str, tmp_path: Path) -> None:
    core = tmp_path / "core"
    core.write_bytes(lzma.decompress((CORES / f"{build}.core.xz").read_bytes()))
    held = {
        int(address, 16): int(size)
        for address, size in map(str.split, (CORES / f"{build}.txt").read_text().splitlines())
    }
    with dmi.open_core(core) as process:
        (heap,) = (each for each in process.heaps() if each.kind == "dmi")
        walk = heap.walk()
        assert walk is not None
        ranges = list(walk)
        busy = {each.address: each.size for each in ranges if each.state == "busy"}
        # What the program holds, and at most what the C library keeps besides.
        assert held.keys() <= busy.keys()
        assert len(busy) - len(held) <= 4
        assert all(busy[address] >= size for address, size in held.items())
        assert not [each for each in ranges if each.state == "unknown"]
        assert sum(each.state == "free" for each in ranges) > 50
        stats = heap.stats()
        assert (stats.busy_blocks or 0) + (stats.mapped_blocks or 0) == len(busy)
        assert stats.unknown == 0
        address = next(address for address, size in held.items() if size < 300)
        found = process.find(address + 3)
        assert found is not None
        assert found[1].address == address
