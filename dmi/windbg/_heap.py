"""`!heap` with its options, asked of a snapshot: the same answers as text and as data.

Numbers are hexadecimal, as in the debugger: in its output, and in what is asked for, unless they
begin with ``0n``, the debugger's mark of decimal numbers. Only the rows of -s are KiB in decimal.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from ._format import format_heap_summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ._model import HeapRow

__all__ = ["COLUMNS", "HeapSource", "HeapView", "columns", "heap", "heap_data", "number"]

COLUMNS: Final[Mapping[str, str]] = {
    "Heap": "handle of the heap",
    "Flags": "2 growable + 1000 private class + 1 not serialized; 0 for the process default heap",
    "Reserv": "(busy + free + overhead + uncommitted bytes in segments) / 1024",
    "Commit": "(Reserv - uncommitted bytes in segments) / 1024; blocks mapped on their own apart",
    "Virt": "(Reserv - uncommitted ranges of 1 MiB and more) / 1024",
    "Free": "(free_lfh + free_list + free_pages + offered) / 1024",
    "List length": "free blocks and free runs with at least one byte in Free",
    "UCR blocks": "maximal uncommitted ranges in segments",
    "Virt blocks": "busy blocks that are mapped on their own",
    "Lock cont.": "contended acquisitions of the heap's locks, hexadecimal",
    "Fast heap": "L when a bucket of the low-fragmentation front end is active",
    "External fragmentation": (
        "floor(100 * Free / Commit); shown above 10 % when List length is above 10"
    ),
    "Virtual address fragmentation": (
        "floor(100 * (Virt - Commit) / Virt); shown above 10 % when UCR blocks is above 32"
    ),
    "Lock contention": "Lock cont. as a decimal number; shown above 1000",
    "-stat size": "usable bytes of a busy block",
    "-stat #blocks": "busy blocks of that size",
    "-stat total": "size * #blocks",
    "-stat %": "100 * total / sum of all totals",
}
"""What stands in each column, by its name."""

_DETAIL: Final = (
    "reserved", "uncommitted", "committed", "busy", "free_lfh", "free_list", "free_pages",
    "offered", "overhead", "retained", "metadata_committed", "reclaimable", "pinned", "page_bound",
    "resident",
)  # fmt: skip
_NUMBER: Final = re.compile(r"0n([0-9]{1,20})|(?:0x)?([0-9a-f`]{1,17})", re.IGNORECASE)


class RangeView(Protocol):
    """A range of a walk."""

    @property
    def address(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def bucket(self) -> int: ...
    @property
    def segment(self) -> int: ...


class HistogramView(Protocol):
    """Busy blocks of one size."""

    @property
    def size(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def percent(self) -> float: ...


class HeapView(Protocol):
    """One heap of a snapshot."""

    @property
    def handle(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def decommit(self) -> str: ...
    @property
    def stats(self) -> Any: ...
    @property
    def segments(self) -> Sequence[Any] | None: ...
    @property
    def histogram(self) -> Sequence[HistogramView] | None: ...
    @property
    def blocks(self) -> Sequence[RangeView] | None: ...
    def row(self) -> HeapRow:
        """The row of this heap in !heap -s."""


class HeapSource(Protocol):
    """What can be asked: a dmi.Snapshot, or anything with heaps of that form."""

    @property
    def heaps(self) -> Sequence[HeapView]: ...


def number(text: str) -> int:
    """Read a number as the debugger does: hexadecimal, ``0x`` and backticks allowed, 0n is decimal.

    ValueError for anything else and for what 64 bits cannot hold.
    """
    match = _NUMBER.fullmatch(text)
    digits = (match[2] or "").replace("`", "") if match else ""
    if match is None or (match[1] is None and not digits):
        raise ValueError(f"not a number as the debugger reads it (1f0, 0x1f0, 0n496): {text!r}")
    value = int(match[1]) if match[1] is not None else int(digits, 16)
    if value >= 1 << 64:
        raise ValueError(f"{text} needs more than 64 bits")
    return value


def columns() -> str:
    """Each column with its formula."""
    width = max(map(len, COLUMNS))
    return "".join(f"{name:{width}}  {text}\n" for name, text in COLUMNS.items())


def heap(source: HeapSource, command: str | Sequence[str] = "-s") -> str:
    """The text of ``!heap`` with these options; ends with a newline.

    -s                  a row for each heap, with the derived lines
    -v                  the same, then each heap's figures in bytes
    -h [HANDLE]         segments and blocks of all heaps or of one
    -stat [HANDLE]      busy blocks by size, the sizes that hold most first
    -flt s SIZE         blocks of that many bytes
    -flt r LOW HIGH     blocks of LOW to HIGH bytes
    -x ADDRESS          the block that holds the address

    ValueError for other options, for a handle or address that is not there, and where an option
    needs blocks that the snapshot was taken without; TypeError for a source that has no heaps.
    """
    _check_source(source)
    option, arguments = split(command)
    return "\n".join(_TEXT[option](source, *arguments)) + "\n"


def heap_data(source: HeapSource, command: str | Sequence[str] = "-s") -> list[dict[str, Any]]:
    """The same for JSON: a list of objects; sizes in bytes. Errors as heap()."""
    _check_source(source)
    option, arguments = split(command)
    return list(_DATA[option](source, *arguments))


def _check_source(source: object) -> None:
    # A live heap is what one tries first; it changes under the question, so a snapshot is asked.
    if not hasattr(source, "heaps"):
        raise TypeError(
            "source must be a snapshot, as dmi.snapshot(blocks=True) takes one, "
            f"not {type(source).__name__}"
        )


# ---- reading the command ------------------------------------------------------------------------

_ARGUMENTS: Final = {"-s": (0, 0), "-v": (0, 0), "-h": (0, 1), "-stat": (0, 1), "-x": (1, 1)}


def split(command: str | Sequence[str]) -> tuple[str, list[int]]:
    """The option of a command and its numbers; ValueError for what !heap has not."""
    words = command.split() if isinstance(command, str) else list(command)
    option, rest = (words[0], words[1:]) if words else ("-s", [])
    if option == "-flt":
        kinds = {"s": 1, "r": 2}
        if not rest or rest[0] not in kinds or len(rest) != 1 + kinds[rest[0]]:
            raise ValueError("-flt needs s SIZE or r LOW HIGH")
        sizes = [number(word) for word in rest[1:]]
        return option, [sizes[0], sizes[-1]]
    if option == "-stat" and rest[:1] == ["-h"]:
        rest = rest[1:]
    if option not in _ARGUMENTS:
        raise ValueError(f"no such option of !heap: {option}; there are -s -v -h -stat -flt -x")
    least, most = _ARGUMENTS[option]
    if not least <= len(rest) <= most:
        raise ValueError(f"{option} takes {most if least == most else f'{least} or {most}'} number")
    return option, [number(word) for word in rest]


def _which(source: HeapSource, handle: int = 0) -> list[HeapView]:
    found = [each for each in source.heaps if handle in (0, each.handle)]
    if handle and not found:
        raise ValueError(f"no heap {handle:x} in the snapshot")
    return found


def _blocks(each: HeapView) -> Sequence[RangeView]:
    if each.blocks is None:
        raise ValueError(
            f"the snapshot has no blocks of heap {each.handle:x}: take it with blocks=True "
            "(dmi run --blocks), and keep the file of the same name that ends in .blocks beside it"
        )
    return each.blocks


def _title(each: HeapView) -> str:
    name = f" ({each.name})" if each.name else ""
    return f"heap @ {each.handle:016x}{name}, decommit {each.decommit or '?'}"


# ---- the options --------------------------------------------------------------------------------


def _summary_data(source: HeapSource) -> Iterator[dict[str, Any]]:
    for each in source.heaps:
        yield {**each.row().as_dict(), "name": each.name, "decommit": each.decommit}


def _summary(source: HeapSource) -> Iterator[str]:
    yield format_heap_summary(each.row() for each in source.heaps).rstrip("\n")
    others = [str(each.get("name") or "?") for each in getattr(source, "outside", ())]
    if others and not source.heaps:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        yield (
            f"Seen from outside: {', '.join(others[:5])}{more}. Their sizes: -stat; what they "
            "hold and keep: `dmi doctor FILE`."
        )


def _verbose_data(source: HeapSource) -> Iterator[dict[str, Any]]:
    for each in source.heaps:
        yield {
            "handle": each.handle,
            "name": each.name,
            "decommit": each.decommit,
            "stats": each.stats.as_dict(),
        }


def _verbose(source: HeapSource) -> Iterator[str]:
    yield from _summary(source)
    for each in source.heaps:
        values = each.stats.as_dict()
        yield ""
        yield _title(each)
        for name in _DETAIL:
            if values.get(name) is not None:
                yield f"    {name:<20}{values[name]:>20,}"
        for name, size in (values.get("reasons") or {}).items():
            if size:
                yield f"    retained: {name:<20}{size:>10,}"


def _list_data(source: HeapSource, handle: int = 0) -> Iterator[dict[str, Any]]:
    for each in _which(source, handle):
        yield {
            "handle": each.handle,
            "name": each.name,
            "segments": None
            if each.segments is None
            else [
                dict(
                    zip(
                        ("address", "reserved", "committed", "uncommitted_ranges", "virtual"),
                        segment,
                        strict=True,
                    )
                )
                for segment in each.segments
            ],
            "blocks": [_range_data(found) for found in _blocks(each)],
        }


def _list(source: HeapSource, handle: int = 0) -> Iterator[str]:
    for each in _which(source, handle):
        blocks = _blocks(each)
        yield _title(each)
        if each.segments is None:
            yield "  Segments: unknown, whoever wrote the snapshot could not list them"
        for segment in each.segments or ():
            kind = "Virtual block" if segment.virtual else "Segment"
            yield (
                f"  {kind} at {segment.address:016x} to {segment.address + segment.reserved:016x} "
                f"({segment.committed:08x} bytes committed)"
            )
        yield from _rows(blocks)


class _Counted(NamedTuple):
    """The sizes of busy blocks of a heap, dmi's or another allocator's."""

    handle: int
    name: str
    title: str
    histogram: Sequence[Any] | None


def _counted(source: HeapSource, handle: int) -> list[_Counted]:
    """Heaps that were looked at from outside stand behind dmi's own."""
    others = [
        _Counted(number_of, name, f"heap @ {number_of:016x} ({name})", _rows_of_pairs(entry))
        for entry in getattr(source, "outside", ())
        if isinstance(number_of := entry.get("handle"), int)
        and (
            entry.get("histogram") is not None
            or (entry.get("busy") is not None and not source.heaps)
        )
        and handle in (0, number_of)
        for name in [str(entry.get("name") or "another allocator's")]
    ]
    found = [
        _Counted(each.handle, each.name, _title(each), each.histogram)
        for each in source.heaps
        if handle in (0, each.handle)
    ]
    if handle and not found and not others:
        raise ValueError(f"no heap {handle:x} in the snapshot")
    return found + others


