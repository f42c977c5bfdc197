"""Text for the width of a terminal: prose is wrapped, wide tables are shown in groups of columns.

A table is a run of lines with a line of dashes among them: its head stands above, its rows below.
Its first column is repeated in front of each group. What goes to a file or a pipe stays as it is.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["fold", "say"]

_RULE = re.compile(r"\s*-{8,}[-\s]*")
_LEAST = 20
"""Narrower than this nothing can be read; such a width is taken for no width."""


def say(text: object, *, end: str = "\n", flush: bool = False) -> None:
    """Print it, as wide as the terminal is."""
    words = str(text)
    if sys.stdout.isatty():
        try:
            width = os.get_terminal_size(sys.stdout.fileno()).columns
        except (OSError, ValueError):
            width = 0
        if width >= _LEAST:
            words = fold(words, width)
    print(words, end=end, flush=flush)


def fold(text: str, width: int) -> str:
    """The text in lines of at most `width` characters, as far as its words allow it."""
    if max(map(len, text.split("\n"))) <= width:
        return text
    out: list[str] = []
    for lines in _blocks(text.split("\n")):
        if max(map(len, lines)) <= width:
            out.extend(lines)
            continue
        at = next((i for i, line in enumerate(lines) if _RULE.fullmatch(line)), 0)
        out.extend(_table(lines, at, width) if at else _prose(lines, width))
    return "\n".join(out)


def _blocks(lines: Sequence[str]) -> Iterator[list[str]]:
    """Lines that stand together; an empty line is a block of its own."""
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line)
            continue
        if block:
            yield block
        yield [line]
        block = []
    if block:
        yield block


def _prose(lines: Sequence[str], width: int) -> Iterator[str]:
    """Each line wrapped; but figures that stand far behind their words come nearer, all alike."""
    excess = max(max(map(len, lines), default=0) - width, 0)
    far = re.compile(rf"(?<=\S) {{{excess + 2},}}(?=\S)")
    if sum(bool(far.search(line)) for line in lines if len(line) > width) > 1:
        lines = [far.sub(lambda gap: gap[0][excess:], line, count=1) for line in lines]
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())]
        inner = indent if len(indent) < width // 2 else ""
        if len(line) <= width:
            yield line
        else:
            yield from textwrap.wrap(
                line.strip(),
                width,
                initial_indent=inner,
                subsequent_indent=inner + "  ",
                break_long_words=False,
                break_on_hyphens=False,
            )


def _table(lines: Sequence[str], at: int, width: int) -> Iterator[str]:
    """What is no row as it is, above and below; between them the columns in groups."""
    head = [line for line in lines[:at] if _is_row(line)]
    body = [line for line in lines[at + 1 :] if not _RULE.fullmatch(line)]
    rows = [line for line in body if _is_row(line) and not line[:4].isspace()]
    notes = [line for line in body if line not in rows]
    yield from _prose([line for line in lines[:at] if line not in head], width)
    if not head and not rows:
        yield from _prose(notes, width)
        return
    columns = _columns([*head, *rows], 2)
    if any(end - begin > width for begin, end in columns):
        columns = _columns([*head, *rows], 1)
    first, groups = columns[0], _groups(columns, width)
    if first[1] - first[0] > width:
        yield from _prose([*head, *rows, *notes], width)
        return
    for number, group in enumerate(groups):
        if number:
            yield ""
        spans = [first, *group]
        for line in head:
            yield _cut(line, spans)
        yield "-" * (sum(end - begin for begin, end in spans) + len(group))
        for line in rows:
            yield _cut(line, spans)
    yield from _prose(notes, width)


def _is_row(line: str) -> bool:
    """Has it words in columns?"""
    return bool(re.search(r"^ {4}|\S  +\S", line))


def _columns(lines: Sequence[str], gap: int) -> list[tuple[int, int]]:
    """Begin and end of each column: where `gap` places side by side are blank in every line."""
    found: list[tuple[int, int]] = []
    for i in range(max(map(len, lines))):
        if not any(line[i : i + 1].strip() for line in lines):
            continue
        if found and i - found[-1][1] < gap:
            found[-1] = (found[-1][0], i + 1)
        else:
            found.append((i, i + 1))
    return found


def _groups(columns: Sequence[tuple[int, int]], width: int) -> list[list[tuple[int, int]]]:
    """The columns behind the first one, in groups that fit beside it."""
    begin, end = columns[0]
    groups: list[list[tuple[int, int]]] = [[]]
    room = width - (end - begin)
    for column in columns[1:]:
        need = column[1] - column[0] + 1
        if groups[-1] and need > room:
            groups.append([])
            room = width - (end - begin)
        groups[-1].append(column)
        room -= need
    return groups


def _cut(line: str, spans: Sequence[tuple[int, int]]) -> str:
    return " ".join(line[begin:end].ljust(end - begin) for begin, end in spans).rstrip()
