"""Core files that say very much of very many mappings take neither much time nor much memory."""

from __future__ import annotations

import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dmi.process import open_core
from dmi.process._coretable import MOST_MAPPINGS, MappedFiles, Segment, Segments

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
PAGE = 4096
LOAD, NOTE = 1, 4
NT_FILE = 0x46494C45


def core(path: Path, segments: int, files: int, *, same: bool = False) -> Path:
    """Pages that do not touch, and files mapped elsewhere. same: all pages are one of the file."""
    spans = b"".join(
        struct.pack(
            "<3Q", 0x7F00_0000_0000 + n * 2 * PAGE, 0x7F00_0000_0000 + (n * 2 + 1) * PAGE, 0
        )
        for n in range(files)
    )
    told = struct.pack("<2Q", files, PAGE) + spans + b"".join(b"/l%d\0" % n for n in range(files))
    note = struct.pack("<III8s", 5, len(told), NT_FILE, b"CORE") + told + bytes(-len(told) % 4)
    count = segments + 1
    notes = 64 + 56 * count + 64
    data = -(-(notes + len(note)) // PAGE) * PAGE
    many = count >= 0xFFFF
    with path.open("wb") as out:
        out.write(
            struct.pack(
                "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 4, 62, 1, 0, 64,
                64 + 56 * count if many else 0, 0, 64, 56, 0xFFFF if many else count, 64,
                int(many), 0,
            )
        )  # fmt: skip
        out.write(struct.pack("<IIQQQQQQ", NOTE, 4, notes, 0, 0, len(note), 0, 4))
        for n in range(segments):
            start = 0x1000_0000 + n * 2 * PAGE
            offset = data if same else data + n * PAGE
            out.write(struct.pack("<IIQQQQQQ", LOAD, 6, offset, start, 0, PAGE, PAGE, PAGE))
        out.write(struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, count, 0, 0))
        out.write(note)
        out.truncate(data + (1 if same else segments) * PAGE)
    return path


LOOK = """
import sys
from dmi.process import open_core, text
with open_core(sys.argv[1]) as process:
    for _ in text.heap(process, "-s"):
        pass
    print(next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")))
"""


@pytest.mark.long
@pytest.mark.parametrize(("segments", "files"), [(65_000, 0), (10, 400_000), (500_000, 0)])
def test_a_core_of_very_many_mappings_takes_bounded_memory(
    tmp_path: Path, segments: int, files: int
) -> None:
    path = core(tmp_path / "core", segments, files)
    said = subprocess.run(
        [sys.executable, "-c", LOOK, str(path)],
        capture_output=True, text=True, check=True, timeout=300,
    ).stdout  # fmt: skip
    assert int(said) < 192 << 10


def test_of_more_mappings_than_a_process_can_have_the_largest_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmi.process._coretable.MOST_MAPPINGS", 50)
    monkeypatch.setattr("dmi.process._corefile.MOST_MAPPINGS", 50)
    path = core(tmp_path / "core", 100, 20)
    with open_core(path) as process:
        assert len(process.moment().mappings) == 50
        assert (
            "it has 120 mappings, of which the 50 largest are looked at; the others have 280 KB"
            in (process.notes)
        )
        # What is not shown can be read all the same.
        assert process.reader.read(0x1000_0000 + 99 * 2 * PAGE, 16) == bytes(16)
    assert MOST_MAPPINGS == 65_536


def test_bytes_of_the_file_that_many_mappings_claim_are_those_of_one(tmp_path: Path) -> None:
    with open_core(core(tmp_path / "core", 300, 0, same=True)) as process:
        process.heaps()
        assert any("claim bytes that others have" in note for note in process.notes)
        assert not any("cut off" in note for note in process.notes)
        first, last = 0x1000_0000, 0x1000_0000 + 299 * 2 * PAGE
        assert process.reader.read(first, 16) is not None
        assert process.reader.read(last, 16) is None


@pytest.mark.long
def test_sizes_that_are_only_claimed_take_no_time(tmp_path: Path) -> None:
    """Mappings of 64 TiB in all, of which the file has holes or nothing; of programs too."""
    path = core(tmp_path / "core", 2_000, 2_000)
    with path.open("r+b") as file:
        file.truncate(1 << 40)
        data = bytearray(file.read(64 + 56 * 2_001))
        for n in range(2_000):
            at = 64 + 56 * (n + 1)
            start, size = 0x1000_0000 + (n << 35), 1 << 35
            have = 1 << 29 if n % 2 else 0
            offset = (1 << 30) + n // 2 * (1 << 29)
            struct.pack_into(
                "<IIQQQQQQ", data, at, LOAD, 6 + n % 2, offset, start, 0, have, size, PAGE
            )
        file.seek(0)
        file.write(data)
    said = subprocess.run(
        [sys.executable, "-c", LOOK, str(path)],
        capture_output=True, text=True, check=True, timeout=100,
    ).stdout  # fmt: skip
    assert int(said) < 192 << 10


def test_segments_in_any_order_and_on_top_of_each_other() -> None:
    table = Segments()
    for start, end in ((5, 9), (1, 4), (8, 12), (20, 30), (3, 5), (12, 14)):
        table.add(Segment(start, end, 100 * start, (end - start) // 2, end - start, 6))
    table.settle()
    assert [(each.start, each.end) for each in table] == [(1, 4), (5, 9), (12, 14), (20, 30)]
    assert table.at(4) is None
    assert table.at(13) == Segment(12, 14, 1200, 1, 2, 6)
    assert table.place(6) == (501, 1)
    assert table.place(7) == (0, 0)
    assert table.place(0) == (0, 0)


def test_files_in_any_order() -> None:
    files = MappedFiles()
    files.add(50, 60, 7, "b")
    files.add(10, 20, 0, "a")
    files.add(30, 40, 3, "b")
    files.settle()
    assert [each.name for each in files] == ["a", "b", "b"]
    assert files.at(55) == (50, 60, 7, "b")
    assert files.at(20) is None
