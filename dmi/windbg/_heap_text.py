"""One line of a `!heap -s` table: its cells, the row they make, and how wrapped rows are joined."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ._facts import HeapFacts
from ._model import HeapRow, ParseError, PrintedLine

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "HEADER",
    "begins_row",
    "cells",
    "derived_line",
    "handle_in",
    "handle_number",
    "heap_row",
    "is_handle",
    "is_header",
    "is_rest_of_header",
    "joined_row",
    "segment_row",
]

HEADER: Final = [
    "Heap", "Flags", "Reserv", "Commit", "Virt", "Free", "List", "UCR", "Virt", "Lock", "Fast",
]  # fmt: skip
_HEADER_REST: Final = frozenset((*HEADER, "(k)", "length", "blocks", "cont.", "heap"))
_NUMBERS: Final = ("Reserv", "Commit", "Virt", "Free", "List length", "UCR", "Virt blocks")
_NO_CONTENTION: Final = frozenset({"N/A", "bad"})

# `!heap -s -v` prints a dot for each segment that it has looked at.
_LEAD: Final = re.compile(r"[\s\-\u2013\u2014*#/;>.]*(?=(?:0x)?[0-9a-fA-F]{5})")
_HANDLE: Final = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,8}[`'][0-9a-fA-F]{8}|[0-9a-fA-F]{5,16})")
_FLAGS: Final = re.compile(r"(?:0[xX])?[0-9a-fA-F]{1,8}")
_DECIMAL: Final = re.compile(r"[0-9]{1,16}")
_HEX: Final = re.compile(r"(?:0[xX])?[0-9a-fA-F]{1,16}")
_FAST: Final = re.compile(r"[A-Za-z]{1,8}")
_THOUSANDS: Final = re.compile(r"[0-9]{1,3}(?:[,.'][0-9]{3}){1,5}")
_FRAGMENT: Final = re.compile(r"[0-9a-fA-F,.'`]{1,17}|L|F|H|LF|FH|LFH|N|/|A|N/|/A|N/A|bad|ba|ad")
_SIGNATURE: Final = re.compile(r"(?:ddeeddee|(?:ff|ee)?eeffeef?f?|ffeeffee)", re.IGNORECASE)
_SOMEWHERE: Final = re.compile(r"(?<![0-9a-fA-F])(?:0[xX])?([0-9a-fA-F]{8,16})(?![0-9a-fA-F])")

_EXTERNAL: Final = re.compile(
    r"[\s\W]*External fragmentation\s*([0-9]{1,20})\s*%\s*\(([0-9]{1,16}) free blocks\)\s*$"
)
_VIRTUAL: Final = re.compile(
    r"[\s\W]*Virtual address fragmentation\s*([0-9]{1,20})\s*%\s*"
    r"\(([0-9]{1,16}) uncommitt?ed ranges\)\s*$"
)
_CONTENTION: Final = re.compile(r"[\s\W]*Lock contention\s+([0-9]{1,20})\s*$")


def cells(text: str) -> list[str]:
    """The cells of what may be a row, without marks before it and separators of thousands."""
    lead = _LEAD.match(text)
    found = (text[lead.end() :] if lead else text).split(maxsplit=14)
    return [
        re.sub(r"[,.']", "", cell) if number and _THOUSANDS.fullmatch(cell) else cell.strip("`*_")
        for number, cell in enumerate(found)
    ]


def begins_row(found: Sequence[str]) -> bool:
    """They begin as a row does: a handle, and flags with all their digits."""
    return (
        len(found) > 1
        and _HANDLE.fullmatch(found[0]) is not None
        and (re.fullmatch(r"(?:0[xX])?[0-9a-fA-F]{8}", found[1]) is not None or len(found) > 8)
    )


def is_handle(cell: str, *, digits: int = 8) -> bool:
    """A handle of at least that many digits."""
    return _HANDLE.fullmatch(cell) is not None and len(cell) >= digits


def handle_number(cell: str) -> int:
    """The number of a handle, with or without 0x and tick."""
    found = _HANDLE.fullmatch(cell)
    if found is None:
        raise ParseError(f"Heap is not an address: {cell[:40]!r}")
    return int(re.sub("[`']", "", found[1]), 16)


def handle_in(text: str) -> int | None:
    """The first address in a line of words."""
    found = _SOMEWHERE.search(text.replace("`", ""))
    return int(found[1], 16) if found else None


def is_header(found: Sequence[str]) -> bool:
    """The first line of a table's header, or as much of it as stands before a wrap."""
    if not 3 < len(found) <= len(HEADER):
        return list(found[: len(HEADER)]) == HEADER
    # A wrap may cut the last word.
    whole, last = list(found[:-1]), found[-1]
    return whole == HEADER[: len(whole)] and HEADER[len(whole)].startswith(last)


def is_rest_of_header(found: Sequence[str]) -> bool:
    """Words that stand in a header only."""
    return all(word in _HEADER_REST for word in found)