@dataclass(frozen=True, slots=True)
class _Row:
    """Busy blocks of one size."""

    size: int
    count: int
    total: int
    percent: float


def _rows_of_pairs(entry: Mapping[str, Any]) -> list[_Row] | None:
    """Size and count, with the blocks that are mapped on their own; None: not counted."""
    if not isinstance(entry.get("histogram"), list | tuple):
        return None
    sizes: Counter[int] = Counter()
    for part in ("histogram", "mapped_histogram"):
        for size, count in entry.get(part) or ():
            sizes[size] += count
    total = sum(size * count for size, count in sizes.items())
    rows = [_Row(s, n, s * n, 100 * s * n / total if total else 0.0) for s, n in sizes.items()]
    return sorted(rows, key=lambda row: (-row.total, row.size))


def _statistics_data(source: HeapSource, handle: int = 0) -> Iterator[dict[str, Any]]:
    for each in _counted(source, handle):
        yield {
            "handle": each.handle,
            "name": each.name,
            "histogram": None
            if each.histogram is None
            else [
                {"size": r.size, "count": r.count, "total": r.total, "percent": r.percent}
                for r in each.histogram
            ],
        }


def _statistics(source: HeapSource, handle: int = 0) -> Iterator[str]:
    for each in _counted(source, handle):
        yield each.title
        yield "group-by: TOTSIZE"
        yield f"    {'size':>12} {'#blocks':>12} {'total':>14}    (%) (percent of busy bytes)"
        if each.histogram is None:
            yield "    unknown: whoever wrote the snapshot could not count the sizes"
        for row in each.histogram or ():
            yield f"    {row.size:12x} {row.count:12x} {row.total:14x}    ({row.percent:.2f})"


