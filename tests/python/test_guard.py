"""guard=N: one block in N between guards, what everybody says of it, and what a touch does."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dmi

SOURCES = Path(__file__).resolve().parent.parent / "preload"


def sampled(heap: dmi.Heap, size: int, count: int) -> list[int]:
    """Blocks of the heap, that many, those of size bytes that lie between guards."""
    blocks = [heap.malloc(size) for _ in range(count)]
    found = [b for b in blocks if (there := dmi.find(b)) is not None and there.kind == "pages"]
    for block in blocks:
        if block not in found:
            heap.free(block)
    return found


def test_the_waterfall_closes_with_samples() -> None:
    with dmi.Heap(guard=20, clock="manual") as heap:
        assert heap.guard == 20
        blocks = sampled(heap, 100, 6000)
        assert 50 < len(blocks) <= 256
        stats = heap.stats(detail=True)
        assert stats.busy == 112 * len(blocks)
        assert stats.busy_blocks == len(blocks)
        free = stats.free_lfh + stats.free_list + stats.free_pages
        assert stats.committed == stats.busy + free + stats.offered + stats.overhead
        assert stats.reserved == stats.committed + stats.uncommitted
        ranges = list(heap.walk())
        assert sum(r.size for r in ranges) == stats.reserved
        assert sorted(r.address for r in ranges if r.state == "busy") == sorted(blocks)
        heap.advance(10)
        for block in blocks:
            assert heap.usable_size(block) == 112
            heap.free(block)
        with pytest.raises(dmi.HeapError, match="free already"):
            heap.free(blocks[0])
        heap.trim()
        heap.validate()
        assert heap.stats().busy == 0


def test_what_is_resident_is_committed() -> None:
    """The system holds no page of a slot that the heap does not count, before and after."""
    with dmi.Heap("lazy:delay=0", guard=10, clock="manual") as heap:
        blocks = sampled(heap, 1000, 3000)
        for block in blocks:
            ctypes.memset(block, 1, 1000)
        assert len(blocks) << 12 <= heap.stats(detail=True).resident <= heap.stats().committed
        for block in blocks:
            heap.free(block)
        heap.trim()
        assert heap.stats(detail=True).resident <= heap.stats().committed < len(blocks) << 12


def test_realloc_leaves_and_keeps_the_content() -> None:
    with dmi.Heap(guard=1) as heap:
        block = heap.malloc(100)
        ctypes.memset(block, 7, 100)
        block = heap.realloc(block, 5000)
        assert ctypes.string_at(block, 100) == b"\7" * 100
        block = heap.realloc(block, 10)
        assert ctypes.string_at(block, 10) == b"\7" * 10
        heap.free(block)
        assert heap.stats().busy == 0


@pytest.mark.parametrize("guard", [0, -1, 10**9 + 1])
def test_a_rate_that_is_none_is_refused(guard: int) -> None:
    with pytest.raises(ValueError, match="guard must be from 1 to 1000000000, or None"):
        dmi.Heap(guard=guard)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(TypeError):
        dmi.Heap(guard="1")  # type: ignore[arg-type]
    with dmi.Heap() as heap:
        assert heap.guard is None
    with dmi.Heap(guard=7) as heap:
        assert dmi.Heap.from_handle(heap.handle).guard == 7


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no gcc, or no preloading")
    target = tmp_path_factory.mktemp("guarded") / "guarded"
    subprocess.run(
        [compiler, "-O1", "-pthread", "-Wall", f"-I{SOURCES}", SOURCES / "guarded.c", "-o", target],
        check=True,
    )
    return target


def run(program: Path, *words: str, options: str = "guard=20") -> subprocess.CompletedProcess[str]:
    """One touch, by itself."""
    return subprocess.run(
        [program, *words],
        env=os.environ | {"LD_PRELOAD": dmi.get_preload_path(), "DMI_OPTIONS": options},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("options", ["guard=20", "guard=20,decommit=lazy:how=decommit"])
@pytest.mark.parametrize(
    ("touch", "said"),
    [
        ("over", "this is behind the end of the block"),
        ("over-read", "this is behind the end of the block"),
        ("under", "this is before the block"),
        ("after", "the block was freed"),
        ("after-read", "the block was freed"),
    ],
)
@pytest.mark.parametrize("where", ["plain", "thread"])
def test_a_touch_ends_the_program_with_a_line(
    program: Path, touch: str, said: str, where: str, options: str
) -> None:
    done = run(program, touch, where, options=options)
    assert done.returncode == -6
    line = re.fullmatch(
        r"dmi: access\((0x[0-9a-f]+)\): (.*) \(block (0x[0-9a-f]+), 112 bytes\)\n", done.stderr
    )
    assert line, done.stderr
    assert line[2] == said
    distance = int(line[1], 16) - int(line[3], 16)
    expected = {"over": 112, "over-read": 112, "under": -4096, "after": 3, "after-read": 99}
    assert distance == expected[touch]


@pytest.mark.parametrize(("touch", "signal"), [("null", 11), ("sent", 11)])
def test_other_faults_are_what_they_were(program: Path, touch: str, signal: int) -> None:
    done = run(program, touch, "plain")
    assert (done.returncode, done.stderr) == (-signal, "")


def test_a_handler_of_the_programs_own_has_its_way(program: Path) -> None:
    done = run(program, "after", "catches")
    assert (done.returncode, done.stdout, done.stderr) == (0, "caught 11\n", "")


def test_a_fork_child_has_the_same_guards(program: Path) -> None:
    done = run(program, "fork", "plain")
    assert done.returncode == 0
    assert "the block was freed" in done.stderr


def test_the_option_is_checked(program: Path) -> None:
    done = run(program, "none", "plain", options="guard=20,guard=-3")
    assert "unknown value '-3'; accepted: a number up to 1000000000" in done.stderr
