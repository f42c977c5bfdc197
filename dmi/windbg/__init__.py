"""WinDbg's console text, in and out: `!heap -s` and `!address -summary`.

``parse`` reads a log, ``read`` a file of one; ``format_heap_summary`` and
``format_address_summary`` write the same text; ``heap`` answers `!heap` with its other options from
a snapshot. Sizes are KiB in heap rows and bytes in address summaries, as the debugger has them.
Pure Python, no dependency on the native part.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from dmi import _files

from ._clothes import LongText, decode
from ._facts import (
    SMALLEST_VIRTUAL_BLOCK,
    AskedBlock,
    BlockList,
    HeapFacts,
    Mark,
    Notice,
    SizeRow,
    SizeTable,
    Told,
    Trace,
    TraceTable,
    Unread,
)
from ._format import format_address_summary, format_heap_summary, format_log
from ._grown import grown, grown_text
from ._heap import COLUMNS, HeapSource, HeapView, columns, heap, heap_data, number
from ._model import (
    CUT_OFFS,
    FREE_STATE,
    FREE_TYPE,
    FREE_USAGE,
    AddressSummary,
    CutOffs,
    HeapRow,
    HeapTable,
    Log,
    ParseError,
    PrintedLine,
    PrintedPercent,
    Region,
    percent,
)
from ._parse import MAX_LINE, MAX_ROWS, MAX_TABLES, parse

if TYPE_CHECKING:
    from typing import IO

__all__ = [
    "COLUMNS",
    "CUT_OFFS",
    "FREE_STATE",
    "FREE_TYPE",
    "FREE_USAGE",
    "MAX_FILE",
    "MAX_LINE",
    "MAX_ROWS",
    "MAX_TABLES",
    "SMALLEST_VIRTUAL_BLOCK",
    "AddressSummary",
    "AskedBlock",
    "BlockList",
    "CutOffs",
    "HeapFacts",
    "HeapRow",
    "HeapSource",
    "HeapTable",
    "HeapView",
    "Log",
    "LongText",
    "Mark",
    "Notice",
    "ParseError",
    "PrintedLine",
    "PrintedPercent",
    "Region",
    "SizeRow",
    "SizeTable",
    "Told",
    "Trace",
    "TraceTable",
    "Unread",
    "columns",
    "decode",
    "format_address_summary",
    "format_heap_summary",
    "format_log",
    "grown",
    "grown_text",
    "heap",
    "heap_data",
    "number",
    "parse",
    "percent",
    "read",
    "text_of",
]

MAX_FILE: Final = 256 << 20
"""Bytes of the largest log that ``read`` accepts."""
_MAX_WHOLE: Final = 4 << 20


def read(path: str | os.PathLike[str]) -> Log:
    """Parse a log file. Raises OSError, or ParseError also for a file above MAX_FILE."""
    with _files.open_regular(path) as file:
        return parse(text_of(file))


def text_of(file: IO[bytes]) -> str | LongText:
    """The text of a file that can be read twice, for parse(); a long one stays in the file.
    ParseError above MAX_FILE."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size > MAX_FILE:
        raise ParseError(f"the file is larger than {MAX_FILE >> 20} MiB")
    return decode(file.read()) if size <= _MAX_WHOLE else LongText(file)