def _filtered(source: HeapSource, low: int, high: int) -> Iterator[tuple[HeapView, RangeView]]:
    if low > high:
        raise ValueError(f"-flt r needs LOW up to HIGH, not {low:x} to {high:x}")
    for each in source.heaps:
        for found in _blocks(each):
            if low <= found.size <= high and found.state in ("busy", "free", "offered"):
                yield each, found


def _filter_data(source: HeapSource, low: int, high: int) -> Iterator[dict[str, Any]]:
    for each, found in _filtered(source, low, high):
        yield {"handle": each.handle, **_range_data(found)}


def _filter(source: HeapSource, low: int, high: int) -> Iterator[str]:
    by_heap: dict[int, list[RangeView]] = {}
    for each, found in _filtered(source, low, high):
        by_heap.setdefault(each.handle, []).append(found)
    for each in source.heaps:
        if each.handle in by_heap:
            yield _title(each)
            yield from _rows(by_heap[each.handle])
    if not by_heap:
        yield f"No block of {low:x} to {high:x} bytes."


def _find(source: HeapSource, address: int) -> tuple[HeapView, RangeView]:
    for each in source.heaps:
        inside = each.segments is None or any(
            s.address <= address < s.address + s.reserved for s in each.segments
        )
        for found in _blocks(each) if inside else ():
            if found.address <= address < found.address + found.size:
                return each, found
    raise ValueError(f"no heap of the snapshot holds the address {address:x}")


