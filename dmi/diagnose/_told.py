"""What other tools tell of memory by name, and single blocks that a debugger was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from dmi.windbg._frames import of_allocator, without_offset
from dmi.windbg._told_text import PART_OF_DUMPHEAP

from ._causes import Cause, Cure, kib
from ._verdict import Verdict, columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dmi.windbg import AskedBlock, Told

    from ._judge import Thresholds
    from ._observe import State

__all__ = [
    "OF_KERNELS",
    "asked_lines",
    "comparable",
    "ends",
    "findings",
    "lines_of",
    "most",
    "not_compared",
]

_MOST: Final = 5
_NOTEWORTHY: Final = 0.05


class _Tool(NamedTuple):
    """What a tool's figures are of, what to do when they grow, and what gives that back: empty
    where it cannot be told what anything would give."""

    subject: str
    total: str
    next_step: str
    gives_back: str = ""
    collected: bool = False


_TOOLS: Final[Mapping[str, _Tool]] = {
    "!eeheap": _Tool(
        "the heap of .NET (`!eeheap`)", "committed",
        "Name the types with `!dumpheap -stat` at both moments, then `!gcroot` on an object of the "
        "one that grew",
        "Let go of the objects that grew, or give what holds them a limit",
        collected=True,
    ),
    "!dumpheap": _Tool(
        "the objects of .NET (`!dumpheap -stat`)", "in objects",
        "Ask `!gcroot` for an object of the type that grew: it names what holds it",
        "Let go of the objects that grew, or give what holds them a limit",
        collected=True,
    ),
    PART_OF_DUMPHEAP: _Tool(
        "some objects of .NET (`!dumpheap -stat` of a part)", "in objects", "", collected=True
    ),
    "!heapstat": _Tool(
        "the generations of .NET (`!heapstat`)", "in the generations",
        "Name the types with `!dumpheap -stat` at both moments, then `!gcroot` on an object of the "
        "one that grew",
        "Let go of the objects that grew, or give what holds them a limit",
        collected=True,
    ),
    "!maddress": _Tool(
        "the process (`!maddress`)", "of address space",
        "Look into what grew: of GCHeap `!eeheap -gc` and `!dumpheap -stat`, of Heap `!heap -s`",
    ),
    "VMMap": _Tool(
        "the process (VMMap)", "committed",
        "Look into what grew: of Heap `!heap -s` and UMDH, of Managed Heap `!dumpheap -stat`, of "
        "Private Data who calls VirtualAlloc",
        "Let go of what grew there",
    ),
    "!poolused": _Tool(
        "the kernel's pools (`!poolused`)", "in pools",
        "Find the driver that owns the tag that grew: `findstr /m /l TAG *.sys`, or pooltag.txt",
        "Update that driver, or stop what makes it allocate",
    ),
    "poolmon": _Tool(
        "the kernel's pools (poolmon)", "in the tags shown",
        "Find the driver that owns the tag that grew: `findstr /m /l TAG *.sys`, or pooltag.txt",
        "Update that driver, or stop what makes it allocate",
    ),
    "!vm": _Tool(
        "the machine (`!vm`)", "committed", "Find the process with `!process 0 0` and VMMap",
    ),
    "UMDH": _Tool(
        "the allocations that UMDH lists", "in blocks",
        "Compare both logs with `umdh before.log after.log`: it names the stacks that grew",
        "Free what these stacks allocate",
    ),
}  # fmt: skip


def _last(state: State) -> dict[str, Told]:
    """Of a moment that asked twice the later answer counts."""
    return {told.source: told for told in state.told}


_SCREENS: Final = frozenset({"poolmon"})
"""Tools that show as much as the screen has room for."""


def _of(source: str, figure: str) -> str:
    """What a figure of a tool counts."""
    return _TOOLS[source].total if figure == "total" else figure


class _Levels(NamedTuple):
    """One figure of a tool, at the moments that have it."""

    of: str
    bytes: list[int]


def _in_both(states: Sequence[State]) -> dict[str, _Levels]:
    """By tool the best figure that both ends have."""
    first, last = _last(states[0]), _last(states[-1])
    found = {}
    for source in first:
        if source not in last:
            continue
        figure = next((each for each in last[source].totals if each in first[source].totals), None)
        if figure is None:
            continue
        told = [one for state in states if (one := _last(state).get(source)) is not None]
        levels = [one.totals[figure] for one in told if figure in one.totals]
        if source in _SCREENS:
            # What one screen shows and another does not is not known there.
            both = set.intersection(*(set(one.rows) for one in told))
            if not both:
                continue
            levels = [sum(one.rows[name] for name in both) for one in told]
        found[source] = _Levels(_of(source, figure), levels)
    return found


def comparable(states: Sequence[State]) -> bool:
    """Both ends were told of by one tool."""
    return bool(_in_both(states))


def ends(states: Sequence[State]) -> tuple[str, list[int | None]]:
    """Whose figures they are, and those of both ends, of the tool that tells of most."""
    found = _in_both(states)
    source = max(found, key=lambda name: found[name].bytes[-1])
    return _TOOLS[source].subject, [found[source].bytes[0], found[source].bytes[-1]]


def not_compared(states: Sequence[State], names: Sequence[str]) -> list[str]:
    """What a tool told of at one end only, or as another figure at the other."""
    ends = (_last(states[0]), _last(states[-1]))
    known = _in_both(states)
    lines = []
    for source in dict.fromkeys((*ends[0], *ends[1])):
        if source in _SCREENS and source in ends[0] and source in ends[1]:
            apart = ends[0][source].rows.keys() ^ ends[1][source].rows.keys()
            if apart:
                lines.append(
                    f"{_TOOLS[source].subject}: {len(apart)} tags are shown in one of {names[0]} "
                    f"and {names[-1]} only, so they were not compared"
                )
            continue
        if source in known or source == PART_OF_DUMPHEAP:
            continue
        said = []
        for end, name in zip(ends, (names[0], names[-1]), strict=True):
            figures = [_of(source, each) for each in end[source].totals] if source in end else []
            of = f"what is {' or '.join(figures)}" if figures else "no total"
            said.append(f"{of if source in end else 'nothing'} in {name}")
        lines.append(f"{_TOOLS[source].subject}: {', '.join(said)}, so it was not compared")
    return lines


def findings(states: Sequence[State], thresholds: Thresholds) -> list[Verdict]:
    """What grew by such figures between the ends."""
    first, last = _last(states[0]), _last(states[-1])
    out = []
    for source, (of, levels) in _in_both(states).items():
        tool = _TOOLS[source]
        before, after = levels[0], levels[-1]
        peak = max(levels[1:-1], default=None)
        slack = thresholds.tolerance_of_memory(before, peak, collected=tool.collected)
        if after - before <= slack:
            continue
        rows = [first[source].rows, last[source].rows]
        grown = {name: size - rows[0].get(name, 0) for name, size in rows[1].items()}
        top = sorted(((g, n) for n, g in grown.items() if g > 0), reverse=True)[:_MOST]
        text = f"{kib(after - before)} more {of}"
        if top:
            text += f"; {top[0][1]} grew most, by {kib(top[0][0])}"
        table = [("name", "before KB", "after KB", "more KB")]
        table += [
            (name[:70], f"{rows[0].get(name, 0) >> 10:,}", f"{rows[1][name] >> 10:,}",
             f"{gain >> 10:,}")
            for gain, name in top
        ]  # fmt: skip
        moments = (states[0].label or "before", states[-1].label or "after")
        nothing = (None, None)
        out.append(
            Verdict(
                "growth", tool.subject, after - before,
                100 * (after - before) / before if before else None, None, None, moments,
                nothing,
                (before, after), nothing, nothing, nothing,
                (Cause("outside", text, after - before),),
                _cures(source, after - before, last[source]), how="measured",
                lines=tuple(columns(table)),
                headline=f"Growth in {tool.subject}: {kib(after - before)} more {of} "
                f"({before >> 10:,} -> {after >> 10:,} KB).",
            )
        )  # fmt: skip
    return out


def _cures(source: str, gained: int, told: Told) -> tuple[Cure, ...]:
    """What to do about growth by a tool's figures, and what it would give."""
    tool = _TOOLS[source]
    if not tool.gives_back:
        return (Cure(f"{tool.next_step}. What that would give cannot be told from here"),)
    lines = [Cure(tool.next_step), Cure(tool.gives_back, gained, most=True)]
    if source == "!eeheap":
        text = (
            "DOTNET_GCConserveMemory=5, or a limit (DOTNET_GCHeapHardLimit), makes the collector "
            "keep less free"
        )
        committed, allocated = told.totals.get("committed"), told.totals.get("allocated")
        if committed is None or allocated is None or committed < allocated:
            lines.append(Cure(f"{text}. What it would give cannot be told from this text"))
        else:
            lines.append(Cure(text, committed - allocated, most=True))
    free = told.rows.get("Free", 0)
    if source == "!dumpheap" and free > _NOTEWORTHY * sum(told.rows.values()):
        text = (
            "GCSettings.LargeObjectHeapCompactionMode = CompactOnce before a GC.Collect() closes "
            "the gaps that stand as Free"
        )
        lines.append(Cure(text, free, most=True))
    return tuple(lines)


