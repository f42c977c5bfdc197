"""Recordings in dmi's own format: what is written comes back, what is broken is named."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmi.errors import TraceError
from dmi.trace import Trace, check, load, pack, parse, save
from dmi.trace.format import (
    HEADER,
    MAGIC,
    OP_ALLOC,
    OP_CALLOC,
    OP_FREE,
    OP_REALLOC,
    OP_RSS,
    OP_TIME,
    Record,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.reads

SMALL = [
    Record(OP_TIME, 0, 0, 0, 1_000_000),
    Record(OP_ALLOC, 0, 0, 0, 100),
    Record(OP_CALLOC, 6, 1, 1, 4096),
    Record(OP_RSS, 0, 0, 0, 1 << 20),
    Record(OP_REALLOC, 0, 0, 0, 300),
    Record(OP_TIME, 0, 0, 0, 2_500_000),
    Record(OP_FREE, 0, 1, 1, 0),
    Record(OP_ALLOC, 0, 1, 1, 0),
]


def file_of(
    records: list[Record] | bytes,
    *,
    objects: int = 2,
    threads: int = 2,
    version: int = 1,
    size: int = 64,
    flags: int = 0,
    count: int | None = None,
    page_size: int = 4096,
    rest: bytes = bytes(28),
    magic: bytes = MAGIC,
) -> bytes:
    body = records if isinstance(records, bytes) else pack(records)
    number = len(body) // 16 if count is None else count
    head = struct.pack(
        "<8sHHIQIII28s", magic, version, size, flags, number, objects, threads, page_size, rest
    )
    return head + body


def fault(data: bytes) -> TraceError:
    with pytest.raises(TraceError) as caught:
        load(data)
    assert isinstance(caught.value, ValueError)
    return caught.value


def test_the_layout_is_the_documented_one() -> None:
    data = file_of(SMALL)
    assert len(data) == 64 + 16 * len(SMALL)
    assert data[:8] == b"DMITRACE"
    assert data[64:80] == bytes((5, 0, 0, 0, 0, 0, 0, 0)) + (1_000_000).to_bytes(8, "little")
    assert data[96:112] == bytes((2, 6, 1, 0, 1, 0, 0, 0)) + (4096).to_bytes(8, "little")


def test_parse_counts_what_is_there() -> None:
    trace = parse(file_of(SMALL), name="small")
    assert list(trace) == SMALL
    assert (trace.name, trace.count, trace.events) == ("small", 8, 5)
    assert (trace.allocations, trace.reallocs, trace.frees) == (3, 1, 1)
    assert (trace.objects, trace.threads, trace.page_size) == (2, 2, 4096)
    assert trace.duration == pytest.approx(2.5)
    assert trace.live_bytes == 300
    assert trace.peak_bytes == 4396
    assert trace.skipped == 0
    stream = io.BytesIO()
    trace.write(stream)
    assert stream.getvalue() == file_of(SMALL)


def test_an_empty_recording_is_one() -> None:
    trace = load(file_of([], objects=0, threads=0))
    assert (trace.count, trace.events, trace.duration) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("data", "offset", "words"),
    [
        (b"", 0, "empty"),
        (b"DMITRACF" + bytes(100), 0, "no recording"),
        (b"DMITRACE", 8, "header is cut"),
        (file_of(SMALL)[:63], 63, "header is cut"),
        (file_of(SMALL, version=2), 8, "version 2"),
        (file_of(SMALL, version=0), 8, "version 0"),
        (file_of(SMALL, size=80), 10, "header of 80"),
        (file_of(SMALL, flags=1), 12, "flags 0x1"),
        (file_of(SMALL, count=9), 64 + 128, "9 records announced"),
        (file_of(SMALL, count=1 << 60), 64 + 128, "announced"),
        (file_of(SMALL, count=(1 << 64) - 1), 64 + 128, "announced"),
        (file_of(SMALL)[:-1], 64 + 127, "announced"),
        (file_of(SMALL, count=7), 64 + 112, "behind the last"),
        (file_of(SMALL) + b"x", 64 + 128, "behind the last"),
        (file_of(SMALL, objects=9), 24, "9 objects"),
        (file_of(SMALL, objects=0xFFFFFFFF), 24, "objects"),
        (file_of(SMALL, threads=0), 28, "threads"),
        (file_of(SMALL, threads=65537), 28, "threads"),
        (file_of(SMALL, page_size=4095), 32, "page size"),
        (file_of(SMALL, rest=bytes(27) + b"\1"), 63, "reserved byte"),
    ],
)
def test_a_bad_header_is_named(data: bytes, offset: int, words: str) -> None:
    error = fault(data)
    assert error.offset == offset
    assert words in str(error)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Record(0, 0, 0, 0, 0), "unknown op"),
        (Record(7, 0, 0, 0, 0), "unknown op"),
        (Record(255, 0, 0, 0, 0), "unknown op"),
        (Record(OP_ALLOC, 0, 2, 2, 1), "thread number"),
        (Record(OP_ALLOC, 0, 0, 3, 1), "object number"),
        (Record(OP_ALLOC, 0, 0, 0xFFFFFFFF, 1), "object number"),
        (Record(OP_ALLOC, 0, 0, 0, 1), "that is live"),
        (Record(OP_CALLOC, 0, 0, 0, 1), "that is live"),
        (Record(OP_FREE, 0, 0, 2, 0), "not live"),
        (Record(OP_REALLOC, 0, 0, 2, 1), "not live"),
        (Record(OP_ALLOC, 0, 0, 2, (1 << 47) + 1), "larger than any address space"),
        (Record(OP_REALLOC, 0, 0, 0, 1 << 63), "larger than any address space"),
        (Record(OP_ALLOC, 41, 0, 2, 1), "alignment"),
        (Record(OP_REALLOC, 4, 0, 0, 1), "alignment"),
        (Record(OP_FREE, 0, 0, 0, 1), "a free record"),
        (Record(OP_TIME, 0, 0, 0, 2_499_999), "backwards"),
        (Record(OP_TIME, 0, 0, 0, (1 << 53) + 1), "out of range"),
        (Record(OP_TIME, 0, 0, 1, 3_000_000), "time or rss"),
        (Record(OP_RSS, 1, 0, 0, 1), "time or rss"),
    ],
)
def test_a_bad_record_is_named(bad: Record, words: str) -> None:
    error = fault(file_of([*SMALL, bad], objects=3))
    assert error.offset == 64 + 16 * len(SMALL)
    assert words in str(error)
    assert f"record {len(SMALL)}" in str(error)


def test_raw_records_are_checked_too() -> None:
    with pytest.raises(TraceError) as caught:
        check(pack(SMALL)[:-3], objects=2, threads=2)
    assert caught.value.offset == 64 + 16 * 7


def zstd(data: bytes) -> bytes:
    packed: bytes = pytest.importorskip("zstandard").ZstdCompressor().compress(data)
    return packed


@pytest.mark.parametrize("pack_file", [bytes, gzip.compress, lzma.compress, zstd])
def test_kinds_are_told_apart_by_content(tmp_path: Path, pack_file: object) -> None:
    assert callable(pack_file)
    data = pack_file(file_of(SMALL))
    path = tmp_path / "a-name-that-says-nothing"
    path.write_bytes(data)
    assert list(load(path)) == list(load(data)) == list(load(str(path))) == SMALL


@pytest.mark.parametrize("pack_file", [gzip.compress, lzma.compress, zstd])
def test_a_compressed_file_that_is_cut_or_damaged_is_named(pack_file: object) -> None:
    assert callable(pack_file)
    body = pack([Record(OP_TIME, 0, 0, 0, i * i) for i in range(5000)])
    data: bytes = pack_file(file_of(body, objects=0))
    assert load(data).count == 5000
    error = fault(data[: len(data) // 2])
    assert "cut off" in str(error)
    assert error.offset == len(data) // 2
    damaged = data[:20] + bytes(byte ^ 0xFF for byte in data[20:60]) + data[60:]
    fault(damaged)
    # Two members behind one another are one file, as `cat a.zst b.zst` makes it.
    whole = file_of(body, objects=0)
    assert load(pack_file(whole[:1000]) + pack_file(whole[1000:])).count == 5000


@pytest.mark.parametrize("pack_file", [bytes, gzip.compress, lzma.compress, zstd])
def test_nothing_grows_beyond_the_limit(pack_file: object) -> None:
    assert callable(pack_file)
    data = pack_file(file_of(bytes(16 << 20), objects=0))
    with pytest.raises(TraceError, match="limit"):
        load(data, limit=1 << 20)
    with pytest.raises(TraceError, match="unknown op"):
        load(data, limit=17 << 20)


@pytest.mark.parametrize("name", ["copy.dmi", "copy.dmi.zst"])
def test_save_and_load(tmp_path: Path, name: str) -> None:
    if name.endswith(".zst"):
        pytest.importorskip("zstandard")
    trace = parse(file_of(SMALL))
    path = tmp_path / name
    size = save(trace, path, level=3)
    assert size == path.stat().st_size
    again = load(path)
    assert list(again) == SMALL
    assert (again.objects, again.threads, again.page_size) == (2, 2, 4096)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_missing_files_and_folders_are_os_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        load(tmp_path)


def test_the_converter(tmp_path: Path) -> None:
    source, dest = tmp_path / "in", tmp_path / "out.dmi"
    source.write_bytes(gzip.compress(file_of(SMALL)))
    command = [sys.executable, "-m", "dmi", "trace", str(source), str(dest)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "5 events" in done.stdout
    assert dest.read_bytes() == file_of(SMALL)
    source.write_bytes(b"nonsense")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no recording" in done.stderr
    assert done.stderr.count("\n") == 1


# ---- no input is too strange ---------------------------------------------------------------------

whole_records = st.builds(
    Record,
    st.integers(0, 8),
    st.sampled_from([0, 0, 0, 4, 200]),
    st.integers(0, 2),
    st.integers(0, 4),
    st.one_of(st.just(0), st.integers(0, 1000), st.integers(0, (1 << 64) - 1)),
)


def survives(data: bytes) -> Trace | None:
    """Either a recording whose records are consistent, or a TraceError with an offset."""
    trace: Trace | None = None
    offset: int | None = None
    try:
        trace = load(data, limit=1 << 20)
    except TraceError as error:
        offset = error.offset
    if trace is None:
        assert offset is not None
        assert 0 <= offset <= max(len(data), 1 << 20)
        return None
    live: dict[int, int] = {}
    for record in trace:
        if record.op in (OP_ALLOC, OP_CALLOC):
            assert record.object not in live
            live[record.object] = record.size
        elif record.op == OP_REALLOC:
            assert record.object in live
            live[record.object] = record.size
        elif record.op == OP_FREE:
            del live[record.object]
    assert sum(live.values()) == trace.live_bytes
    return trace


@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    survives(data)
    survives(MAGIC + data)


@given(st.lists(whole_records, max_size=20), st.integers(0, 6))
def test_random_records(records: list[Record], objects: int) -> None:
    trace = survives(file_of(records, objects=objects))
    if trace is not None:
        assert list(trace) == records


@given(st.integers(0, 64 + 16 * 8 - 1), st.integers(1, 255))
@settings(max_examples=400)
def test_a_flipped_byte(at: int, change: int) -> None:
    data = bytearray(file_of(SMALL))
    data[at] ^= change
    survives(bytes(data))


def test_every_prefix() -> None:
    data = file_of(SMALL)
    for end in range(len(data)):
        assert survives(data[:end]) is None


def test_header_size() -> None:
    assert HEADER.size == 64
