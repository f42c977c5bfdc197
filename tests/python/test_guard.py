"""guard=N: one block in N between guards, what everybody says of it, and what a touch does."""

from __future__ import annotations

import ctypes
import os
import platform
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
        [
            *(compiler, "-O1", "-g", "-pthread", "-Wall", f"-I{SOURCES}", f"-I{dmi.get_include()}"),
            *(SOURCES / "guarded.c", "-o", target),
        ],
        check=True,
    )
    return target


FRAME = r"dmi:     (?:\S+\+0x[0-9a-f]+|0x[0-9a-f]+|\S+(?::\d+)? in \S+|\.\.\.)\n"


def stacks_of(text: str) -> dict[str, list[str]]:
    """{who: frames} of what is said behind the first line; nothing else is there."""
    said = re.fullmatch(rf"[^\n]*\n((?:dmi:   \w+ by\n(?:{FRAME})+)*)", text)
    assert said, text
    found: dict[str, list[str]] = {}
    for line in said[1].splitlines():
        if line.endswith(" by"):
            frames = found.setdefault(line.removeprefix("dmi:   ").removesuffix(" by"), [])
        else:
            frames.append(line.removeprefix("dmi:     "))
    return found


def functions_at(frames: list[str], program: Path) -> list[str]:
    """The functions of the program among them, innermost first, as addr2line knows them."""
    own = [f.partition("+")[2] for f in frames if f.partition("+")[0] == str(program)]
    command: list[str | Path] = ["addr2line", "-fie", program, *own]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[::2]


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
    line = re.match(
        r"dmi: access\((0x[0-9a-f]+)\): (.*) \(block (0x[0-9a-f]+), 112 bytes\)\n", done.stderr
    )
    assert line, done.stderr
    who = {name: functions_at(frames, program) for name, frames in stacks_of(done.stderr).items()}
    assert {"allocated", "freed"} & set(who) == {"allocated"} | (
        {"freed"} if "after" in touch else set()
    )
    if has_tables():
        assert who["touched"][0] == "touch"
        assert who["allocated"][:3] == ["take", "sampled", "touch"]
        assert "freed" not in who or who["freed"][:2] == ["release", "touch"]
    assert line[2] == said
    distance = int(line[1], 16) - int(line[3], 16)
    expected = {"over": 112, "over-read": 112, "under": -4096, "after": 3, "after-read": 99}
    assert distance == expected[touch]


def has_tables() -> bool:
    """Stacks need no frame pointers: x86-64, and glibc 2.35 or later."""
    version = os.confstr("CS_GNU_LIBC_VERSION") if sys.platform == "linux" else None
    numbers = re.findall(r"\d+", version or "0")
    return platform.machine() == "x86_64" and [int(n) for n in numbers] >= [2, 35]


def test_a_second_free_names_who_was_first(program: Path) -> None:
    done = run(program, "twice", "plain")
    assert done.returncode == -6
    first = done.stderr.splitlines()[0]
    assert re.fullmatch(r"dmi: free\(0x[0-9a-f]+\): the block is free already", first)
    who = {name: functions_at(frames, program) for name, frames in stacks_of(done.stderr).items()}
    assert set(who) == {"called", "allocated", "freed"}
    if has_tables():
        assert who["allocated"][0] == "take"
        assert who["called"][0] == who["freed"][0] == "release"


@pytest.mark.parametrize("touch", ["after", "over"])
def test_a_handler_gets_the_stacks_and_may_leave_by_longjmp(program: Path, touch: str) -> None:
    done = run(program, touch, "handles")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [words[0] for words in lines] == ["allocated", "freed", "found"] * 18
    for i, (name, *frames) in enumerate(lines):
        # Four threads have room for reports at a time, and who leaves by longjmp keeps his.
        known = i < 4 * 9 and not (name == "freed" and touch == "over")
        assert bool(frames) == known, (i, name, frames)
        if known and has_tables():
            inner = {"allocated": "take", "freed": "release", "found": "touch"}[name]
            assert functions_at(frames, program)[0] == inner


PYTHON = """
import ctypes, sys
import dmi

def make(heap):
    return heap.malloc(100)

def drop(heap, block):
    heap.free(block)

heap = dmi.Heap(guard=1)
block = make(heap)
drop(heap, block)
ctypes.string_at(block, 1)
"""


def test_python_frames_stand_where_they_called(tmp_path: Path) -> None:
    script = tmp_path / "late.py"
    script.write_text(PYTHON)
    command: list[str | Path] = [sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -6
    stacks = stacks_of(done.stderr)
    here = {name: [f for f in frames if str(script) in f] for name, frames in stacks.items()}
    assert here["allocated"] == [f"{script}:6 in make", f"{script}:12 in <module>"]
    assert here["freed"] == [f"{script}:9 in drop", f"{script}:13 in <module>"]
    if has_tables():
        assert here["touched"] == [f"{script}:14 in <module>"]  # behind string_at's own line
        assert stacks["allocated"].index(here["allocated"][0]) > 0, "native frames come first"


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
