"""What grew, by size and by type; and what cures would give, in figures."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import dmi
from dmi import windbg
from dmi.diagnose._cures import cures
from dmi.diagnose._observe import Observation
from dmi.process._types import NO_OBJECT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dmi.diagnose import Cure

MIB = 1 << 20
PROGRAM = """
class Row: pass
class Slim: __slots__ = ("a",)
kept = []
print(1, flush=True); input()
for i in range(40_000):
    row = Row(); row.a = "text %d" % i; kept.append(row)
slim = [Slim() for _ in range(20_000)]
large = [bytearray(100_000) for _ in range(120)]; pins = [bytearray(700) for _ in range(9)]
print(1, flush=True); input()
del large; print(1, flush=True); input()
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at another process")


@pytest.fixture(scope="module")
def moments() -> Sequence[dmi.Snapshot]:
    """Of a Python program that keeps objects and lets large buffers go."""
    if sys.platform != "linux":
        pytest.skip("looks at another process")
    found = []
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdin is not None
        try:
            for label in ("before", "peak", "after"):
                assert child.stdout.readline()
                with dmi.open_process(child.pid) as process:
                    if not any(heap.kind == "pymalloc" for heap in process.heaps()):
                        pytest.skip("this Python has no pymalloc")
                    found.append(process.snapshot(label))
                child.stdin.write(b"\n")
                child.stdin.flush()
        finally:
            child.kill()
    return found


