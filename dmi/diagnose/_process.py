"""What the process says beside its heaps: memory that no heap accounts for, and comparisons that
were made elsewhere. Memory is what is resident and swapped, without what was freed lazily and
without clean pages of files; commit where that is not known; address space never."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dmi.windbg._frames import of_allocator, without_offset

from . import _by_size, _told
from ._allocators import pools
from ._causes import ADVICE, Cause, Cure, kib
from ._cures import cures
from ._observe import Observation, known_sum
from ._verdict import Verdict, columns, steps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._judge import Thresholds
    from ._observe import State

__all__ = [
    "commit_did_not_grow", "comparable", "evidence", "findings", "largest_elsewhere",
    "no_growth_in_traces", "quiet",
    "traces",
]  # fmt: skip

_NOTEWORTHY_HUGE: Final = 4 << 20
_UNTOUCHED_BYTES: Final = 16 << 20
_NOTEWORTHY_STACKS: Final = 8 << 20
_SMALL_SPACE: Final = 4 << 30
"""Up to this address space, its use is a measure of its own: it runs out."""
_FREE: Final = frozenset({"Free"})
_OF_HEAPS: Final[Mapping[str, frozenset[str]]] = {
    "dmi": frozenset({"HeapDmi"}),
    "pymalloc": frozenset({"HeapPymalloc"}),
    "glibc": frozenset({"HeapBrk", "HeapGlibcArena"}),
}
"""Usages that are accounted for where a heap of this kind is seen at every moment."""
_PLAIN: Final[Mapping[str, str]] = {
    "HeapPymalloc": "Python objects (pymalloc)",
    "HeapGlibcArena": "glibc's arenas of threads",
    "HeapBrk": "glibc's main arena",
    "Stack": "stacks of threads",
    "Image": "programs and libraries",
    "MappedFile": "mapped files",
    "Other": "mappings of the program's own",
    "Shared": "shared memory",
}


def findings(
    states: Sequence[State], found: Sequence[Verdict], thresholds: Thresholds
) -> list[Verdict]:
    """Growth of the process that no heap accounts for."""
    if all(state.memory for state in states):
        return _by_memory(states, thresholds)
    if all(state.process_committed is not None for state in states):
        return _by_commit(states, thresholds)
    if _ends_known(states, "process_committed"):
        return _by_commit((states[0], states[-1]), thresholds)
    if all(state.resident is not None for state in states):
        return _by_resident(states, thresholds)
    if any("address" in state.kinds for state in states):
        return _by_address_space(states, thresholds)
    return []


def _ends_known(states: Sequence[State], name: str) -> bool:
    return all(getattr(state, name) is not None for state in (states[0], states[-1]))


def _tolerance(thresholds: Thresholds, levels: Sequence[int], process: int | None) -> int:
    own = thresholds.tolerance(max(levels[0], 0), max(levels[1:-1], default=None))
    whole = 0 if process is None else int(thresholds.process_share * process)
    return max(own, thresholds.process_min_bytes, whole)


# ---- memory, where the source tells it by usage --------------------------------------------------


def _by_memory(states: Sequence[State], thresholds: Thresholds) -> list[Verdict]:
    covered = _covered(states)
    process = states[0].own_memory or 0
    # A usage that is not known at every moment is compared at none.
    known = set.intersection(*(set(state.memory) for state in states))
    out = []
    own = ("HeapPymalloc", ("HeapBrk", "HeapGlibcArena"))
    rest = set().union(*(state.memory for state in states)) - covered
    rest -= set().union(*(state.commit for state in states)) - known - _new(states)
    for each in own:
        names = {each} if isinstance(each, str) else set(each)
        if names <= covered:
            continue
        rest -= names
        levels = [sum(state.memory.get(name, 0) for name in names) for state in states]
        gain = levels[-1] - levels[0]
        if gain > _tolerance(thresholds, levels, process):
            kind = "pymalloc" if "HeapPymalloc" in names else "glibc"
            title = "Python objects (pymalloc)" if kind == "pymalloc" else "glibc's malloc"
            text = (
                "its memory grew; what of it is in use was not looked at from here, so the program "
                "may hold it, or the allocator may keep it"
            )
            advice = (
                Cure("See what of it is in use: `dmi layers --pid PID`, or dmi.snapshot() from "
                     "within the program"),
                *cures("second-order leak", (), _stand_in(title, kind, levels[-1])),
            )  # fmt: skip
            out.append(
                _growth(title, gain, levels, states, (Cause("busy unknown", text, gain),), advice)
            )
    levels = [
        sum(state.memory.get(name, 0) for name in rest)
        - _mapped_by_glibc(state, covered)
        - _mapped_by_others(state)
        for state in states
    ]
    gain = levels[-1] - levels[0]
    if gain > _tolerance(thresholds, levels, process):
        grown = {n: states[-1].memory.get(n, 0) - states[0].memory.get(n, 0) for n in rest}
        out.append(_outside(gain, levels, states, grown, "memory"))
    return out


def _new(states: Sequence[State]) -> set[str]:
    """Usages that some moment does not have at all: there was nothing of them."""
    every = set().union(*(state.commit for state in states))
    return {name for name in every if any(name not in state.commit for state in states)}


def _stand_in(name: str, kind: str, committed: int) -> Observation:
    return Observation(name, name, None, committed, outside=True, kind=kind)


def _covered(states: Sequence[State]) -> set[str]:
    """Usages that heaps seen at every moment account for."""
    covered: set[str] = set()
    for kind, usages in _OF_HEAPS.items():
        if all(any(heap.kind == kind for heap in state.heaps.values()) for state in states):
            covered |= usages
    # A snapshot lists dmi's heaps also where there is none.
    return covered | _OF_HEAPS["dmi"]


def _mapped_by_glibc(state: State, covered: set[str]) -> int:
    """Blocks that glibc mapped on their own lie among the program's mappings, and are counted with
    glibc's."""
    if "HeapBrk" not in covered:
        return 0
    # malloc keeps one total of them, which stands with the main arena.
    mapped = sum(h.mapped or 0 for h in state.heaps.values() if h.kind == "glibc")
    return min(mapped, state.memory.get("Other", 0))


