"""The memray importer: what its events mean, and a file of memray's own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dmi.errors import TraceError
from dmi.trace import Trace, check, load
from dmi.trace.format import OP_ALLOC, OP_CALLOC, OP_FREE, OP_REALLOC, OP_TIME
from dmi.trace.memray import _read, is_one

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.reads

MALLOC, FREE, REALLOC, CALLOC, MMAP = 6, 5, 7, 8, 14
BLOCKS = {MALLOC: OP_ALLOC, REALLOC: OP_REALLOC, CALLOC: OP_CALLOC}


def made(*events: tuple[int, int, int, int], micros: int = 0) -> tuple[Trace, dict[str, int]]:
    writer = _read(iter(events), BLOCKS, FREE, len(events), micros)
    trace = check(
        writer.words.tobytes(), objects=writer.objects, threads=max(1, len(writer.threads))
    )
    return trace, {"unknown": writer.unknown_frees, "lost": writer.lost_frees}


def ops(trace: Trace) -> list[tuple[int, int, int, int]]:
    return [
        (record.op, record.thread, record.object, record.size)
        for record in trace
        if record.op != OP_TIME
    ]


def test_a_free_and_a_realloc_of_one_thread_are_one() -> None:
    trace, _ = made(
        (MALLOC, 1, 0x1000, 100),
        (FREE, 1, 0x1000, 0),
        (REALLOC, 1, 0x2000, 200),
        (REALLOC, 1, 0x3000, 50),  # of NULL
        (FREE, 1, 0x2000, 0),
        (MALLOC, 1, 0x2000, 60),
        (CALLOC, 1, 0x4000, 70),
    )
    assert ops(trace) == [
        (OP_ALLOC, 0, 0, 100),
        (OP_REALLOC, 0, 0, 200),
        (OP_ALLOC, 0, 1, 50),
        (OP_FREE, 0, 0, 0),
        (OP_ALLOC, 0, 0, 60),
        (OP_CALLOC, 0, 2, 70),
    ]


def test_threads_are_numbered_and_kept_apart() -> None:
    trace, _ = made(
        (MALLOC, 77, 0x1000, 100),
        (FREE, 99, 0x1000, 0),
        (REALLOC, 77, 0x2000, 200),
        (FREE, 77, 0x2000, 0),
        (MMAP, 77, 0x9000, 4096),
        (REALLOC, 77, 0x3000, 300),
    )
    assert ops(trace) == [
        (OP_ALLOC, 0, 0, 100),
        (OP_FREE, 1, 0, 0),
        (OP_ALLOC, 0, 0, 200),
        (OP_REALLOC, 0, 0, 300),
    ]
    assert trace.threads == 2


def test_what_cannot_be_paired_is_counted() -> None:
    trace, notes = made(
        (FREE, 1, 0x5000, 0), (REALLOC, 1, 0x6000, 8), (MALLOC, 1, 0x6000, 9), (FREE, 1, 0x6000, 0)
    )
    assert notes == {"unknown": 1, "lost": 1}
    assert [op for op, *_ in ops(trace)] == [OP_ALLOC, OP_FREE, OP_ALLOC, OP_FREE]


def test_events_are_spread_over_the_run() -> None:
    events = [(MALLOC, 1, 16 * (i + 1), 8) for i in range(2500)]
    trace, _ = made(*events, micros=5_000_000)
    assert trace.duration == pytest.approx(5.0)
    clock = [record.size for record in trace if record.op == OP_TIME]
    assert clock == sorted(clock)
    assert 1000 <= len(clock) <= 1300
    middle = next(
        i for i, record in enumerate(trace) if record.op == OP_TIME and record.size > 2.5e6
    )
    assert middle == pytest.approx(trace.count / 2, rel=0.02)


def test_files_are_recognised() -> None:
    assert is_one(b"memray\0\x0d\0\0\0")
    assert is_one(b"\x04\x22\x4d\x18\x40\x40\xc0\xcc\xb3\0\0\xf8\x06memray\0")
    assert not is_one(b"\x04\x22\x4d\x18" + bytes(100))
    assert not is_one(b"memra")


def test_a_file_of_memray(tmp_path: Path) -> None:
    pytest.importorskip("memray")
    script = tmp_path / "script.py"
    script.write_text("kept = [bytearray(100_000) for _ in range(300)]\ndel kept[::2]\n")
    path = tmp_path / "script.bin"
    subprocess.run(
        [sys.executable, "-m", "memray", "run", "-q", "-o", str(path), str(script)],
        check=True,
        env={**os.environ, "PYTHONMALLOC": "malloc"},
    )
    trace = load(path)
    sizes = [record.size for record in trace if record.op in (OP_ALLOC, OP_CALLOC)]
    assert sum(100_000 <= size <= 100_100 for size in sizes) >= 300
    assert trace.peak_bytes > 30_000_000
    assert trace.notes.get("missing event", 0) == 0
    assert list(load(path.read_bytes())) == list(trace)
    with pytest.raises(TraceError, match="memray cannot read"):
        load(b"memray\0" + bytes(200))