class TestTypes:
    def test_objects_of_each_type_are_told_from_outside(
        self, moments: Sequence[dmi.Snapshot]
    ) -> None:
        first, _, last = (
            next(each["types"] for each in moment.outside if each["kind"] == "pymalloc")
            for moment in moments
        )
        assert first.get("Row", [0, 0])[0] < 500
        for name, count in (("Row", 40_000), ("Slim", 20_000), ("str", 40_000)):
            gained = last[name][0] - first.get(name, [0, 0])[0]
            assert 0.85 * count < gained < 1.15 * count, name
        assert NO_OBJECT in last

    def test_the_doctor_names_them(self, moments: Sequence[dmi.Snapshot]) -> None:
        verdict = dmi.diagnose(*moments)
        texts = [
            cause.text for each in verdict.findings for cause in each.causes
            if "pymalloc" in each.subject
        ]  # fmt: skip
        assert any("By type" in text and "Row by" in text for text in texts)

    def test_and_so_does_heap_stat(self, moments: Sequence[dmi.Snapshot], tmp_path: Path) -> None:
        names = [str(tmp_path / f"{n}.json") for n in (0, 1)]
        moments[0].save(names[0])
        moments[-1].save(names[1])
        command = [sys.executable, "-m", "dmi", "heap", *names, "-stat"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "pymalloc" in text
        assert "  Row\n" in text
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
        rows = json.loads(done.stdout)
        assert {"handle", "name", "gained", "sizes", "threads", "types"} <= set(
            (rows if isinstance(rows, list) else rows["heaps"])[0]
        )

    def test_a_core_that_lies_about_its_types_is_read(self) -> None:
        # What is not a list of pairs is not read.
        given: tuple[Any, ...] = (None, [], {"a": 1}, {"a": [1]}, {"a": ["x", 2]}, "text")
        for types in given:
            entry = {"name": "pymalloc", "kind": "pymalloc", "handle": 1, "busy": 1, "types": types,
                     "committed": 1, "histogram": [[1, 1]]}  # fmt: skip
            snapshot = dmi.Snapshot("", 0.0, 1, 4096, (), (entry,))
            dmi.diagnose(snapshot, snapshot)
            windbg.grown(snapshot, snapshot)


def glibc(retained: int, **more: Any) -> Observation:
    return Observation("a", "glibc main arena", MIB, MIB + retained, kind="glibc", outside=True,
                       **more)  # fmt: skip


def gives(lines: Sequence[Cure], word: str) -> list[tuple[int | None, bool]]:
    return [(each.gives, each.most) for each in lines if word in each.text]


class TestCures:
    def test_a_lower_threshold_gives_what_large_blocks_left(self) -> None:
        peak = glibc(0, histogram={100_000: 200, 64: 9})
        after = glibc(25 * MIB, histogram={100_000: 50, 64: 9})
        lines = cures("second-order leak", (), after, peak)
        assert gives(lines, "MMAP_THRESHOLD") == [(150 * 100_000, True)]

    def test_it_is_not_named_where_no_large_block_was_freed(self) -> None:
        peak, after = (glibc(25 * MIB, histogram={64: count}) for count in (900_000, 9))
        assert not gives(cures("second-order leak", (), after, peak), "MMAP_THRESHOLD")

    def test_it_is_unknown_where_blocks_were_not_counted(self) -> None:
        lines = cures("second-order leak", (), glibc(25 * MIB), glibc(0))
        assert gives(lines, "MMAP_THRESHOLD") == [(None, False)]
        assert any("cannot be told" in each.text for each in lines)

    def test_fewer_arenas_give_what_those_of_threads_keep(self) -> None:
        arenas = [
            Observation(str(n), "glibc thread arena", 0, 9 * MIB, kind="glibc", outside=True)
            for n in range(5)
        ]
        after = glibc(MIB)
        lines = cures("second-order leak", (), after, None, (after, *arenas))
        assert gives(lines, "MALLOC_ARENA_MAX") == [(45 * MIB, True)]
        assert not gives(cures("second-order leak", (), after, None, (after,)), "ARENA_MAX")

    @pytest.mark.parametrize("kind", ["glibc", "pymalloc"])
    def test_huge_pages_off_gives_what_is_free_on_them(self, kind: str) -> None:
        after = Observation("a", "x", MIB, 60 * MIB, kind=kind, outside=True, on_huge_pages=9 * MIB)
        assert gives(cures("second-order leak", (), after), "huge pages off") == [(9 * MIB, True)]
        few = Observation("a", "x", MIB, 60 * MIB, kind=kind, outside=True, on_huge_pages=4096)
        assert not gives(cures("second-order leak", (), few), "huge pages off")

    @linux
    def test_large_buffers_in_a_real_process(self, moments: Sequence[dmi.Snapshot]) -> None:
        found = [each for each in dmi.diagnose(*moments).findings if "glibc" in each.subject]
        if not found:
            pytest.skip("this malloc gave the buffers back by itself")
        (size, most), *_ = gives(found[0].cures, "MMAP_THRESHOLD")
        assert most
        assert size is not None
        assert size > 5 * MIB

    @linux
    def test_free_memory_on_huge_pages_of_a_real_process(self) -> None:
        code = textwrap.dedent("""
            import ctypes
            libc = ctypes.CDLL(None)
            libc.malloc.restype = ctypes.c_void_p
            libc.malloc.argtypes = [ctypes.c_size_t]
            libc.free.argtypes = [ctypes.c_void_p]
            libc.prctl(41, 0, 0, 0, 0)
            blocks = [libc.malloc(60_000) for _ in range(700)]
            for at in blocks: ctypes.memset(at, 1, 60_000)
            pin = libc.malloc(100)
            for at in blocks[:-1]: libc.free(at)
            print(1, flush=True); input()
        """)
        import os

        environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment,
        ) as child:  # fmt: skip
            assert child.stdout is not None
            try:
                assert child.stdout.readline()
                with dmi.open_process(child.pid) as process:
                    moment = process.snapshot()
            finally:
                child.kill()
        assert moment.process is not None
        huge = moment.process["huge"] or 0
        heap = next((h for h in moment.outside if h["kind"] == "glibc"), None)
        if huge < 8 * MIB or heap is None or heap["free_on_huge_pages"] is None:
            pytest.skip("this kernel gives no huge pages, or does not say where they are")
        assert 4 * MIB < heap["free_on_huge_pages"] <= min(huge, heap["free"] + 4096)
        verdict = dmi.diagnose(moment.as_dict(), moment.as_dict(), moment.as_dict())
        assert any("On huge pages" in line for line in verdict.evidence)


def test_stat_of_a_snapshot_shows_what_was_seen_from_outside() -> None:
    source = SimpleNamespace(
        heaps=(),
        outside=(
            {"name": "glibc main arena", "handle": 0x7000, "busy": 900, "histogram": [[100, 4]],
             "mapped_histogram": [[500, 1]]},
            {"name": "pymalloc", "handle": 0x8000, "busy": 9, "histogram": None},
            {"name": "V8 in node", "handle": 0x9000, "busy": None, "histogram": None},
        ),
    )  # fmt: skip
    text = windbg.heap(source, "-stat")
    assert "heap @ 0000000000007000 (glibc main arena)" in text
    rows = [line.split() for line in text.splitlines() if line.endswith(")") and "@" not in line]
    assert ["1f4", "1", "1f4", "(55.56)"] in rows
    assert ["64", "4", "190", "(44.44)"] in rows
    assert "unknown: whoever wrote the snapshot could not count the sizes" in text
    assert "V8" not in text
    assert windbg.heap_data(source, "-stat 8000")[0]["histogram"] is None
    assert "glibc main arena, pymalloc, V8 in node" in windbg.heap(source, "-s")
    with pytest.raises(ValueError, match="no heap a000"):
        windbg.heap(source, "-stat a000")
