"""The same logs in the clothes of other programs: every one is read as the bare text is."""

from __future__ import annotations

import html
import json
import quopri
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dmi import windbg
from dmi.diagnose import Verdict, from_log

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).parent.parent / "golden" / "windbg"


def golden(*names: str) -> str:
    return "\n".join(windbg.decode((GOLDEN / f"{name}.txt").read_bytes()) for name in names)


TEXTS = {
    "nt heaps": golden("single/34-wow64-two-breaks-one-log"),
    "second order": golden(*(f"several/X-heap-{when}" for when in ("before", "during", "after"))),
    "segment heaps": golden("several/A-before", "several/A-after"),
    "address": golden("several/X-addr-before", "several/X-addr-after"),
}


def front(shape: str) -> Callable[[str], str]:
    """Each line behind a front, in which {n} is the number of the line, {s} a second."""
    return lambda text: "\n".join(
        shape.format(n=n, s=f"{n % 60:02d}") + line for n, line in enumerate(text.splitlines(), 1)
    )


def is_row(line: str) -> bool:
    return bool(re.match(r"\s*(?:[0-9a-f`]{8,17}\s+[0-9a-f]{8}|[0-9a-f]{11}\s+ddeeddee)\s", line))


def rows(change: Callable[[list[str]], str]) -> Callable[[str], str]:
    """The rows of heaps, changed cell by cell."""
    return lambda text: "\n".join(
        change(line.split()) if is_row(line) else line for line in text.splitlines()
    )


def grouped(mark: str) -> Callable[[str], str]:
    """Thousands set apart."""

    def cell(number: int, text: str) -> str:
        wide = number > 1 and text.isdecimal() and len(text) > 3
        return f"{int(text):,}".replace(",", mark) if wide else text

    return rows(lambda cells: " ".join(cell(n, c) for n, c in enumerate(cells)))


DRESSES: dict[str, Callable[[str], str]] = {
    # What programs that keep logs put in front.
    "iso": front("2026-11-29T10:00:{s}.123Z "),
    "brackets": front("[2026-11-29 10:00:{s}] "),
    "german": front("29.11.2026 10:00:{s} "),
    "american": front("11/29/2026 10:00:{s} AM "),
    "seconds": front("1795946{s}0.123 "),
    "level and thread": front("2026-11-29 10:00:{s},123 INFO  [worker-{n}] "),
    "level and logger": front("2026-11-29 10:00:{s} WARNING dump.heap: "),
    "syslog": front("Nov 29 10:00:{s} host cdb[123]: "),
    "pipeline": front("2026-11-29T10:00:{s}.1234567Z ##[debug]"),
    "container": front("app-1  | "),
    "grep": front("dump.txt:{n}:"),
    "added": front("+"),
    "comment of C": front("// "),
    "comment of a script": front("# "),
    "comment of a batch file": front("REM "),
    "comment of a header": front(" * "),
    "comment of SQL": front("-- "),
    # What carries text.
    "json": json.dumps,
    "json of an issue": lambda text: json.dumps({"id": 7, "body": text}),
    "one line of html": lambda text: html.escape(text).replace("\n", "&#10;"),
    "breaks": lambda text: "<br>".join(text.splitlines()),
    "divs": lambda text: "".join(f"<div>{line}</div>" for line in text.splitlines()),
    "quoted-printable": lambda text: quopri.encodestring(text.encode()).decode(),
    "rich text": lambda text: "{\\rtf1\\ansi " + text.replace("\n", "\\par\n") + "}",
    "jira": lambda text: "{noformat}\n" + text + "\n{noformat}",
    "wrapped at 72": lambda text: "\n".join(
        piece for line in text.splitlines() for piece in (textwrap.wrap(line, 72) or [""])
    ),
    # Numbers and characters of other countries.
    "french": grouped("\u202f"),
    "french of a web page": grouped("\u00a0"),
    "swiss": grouped("\u2019"),
    "german numbers": grouped("."),
    "japanese": lambda text: "".join(
        chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else "\u3000" if c == " " else c for c in text
    ),
    "semicolons": rows(";".join),
    "quoted cells": rows(lambda cells: ",".join(f'"{cell}"' for cell in cells)),
    "tabs": lambda text: re.sub(" +", "\t", text),
}


def verdict_of(text: str) -> Verdict:
    return from_log(windbg.parse(text, partial=True))


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize("name", TEXTS)
def test_it_is_read_as_the_bare_text(name: str, dress: str) -> None:
    bare, dressed = verdict_of(TEXTS[name]), verdict_of(DRESSES[dress](TEXTS[name]))
    assert (dressed.kind, dressed.subject, dressed.bytes) == (bare.kind, bare.subject, bare.bytes)
    assert not any("not read" in line for line in dressed.missing)


ROW = "{0:08x} 00001002  776448 118128 776448 109939   746   532    0      0   LFH"
HEAD = "  Heap     Flags   Reserv  Commit  Virt   Free  List   UCR  Virt  Lock  Fast"


@pytest.mark.parametrize(
    "lines",
    [
        # Rows that begin alike have no front.
        [HEAD, *(ROW.format(0x00310000 + (n << 16)) for n in range(12))],
        [f"2026-11-29 10:00:00 {line}" for line in
         (HEAD, *(ROW.format(0x10000000 + (n << 16)) for n in range(12)))],
        [HEAD, *("  " + ROW.format(0x20000000 + (n << 20)) for n in range(12))],
    ],
)  # fmt: skip
def test_a_front_never_eats_a_row(lines: list[str]) -> None:
    log = windbg.parse("\n".join(lines))
    assert len(log.heaps[0].rows) == 12
    assert {row.free_kib for row in log.heaps[0].rows} == {109939}


def test_a_path_is_no_line_end() -> None:
    text = (
        "Loading C:\\new\\names\\nine\\none\\next\\nowhere\n" + HEAD + "\n" + ROW.format(0x310000)
    )
    assert len(windbg.parse(text).heaps[0].rows) == 1


def test_a_block_of_a_page_heap() -> None:
    text = """0:000> !heap -p -a 0x00000171`a3c4efd0
    address 00000171a3c4efd0 found in
    _DPH_HEAP_ROOT @ 171a0001000
    in busy allocation (  DPH_HEAP_BLOCK:  UserAddr  UserSize -  VirtAddr  VirtSize)
                      171a3bf2a90:      171a3c4efd0      30 -      171a3c4e000      2000
    00007ffb1d0b44e1 ntdll!RtlDebugAllocateHeap+0x000000000000003f
"""
    (block,) = windbg.parse(text).asked
    assert (block.size, block.state, block.handle) == (0x30, "busy", 0x171A0001000)
    assert block.stack == ("ntdll!RtlDebugAllocateHeap+0x000000000000003f",)


def test_the_heap_error_that_the_extension_reports() -> None:
    text = f"""SEGMENT HEAP ERROR: failed to initialize the extention
*                  HEAP ERROR DETECTED                       *
Heap address:  0000000000470000
Error type:    HEAP_FAILURE_FREELISTS_CORRUPTION
{HEAD}
{ROW.format(0x470000)}
"""
    verdict = verdict_of(text)
    assert verdict.causes[0].kind == "corruption"