OF_KERNELS: Final = frozenset({"!vm", "!poolused", "poolmon"})
"""Tools of a kernel debugger, where the heaps of a process are not at hand."""


def most(state: State) -> int:
    """The largest total of memory that a tool tells."""
    return max(map(_weight, state.told), default=0)


def _weight(told: Told) -> int:
    """Address space is no memory."""
    return 0 if told.source == "!maddress" else max(told.totals.values(), default=0)


def lines_of(state: State) -> list[str]:
    """What one moment was told, the largest total and the largest names first."""
    lines = []
    for told in sorted(state.told, key=_weight, reverse=True):
        tool = _TOOLS[told.source]
        top = sorted(told.rows.items(), key=lambda item: -item[1])[:_MOST]
        named = ", ".join(f"{name} {_amount(size)}" for name, size in top)
        best = next(iter(told.totals), None)
        total = "" if best is None else f"{kib(told.totals[best])} {_of(told.source, best)}; "
        lines.append(f"{tool.subject}: {total}{named}.")
    return [line[:1].upper() + line[1:] for line in lines]


def _amount(size: int) -> str:
    return kib(size) if size >= 1 << 10 or not size else f"{size:,} bytes"


def asked_lines(asked: Sequence[AskedBlock]) -> list[str]:
    """Single blocks and who allocated them."""
    lines = []
    for block in asked[:_MOST]:
        heap = "" if block.handle is None else f" of heap {block.handle:08x}"
        size = "its size is not in the text" if block.size is None else f"{block.size:,} bytes"
        text = f"Block {block.address:08x}{heap}: {size}"
        if block.state:
            text += f", {block.state}"
        own = [frame for frame in block.stack if not of_allocator(frame)]
        if block.stack:
            who = "freed" if block.state == "free" else "allocated"
            text += f"; {who} by {' < '.join(map(without_offset, own[:4] or block.stack[-2:]))}"
        else:
            text += "; its stack is not in the text (gflags +ust keeps them)"
        lines.append(f"{text}.")
    if len(asked) > _MOST:
        lines.append(f"{len(asked) - _MOST} more blocks were asked for.")
    return lines
