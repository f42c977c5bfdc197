"""One process without dmi, asked from outside for everything that there is to ask."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

import dmi
from dmi.cli import main
from dmi.cli._bar import Bar
from dmi.process import heap_rows, layers, open_source, text
from dmi.process._live import LiveReader
from dmi.python import _start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.reads,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc"),
]

CHILD = """
import ctypes, sys
blocks = [ctypes.create_string_buffer(5000 + n) for n in range(3000)]
del blocks[100:2900:2]
print(ctypes.addressof(blocks[0]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def child() -> Iterator[tuple[int, int]]:
    """The process's number, and the address of a block of malloc in it."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        yield started.pid, int(started.stdout.readline())
        started.communicate("")


def test_a_snapshot_of_another_process_is_kept_and_read_again(
    child: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pid, _ = child
    with dmi.open_process(pid) as process:
        taken = process.snapshot("now")
    assert (taken.label, taken.pid, taken.heaps) == ("now", pid, ())
    assert taken.process is not None
    assert taken.process["resident"]
    glibc = next(each for each in taken.outside if each["kind"] == "glibc")
    assert glibc["busy"] + glibc["free"] <= glibc["committed"]
    file = tmp_path / "moment.json"
    assert main(["snapshot", "--pid", str(pid), str(file), "--label", "then"]) == 0
    kept = dmi.Snapshot.load(file)
    assert (kept.label, kept.pid) == ("then", pid)
    assert {each["name"] for each in kept.outside} == {each["name"] for each in taken.outside}
    capsys.readouterr()
    assert main(["snapshot", "--pid", str(pid), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["pid"] == pid
    assert said["scope"] == kept.scope
    assert main(["snapshot", "--pid", str(pid)]) != 0
    assert "--json" in capsys.readouterr().err


def test_each_question_of_heap_has_an_answer_in_words_and_in_data(child: tuple[int, int]) -> None:
    pid, address = child
    with dmi.open_process(pid) as process:
        rows = text.heap_data(process, "-s")
        lines = list(text.heap(process, "-s"))
        assert all(any(f"{row['handle']:016x}" in line for line in lines) for row in rows)
        verbose = text.heap_data(process, "-v")
        assert [each["handle"] for each in verbose] == [row["handle"] for row in rows]
        assert len(list(text.heap(process, "-v"))) > len(lines)
        found = text.heap_data(process, f"-x {address:x}")
        assert len(found) == 1
        handle = found[0]["handle"]
        assert found[0]["state"] == "busy"
        assert found[0]["address"] + found[0]["offset"] == address
        assert f"{handle:016x}" in "\n".join(text.heap(process, f"-x {address:x}"))
        listed = text.heap_data(process, f"-h {handle:x}")[0]
        spans = [(each["address"], each["reserved"]) for each in listed["segments"]]
        assert any(begin <= address < begin + size for begin, size in spans)
        busy = [block for block in listed["blocks"] if block["state"] == "busy"]
        assert len(list(text.heap(process, f"-h {handle:x}"))) > len(busy)
        counted = text.heap_data(process, f"-stat -h {handle:x}")[0]["histogram"]
        assert sum(row["total"] for row in counted) == sum(block["size"] for block in busy)
        assert "group-by: TOTSIZE" in list(text.heap(process, f"-stat -h {handle:x}"))
        chosen = text.heap_data(process, "-flt r 1388 1800")
        assert {each["state"] for each in chosen} <= {"busy", "free"}
        assert len([each for each in chosen if each["handle"] == handle]) > 1000
        assert len(list(text.heap(process, "-flt r 1388 1800"))) > len(chosen)
        assert next(text.heap(process, "-flt r 7fffffff 7fffffff")).startswith("No block")
        for command in ("-x 10", "-flt r 20 10", "-h 1"):
            with pytest.raises(ValueError, match=command.split()[-1]):
                text.heap_data(process, command)
            with pytest.raises(ValueError, match=command.split()[-1]):
                list(text.heap(process, command))


def test_what_the_kernel_says_of_its_pages(child: tuple[int, int]) -> None:
    pid, address = child
    with dmi.open_process(pid) as process:
        reader = process.reader
        assert isinstance(reader, LiveReader)
        page = address // reader.page * reader.page
        marks = reader.pagemap(page, 2)
        assert marks is None or (len(marks) == 16 and marks[7] & 0x80)
        assert reader.gone_from_memory(page, 2) in (0, None)
        assert reader.next_there(page) == page
        room = memoryview(bytearray(16))
        assert reader.read_into(address, room) == 16
        assert reader.read_into(1 << 62, room) == 0
        assert process.program.startswith("python")
    assert {row.kind for row in heap_rows(pid)} >= {"glibc"}
    assert layers(pid)["1b"].holds
    with open_source(None, pid) as again:
        assert again.pid == pid
    with pytest.raises(ValueError, match="neither"):
        open_source(None, None)
    with pytest.raises(ValueError, match="--stop"):
        open_source("core", None, stop=True)


# ---- what stands at the edge of a program --------------------------------------------------------


def test_progress_is_said_once_a_label_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    bar = Bar()
    bar("first", 0, 4)  # not before it has taken a second
    now[0] += 2
    for label, done in (("first", 1), ("first", 2), ("second", 4)):
        bar(label, done, 4)
    bar.close()
    assert capsys.readouterr().err.splitlines() == [" 25 % first", "100 % second"]


def test_progress_is_a_bar_on_a_terminal_where_rich_is_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = Bar()
    bar._start -= 2
    bar("first", 1, 4)
    bar("second", 4, 4)
    bar.close()
    said = capsys.readouterr().err
    assert "first" in said
    assert " 25 % first" not in said
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    other = Bar()
    other._start -= 2
    other("first", 1, 4)
    assert capsys.readouterr().err == " 25 % first\n"


def test_the_state_of_the_start_up_file_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["python", "status", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said) == {"environment", "file", "enabled", "asked_for"}
    assert main(["python"]) == 0
    assert said["environment"] in capsys.readouterr().out


def test_a_start_that_cannot_be_is_a_line_and_never_in_the_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put: list[object] = []
    checks = SimpleNamespace(
        not_here=lambda: "",
        asked_for=lambda: None,
        refusal=lambda hook, domains: "",
        is_traced=lambda: False,
    )
    hook = SimpleNamespace(
        installed=lambda: False, make_heap=lambda name: name, put=lambda *what: put.append(what)
    )
    parts = {"_checks": checks, "_hook": hook}
    monkeypatch.setattr(_start, "_load", parts.__getitem__)
    monkeypatch.delitem(sys.modules, "dmi.python._hook", raising=False)
    monkeypatch.delenv("DMI_PYTHON", raising=False)
    _start.main()
    assert put == [(("mem", "obj"), b"python", False)]
    checks.refusal = lambda hook, domains: "another allocator is there"
    _start.main()
    checks.not_here = lambda: "this is no CPython"
    _start.main()
    said = capsys.readouterr().err.splitlines()
    assert [line.rpartition(": ")[2] for line in said] == [
        "another allocator is there",
        "this is no CPython",
    ]
    del parts["_checks"]
    _start.main()
    assert "KeyError" in capsys.readouterr().err
    parts["_checks"] = checks
    checks.not_here = lambda: ""
    hook.installed = lambda: True
    _start.main()
    monkeypatch.setenv("DMI_PYTHON", "0")
    _start.main()
    assert capsys.readouterr().err == ""
    assert len(put) == 1


def test_a_part_that_is_missing_is_named() -> None:
    with pytest.raises(ImportError, match="_nothing is missing"):
        _start._load("_nothing")
