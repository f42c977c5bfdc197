"""Profiles of which the values take tens of MiB: a good one is read, one that is refused takes
little whatever it holds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from profiles import page, profile
from test_files import MOST, refused

import dmi
from dmi import _files
from dmi.profile import Profile
from dmi.profile import _large as large
from dmi.profile import _read as reader

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.reads,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status"),
]

PAGE = json.dumps(page([[48, 1], [512, 3], [64, 0]]), separators=(",", ":")).encode()
PAGES = 20_000
SNAPSHOT = b'{"format":"dmi-snapshot","version":2,'


def text(
    marks: bytes = b"", *, begin: bytes = b"{", end: bytes = b"}", count: int = PAGES, **more: Any
) -> bytes:
    """A profile with so many pages; ``marks`` comes behind them."""
    values = json.dumps(profile([], **more)).encode()[1:-1].replace(b'"marks": [], ', b"")
    assert b"marks" not in values.replace(b'"marks": 0', b"").replace(b'"marks": -1', b"")
    pages = b",".join([PAGE] * count) + marks
    return begin + b'"marks":[' + pages + b"]," + values + end


def many(entry: bytes, count: int) -> bytes:
    return b",".join([entry] * count)


KIND = b'{"kind":"dmi-profile","version":1,'

HOSTILE = {
    "a fault in the last entry": (text(b",3"), r"marks\[20000\] must be an object"),
    "a fault behind them": (text(lost={"marks": -1}), "lost: marks must be"),
    "no stack of that number": (text(stacks=[[0]]), "there is no stack 1; there are 1"),
    "no frame of that number": (text(frames=[]), "there is no frame"),
    "cut off": (text()[:-1], "no JSON"),
    "more behind the end": (text() + b"{}", "no JSON: more text"),
    "a second list": (text(b"]," + b'"marks":[' + PAGE), "a second 'marks'"),
    "of another version": (text(version=2), "profile of version 2"),
    "one string": (KIND + b'"marks":["' + b"x" * (90 << 20) + b'"]}', "MiB of memory or more"),
    "wide text": (
        KIND + b'"marks":["' + "\U0001f600".encode() * (6 << 20) + b'"]}',
        "MiB of memory or more",
    ),
    "one entry": (KIND + b'"marks":[[' + many(b"[]", 1 << 20) + b"]]}", "MiB of memory or more"),
    "another list": (KIND + b'"x":[' + many(b'{"a":1}', 250_000) + b"]}", "MiB of memory or more"),
    "keys": (
        KIND + b",".join(b'"x%d":[[],[],[],[],[]]' % n for n in range(100_000)) + b"}",
        "too much besides|MiB of memory",
    ),
    "blank": (KIND + b" " * (100 << 20) + b"}", "no JSON"),
    "deep": (KIND + b'"marks":[' + b"[" * (1 << 20) + b"]}", "nested too deeply"),
    "a long number": (KIND + b'"x":' + b"1" * (30 << 20) + b"}", "is too large|MiB of memory"),
    "not a number": (KIND + b'"x":NaN,"stacks":[' + many(b"[0]", 400_000) + b"]}", "NaN"),
    "no text": (text(b',"\xff"'), "UTF-8"),
    "too many": (text(count=150_000), r"up to \d+ are taken"),
    "a snapshot without one": (
        b'{"format":"dmi-snapshot","heaps":[],' + text()[1:], "a snapshot without a profile",
    ),
}  # fmt: skip


QUICK = {
    "a fault in the last entry", "a fault behind them", "one string", "one entry", "too many",
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in HOSTILE],
)
def test_what_is_refused_takes_little_memory(tmp_path: Path, name: str) -> None:
    content, why = HOSTILE[name]
    path = tmp_path / "p.json"
    path.write_bytes(content)
    taken, words = refused("__import__('dmi.profile').profile.Profile.load(path)", path)
    assert re.search(why, words), words
    assert os.fspath(path) in words
    assert taken < MOST


BESIDE = {
    "a process that cannot be": (b'"heaps":[],"pid":-1,', "pid must not be -1"),
    "a heap that is none": (b'"heaps":[3],', "not a snapshot"),
    "no heaps": (b"", "heaps must be a list"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long) if name == "no heaps" else name for name in BESIDE],
)
@pytest.mark.parametrize(
    "code",
    [
        "dmi.Snapshot.load(path)",
        "dmi.diagnose.from_files([path])",
        "__import__('dmi.report').report.report(path)",
    ],
    ids=["load", "doctor", "report"],
)
def test_a_snapshot_that_is_refused_takes_little_memory(
    tmp_path: Path, name: str, code: str
) -> None:
    content, _ = BESIDE[name]
    path = tmp_path / "s.json"
    path.write_bytes(SNAPSHOT + content + text(begin=b'"profile":{', end=b"}}"))
    taken, words = refused(code, path)
    assert os.fspath(path) in words
    assert taken < MOST


@pytest.mark.long
def test_a_good_one_is_read(tmp_path: Path) -> None:
    """In a process of its own, for it takes its memory."""
    path, moment = tmp_path / "p.json", tmp_path / "s.json"
    path.write_bytes(text())
    with path.open("rb") as file:
        assert reader.may_be_large(file)
    code = "import sys, dmi.profile; print(len(dmi.profile.Profile.load(sys.argv[1]).marks))"
    moment.write_bytes(SNAPSHOT + b'"heaps":[],' + text(begin=b'"profile":{', end=b"}}"))
    for each in (path, moment):
        done = subprocess.run(
            [sys.executable, "-c", code, each], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{PAGES}\n"
    done = subprocess.run(
        [sys.executable, "-m", "dmi", "blame", moment], capture_output=True, text=True, check=True
    )
    assert "cache.py:57 put" in done.stdout


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_where_pieces_end_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    values = profile(
        [page([[48, 1], [512, 3]], number=n, weight=64.5e1) for n in range(3)],
        program="/srv/größe \U0001f600 \\u",
        allocated=[[0, 6400.25, 64e0], [None, 1, 2, 3]],
        more={"a": [1, 2.5e-3, None, True, []], "b": "", "": {}},
    )
    path = tmp_path / "p.json"
    monkeypatch.setattr(large, "_PIECE", piece)
    monkeypatch.setattr(_files, "JSON_BUDGET", 1)
    for ascii_only in (True, False):
        for indent in (None, 3):
            whole = json.dumps(values, ensure_ascii=ascii_only, indent=indent)
            path.write_text(whole, encoding="utf-8-sig")
            assert Profile.load(path) == Profile.from_dict(values)
            for end in (1, len(whole) // 2, len(whole) - 1):
                path.write_text(whole[:end], encoding="utf-8")
                with pytest.raises(ValueError, match=r"no JSON|up to"):
                    Profile.load(path)


def test_a_snapshot_of_this_process_carries_a_large_one(tmp_path: Path) -> None:
    from dataclasses import replace

    with dmi.Heap() as heap:
        heap.malloc(100)
        taken = replace(dmi.snapshot(blocks=True), profile=profile([page([[48, 1]])]))
        taken.save(tmp_path / "s.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_files, "JSON_BUDGET", 1)
        again = dmi.Snapshot.load(tmp_path / "s.json")
    assert again.profile == taken.profile
    assert [each.blocks and bytes(each.blocks.records) for each in again.heaps] == [
        each.blocks and bytes(each.blocks.records) for each in taken.heaps
    ]
