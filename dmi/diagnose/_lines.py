"""Which lines are behind a finding, where the moments carry a profile."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ._causes import Cure, kib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._observe import State
    from ._verdict import Verdict

__all__ = ["with_lines"]

_SHOWN: Final = 3


def with_lines(verdict: Verdict, states: Sequence[State]) -> Verdict:
    """The verdict with the lines that pin, hold or gained the memory of dmi's heaps."""
    last = states[-1].profile
    if last is None or not _of_dmi(verdict, states[-1]):
        return verdict
    source: Any = last
    what = "pinned"
    if verdict.kind in ("growth", "first-order leak"):
        first = states[0].profile
        what = "busy" if first is None else "grew"
        source = last if first is None else (first, last)
    elif verdict.kind not in ("second-order leak", "one moment"):
        return verdict
    try:
        from dmi.profile import blame

        # Of different processes only what is meant to be is compared: it was asked before.
        found = blame(source, "line", what, across=True)  # type: ignore[arg-type]
    except (ImportError, ValueError) as error:
        said = f"The profile beside it was not read: {error}."
        return replace(verdict, evidence=(*verdict.evidence, said))
    lines = [
        f"{row.name}: {kib(row.bytes)} +/- {kib(row.error)} {_WORDS[what]}."
        for row in found.named[:_SHOWN]
        if row.bytes > 0
    ]
    if found.top is None:
        lines.append(found.sentence)
        return replace(verdict, evidence=(*verdict.evidence, *lines))
    if what == "pinned" and verdict.causes and verdict.causes[0].kind not in _BY_PAGES:
        # What keeps the memory is first of all something else: a policy, a thread.
        return replace(verdict, evidence=(*verdict.evidence, *lines))
    cure = _CURES[what].format(line=found.top.name, share=_share(found.top.percent))
    gives = found.top.bytes if what == "pinned" else None
    return replace(
        verdict,
        cures=(Cure(cure, gives, most=True), *verdict.cures),
        evidence=(*verdict.evidence, *lines),
    )


_BY_PAGES: Final = ("pinned", "below a page")
_WORDS: Final = {
    "pinned": "of free memory pinned by its blocks",
    "busy": "in its blocks",
    "grew": "more in its blocks than at the first moment",
}
_CURES: Final = {
    "pinned": "Begin at {line}: its blocks pin {share} of what stays. Give them a heap of their "
    "own, or make them before or after the peak and not in its midst",
    "busy": "Begin at {line}: {share} of what is busy was allocated there",
    "grew": "Begin at {line}: {share} of what grew was allocated there and is not freed",
}


def _share(percent: float | None) -> str:
    return "most" if percent is None else f"{min(percent, 100.0):.0f} %"


def _of_dmi(verdict: Verdict, state: State) -> bool:
    """Whether the finding is of memory that the sampler sees: a heap of dmi, or all of them."""
    if verdict.kind == "one moment":
        return any(not heap.outside for heap in state.heaps.values())
    heap = next((h for h in state.heaps.values() if h.handle == verdict.handle), None)
    return heap is not None and not heap.outside
