"""What a JVM's own counters say, and what the doctor makes of them."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import pytest

import dmi

if not sys.platform.startswith("linux"):
    pytest.skip("processes are looked at through /proc", allow_module_level=True)

from dmi.process import _jvm

MIB = 1 << 20
COUNTERS = {
    "sun.gc.collector.0.invocations": 7,
    "sun.gc.collector.1.invocations": 1,
    "sun.gc.generation.0.space.0.used": 200 * MIB,
    "sun.gc.generation.0.space.0.capacity": 250 * MIB,
    "sun.gc.metaspace.used": 9 * MIB,
    "sun.gc.generation.0.space.2.used": 3 * MIB,
    "sun.gc.generation.1.space.0.used": 40 * MIB,
    "sun.gc.generation.1.space.0.capacity": 400 * MIB,
}


def file_of(counters: dict[str, int], order: str = "<") -> bytes:
    """A file of counters as a JVM writes it."""
    entries = []
    for name, value in counters.items():
        text = name.encode() + b"\0"
        text += bytes(-len(text) % 8)
        head = struct.pack(f"{order}IIIBBBBI", 20 + 4 + len(text) + 8, 24, 0, ord("J"), 0, 1, 1,
                           24 + len(text))  # fmt: skip
        entries.append(head + bytes(4) + text + struct.pack(f"{order}q", value))
    body = b"".join(entries)
    return struct.pack(f"{order}4sBBBBIIqII", b"\xca\xfe\xc0\xc0", order == "<", 2, 0, 1,
                       32 + len(body), 0, 0, 32, len(entries)) + body  # fmt: skip


def test_counters_are_read_in_both_orders() -> None:
    assert _jvm.read_counters(file_of(COUNTERS)) == COUNTERS
    assert _jvm.read_counters(file_of(COUNTERS, ">")) == COUNTERS


def test_a_damaged_file_is_no_error() -> None:
    whole = file_of(COUNTERS)
    for end in range(len(whole)):
        assert _jvm.read_counters(whole[:end]).items() <= COUNTERS.items()
    for at in range(len(whole)):
        _jvm.read_counters(whole[:at] + b"\xff" + whole[at + 1 :])
    assert _jvm.read_counters(b"something else" * 9) == {}


def test_the_eden_is_not_what_survived(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / "1" / "root" / "tmp" / "hsperfdata_me"
    place.mkdir(parents=True)
    (tmp_path / "1" / "status").write_text("Name:\tjava\nNSpid:\t900\t7\n", encoding="utf-8")
    (place / "7").write_bytes(file_of(COUNTERS))
    monkeypatch.setattr(
        "dmi.process._jvm.Path", lambda path: Path(path.replace("/proc", str(tmp_path)))
    )
    assert _jvm.survived(1) == (52 * MIB, 8, 250 * MIB)
    (place / "7").write_bytes(file_of({"sun.gc.collector.0.invocations": 3}))
    assert _jvm.survived(1) is None
    assert _jvm.survived(2) is None


def moment(
    size: int, survived: int | None, collections: int | None, eden: int | None = 250 * MIB
) -> dict[str, Any]:
    entry = {"name": "JVM in libjvm.so", "kind": "JVM", "handle": 1 << 40, "busy": None,
             "committed": size, "resident": size, "survived": survived,
             "collections": collections, "eden": eden}  # fmt: skip
    return {"heaps": [], "outside": [entry], "memory": {"Other": size}, "commit": {"Other": size}}


@pytest.mark.parametrize(
    ("survived", "collections", "kind"),
    [
        ((5 * MIB, 6 * MIB), (2, 9), "none"),  # the eden grew
        ((5 * MIB, 150 * MIB), (2, 9), "growth"),  # what survived did
        ((5 * MIB, 6 * MIB), (None, 9), "growth"),  # nobody knows whether one ran between them
        ((5 * MIB, 5 * MIB), (2, 2), "growth"),  # no collection between: not known
        ((None, None), (None, None), "growth"),
    ],
)
def test_what_survived_tells(
    survived: tuple[int | None, int | None], collections: tuple[int | None, int | None], kind: str
) -> None:
    moments = [
        moment(size, survived[n], collections[n]) for size, n in ((70 * MIB, 0), (240 * MIB, 1))
    ]
    verdict = dmi.diagnose(*moments)
    assert verdict.kind == kind
    if kind == "none":
        assert any("What survived collections: 5,120 -> 6,144 KB" in e for e in verdict.evidence)


def test_more_than_the_eden_is_growth() -> None:
    moments = (moment(70 * MIB, 5 * MIB, 2, 60 * MIB), moment(240 * MIB, 5 * MIB, 9, 60 * MIB))
    assert dmi.diagnose(*moments).kind == "growth"