def _mapped_by_others(state: State) -> int:
    """What allocators that are not walked have is told by heaps of their own."""
    held = sum(h.committed or 0 for h in state.heaps.values() if h.outside and not h.is_walked)
    return min(held, state.memory.get("Other", 0) + state.memory.get("HeapBrk", 0))


def _untouched(states: Sequence[State]) -> list[str]:
    """Mappings that the system has promised memory for and that nobody wrote to yet: no cost."""
    if len(states) < 2 or not all("Other" in s.commit and "Other" in s.memory for s in states):
        return []
    promised = states[-1].commit["Other"] - states[0].commit["Other"]
    touched = states[-1].memory["Other"] - states[0].memory["Other"]
    if promised - max(0, touched) <= _UNTOUCHED_BYTES:
        return []
    said = (
        f"{kib(promised)} more of the program's own mappings may be written to, and "
        f"{kib(max(0, touched))} more of it is in memory: the rest costs none until it is."
    )
    return [said]


def _stacks(states: Sequence[State]) -> list[str]:
    """Stacks of threads are committed whole, and cost what was touched of them."""
    if len(states) < 2 or not all("Stack" in s.commit and "Stack" in s.memory for s in states):
        return []
    promised = states[-1].commit["Stack"] - states[0].commit["Stack"]
    touched = max(0, states[-1].memory["Stack"] - states[0].memory["Stack"])
    if promised - touched <= _NOTEWORTHY_STACKS:
        return []
    said = (
        f"{kib(promised)} more of the commit is stacks of threads, and {kib(touched)} of that is "
        "in memory: threads cost what they touch, not what they reserve."
    )
    return [said]


# ---- commit, resident size, address space --------------------------------------------------------