def heap_row(tokens: Sequence[str], line: int = 0) -> HeapRow:
    """The row that these cells make. Raises ParseError."""
    if not 10 <= len(tokens) <= 11:
        raise ParseError(f"a heap row has 10 or 11 columns, not {len(tokens)}", line)
    if not _FLAGS.fullmatch(tokens[1]):
        raise ParseError(f"Flags is not hexadecimal: {tokens[1][:40]!r}", line)
    for name, token in zip(_NUMBERS, tokens[2:9], strict=True):
        if not _DECIMAL.fullmatch(token):
            raise ParseError(f"{name} is not a number: {token[:40]!r}", line)
    contention: int | None = None
    if tokens[9] not in _NO_CONTENTION:
        if not _HEX.fullmatch(tokens[9]):
            raise ParseError(f"Lock cont. is not hexadecimal: {tokens[9][:40]!r}", line)
        contention = int(tokens[9], 16)
    fast = tokens[10] if len(tokens) == 11 else ""
    if fast and not _FAST.fullmatch(fast):
        raise ParseError(f"Fast heap is not a word: {fast[:40]!r}", line)
    reserved, committed, virtual, free, length, ranges, blocks = map(int, tokens[2:9])
    return HeapRow(
        handle_number(tokens[0]), int(tokens[1], 16), reserved, committed, virtual, free, length,
        ranges, blocks, contention, fast,
    )  # fmt: skip


def _is_fragment(text: str) -> bool:
    """It may be the rest of a row that was wrapped."""
    found = text.split(maxsplit=12)
    return (
        0 < len(found) <= 10
        and all(_FRAGMENT.fullmatch(cell) for cell in found)
        and not begins_row(cells(text))
    )


def joined_row(text: str, following: Sequence[str], line: int) -> tuple[HeapRow, int]:
    """The row that begins with ``text``, and how many of the lines behind it belong to it.

    Raises ParseError for the text alone when no way to join them makes a row.
    """
    ways = [text]
    taken = 0
    while True:
        for way in ways:
            try:
                row = heap_row(cells(way), line)
            except ParseError:
                continue
            if not row.fast_heap and taken < len(following):
                row, more = _completed(way, following[taken], row, line)
                taken += more
            return row, taken
        if taken == len(following) or not _is_fragment(following[taken]):
            break
        ways = [w + blank + following[taken] for w in ways for blank in ("", " ")]
        taken += 1
    return heap_row(cells(text), line), 0


def _completed(text: str, rest: str, row: HeapRow, line: int) -> tuple[HeapRow, int]:
    """With what a wrap may have cut off behind ten cells: the word in the last column, or digits of
    the one before."""
    if not _is_fragment(rest) or len(rest.split()) > 2 or is_handle(rest.split()[0], digits=5):
        return row, 0
    for way in (text + rest, text + " " + rest):
        try:
            longer = heap_row(cells(way), line)
        except ParseError:
            continue
        if longer.fast_heap:
            return longer, 1
    return row, 0


def segment_row(tokens: Sequence[str], line: int) -> HeapFacts | None:
    """A row of the segment heaps: address, signature, flags, index, reserved, committed."""
    if (
        len(tokens) != 6
        or not is_handle(tokens[0], digits=5)
        or not _SIGNATURE.fullmatch(tokens[1])
        or not _FLAGS.fullmatch(tokens[2])
        or not all(_DECIMAL.fullmatch(token) for token in tokens[3:])
    ):
        return None
    return HeapFacts(
        handle_number(tokens[0]), "segment", int(tokens[2], 16), int(tokens[4]) * 1024,
        int(tokens[5]) * 1024, line=line,
    )  # fmt: skip


def derived_line(text: str, rows: Sequence[HeapRow], *, whole: bool) -> PrintedLine | None:
    """A derived line, given to the row whose count it prints, else to the row above it; with handle
    -1 where there is none, or where it may be of a row that is missing."""
    external, virtual = _EXTERNAL.match(text), _VIRTUAL.match(text)
    contention = _CONTENTION.match(text)
    if external:
        found = PrintedLine(-1, "external", int(external[1]), int(external[2]))
        counts = [row.list_length for row in rows]
    elif virtual:
        found = PrintedLine(-1, "virtual", int(virtual[1]), int(virtual[2]))
        counts = [row.uncommitted_ranges for row in rows]
    elif contention:
        found = PrintedLine(-1, "contention", int(contention[1]))
        counts = [-1 if row.lock_contention is None else row.lock_contention for row in rows]
    else:
        return None
    if not rows:
        return found
    wanted = found.value if found.kind == "contention" else found.count
    owner = rows[-1]
    if counts[-1] != wanted:
        if counts.count(wanted or 0) == 1:
            owner = rows[counts.index(wanted or 0)]
        elif not whole:
            return found
    return PrintedLine(owner.handle, found.kind, found.value, found.count)
