"""The rules: from two or three moments of a heap to the kind of leak, its bytes and its causes.

    first-order leak    busy grew and stayed: the program does not free
    second-order leak   busy came back, commit did not: the heap does not give back
    growth              busy still rises, or only two moments are known and it rose
    none                neither
    unknown             nothing was found, and something that was not seen could change that

What busy gained since the start counts as first order; what commit gained beyond that as second
order. The larger of the two names the verdict, if it is more than the tolerance. A number that is
not known is None, which no rule can compare or add: it makes a finding smaller or a verdict
unknown, and never stands for 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from . import _allocators, _by_size, _causes, _process, _told, _virtual
from ._arenas import with_arenas_joined
from ._causes import Cause, Cure, kib
from ._cures import cures
from ._lines import with_lines
from ._observe import Observation, known_sum
from ._scope import difference
from ._single import one_moment
from ._verdict import Kind, Verdict, steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._observe import State

__all__ = ["THRESHOLDS", "DifferentProcessError", "Thresholds", "judge"]

_MOST_OTHERS: Final = 4
_ALIKE: Final = 1.1
"""Of two findings alike the blocks that are held come first: they pin what is free around them."""
_LESSER: Final = 0.1
"""From this share of the larger on, the lesser order of a heap is a finding of its own."""


class DifferentProcessError(ValueError):
    """The moments are not of one run of one process."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What counts as a change: more than ``min_bytes``, and more than ``share`` of the larger of
    the level at the start and the rise from there to the peak. For memory outside the heaps, which
    every thread and every file read moves a little: more than ``process_min_bytes`` and more than
    ``process_share`` of the process."""

    min_bytes: int = 1 << 20
    share: float = 0.05
    process_min_bytes: int = 4 << 20
    process_share: float = 0.08
    heap_process_share: float = 0.01
    """What a heap gained counts from this share of the process on, where its size is known."""
    work_bytes: int = 2 << 20
    """Of a process that was looked at while it works: its interpreter fills caches, its threads
    leave a little."""
    collected_min_bytes: int = 16 << 20
    collected_share: float = 0.25
    """Of memory whose garbage waits for a collector."""
    garbage_bytes: int = 0
    """Of busy blocks, in a program whose collector frees them late."""

    def tolerance(self, start: int, peak: int | None) -> int:
        """Bytes that do not count."""
        rise = 0 if peak is None else peak - start
        return max(self.min_bytes, int(self.share * max(start, rise)))

    def tolerance_of_memory(
        self, start: int, peak: int | None, *, collected: bool = False, nursery: int = 0
    ) -> int:
        """Bytes that do not count of an allocator whose blocks are not known: each keeps some of
        what was freed for what comes next, and a collector lets some garbage wait."""
        least, share = self.process_min_bytes, self.process_share
        if collected:
            least, share = max(nursery, self.collected_min_bytes), self.collected_share
        rise = 0 if peak is None else peak - start
        return max(least, int(share * max(start, rise)))


THRESHOLDS: Final = Thresholds()


def judge(
    states: Sequence[State],
    thresholds: Thresholds = THRESHOLDS,
    page_size: int = 4096,
    *,
    across: bool | None = False,
) -> Verdict:
    """The verdict on what matters most, with the other findings in ``others``.

    Raises DifferentProcessError for moments of different processes or runs, unless ``across``; with
    None the caller vouches for them, and the verdict notes what they say.
    """
    if not states:
        raise ValueError("a verdict needs a moment at least")
    if len(states) == 1:
        return with_lines(one_moment(states[0], page_size), states)
    notes = []
    for one, other in pairwise(states):
        why = difference(one.scope, other.scope)
        if not why:
            continue
        pair = f"{_named(one, states)} and {_named(other, states)} are not of one process: {why}."
        if across is False:
            raise DifferentProcessError(f"{pair} Compare them with --across if that is meant")
        notes.append(pair)
    if across:
        states = _aligned(states)
    if _all_the_same(states):
        first = one_moment(states[0], page_size)
        note = f"The text shows the same moment {len(states)} times: no figure differs."
        return replace(first, notes=(note, *first.notes))
    verdict = with_lines(_compared(states, thresholds, page_size), states)
    return replace(verdict, notes=(*notes, *verdict.notes)) if notes else verdict


def _compared(states: Sequence[State], thresholds: Thresholds, page_size: int) -> Verdict:
    states = with_arenas_joined(_joined(states))
    keys = dict.fromkeys(key for state in states for key in state.heaps)
    judged = [_judge_heap([_at(s, key, states) for s in states], states, thresholds, page_size)
              for key in keys]  # fmt: skip
    every = [first for first, *_ in judged]
    found = [v for both in judged for v in both if v.finding]
    if not found and len(keys) > 1 and all(_shown(key, states) for key in keys):
        # Of what is not walked each has a tolerance of its own.
        sums = [
            replace(s, heaps={key: h for key, h in s.heaps.items() if h.is_walked}).total()
            for s in states
        ]
        together = _judge_heap(sums, states, thresholds, page_size)[0]
        found = [together] if together.finding else []
    found += _virtual.findings(states, thresholds)
    found += _process.findings(states, found, thresholds)
    found += _process.traces(states)
    found += _told.findings(states, thresholds)
    found += _by_size.findings(states, thresholds)
    found.sort(key=lambda v: -(v.bytes or 0) * (_ALIKE if _is_held(v) else 1))
    missing, open_ends = _missing(states, keys, found, thresholds)
    if not found:
        if open_ends:
            first = _not_known(states, keys, open_ends)
        elif every:
            first = max(every, key=lambda v: v.committed[-1] or 0)
        else:
            first = _process.quiet(states)
    else:
        first = found[0]
    evidence = first.evidence + _process.evidence(states, first)
    others = tuple(found[1 : 1 + _MOST_OTHERS])
    return replace(first, evidence=evidence, others=others, missing=missing)


def _is_held(verdict: Verdict) -> bool:
    """Whether its bytes are busy, known to be so."""
    if verdict.kind == "growth":
        return verdict.busy[-1] is not None
    return verdict.kind == "first-order leak"


def _joined(states: Sequence[State]) -> list[State]:
    """Allocators that are not walked, under one name where moments differ in whose they are: what
    is called by one name now and by another later did not go and come."""
    names = [{key for key, heap in state.heaps.items() if not heap.is_walked} for state in states]
    every: set[str] = set().union(*names)
    part = {key for key in every if not all(key in each for each in names)}
    if len(part) < 2 or not all(state.lists_all for state in states):
        return list(states)
    known = [h for s in states for key, h in s.heaps.items() if key in part]
    kinds = dict.fromkeys(kind for h in known for kind in h.kind.split(" or ") if kind != "unknown")
    kind = " or ".join(kinds) or "unknown"
    out = []
    for state in states:
        some = [heap for key, heap in state.heaps.items() if key in part]
        heaps = {key: heap for key, heap in state.heaps.items() if key not in part}
        if some:
            committed = known_sum(heap.committed for heap in some)
            heaps["others"] = Observation("others", kind, None, committed, outside=True, kind=kind)
        out.append(replace(state, heaps=heaps))
    return out


def _named(state: State, states: Sequence[State]) -> str:
    if state.label or state.source:
        return state.label or state.source
    return f"moment {list(states).index(state) + 1}"


def _all_the_same(states: Sequence[State]) -> bool:
    """The same text twice: no figure differs, and there are figures that would."""
    first = states[0]
    if not first.kinds & {"heaps", "segments", "address"}:
        return False
    return all(
        state.heaps == first.heaps
        and state.usage == first.usage
        and state.process_committed == first.process_committed
        and state.kinds == first.kinds
        and not state.unread
        for state in states[1:]
    ) and (bool(first.heaps) or first.process_committed is not None)


def _aligned(states: Sequence[State]) -> list[State]:
    """Heaps of different processes under common names: by their place in the list, where the
    addresses have nothing in common."""
    names = [set(state.heaps) for state in states]
    if not all(names) or set.intersection(*names):
        return list(states)
    out = []
    for state in states:
        heaps = {
            f"#{number}": replace(heap, key=f"#{number}", name=f"heap #{number} ({heap.name})")
            for number, heap in enumerate(state.heaps.values(), 1)
        }
        out.append(replace(state, heaps=heaps))
    return out


def _at(state: State, key: str, states: Sequence[State]) -> Observation | None:
    """Heap ``key`` at a moment. None where the source may not have shown it; where it shows all
    there are, a heap that is not among them did not exist and held nothing."""
    heap = state.heaps.get(key)
    if heap is not None or not state.lists_all:
        return heap
    known = next(s.heaps[key] for s in states if key in s.heaps)
    return Observation(
        key, known.name, 0, 0, known.handle, 0, 0, outside=known.outside, kind=known.kind
    )


def _shown(key: str, states: Sequence[State]) -> bool:
    return all(_at(state, key, states) is not None for state in states)


def _pick(heaps: Sequence[Observation | None]) -> list[int]:
    """Before, the busiest moment between if there is one, after."""
    last = len(heaps) - 1
    between = {
        n: heap.busy
        for n, heap in enumerate(heaps[1:last], 1)
        if heap is not None and heap.busy is not None
    }
    if not between:
        # Where busy is not told, the moment with most commit is the peak.
        between = {
            n: heap.committed
            for n, heap in enumerate(heaps[1:last], 1)
            if heap is not None and heap.committed is not None
        }
    if not between:
        return [0, last]
    return [0, max(between, key=lambda n: between[n]), last]


def _judge_heap(
    heaps: Sequence[Observation | None],
    states: Sequence[State],
    thresholds: Thresholds,
    page_size: int,
) -> list[Verdict]:
    """What is to be said of one heap. Where both orders count, the larger comes first, and the
    other is a finding too."""
    chosen = _pick(heaps)
    fit = _fitting(states, thresholds)
    # A moment that shows no heap at all says nothing of any.
    seen = bool(states[0].heaps or states[0].kinds & {"heaps", "segments"})
    return [
        _verdict_of(each, heaps, chosen, states, thresholds, page_size)
        for each in _kinds([heaps[n] for n in chosen], fit, first_seen=seen)
    ]


def _verdict_of(
    one: _Kinded,
    heaps: Sequence[Observation | None],
    chosen: Sequence[int],
    states: Sequence[State],
    thresholds: Thresholds,
    page_size: int,
) -> Verdict:
    kind, size, how, first, second = one
    picked = [heaps[n] for n in chosen]
    before, after = picked[0], picked[-1]
    peak = picked[1] if len(picked) == 3 else None
    moments = tuple(_moment(n, chosen, states) for n in chosen)
    known = after or before or next(heap for heap in heaps if heap is not None)
    found: tuple[Cause, ...] = ()
    if before is not None and after is not None:
        found = _causes.causes(kind, before, peak, after, second, page_size)
        if kind in ("growth", "first-order leak"):
            found += _by_size.stat_cause(states, after)
    elif kind == "growth":
        text = "the first moment does not show this heap: it was made since, or its row is missing"
        found = (Cause("not shown", text, size),)
    evidence: tuple[str, ...] = ()
    if before is not None and after is not None and kind in ("none", "second-order leak"):
        evidence = _use_of(one, picked, known.name, states, thresholds)
        due = _causes.due_later(before, after)
        if due > thresholds.min_bytes:
            said = (
                f"{kib(due)} that {known.name} keeps are free and due later: its policy gives them "
                "back when their delay is over. Look again after two delays, or six half-lives."
            )
            evidence = (*evidence, said)
    level = None
    if before is not None:
        level = before.busy if how == "busy" else before.committed
    advice = cures(kind, found, after, peak, tuple(states[-1].heaps.values()))
    if kind == "growth" and not known.is_walked:
        advice = _allocators.cures_of_runtimes(known)
    return Verdict(
        kind,
        _allocators.subject_of(known),
        0 if kind == "none" else size,
        100 * size / level if size is not None and level else None,
        first,
        second,
        moments,
        tuple(None if heap is None else heap.busy for heap in picked),
        tuple(None if heap is None else heap.committed for heap in picked),
        tuple(None if heap is None else heap.free for heap in picked),
        tuple(None if heap is None else heap.list_length for heap in picked),
        tuple(None if heap is None else heap.mean_free_block for heap in picked),
        found,
        advice,
        evidence,
        known.handle,
        how="at most" if before is None and kind == "growth" else "measured",
    )


def _use_of(
    one: _Kinded,
    picked: Sequence[Observation | None],
    name: str,
    states: Sequence[State],
    thresholds: Thresholds,
) -> tuple[str, ...]:
    """What is to be said of busy where it did not grow, or by so little that it may be garbage."""
    first = one.first
    before, after = picked[0], picked[-1]
    assert before is not None
    assert after is not None
    if first is None:
        if before.committed is None or after.committed is None:
            return ()
        grown = after.committed - before.committed
        if after.is_walked or not after.is_collected or grown <= thresholds.process_min_bytes:
            return ()
        said = (
            f"{kib(grown)} more of the memory is {name}'s, which is within what its collector lets "
            "wait. Look again when the program has run longer: a leak goes on."
        )
        if after.held_since(before) is not None:
            levels = steps([before.survived, after.survived])
            said = (
                f"{kib(grown)} more of the memory is {name}'s young objects, which wait for a "
                f"collection, garbage or not. What survived collections: {levels}."
            )
        return (said,)
    if first > thresholds.work_bytes:
        collector = _allocators.collector_of(states)
        if collector is None:
            return ()
        said = (
            f"{kib(first)} more of {name} is in use, which may be garbage that waits for the "
            f"collector of {collector[0]}: run `{collector[1]}` before each moment to tell."
        )
        return (said,)
    if one.kind == "none" or one.size is None or "snapshot" not in states[-1].kinds:
        return ()
    levels = steps([None if heap is None else heap.busy for heap in picked])
    said = (
        f"What the program uses did not grow ({levels}): the {kib(one.size)} are free memory that "
        f"{name} keeps, and the next peak is served from them before the process grows."
    )
    return (said,)


def _fitting(states: Sequence[State], thresholds: Thresholds) -> Thresholds:
    """The thresholds for a process of this size."""
    state = states[0]
    process = state.own_memory if state.memory else state.resident
    if process is None:
        process = state.process_committed
    if process is None:
        return thresholds
    floor = int(thresholds.heap_process_share * process)
    if state.memory:
        floor = max(floor, thresholds.work_bytes)
    garbage = thresholds.garbage_bytes
    if _allocators.collector_of(states) is not None:
        garbage = max(garbage, thresholds.collected_min_bytes)
    return replace(thresholds, min_bytes=max(thresholds.min_bytes, floor), garbage_bytes=garbage)


class _Kinded(NamedTuple):
    """A kind of leak of one heap: its bytes and what they are of, and what each order comes to."""

    kind: Kind
    size: int | None
    how: str
    first: int | None
    second: int | None


def _kinds(
    picked: Sequence[Observation | None], thresholds: Thresholds, *, first_seen: bool
) -> list[_Kinded]:
    """What is so of one heap, the larger first."""
    before, after = picked[0], picked[-1]
    peak = picked[1] if len(picked) == 3 else None
    unknown = _Kinded("unknown", None, "commit", None, None)
    if after is None or after.committed is None:
        return [unknown]
    if before is None:
        # Made since, or not shown: what it holds now is the most that it can have gained.
        if first_seen and after.committed > thresholds.tolerance(0, None):
            return [_Kinded("growth", after.committed, "commit", None, None)]
        return [unknown]
    if before.committed is None:
        return [unknown]
    grown = after.committed - before.committed
    slack = thresholds.tolerance(before.committed, peak.committed if peak is not None else None)
    if before.busy is None or after.busy is None:
        if not after.is_walked:
            slack = thresholds.tolerance_of_memory(
                before.committed,
                peak.committed if peak is not None else None,
                collected=after.is_collected,
                nursery=after.nursery,
            )
        held = after.held_since(before)
        if grown > slack and (held is None or held > slack):
            return [_Kinded("growth", grown, "commit", None, None)]
        return [_Kinded("none", 0, "commit", None, None)]
    first = max(0, after.busy - before.busy)
    second = max(0, grown - first)
    # What the policy gives back by itself when its delay is over is not leaked.
    kept = max(0, second - _causes.due_later(before, after))
    busy_peak = None if peak is None else peak.busy
    found: list[_Kinded] = []
    if first > max(thresholds.garbage_bytes, thresholds.tolerance(before.busy, busy_peak)):
        rises = busy_peak is None or _rises(before.busy, busy_peak, after.busy, thresholds)
        kind: Kind = "growth" if rises else "first-order leak"
        found.append(_Kinded(kind, first, "busy", first, second))
    if kept > slack:
        found.append(_Kinded("second-order leak", kept, "commit", first, second))
        found.sort(key=lambda one: -(one.size or 0))
        if len(found) == 2 and (found[1].size or 0) < _LESSER * (found[0].size or 0):
            found.pop()
    return found or [_Kinded("none", 0, "commit", first, second)]


def _moment(number: int, chosen: Sequence[int], states: Sequence[State]) -> str:
    plain = {chosen[0]: "before", chosen[-1]: "after"}.get(number, "peak")
    return states[number].label or plain


def _rises(before: int, peak: int, after: int, thresholds: Thresholds) -> bool:
    """Busy is well above even the busiest moment between."""
    rise = max(0, peak - before)
    return after - peak > max(thresholds.min_bytes, int(thresholds.share * rise))


# ---- what was not seen ---------------------------------------------------------------------------


def _missing(
    states: Sequence[State],
    keys: dict[str, None],
    found: Sequence[Verdict],
    thresholds: Thresholds,
) -> tuple[tuple[str, ...], list[str]]:
    """What was not seen, and what of it leaves the verdict open when nothing was found."""
    lines: list[str] = []
    open_ends: list[str] = []
    names = [state.label or ("before", "after")[n == len(states) - 1] if n in (0, len(states) - 1)
             else state.label or f"moment {n + 1}" for n, state in enumerate(states)]  # fmt: skip
    ends = (0, len(states) - 1)
    for n, state in enumerate(states):
        for line in state.unread:
            lines.append(f"{names[n]}: not read: {line}")
            if n in ends:
                open_ends.append(f"a line of {names[n]} could not be read")
    for what, kinds in (
        ("`!heap -s` table", {"heaps", "segments"}),
        ("`!address -summary`", {"address"}),
    ):
        having = [bool(state.kinds & kinds) for state in states]
        if any(having) and not all(having) and not any("snapshot" in s.kinds for s in states):
            without = [names[n] for n, has in enumerate(having) if not has]
            lines.append(f"{', '.join(without)}: no {what}, so nothing of it was compared there")
            if kinds & {"heaps"} and not (having[0] and having[-1]):
                open_ends.append("the heaps of both ends were not seen")
    total_settles = _process.commit_did_not_grow(states, thresholds)
    for key in keys:
        for n, state in enumerate(states):
            if _at(state, key, states) is not None or not state.kinds & {"heaps", "segments"}:
                continue
            known = next(s.heaps[key] for s in states if key in s.heaps)
            held = (
                "" if known.committed is None else f" ({kib(known.committed)} of commit elsewhere)"
            )
            lines.append(
                f"{names[n]}: {known.name}{held} is not shown: destroyed or not made yet, or its "
                "row is missing"
            )
            if n in ends and not total_settles:
                open_ends.append(f"{known.name} is not shown in {names[n]}")
    for n, state in enumerate(states):
        asked = {each.handle for each in state.sizes} | {each.handle for each in state.blocks}
        shown = {heap.handle for each in states for heap in each.heaps.values()}
        for handle in sorted(h for h in asked - shown if h is not None):
            if not state.kinds & {"heaps", "segments"}:
                continue
            lines.append(f"heap {handle:08x}: its blocks were asked for, and no table shows it")
            if n in ends and not total_settles:
                open_ends.append(f"heap {handle:08x} is in no table")
    for key in keys:
        ended = [_at(states[n], key, states) for n in ends]
        if all(heap is not None and heap.committed is None for heap in ended):
            continue
        if any(heap is not None and heap.committed is None for heap in ended):
            name = next(heap.name for heap in ended if heap is not None)
            lines.append(f"{name}: its commit is not known at both ends")
            open_ends.append(f"the commit of {name}")
    for line in _by_size.not_compared(states, names):
        lines.append(line)
        open_ends.append(line.partition(":")[0])
    for line in _told.not_compared(states, names):
        lines.append(line)
        open_ends.append(line.partition(":")[0])
    if (
        not found
        and not open_ends
        and not _process.comparable(states)
        and not _told.comparable(states)
        and not _by_size.comparable(states)
        and not any(_shown(key, states) for key in keys)
    ):
        lines.append("no figure of memory that both ends have")
        open_ends.append("no figure of memory is in both moments")
    return tuple(dict.fromkeys(lines)), list(dict.fromkeys(open_ends))


def _not_known(states: Sequence[State], keys: dict[str, None], open_ends: Sequence[str]) -> Verdict:
    chosen = [0, len(states) - 1]
    subject = "; ".join(open_ends[:3])
    key = next((key for key in keys if not _shown(key, states)), next(iter(keys), None))
    heaps = [None if key is None else _at(states[n], key, states) for n in chosen]
    seen = [k for k in keys if _shown(k, states)]
    are = "1 heap that is" if len(seen) == 1 else f"{len(seen)} heaps that are"
    tail = f" Nothing grew in {are}." if seen else ""
    return Verdict(
        "unknown", subject, None, None, None, None,
        tuple(_moment(n, chosen, states) for n in chosen),
        tuple(None if heap is None else heap.busy for heap in heaps),
        tuple(None if heap is None else heap.committed for heap in heaps),
        tuple(None if heap is None else heap.free for heap in heaps),
        tuple(None if heap is None else heap.list_length for heap in heaps),
        tuple(None if heap is None else heap.mean_free_block for heap in heaps),
        (), (Cure(_causes.ADVICE["not shown"]),), how="unknown",
        headline=f"Not known whether anything leaks: {subject}.{tail}",
    )  # fmt: skip