def _by_commit(states: Sequence[State], thresholds: Thresholds) -> list[Verdict]:
    first, last = states[0], states[-1]
    listed = all(state.lists_all for state in states)
    if listed:
        rest = [_without_stacks(state) for state in states]
        known = [level for level in rest if level is not None]
        if len(known) < len(rest):
            return _by_resident(states, thresholds)
        levels, gain = known, known[-1] - known[0]
        explained = any(state.heaps for state in states)
    else:
        # A table may have left heaps out, of which nothing is known: those in both are taken off.
        both = first.heaps.keys() & last.heaps.keys()
        levels = [state.process_committed or 0 for state in states]
        taken = known_sum(
            _gain(first.heaps[key].committed, last.heaps[key].committed) for key in both
        )
        new = known_sum(last.heaps[key].committed for key in last.heaps.keys() - both)
        of_heaps = {"heaps", "segments", "detail"}
        if not (first.kinds & of_heaps and last.kinds & of_heaps):
            both, taken, new = set(), 0, 0
        gain = levels[-1] - levels[0] - (taken or 0) - (new or 0)
        explained = bool(both)
        if explained:
            levels = [
                level - sum(state.heaps[key].committed or 0 for key in both if key in state.heaps)
                for level, state in zip(levels, states, strict=True)
            ]
    process = first.process_committed
    if gain <= _tolerance(thresholds, [*levels[:-1], levels[0] + gain], process):
        return []
    grown = {
        name: size - first.usage.get(name, 0) for name, size in last.usage.items()
    } if first.usage else {}  # fmt: skip
    return [_outside(gain, levels, states, grown, "address space", explained=explained)]


