"""Writes `!heap -s` and `!address -summary` text as WinDbg lays it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from ._model import (
    CUT_OFFS,
    FREE_STATE,
    FREE_TYPE,
    FREE_USAGE,
    AddressSummary,
    CutOffs,
    HeapRow,
    Log,
    percent,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["format_address_summary", "format_heap_summary", "format_log"]

_HEADER: Final = (
    "  Heap     Flags   Reserv  Commit  Virt   Free  List   UCR  Virt  Lock  Fast ",
    "                    (k)     (k)    (k)     (k) length      blocks cont. heap ",
)
_UNITS: Final = ((1 << 40, "TB"), (1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB"), (1, " B"))


def format_heap_summary(
    rows: Iterable[HeapRow], lfh_key: int | None = None, *, cut_offs: CutOffs = CUT_OFFS
) -> str:
    """`!heap -s` text for ``rows``, derived lines recomputed; ends with a newline.

    ``windbg.parse`` gives back the same rows. ``lfh_key`` adds the LFH Key line.
    """
    rows = tuple(rows)
    width = 16 if any(row.handle >> 32 for row in rows) else 8
    margin = " " * (width - 8)
    lines: list[str] = []
    if lfh_key is not None:
        lines.append(f"LFH Key                   : 0x{lfh_key:08x}")
    lines += [margin + line for line in _HEADER]
    rule = "-" * len(lines[-1])
    lines.append(rule)
    if not rows:
        lines.append("No heaps to display.")
    for row in rows:
        contention = "N/A" if row.lock_contention is None else f"{row.lock_contention:x}"
        if contention == "bad":
            contention = "0bad"  # the word says that there is no number
        lines.append(
            f"{row.handle:0{width}x} {row.flags:08x} {row.reserved_kib:7d} {row.committed_kib:6d} "
            f"{row.virtual_kib:6d} {row.free_kib:6d} {row.list_length:5d} "
            f"{row.uncommitted_ranges:5d} {row.virtual_blocks:4d} {contention:>6s}   "
            f"{row.fast_heap:<3s}".rstrip()
        )
        lines += [f"    {line}" for line in row.derived(cut_offs)]
    lines.append(rule)
    return "\n".join(lines) + "\n"


def format_address_summary(summary: AddressSummary, style: Literal["old", "new"] = "old") -> str:
    """`!address -summary` text; ends with a newline.

    ``old``: three tables in hexadecimal bytes and KB, with percentages. ``new``: region counts,
    protections and the largest region by usage as well. Raises ValueError for any other style.
    """
    if style == "old":
        return "\n".join(_old(summary)) + "\n"
    if style == "new":
        return "\n".join(_new(summary)) + "\n"
    raise ValueError(f"style must be 'old' or 'new', not {style!r}")


def format_log(log: Log) -> str:
    """A whole log: the address summaries, then the heap tables, each under its label."""
    parts: list[str] = []
    for summary in log.addresses:
        style: Literal["old", "new"] = "new" if summary.counts else "old"
        parts.append(_title(summary.label) + "0:000> !address -summary\n")
        parts.append(format_address_summary(summary, style))
    for table in log.heaps:
        parts.append(_title(table.label) + "0:000> !heap -s\n")
        parts.append(format_heap_summary(table.rows, table.lfh_key))
    return "\n".join(parts)


def _title(label: str) -> str:
    return f"{label}:\n" if label else ""


def _old(summary: AddressSummary) -> Iterator[str]:
    total, busy = summary.total, summary.busy
    # As wide as the debugger's on 32 bits; wider only where the numbers are.
    wide, deep = max(11, len(f"{total:x}") + 3), max(8, len(str(total // 1024)))
    size_head, kib_head = "TotSize".rjust(wide), "KB".rjust(deep)
    yield "-------------------- Usage SUMMARY --------------------------"
    yield f"{size_head} ({kib_head})   Pct(Tots) Pct(Busy)   Usage"
    for name, size in summary.usage.items():
        of_busy = percent(0 if name == FREE_USAGE else size, busy)
        yield (
            f"{size:{wide}x} ({size // 1024:{deep}d}) : {percent(size, total)}%    {of_busy}%"
            f"    : RegionUsage{name}"
        )
    yield f"       Tot: {total:08x} ({total // 1024} KB) Busy: {busy:08x} ({busy // 1024} KB)"
    for title, table in (("Type", summary.type), ("State", summary.state)):
        yield ""
        yield f"-------------------- {title} SUMMARY --------------------------"
        yield f"{size_head} ({kib_head})   Pct(Tots)  Usage"
        for name, size in table.items():
            yield f"{size:{wide}x} ({size // 1024:{deep}d}) : {percent(size, total)}%   : {name}"
    if FREE_USAGE in summary.largest:
        base, size = summary.largest[FREE_USAGE]
        yield ""
        yield f"Largest free region: Base {base:08x} - Size {size:08x} ({size // 1024} KB)"


def _ticked(number: int) -> str:
    return f"{number >> 32:x}`{number & 0xFFFFFFFF:08x}"


def _human(size: int) -> str:
    scale, unit = next((pair for pair in _UNITS if size >= pair[0]), (1, " B"))
    thousandths = (2000 * size + scale) // (2 * scale)
    return f"({thousandths // 1000:4d}.{thousandths % 1000:03d} {unit})"


def _short(part: int, whole: int) -> str:
    """The newer format pads percentages with spaces, not with zeros."""
    text = percent(part, whole)
    return (text[1:] if text[0] == "0" else text) + "%"


def _new(summary: AddressSummary) -> Iterator[str]:
    tables: tuple[tuple[str, str, Mapping[str, int]], ...] = (
        ("usage", "Usage Summary", summary.usage),
        ("type", "Type Summary (for busy)", summary.type),
        ("state", "State Summary", summary.state),
        ("protect", "Protect Summary (for commit)", summary.protect),
    )
    for key, title, table in tables:
        if not table and key == "protect":
            continue
        yield ""
        yield (
            f"--- {title} ".ljust(34, "-")
            + " RgnCount ----------- Total Size -------- %ofBusy %ofTotal"
        )
        counts = summary.counts.get(key, {})
        for name, size in table.items():
            if name == FREE_TYPE and key == "type":
                continue
            free = name in (FREE_USAGE, FREE_STATE) and key in ("usage", "state")
            of_busy = "" if free else _short(size, summary.busy)
            of_total = _short(size, summary.total)
            yield (
                f"{name:<34}{counts.get(name, 0):9d} {_ticked(size):>17} {_human(size)}"
                f"{of_busy:>8}{of_total:>9}"
            )
    if summary.largest:
        yield ""
        yield "--- Largest Region by Usage ----------- Base Address -------- Region Size ----------"
        for name, (base, size) in summary.largest.items():
            yield f"{name:<34}{_ticked(base):>18} {_ticked(size):>17} {_human(size)}"
