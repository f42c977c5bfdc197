"""What a single moment shows. Nothing can be said to have grown; what is large, what is kept free
and what is wrong can."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dmi.windbg import SMALLEST_VIRTUAL_BLOCK

from . import _process, _told
from ._arenas import with_arenas_joined
from ._causes import ADVICE, Cause, Cure, causes, kib
from ._cures import cures
from ._verdict import Verdict, columns, kib_or_dash, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dmi.windbg import BlockList, Notice

    from ._observe import Observation, State

__all__ = ["one_moment"]

_KEPT_BYTES: Final = 4 << 20
_KEPT_SHARE: Final = 0.25
"""Free bytes that are worth a finding: more than these, and than this share of commit."""
_MOST_ROWS: Final = 5
_IN_FLIGHT: Final = 256 << 10
_ONE_REPORT: Final = 12
"""Lines of one report of damage lie as near as that."""
_DOMINATING_PERCENT: Final = 50
_TIGHT: Final = 1 << 20
"""A largest free range below this, in a small address space, fails the next large allocation."""


def one_moment(state: State, page_size: int = 4096) -> Verdict:
    """The report on one moment. Its ``bytes`` are those of the finding, None when there is none."""
    (state,) = with_arenas_joined([state])
    compared = _process.traces_of(state)
    if compared and not state.heaps:
        return compared[0]
    heaps = sorted(state.heaps.values(), key=_weight, reverse=True)
    kept = [heap for heap in heaps if _keeps(heap)]
    kept.sort(key=lambda heap: -(heap.free or heap.retained or 0))
    found = _wrong(state) + [_kept(heap, heaps, page_size) for heap in kept] + compared
    others = tuple(found[1:5])
    notes = list(_notes(state))
    lines = [*_heap_table(heaps), *_usage_table(state)]
    subject = heaps[0].name if heaps else "the process" if state.usage else "the text"
    missing = tuple(f"not read: {line}" for line in state.unread)
    evidence = (*_evidence(state, heaps), *_process.evidence((state,), _nothing(subject, state)))
    if found:
        first = found[0]
        return Verdict(
            "one moment", first.subject, first.bytes, None, None, None, (state.label or "now",),
            first.busy, first.committed, first.free, first.free_blocks, first.mean_free_block,
            first.causes, (*first.cures, _next(state)), evidence, first.handle, others, first.how,
            missing, tuple(notes), f"One moment: {_lead(state, first)}{first.headline}",
            tuple(lines),
        )  # fmt: skip
    bare = _nothing(subject, state)
    if state.unread and not _has_figures(state):
        headline = "Not known: the lines that look like figures could not be read."
        return replace(bare, kind="unknown", missing=missing, headline=headline, how="unknown",
                       moments=(state.label or "now",), cures=(_next(state),))  # fmt: skip
    return Verdict(
        "one moment", subject, None, None, None, None, (state.label or "now",), bare.busy,
        bare.committed, bare.free, bare.free_blocks, bare.mean_free_block, (), (_next(state),),
        evidence, bare.handle, (), "unknown", missing, tuple(notes),
        f"One moment: {_headline(state, heaps)}", tuple(lines),
    )  # fmt: skip


def _lead(state: State, first: Verdict) -> str:
    """Blocks of one size that hold most of what is busy, where that is more than the finding."""
    best = None
    for table in state.sizes:
        for row in table.rows:
            held = row.total if row.percent and float(row.percent) >= _DOMINATING_PERCENT else 0
            if held > (first.bytes or held) and (best is None or held > best[1].total):
                best = table, row
    if best is None:
        return ""
    table, row = best
    return (
        f"{row.count:,} blocks of {row.size:,} bytes hold {kib(row.total)}, {row.percent} % of "
        f"what is busy in heap {table.handle:08x}; "
    )


def _has_figures(state: State) -> bool:
    return bool(
        any(heap.committed is not None for heap in state.heaps.values())
        or state.usage
        or state.process_committed is not None
        or state.sizes
        or state.blocks
        or state.traces
        or state.told
        or state.asked
    )


def _weight(heap: Observation) -> int:
    return heap.committed + (heap.virtual_bytes or 0) if heap.committed is not None else -1


def _nothing(subject: str, state: State) -> Verdict:
    heap = max(state.heaps.values(), key=_weight, default=None)
    return _verdict(subject, heap, None, (), (), "")


def _verdict(
    subject: str,
    heap: Observation | None,
    size: int | None,
    found: tuple[Cause, ...],
    advice: tuple[Cure, ...],
    headline: str,
    how: str = "measured",
) -> Verdict:
    return Verdict(
        "one moment", subject, size, None, None, None, ("now",),
        (None if heap is None else heap.busy,), (None if heap is None else heap.committed,),
        (None if heap is None else heap.free,), (None if heap is None else heap.list_length,),
        (None if heap is None else heap.mean_free_block,), found, advice,
        handle=None if heap is None else heap.handle, headline=headline,
        how=how,  # type: ignore[arg-type]
    )  # fmt: skip


def _headline(state: State, heaps: Sequence[Observation]) -> str:
    held = heaps[0].committed if heaps else None
    if _told.most(state) > (held or 0):
        return _told.lines_of(state)[0]
    if held is not None:
        top = heaps[0]
        busy = "busy not known" if top.busy is None else f"{kib(top.busy)} of it busy"
        beside = ""
        if heap_bytes := top.virtual_bytes:
            beside = f" Beside it {kib(heap_bytes)} lie in {top.virtual_blocks} virtual blocks."
        said = f"the largest heap is {top.name}, {kib(held)} of commit, {busy}.{beside}"
        elsewhere = _process.largest_elsewhere(state)
        if elsewhere is not None and elsewhere[1] > held:
            return f"most of its memory is {elsewhere[0]}, {kib(elsewhere[1])}; {said}"
        return said
    if state.process_committed is not None:
        return f"{kib(state.process_committed)} of the process are committed."
    used = {name: size for name, size in state.usage.items() if name != "Free"}
    if used:
        name = max(used, key=lambda key: used[key])
        return (
            f"by address space {name or '<unknown>'} is the largest usage, {kib(used[name])}; "
            "what is committed of it is not told."
        )
    if state.sizes and state.sizes[0].rows:
        top_size = max(state.sizes[0].rows, key=lambda row: row.total)
        return (
            f"blocks of {top_size.size:,} bytes hold most of heap {state.sizes[0].handle:08x}, "
            f"{kib(top_size.total)}."
        )
    if told := _told.lines_of(state):
        return told[0]
    if state.traces:
        return _process.no_growth_in_traces(state)
    if asked := _told.asked_lines(state.asked):
        return asked[0]
    if any(listed.blocks for listed in state.blocks):
        return f"{_listed(max(state.blocks, key=lambda each: each.blocks))}."
    if heaps:
        return f"{len(heaps)} heaps are named, without figures."
    if "heaps" in state.kinds:
        return "no heaps are shown."
    if state.largest_free is not None:
        return f"the largest free range of the address space has {kib(state.largest_free)}."
    if aside := [n.text for n in state.notices if n.kind == "note"]:
        return f"no figures of heaps or of the address space; {aside[0]}."
    return "no figures of heaps or of the address space."


# ---- what is wrong -------------------------------------------------------------------------------


def _keeps(heap: Observation) -> bool:
    free = heap.free if heap.free is not None else heap.retained
    if free is None or heap.committed is None:
        return False
    return free > max(_KEPT_BYTES, int(_KEPT_SHARE * heap.committed))


def _kept(heap: Observation, beside: Sequence[Observation], page_size: int) -> Verdict:
    free = heap.free if heap.free is not None else heap.retained
    assert free is not None
    assert heap.committed is not None
    nobody = type(heap)(heap.key, heap.name, 0, 0)
    why = causes("second-order leak", nobody, None, heap, free, page_size)
    share = 100 * free // heap.committed if heap.committed else 0
    headline = (
        f"{heap.name} keeps {kib(free)} free, {share} % of the {kib(heap.committed)} that it has "
        "committed. Whether that is left from a peak or about to be used again, one moment does "
        "not tell."
    )
    advice = cures("second-order leak", why, heap, beside=beside)
    return _verdict(heap.name, heap, free, why, advice, headline)


def _damages(state: State) -> list[Verdict]:
    """What is said to be damaged, each once: a report of it has several lines."""
    groups: list[list[Notice]] = []
    for notice in state.notices:
        if notice.kind != "corruption":
            continue
        if groups and 0 <= notice.line - groups[-1][-1].line <= _ONE_REPORT:
            groups[-1].append(notice)
        else:
            groups.append([notice])
    out = []
    for group in groups:
        parts = dict.fromkeys(" ".join(notice.text.split()) for notice in group)
        text = f"line {group[0].line}: {'; '.join(parts)}"
        advice = Cure("Run with page heap (`gflags /p /enable PROGRAM /full`), which stops at "
                      "the write that damages a heap.")  # fmt: skip
        # A block that is mapped on its own keeps its size elsewhere: the debugger only guesses.
        sure = any("possible" not in part for part in parts)
        said = f"a heap {'is' if sure else 'may be'} damaged ({text})."
        out.append(_verdict("a heap", None, 0, (Cause("corruption", text),), (advice,), said))
    return out


def _alarms(state: State) -> list[Verdict]:
    """What the kernel says that it ran short of."""
    alarms = dict.fromkeys(n.text for n in state.notices if n.kind == "alarm")
    if not alarms:
        return []
    line = next(n.line for n in state.notices if n.kind == "alarm")
    text = f"line {line}: {'; '.join(alarms)}"
    advice = Cure("Find what holds it: `!poolused 2` and `!poolused 4` tell of the pools, "
                  "`!process 0 0` of the processes.")  # fmt: skip
    said = f"the kernel ran short ({text})."
    return [_verdict("the machine", None, 0, (Cause("alarm", text),), (advice,), said)]


def _wrong(state: State) -> list[Verdict]:
    out = _damages(state) + _alarms(state)
    for notice in state.notices:
        if notice.kind == "leaks":
            cause = Cause("not freed", notice.text)
            advice = Cure("Each block that is listed was allocated and not freed when the program "
                          "ended; break at the number in braces (_crtBreakAlloc).")  # fmt: skip
            out.append(_verdict("the C runtime", None, 0, (cause,), (advice,),
                                f"{notice.text}."))  # fmt: skip
    for listed in state.blocks:
        if listed.command != "leaked":
            continue
        count = listed.stated if listed.stated is not None else listed.blocks
        where = "" if listed.handle is None else f" of heap {listed.handle:08x}"
        text = (
            f"the debugger finds no pointer to {count:,} busy blocks{where}; {listed.blocks:,} of "
            "them are listed in the text"
        )
        cause = Cause("not freed", text, listed.bytes)
        advice = Cure("Look at some with `!heap -p -a ADDRESS`: with stack traces on (gflags +ust) "
                      "it prints who allocated them.")  # fmt: skip
        out.append(
            _verdict(f"blocks{where}", None, listed.bytes or 0, (cause,), (advice,), f"{text}.",
                     "at least")
        )  # fmt: skip
    space = state.scope.address_space
    if (
        space is not None
        and space <= 4 << 30
        and state.largest_free is not None
        and state.largest_free < _TIGHT
    ):
        free = state.usage.get("Free")
        text = (
            f"the largest free range of the address space has {kib(state.largest_free)}"
            + ("" if free is None else f" of {kib(free)} that are free")
            + ": a larger allocation fails whatever memory the machine has"
        )
        cause = Cause("address space", text, free)
        advice = Cure("Find what holds the address space (the usages below), reserve less, or "
                      "build the program for 64 bits.")  # fmt: skip
        out.append(_verdict("the address space", None, 0, (cause,), (advice,), f"{text}."))
    return out


# ---- what there is -------------------------------------------------------------------------------


def _heap_table(heaps: Sequence[Observation]) -> list[str]:
    if not heaps:
        return []
    rows = [("", "busy KB", "commit KB", "free KB", "free blocks", "mean free block", "virtual")]
    rows += [
        (
            heap.name, kib_or_dash(heap.busy), kib_or_dash(heap.committed), kib_or_dash(heap.free),
            number(heap.list_length), number(heap.mean_free_block), number(heap.virtual_blocks),
        )
        for heap in heaps[:_MOST_ROWS]
    ]  # fmt: skip
    lines = columns(rows)
    if len(heaps) > _MOST_ROWS:
        lines.append(f"  and {len(heaps) - _MOST_ROWS} smaller heaps")
    return lines


def _usage_table(state: State) -> list[str]:
    sizes = state.memory or state.usage
    used = {name: size for name, size in sizes.items() if name != "Free" and size}
    if not used:
        return []
    what = "memory KB" if state.memory else "address space KB"
    top = sorted(used.items(), key=lambda item: -item[1])[:_MOST_ROWS]
    return columns([("usage", what), *((name or "<unknown>", kib_or_dash(s)) for name, s in top)])


def _evidence(state: State, heaps: Sequence[Observation]) -> list[str]:
    lines = []
    if state.process_committed is not None:
        lines.append(f"Commit of the process: {kib(state.process_committed)}.")
    lines += [
        f"{heap.name} has {heap.virtual_blocks} virtual blocks, which lie outside its Commit; "
        + (
            f"their sizes are not in the table.{_large(state, heap)}"
            if heap.virtual_bytes is None
            else f"they hold {kib(heap.virtual_bytes)}."
        )
        for heap in heaps[:_MOST_ROWS]
        if heap.virtual_blocks and heap.kind == "nt"
    ]
    for heap in heaps[:_MOST_ROWS]:
        total = sum(heap.threads.values())
        if total > _IN_FLIGHT:
            top = sorted(heap.threads.items(), key=lambda item: -item[1])[:5]
            named = ", ".join(f"{name} {kib(size)}" for name, size in top)
            lines.append(
                f"{kib(total)} of {heap.name} are in flight in {len(heap.threads)} threads, on "
                f"pages that stay until each goes on or ends: {named}. {ADVICE['thread caches']}"
            )
    for table in state.sizes:
        for row in sorted(table.rows, key=lambda row: -row.total)[:1]:
            share = f", {row.percent} % of all that is busy" if row.percent else ""
            lines.append(
                f"In heap {table.handle:08x} blocks of {row.size:,} bytes (0x{row.size:x}) hold "
                f"most: {row.count:,} of them, {kib(row.total)}{share}."
            )
    for listed in state.blocks:
        if listed.command != "leaked":
            lines.append(f"{_listed(listed)}.")
    return lines + _told.lines_of(state) + _told.asked_lines(state.asked)


def _listed(listed: BlockList) -> str:
    """Single blocks that a debugger lists, and what it recognises in them."""
    one = listed.blocks == 1
    found = listed.command == "found"
    where = "" if listed.handle is None else f" of heap {listed.handle:08x}"
    does = ("holds" if one else "hold") if found else ("is" if one else "are")
    text = f"{listed.blocks:,} {'' if found else 'single '}busy block{'' if one else 's'}{where} "
    text += f"{does} {'what was searched for' if found else 'listed'}"
    text += "" if listed.bytes is None else f", {listed.bytes:,} bytes"
    known = ", ".join(f"{name} ({count:,})" for name, count in listed.holds[:_MOST_ROWS])
    return f"{text}; recognised in them: {known}" if known else text


def _large(state: State, heap: Observation) -> str:
    """What -stat counts of blocks so large that they are mapped on their own."""
    least = SMALLEST_VIRTUAL_BLOCK[heap.bits or 32]
    rows = [
        row for t in state.sizes if t.handle == heap.handle for row in t.rows if row.size >= least
    ]
    if not rows:
        return ""
    count, total = sum(row.count for row in rows), sum(row.total for row in rows)
    return f" -stat counts {count:,} blocks that large, {kib(total)} together."


def _notes(state: State) -> list[str]:
    lines = []
    settings = [n.text for n in state.notices if n.kind == "setting"]
    if settings:
        lines.append(
            f"NtGlobalFlag: {', '.join(dict.fromkeys(settings))}. Each adds bytes to every block."
        )
    lines += [n.text for n in state.notices if n.kind == "note"]
    return lines


def _next(state: State) -> Cure:
    """What to capture so that growth can be told."""
    if "snapshot" in state.kinds:
        return Cure(
            "One moment cannot tell what grew. Take two more, at the peak and after it, and give "
            "all three to the doctor."
        )
    if (
        state.told
        and not state.heaps
        and all(told.source in _told.OF_KERNELS for told in state.told)
    ):
        return Cure(
            "One moment cannot tell what grew: capture the same again later, `!vm`, `!poolused 2` "
            "and `!poolused 4`."
        )
    wanted = []
    if not state.kinds & {"heaps", "segments"}:
        wanted.append("`!heap -s`")
    if not state.usage or state.process_committed is None:
        wanted.append("`!address -summary` with all its tables")
    if not state.sizes and state.heaps:
        top = max(state.heaps.values(), key=_weight)
        if top.handle is not None:
            wanted.append(f"`!heap -stat -h {top.handle:x}`")
    also = f" Capture {', '.join(wanted)} as well." if wanted else ""
    return Cure(
        "One moment cannot tell what grew: capture the same again at the peak and after it, from "
        f"the same process.{also}"
    )
