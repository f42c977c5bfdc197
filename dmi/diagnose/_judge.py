"""The rules: from two or three moments of a heap to the kind of leak, its bytes and its causes.

    first-order leak    busy grew and stayed: the program does not free
    second-order leak   busy came back, commit did not: the heap does not give back
    growth              busy still rises, or only two moments are known and it rose
    none                neither

What busy gained since the start counts as first order; what commit gained beyond that as second
order. The larger of the two names the verdict, if it is more than the tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from . import _words
from ._observe import Observation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._observe import State
    from ._words import Cause

__all__ = ["THRESHOLDS", "Kind", "Thresholds", "Verdict", "judge"]

Kind = Literal["first-order leak", "second-order leak", "growth", "none"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What counts as a change: more than ``min_bytes``, and more than ``share`` of the larger of
    the level at the start and the rise from there to the peak."""

    min_bytes: int = 1 << 20
    share: float = 0.05

    def tolerance(self, start: int, peak: int | None) -> int:
        """Bytes that do not count."""
        rise = 0 if peak is None else peak - start
        return max(self.min_bytes, int(self.share * max(start, rise)))


THRESHOLDS: Final = Thresholds()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which leak, where, how much, why, and what to do. Sizes in bytes.

    The tuples ``busy``, ``committed``, ``free`` and ``mean_free_block`` have one entry for each of
    ``moments``: before, peak if it is known, after; None where a number is not known.
    """

    kind: Kind
    subject: str
    bytes: int
    """What is leaked or grown: of busy for first order and growth, of commit for second order."""
    percent: float | None
    """``bytes`` in per cent of the same number before; None when that was 0."""
    first_order_bytes: int
    second_order_bytes: int
    moments: tuple[str, ...]
    busy: tuple[int | None, ...]
    committed: tuple[int, ...]
    free: tuple[int | None, ...]
    free_blocks: tuple[int | None, ...]
    mean_free_block: tuple[int | None, ...]
    causes: tuple[Cause, ...]
    advice: tuple[str, ...]
    evidence: tuple[str, ...] = ()
    handle: int | None = None
    others: tuple[Verdict, ...] = field(default=(), repr=False)
    """Findings on other heaps, largest first."""

    @property
    def leak(self) -> bool:
        """A leak of either order."""
        return self.kind.endswith("leak")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "subject": self.subject,
            "handle": self.handle,
            "bytes": self.bytes,
            "percent": self.percent,
            "first_order_bytes": self.first_order_bytes,
            "second_order_bytes": self.second_order_bytes,
            "moments": list(self.moments),
            "busy": list(self.busy),
            "committed": list(self.committed),
            "free": list(self.free),
            "free_blocks": list(self.free_blocks),
            "mean_free_block": list(self.mean_free_block),
            "causes": [cause.as_dict() for cause in self.causes],
            "advice": list(self.advice),
            "evidence": list(self.evidence),
            "others": [other.as_dict() for other in self.others],
        }

    def __str__(self) -> str:
        return _words.report(self)


def judge(
    states: Sequence[State], thresholds: Thresholds = THRESHOLDS, page_size: int = 4096
) -> Verdict:
    """The verdict on the heap that matters most, with the others in ``others``."""
    if len(states) < 2:
        raise ValueError("a verdict needs at least two moments: before and after")
    keys = dict.fromkeys(key for state in states for key in state.heaps)
    every = [_judge_heap([_at(s, key, states) for s in states], states, thresholds, page_size)
             for key in keys]  # fmt: skip
    found = sorted((v for v in every if v.kind != "none"), key=lambda v: -v.bytes)
    if not found and len(keys) > 1:
        together = _judge_heap([s.total() for s in states], states, thresholds, page_size)
        found = [together] if together.kind != "none" else []
    process = _judge_process(states, thresholds)
    if process is not None:
        found.append(process)
        found.sort(key=lambda v: -v.bytes)
    if not found:
        if not every:
            raise ValueError("no heap, and no growth of the process, to judge")
        found = [max(every, key=lambda v: v.committed[-1])]
    first, *rest = found
    evidence = first.evidence + _words.process_evidence(states, first)
    return replace(first, evidence=evidence, others=tuple(rest))


def _at(state: State, key: str, states: Sequence[State]) -> Observation:
    """Heap ``key`` at a moment; a heap that did not exist held nothing."""
    heap = state.heaps.get(key)
    if heap is not None:
        return heap
    known = next(s.heaps[key] for s in states if key in s.heaps)
    return Observation(key, known.name, 0, 0, known.handle, 0, 0, outside=known.outside)


def _pick(heaps: Sequence[Observation]) -> list[int]:
    """Before, the busiest moment between if there is one, after."""
    last = len(heaps) - 1
    if last < 2:
        return [0, last]
    return [0, max(range(1, last), key=lambda i: heaps[i].busy), last]


def _judge_heap(
    heaps: Sequence[Observation],
    states: Sequence[State],
    thresholds: Thresholds,
    page_size: int,
) -> Verdict:
    chosen = _pick(heaps)
    moments = tuple(_moment(n, chosen, states) for n in chosen)
    picked = [heaps[n] for n in chosen]
    before, after = picked[0], picked[-1]
    peak = picked[1] if len(picked) == 3 else None
    first = max(0, after.busy - before.busy)
    second = max(0, after.committed - before.committed - first)
    busy_counts = first > thresholds.tolerance(before.busy, peak.busy if peak else None)
    commit_counts = second > thresholds.tolerance(
        before.committed, peak.committed if peak else None
    )
    kind: Kind = "none"
    if commit_counts and not (busy_counts and first >= second):
        kind = "second-order leak"
    elif busy_counts:
        kind = (
            "first-order leak" if peak and not _rises(before, peak, after, thresholds) else "growth"
        )
    of_busy = kind in ("first-order leak", "growth")
    size = 0 if kind == "none" else first if of_busy else second
    level = before.busy if of_busy else before.committed
    causes = _words.causes(kind, before, peak, after, second, page_size)
    return Verdict(
        kind,
        after.name,
        size,
        100 * size / level if level else None,
        first,
        second,
        moments,
        tuple(heap.busy for heap in picked),
        tuple(heap.committed for heap in picked),
        tuple(heap.free for heap in picked),
        tuple(heap.list_length for heap in picked),
        tuple(heap.mean_free_block for heap in picked),
        causes,
        _words.advice(kind, causes, outside=after.outside),
        handle=after.handle,
    )


def _moment(number: int, chosen: Sequence[int], states: Sequence[State]) -> str:
    plain = {chosen[0]: "before", chosen[-1]: "after"}.get(number, "peak")
    return states[number].label or plain


def _rises(
    before: Observation, peak: Observation, after: Observation, thresholds: Thresholds
) -> bool:
    """Busy is well above even the busiest moment between."""
    rise = max(0, peak.busy - before.busy)
    return after.busy - peak.busy > max(thresholds.min_bytes, int(thresholds.share * rise))


def _judge_process(states: Sequence[State], thresholds: Thresholds) -> Verdict | None:
    """Growth of the process that no heap accounts for; None when there is none or it is unknown."""
    first, last = states[0], states[-1]
    residents = [
        None if state.resident is None else state.resident - state.total().committed
        for state in states
    ]
    for levels in ([state.outside_heaps for state in states], residents):
        rest = [level for level in levels if level is not None]
        if len(rest) < len(levels):
            continue
        gain = rest[-1] - rest[0]
        peak = max(rest[1:-1], default=None)
        if gain <= thresholds.tolerance(max(rest[0], 0), peak):
            return None
        chosen = [0, len(states) - 1]
        if peak is not None:
            chosen.insert(1, 1 + rest[1:-1].index(peak))
        causes = (_words.outside(gain, first.usage, last.usage),)
        size = len(chosen)
        return Verdict(
            "growth",
            "memory outside the heaps" if any(s.heaps for s in states) else "the process",
            gain,
            100 * gain / rest[0] if rest[0] > 0 else None,
            0,
            0,
            tuple(_moment(n, chosen, states) for n in chosen),
            (None,) * size,
            tuple(max(0, rest[n]) for n in chosen),
            (None,) * size,
            (None,) * size,
            (None,) * size,
            causes,
            _words.advice("growth", causes, outside=True),
        )
    return None