def _where_data(source: HeapSource, address: int) -> Iterator[dict[str, Any]]:
    each, found = _find(source, address)
    yield {
        "handle": each.handle,
        "name": each.name,
        **_range_data(found),
        "offset": address - found.address,
    }


def _where(source: HeapSource, address: int) -> Iterator[str]:
    each, found = _find(source, address)
    yield (
        f"{'User':<18}{'Heap':<18}{'Segment':<18}{'Size':>12} {'Bucket':>8} {'Offset':>10}  "
        "Kind, state"
    )
    yield "-" * 103
    yield (
        f"{found.address:016x}  {each.handle:016x}  {found.segment:016x}  {found.size:12x} "
        f"{found.bucket:8x} {address - found.address:10x}  {found.kind} {found.state}"
    )


def _range_data(found: RangeView) -> dict[str, Any]:
    return {
        name: getattr(found, name)
        for name in ("address", "size", "kind", "state", "bucket", "segment")
    }


def _rows(blocks: Iterable[RangeView]) -> Iterator[str]:
    yield f"    {'User':<18}{'Size':>12} {'Bucket':>8}  Kind, state"
    for found in blocks:
        yield (
            f"    {found.address:016x}  {found.size:12x} {found.bucket:8x}  "
            f"{found.kind} {found.state}"
        )


_TEXT: Final[dict[str, Callable[..., Iterator[str]]]] = {
    "-s": _summary, "-v": _verbose, "-h": _list, "-stat": _statistics, "-flt": _filter,
    "-x": _where,
}  # fmt: skip
_DATA: Final[dict[str, Callable[..., Iterator[dict[str, Any]]]]] = {
    "-s": _summary_data, "-v": _verbose_data, "-h": _list_data, "-stat": _statistics_data,
    "-flt": _filter_data, "-x": _where_data,
}  # fmt: skip