def _gain(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _without_stacks(state: State) -> int | None:
    """A thread's stack is committed whole, and hardly ever used."""
    level = state.outside_heaps
    if level is None or "snapshot" not in state.kinds:
        return level
    return level - state.usage.get("Stack", 0)


def _by_resident(states: Sequence[State], thresholds: Thresholds) -> list[Verdict]:
    levels = []
    for state in states:
        held = state.total().committed
        if state.resident is None or held is None:
            return []
        levels.append(state.resident - held)
    gain = levels[-1] - levels[0]
    if gain <= _tolerance(thresholds, levels, states[0].resident):
        return []
    return [_outside(gain, levels, states, {}, "memory", explained=any(s.heaps for s in states))]


def _by_address_space(states: Sequence[State], thresholds: Thresholds) -> list[Verdict]:
    """Summaries that tell usages and no commit: their sizes are address space, the most that can be
    memory. Heaps are said to grow by it; the rest only where the address space is small."""
    first, last = states[0], states[-1]
    if not first.usage or not last.usage:
        return []
    space = last.scope.address_space
    out = []
    for name in last.usage:
        of_heap = "Heap" in name
        own = name in ("IsVAD", "<unknown>", "") and space is not None and space <= _SMALL_SPACE
        if not (of_heap or own) or name not in first.usage:
            continue
        levels = [state.usage.get(name, 0) for state in states]
        gain = levels[-1] - levels[0]
        if gain <= _tolerance(thresholds, levels, levels[0]):
            continue
        text = (
            f"the summaries tell usages and not what is committed of them: the address space of "
            f"{name or '<unknown>'} grew by {kib(gain)}, and memory by that at most"
        )
        advice = Cure("Capture `!address -summary` whole, with its State table, and `!heap -s`.")
        verdict = _growth(
            f"address space of {name or '<unknown>'}", gain, levels, states,
            (Cause("outside", text, gain),), (advice,), how="at most",
        )  # fmt: skip
        out.append(verdict)
    return out


# ---- how a finding is made -----------------------------------------------------------------------


def _outside(
    gain: int,
    levels: Sequence[int],
    states: Sequence[State],
    grown: Mapping[str, int],
    what: str,
    *,
    explained: bool = True,
) -> Verdict:
    text = f"{kib(gain)} more of the process's memory lies outside the heaps compared here"
    if not explained:
        text = f"{kib(gain)} more of the process is committed; no heap was seen at both ends, so "
        text += "which of them holds it is not known"
    named = {name: size for name, size in grown.items() if size > 0 and name not in _FREE}
    if named and max(named.values()) > gain // 2:
        name = max(named, key=lambda key: named[key])
        plain = f" ({_PLAIN[name]})" if name in _PLAIN else ""
        text += f"; by {what} {name or '<unknown>'} grew most, by {kib(named[name])}{plain}"
    text += ". How much of it is in use is not known from here"
    subject = "memory outside the heaps" if explained else "the process"
    return _growth(
        subject, gain, levels, states, (Cause("outside", text, gain),), (Cure(ADVICE["outside"]),)
    )


def _growth(
    subject: str,
    gain: int,
    levels: Sequence[int],
    states: Sequence[State],
    found: tuple[Cause, ...],
    advice: tuple[Cure, ...],
    *,
    how: str = "derived",
) -> Verdict:
    chosen = [0, len(states) - 1]
    between = levels[1:-1]
    if between:
        chosen.insert(1, 1 + list(between).index(max(between)))
    names = [states[n].label or {0: "before", len(states) - 1: "after"}.get(n, "peak")
             for n in chosen]  # fmt: skip
    nothing = (None,) * len(chosen)
    return Verdict(
        "growth",
        subject,
        gain,
        100 * gain / levels[0] if levels[0] > 0 else None,
        None,
        None,
        tuple(names),
        nothing,
        tuple(max(0, levels[n]) for n in chosen),
        nothing,
        nothing,
        nothing,
        found,
        advice,
        how=how,  # type: ignore[arg-type]
    )


def traces(states: Sequence[State]) -> list[Verdict]:
    """Comparisons by UMDH, each of which holds two moments."""
    return [verdict for state in states for verdict in traces_of(state)]


def traces_of(state: State) -> list[Verdict]:
    """What the UMDH comparisons of one text say grew."""
    out = []
    for table in state.traces:
        gained = sum(trace.gained for trace in table.traces)
        total = gained if table.total is None else table.total
        if total <= 0:
            continue
        top = max(table.traces, key=lambda trace: trace.gained)
        frames = [frame for frame in top.stack if not of_allocator(frame)]
        where = " < ".join(frames[:4]) if frames else top.name
        # `umdh -v LOG` writes a single log in the same form.
        single = table.total is None and all(trace.old == 0 for trace in table.traces)
        alone = (
            "Every stack here began at nothing: if this is one log that UMDH printed with -v, "
            "it is what was allocated then, and nothing is known of growth."
        )
        count = "" if top.allocations is None else f" in {top.allocations:,} allocations"
        text = f"{top.gained:,} bytes more{count} from {where}"
        heads = [("stack", "bytes gained", "allocations")]
        heads += [
            (_place(t.stack) or t.name, f"{t.gained:,}",
             "-" if t.allocations is None else f"{t.allocations:,}")
            for t in sorted(table.traces, key=lambda t: -t.gained)[:5]
        ]  # fmt: skip
        out.append(
            Verdict(
                "growth", "the allocations that UMDH compared", total, None, total, None,
                ("before", "after"), (None, None), (None, None), (None, None), (None, None),
                (None, None), (Cause("not freed", text, top.gained),),
                (Cure("Read the stacks that gained most, from the top: each names the code that "
                      "allocates and does not free."),
                 Cure("Free what they allocate", total, most=True)),
                notes=(alone,) if single else (),
                how="measured", lines=tuple(columns(heads)),
                headline=f"Growth in the allocations that UMDH compared: {total:,} bytes more, "
                f"most of it from {_place(top.stack) or top.name}.",
            )
        )  # fmt: skip
    return out


def no_growth_in_traces(state: State) -> str:
    """What a comparison by UMDH says where no more is allocated in all."""
    table = state.traces[-1]
    total = table.total
    if total is None:
        total = sum(trace.gained for trace in table.traces)
    top = max(table.traces, key=lambda trace: trace.gained)
    text = f"UMDH compared two logs, and {-total:,} bytes less are allocated in all"
    if top.gained > 0:
        text += f"; {_place(top.stack) or top.name} gained most, {top.gained:,} bytes"
    return f"{text}."


def _place(stack: Sequence[str]) -> str:
    """The first frame that is not the heap's own."""
    for frame in stack:
        if not of_allocator(frame):
            return without_offset(frame)
    return ""


def quiet(states: Sequence[State]) -> Verdict:
    """Nothing grew, and there is no heap to say it of."""
    chosen = [0, len(states) - 1]
    levels = [states[n].process_committed for n in chosen]
    subject = "the process"
    if levels == [None, None] and _told.comparable(states):
        subject, levels = _told.ends(states)
    nothing: tuple[int | None, ...] = (None, None)
    busy = nothing
    if levels == [None, None] and (sized := _by_size.ends(states)) is not None:
        subject, busy = sized
    return Verdict(
        "none", subject, 0, None, None, None,
        tuple(states[n].label or ("before", "after")[i] for i, n in enumerate(chosen)),
        busy, tuple(levels), nothing, nothing, nothing, (),
    )  # fmt: skip


def comparable(states: Sequence[State]) -> bool:
    """The process itself has a figure of memory at both ends."""
    return (
        _ends_known(states, "process_committed")
        or _ends_known(states, "resident")
        or (bool(states[0].memory) and bool(states[-1].memory))
    )


def largest_elsewhere(state: State) -> tuple[str, int] | None:
    """The usage that has most memory outside of heaps, in words, and how much; None where memory is
    not told by usage."""
    covered = set().union(*_OF_HEAPS.values())
    of_heaps: list[int | None] = []
    for heap in state.heaps.values():
        if heap.kind == "glibc":
            # The main arena tells of the blocks that are mapped on their own.
            of_heaps.append(heap.mapped if "main arena" in heap.name else heap.mapped or 0)
        elif heap.outside and not heap.is_walked:
            of_heaps.append(heap.committed if heap.resident is None else heap.resident)
    rest = {name: size for name, size in state.memory.items() if name not in covered}
    if "Other" in rest:
        known = [size for size in of_heaps if size is not None]
        rest["Other"] = max(0, rest["Other"] - sum(known))
        if len(known) < len(of_heaps):
            # How much of it lies in those heaps is not known.
            del rest["Other"]
    if not rest:
        return None
    name = max(rest, key=lambda key: rest[key])
    return _PLAIN.get(name, name), rest[name]


def commit_did_not_grow(states: Sequence[State], thresholds: Thresholds) -> bool:
    """The commit of the whole process is known at both ends and no higher at the last: whatever was
    not seen cannot have grown without something else shrinking."""
    first, last = states[0].process_committed, states[-1].process_committed
    if first is None or last is None:
        return False
    return last - first <= thresholds.tolerance(0, None)


def evidence(states: Sequence[State], verdict: Verdict) -> tuple[str, ...]:
    """What the process says beside the heap: its commit, its resident size, its heap ranges."""
    lines: list[str] = []
    committed = [state.process_committed for state in states]
    if _ends_known(states, "process_committed") and len(states) > 1:
        first, last = committed[0], committed[-1]
        assert first is not None
        assert last is not None
        gain = last - first
        text = f"Commit of the process: {steps(committed)}, {kib(gain)} more at the end"
        ends = verdict.committed[:1] + verdict.committed[-1:]
        if verdict.kind == "second-order leak" and gain > 0 and None not in ends:
            rest = gain - ((ends[1] or 0) - (ends[0] or 0))
            text += (
                f", all but {kib(rest)} of it in this heap" if rest > 0 else ", all in this heap"
            )
        lines.append(text + ".")
    resident = [state.resident for state in states]
    if _ends_known(states, "resident"):
        lines.append(f"Resident: {steps(resident)}.")
    huge = [state.huge for state in states]
    if _ends_known(states, "huge") and max(each or 0 for each in huge) > _NOTEWORTHY_HUGE:
        lines.append(f"On huge pages: {steps(huge)}.")
    heap = [state.usage.get("Heap") for state in states]
    if len(states) > 1 and len(set(heap)) == 1 and heap[0] is not None:
        lines.append(
            f"The address space reserved for heaps is {kib(heap[0])} throughout: what changed "
            "is how much of it is committed."
        )
    lines += _stacks(states)
    lines += _untouched(states)
    lines += pools(states)
    lines += [
        f"Printed and worked out differ: {each}." for s in states for each in s.disagreements[:3]
    ]
    return tuple(lines)
