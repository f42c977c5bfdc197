"""`!heap` of heaps of any kind: the same options and columns, with the kind beside each row.

Sizes are KiB in the rows of -s and hexadecimal bytes elsewhere, as in the debugger; what is not
known, or what a kind has not, is ``-``.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from dmi._names import escaped
from dmi.windbg._heap import split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from . import Process
    from ._heaps import ForeignHeap, ForeignRange, ForeignRow

__all__ = ["escaped", "heap", "heap_data", "summary"]

_HEADER: Final = (
    "  Heap     Flags   Reserv  Commit  Virt   Free  List   UCR  Virt  Lock  Fast Kind",
    "                    (k)     (k)    (k)     (k) length      blocks cont. heap ",
)
_MOST_CACHES: Final = 20
"""Threads whose caches are listed; the rest stands in one line."""
_FIGURES: Final = (
    "reserved", "committed", "busy", "free", "overhead", "unknown", "retained", "mapped",
    "resident", "trim", "pinned",
)  # fmt: skip


def _cell(value: int | None, form: str, scale: int = 1) -> str:
    width = int("".join(c for c in form if c.isdigit()))
    return "-".rjust(width) if value is None else format(value // scale, form)


def _row(row: ForeignRow, width: int) -> Iterator[str]:
    flags = "-".rjust(8) if row.flags is None else f"{row.flags:08x}"
    yield (
        f"{row.handle:0{width}x} {flags} {_cell(row.reserved, '7d', 1024)} "
        f"{_cell(row.committed, '6d', 1024)} {_cell(row.virtual, '6d', 1024)} "
        f"{_cell(row.free, '6d', 1024)} {_cell(row.list_length, '5d')} "
        f"{_cell(row.uncommitted_ranges, '5d')} {_cell(row.virtual_blocks, '4d')} "
        f"{_cell(row.lock_contention, '6x')}   {row.fast_heap:<3s}  {escaped(row.kind)}"
    )
    if row.free is not None and row.committed and (row.list_length or 0) > 10:
        part = 100 * (row.free // 1024) // max(1, row.committed // 1024)
        if part > 10:
            yield f"    External fragmentation  {part} % ({row.list_length} free blocks)"
    if row.virtual and row.committed is not None and (row.uncommitted_ranges or 0) > 32:
        part = 100 * max(0, row.virtual - row.committed) // row.virtual
        if part > 10:
            ranges = row.uncommitted_ranges
            yield f"    Virtual address fragmentation  {part} % ({ranges} uncommited ranges)"


def summary(heaps: Iterable[ForeignHeap]) -> Iterator[str]:
    """The rows of -s."""
    rows = [heap.row() for heap in heaps]
    width = 16 if any(row.handle >> 32 for row in rows) else 8
    lines = [" " * (width - 8) + line for line in _HEADER]
    yield from lines
    yield "-" * len(lines[0])
    for row in rows:
        yield from _row(row, width)
    yield "-" * len(lines[0])


def _title(heap: ForeignHeap) -> str:
    name = f" ({escaped(heap.name)})" if heap.name else ""
    return f"heap @ {heap.handle:016x}{name}, {escaped(heap.kind)}"


def _which(process: Process, handle: int = 0) -> list[ForeignHeap]:
    found = [each for each in process.heaps() if handle in (0, each.handle)]
    if handle and not found:
        raise ValueError(f"no heap {handle:x} in {escaped(process.reader.what)}")
    return found


def _notes(process: Process) -> Iterator[str]:
    for note in process.notes:
        yield f"({escaped(note)})"


def _summary(process: Process) -> Iterator[str]:
    yield from summary(process.heaps())
    for each in process.heaps():
        for note in each.stats().notes:
            yield f"(heap {each.handle:x}: {escaped(note)})"


def _verbose(process: Process) -> Iterator[str]:
    yield from _summary(process)
    for each in process.heaps():
        values = each.stats().as_dict()
        yield ""
        yield _title(each)
        for name in _FIGURES:
            value = values.get(name)
            yield f"    {name:<20}" + ("-".rjust(20) if value is None else f"{value:20,}")
        for name, value in (values["details"] or {}).items():
            if value is not None:
                yield f"    {name:<20}{value:20,}"
        for pin in each.pins(3) or ():
            yield f"    pin: {pin.address:016x} of {pin.size:x} bytes keeps {pin.pinned:,} free"
    yield from _caches(process)
    yield from _trim(process)


def _caches(process: Process) -> Iterator[str]:
    caches = sorted(
        process.thread_caches(), key=lambda cache: (cache.size is None, -(cache.size or 0))
    )
    if caches:
        yield ""
        yield "caches of threads, which malloc_trim does not touch:"
    for cache in caches[:_MOST_CACHES]:
        size = _known(cache.size)
        yield f"    thread {cache.thread:<12} {cache.blocks:10,} blocks {size:>14} bytes"
    if len(caches) > _MOST_CACHES:
        sizes = [cache.size for cache in caches[_MOST_CACHES:] if cache.size is not None]
        rest = sum(sizes) if len(sizes) == len(caches) - _MOST_CACHES else None
        yield f"    {len(caches) - _MOST_CACHES:,} more threads {_known(rest):>32} bytes"


def _known(size: int | None) -> str:
    return "-" if size is None else f"{size:,}"


def _trim(process: Process) -> Iterator[str]:
    estimate = process.trim()
    if estimate is not None:
        yield ""
        yield from estimate.lines()


def _range(found: ForeignRange) -> str:
    return (
        f"    {found.address:016x}  {found.size:12x} {found.bucket:8x}  {found.kind} {found.state}"
    )


def _rows(found: Iterable[ForeignRange]) -> Iterator[str]:
    yield f"    {'Address':<18}{'Size':>12} {'Bucket':>8}  Kind, state"
    for each in found:
        yield _range(each)


def _list(process: Process, handle: int = 0) -> Iterator[str]:
    for each in _which(process, handle):
        yield _title(each)
        for segment in each.segments():
            kind = "Virtual block" if segment.virtual else "Segment"
            yield (
                f"  {kind} at {segment.address:016x} to {segment.address + segment.reserved:016x} "
                f"({segment.committed:08x} bytes committed)"
            )
        walk = each.walk()
        if walk is None:
            yield "    (its blocks are not known)"
        else:
            yield from _rows(walk)


def _statistics(process: Process, handle: int = 0) -> Iterator[str]:
    for each in _which(process, handle):
        yield _title(each)
        rows = each.histogram()
        if rows is None:
            yield "    (its blocks are not known)"
            continue
        yield "group-by: TOTSIZE"
        yield f"    {'size':>12} {'#blocks':>12} {'total':>14}    (%) (percent of busy bytes)"
        for row in rows:
            yield f"    {row.size:12x} {row.count:12x} {row.total:14x}    ({row.percent:.2f})"


def _filtered(process: Process, low: int, high: int) -> Iterator[tuple[ForeignHeap, ForeignRange]]:
    if low > high:
        raise ValueError(f"-flt r needs LOW up to HIGH, not {low:x} to {high:x}")
    for each in process.heaps():
        for found in each.walk() or ():
            if low <= found.size <= high and found.state in ("busy", "free"):
                yield each, found


def _filter(process: Process, low: int, high: int) -> Iterator[str]:
    last = None
    for each, found in _filtered(process, low, high):
        if each is not last:
            yield _title(each)
            yield from _rows(())
            last = each
        yield _range(found)
    if last is None:
        yield f"No block of {low:x} to {high:x} bytes."


def _where(process: Process, address: int) -> Iterator[str]:
    each, found = process.find(address) or (None, None)
    if each is None or found is None:
        raise ValueError(f"no heap of {escaped(process.reader.what)} holds the address {address:x}")
    yield f"{'Block':<18}{'Heap':<18}{'Segment':<18}{'Size':>12} {'Offset':>10}  Kind, state"
    yield "-" * 94
    yield (
        f"{found.address:016x}  {each.handle:016x}  {found.segment:016x}  {found.size:12x} "
        f"{address - found.address:10x}  {each.kind} {found.kind} {found.state}"
    )


# ---- as data -------------------------------------------------------------------------------------


def _range_data(found: ForeignRange) -> dict[str, Any]:
    return found._asdict()


def _summary_data(process: Process) -> Iterator[dict[str, Any]]:
    for each in process.heaps():
        yield {**each.row().as_dict(), "name": each.name}


def _verbose_data(process: Process) -> Iterator[dict[str, Any]]:
    for each in process.heaps():
        pins = [pin._asdict() for pin in each.pins(10) or ()]
        yield {
            "handle": each.handle,
            "name": each.name,
            "stats": each.stats().as_dict(),
            "pins": pins,
        }


def _list_data(process: Process, handle: int = 0) -> Iterator[dict[str, Any]]:
    for each in _which(process, handle):
        walk = each.walk()
        yield {
            "handle": each.handle,
            "kind": each.kind,
            "name": each.name,
            "segments": [segment._asdict() for segment in each.segments()],
            "blocks": None if walk is None else [_range_data(found) for found in walk],
        }


def _statistics_data(process: Process, handle: int = 0) -> Iterator[dict[str, Any]]:
    for each in _which(process, handle):
        rows = each.histogram()
        yield {
            "handle": each.handle,
            "kind": each.kind,
            "name": each.name,
            "histogram": None
            if rows is None
            else [
                {"size": r.size, "count": r.count, "total": r.total, "percent": r.percent}
                for r in rows
            ],
        }


def _filter_data(process: Process, low: int, high: int) -> Iterator[dict[str, Any]]:
    for each, found in _filtered(process, low, high):
        yield {"handle": each.handle, **_range_data(found)}


def _where_data(process: Process, address: int) -> Iterator[dict[str, Any]]:
    found = process.find(address)
    if found is None:
        raise ValueError(f"no heap of {process.reader.what} holds the address {address:x}")
    yield {
        "handle": found[0].handle,
        "name": found[0].name,
        **_range_data(found[1]),
        "offset": address - found[1].address,
    }


_TEXT: Final[dict[str, Callable[..., Iterator[str]]]] = {
    "-s": _summary, "-v": _verbose, "-h": _list, "-stat": _statistics, "-flt": _filter,
    "-x": _where,
}  # fmt: skip
_DATA: Final[dict[str, Callable[..., Iterator[dict[str, Any]]]]] = {
    "-s": _summary_data, "-v": _verbose_data, "-h": _list_data, "-stat": _statistics_data,
    "-flt": _filter_data, "-x": _where_data,
}  # fmt: skip


_COUNTED: Final = ("-s", "-v", "-stat")


def _count(process: Process) -> None:
    """Walk what these options need, so that a process that is stopped may go on before anything is
    printed."""
    for each in process.heaps():
        with suppress(ProcessLookupError):
            each.stats()
    process.resume()


def heap(process: Process, command: str | Sequence[str] = "-s") -> Iterator[str]:
    """Lines of ``!heap`` with the options of ``windbg.heap``; what could not be told comes last."""
    option, arguments = split(command)
    if option in _COUNTED:
        _count(process)
    yield from _TEXT[option](process, *arguments)
    process.resume()
    yield from _notes(process)


def heap_data(process: Process, command: str | Sequence[str] = "-s") -> list[dict[str, Any]]:
    """The same for JSON, sizes in bytes."""
    option, arguments = split(command)
    if option in _COUNTED:
        _count(process)
    found = list(_DATA[option](process, *arguments))
    process.resume()
    return found
