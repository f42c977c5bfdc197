"""What `!heap -stat` of two moments says: which sizes of a heap grew, and what all its blocks come
to where no table of heaps tells it. Each table has the sizes that hold most and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ._causes import Cause, Cure, kib
from ._verdict import Verdict, columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dmi.windbg import SizeTable

    from ._judge import Thresholds
    from ._observe import Observation, State

__all__ = ["comparable", "ends", "findings", "grown_sizes", "not_compared", "stat_cause"]

_MOST: Final = 5


class _Grown(NamedTuple):
    gain: int
    """Bytes; the least that it can be where one of the tables does not have the size."""
    size: int
    before: int | None
    after: int


def _tables(state: State) -> dict[int, SizeTable]:
    """By heap the last that was asked for."""
    return {table.handle: table for table in state.sizes}


def grown_sizes(before: SizeTable, after: SizeTable) -> list[_Grown]:
    """Sizes that hold more at the end, the largest gain first. What the first table does not have
    held no more than its smallest row, or it would be there."""
    known = {row.size: row for row in before.rows}
    most = min((row.total for row in before.rows), default=0)
    found = []
    for row in after.rows:
        old = known.get(row.size)
        gain = row.total - (most if old is None else old.total)
        if gain > 0:
            found.append(_Grown(gain, row.size, None if old is None else old.count, row.count))
    return sorted(found, reverse=True)


def comparable(states: Sequence[State]) -> bool:
    """Some heap was asked for its sizes at both ends, and what its blocks come to can be told."""
    return bool(_levels(states))


def ends(states: Sequence[State]) -> tuple[str, tuple[int, int]] | None:
    """Of the heap that holds most at the end: whose figures they are, and those of both ends."""
    found = _levels(states)
    if not found:
        return None
    handle = max(found, key=lambda each: found[each][1])
    return f"heap {handle:08x}", found[handle]


def not_compared(states: Sequence[State], names: Sequence[str]) -> list[str]:
    """Heaps that were asked for their sizes at one end only, where no table of heaps tells of them;
    and those of which a table does not tell what all blocks come to."""
    if any(states[n].kinds & {"heaps", "segments"} for n in (0, -1)):
        return []
    first, last = _tables(states[0]), _tables(states[-1])
    if not first or not last:
        return []
    known = _levels(states)
    lines = []
    for handle in sorted(first.keys() | last.keys()):
        if handle in known:
            continue
        if handle in first and handle in last:
            why = "its shares do not tell what all blocks come to"
        else:
            why = f"no `!heap -stat` of it in {names[0 if handle not in first else -1]}"
        lines.append(f"heap {handle:08x}: {why}, so it was not compared")
    return lines


def _levels(states: Sequence[State]) -> dict[int, tuple[int, int]]:
    """By heap all busy bytes at both ends, from the shares that the tables print."""
    first, last = _tables(states[0]), _tables(states[-1])
    found = {}
    for handle in first.keys() & last.keys():
        before, after = first[handle].busy, last[handle].busy
        if before is not None and after is not None:
            found[handle] = before, after
    return found


def findings(states: Sequence[State], thresholds: Thresholds) -> list[Verdict]:
    """Heaps whose blocks grew, of which no table of heaps tells at both ends."""
    shown = [
        {heap.handle for heap in states[n].heaps.values() if heap.committed is not None}
        for n in (0, -1)
    ]
    first, last = _tables(states[0]), _tables(states[-1])
    out = []
    for handle, (before, after) in sorted(_levels(states).items()):
        gain = after - before
        if gain <= thresholds.tolerance(before, None) or all(handle in each for each in shown):
            continue
        sizes = grown_sizes(first[handle], last[handle])[:_MOST]
        text = (
            f"`!heap -stat` comes to {kib(gain)} more busy bytes, worked out from the shares that "
            "it prints; no table of heaps tells of this heap at both ends"
        )
        found = [Cause("not freed", text, gain)]
        if sizes:
            top = sizes[0]
            was = "not among the largest" if top.before is None else f"{top.before:,}"
            said = (
                f"blocks of {top.size:,} bytes (0x{top.size:x}) grew most: {was} -> {top.after:,}"
            )
            found.append(Cause("sizes", f"{said}, {kib(top.gain)} more", top.gain))
        rows = [("block size", "before", "after", "more KB")]
        rows += [
            (f"{each.size:,}", "-" if each.before is None else f"{each.before:,}",
             f"{each.after:,}", f"{each.gain >> 10:,}")
            for each in sizes
        ]  # fmt: skip
        nothing = (None, None)
        out.append(
            Verdict(
                "growth", f"heap {handle:08x}", gain, 100 * gain / before if before else None, gain,
                None, (states[0].label or "before", states[-1].label or "after"), (before, after),
                nothing, nothing, nothing, nothing, tuple(found),
                (Cure("Find who allocates blocks of the size that grew: `!heap -flt s SIZE`, then "
                      "`!heap -p -a ADDRESS` with stack traces on (gflags +ust)"),
                 Cure("Free them", gain, most=True)),
                handle=handle, how="derived", lines=tuple(columns(rows)),
            )
        )  # fmt: skip
    return out


def stat_cause(states: Sequence[State], heap: Observation) -> tuple[Cause, ...]:
    """Which size grew most where the debugger was asked at both ends; else which holds most of what
    is busy, where it was asked at the end."""
    asked = [next((t for t in states[n].sizes if t.handle == heap.handle), None) for n in (0, -1)]
    if asked[0] is not None and asked[1] is not None:
        for grew in grown_sizes(asked[0], asked[1])[:1]:
            was = (
                "not among the largest before" if grew.before is None else f"{grew.before:,} before"
            )
            text = (
                f"blocks of {grew.size:,} bytes (0x{grew.size:x}) grew most: {was}, "
                f"{grew.after:,} at the end, {kib(grew.gain)} more"
            )
            return (Cause("sizes", text, grew.gain),)
    for table in states[-1].sizes:
        if table.handle == heap.handle and table.rows:
            top = max(table.rows, key=lambda row: row.total)
            share = f", {top.percent} % of all busy bytes" if top.percent else ""
            text = (
                f"blocks of {top.size:,} bytes (0x{top.size:x}) hold most at the end: "
                f"{top.count:,} of them, {kib(top.total)}{share}"
            )
            return (Cause("sizes", text, top.total),)
    return ()
