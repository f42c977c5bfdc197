"""Blocks that an NT heap mapped on their own. Its Commit does not count them: what they gained is
told by their number and the size from which on a heap does so, or by their bytes where the text has
them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmi.windbg import SMALLEST_VIRTUAL_BLOCK

from ._by_size import stat_cause
from ._causes import ADVICE, Cause, Cure, kib
from ._verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._judge import Thresholds
    from ._observe import Observation, State

__all__ = ["findings"]


def findings(states: Sequence[State], thresholds: Thresholds) -> list[Verdict]:
    """Heaps of which such blocks grew between the ends."""
    keys = dict.fromkeys(key for state in states for key in state.heaps)
    every = (_of_heap(key, states, thresholds) for key in keys)
    return [verdict for verdict in every if verdict is not None]


def _names(states: Sequence[State]) -> tuple[str, ...]:
    return (states[0].label or "before", states[-1].label or "after")


def _of_heap(key: str, states: Sequence[State], thresholds: Thresholds) -> Verdict | None:
    """By their number: each has a size from which on the heap does so."""
    heaps = [state.heaps.get(key) for state in states]
    before, after = heaps[0], heaps[-1]
    if (
        before is None
        or after is None
        or before.virtual_blocks is None
        or after.virtual_blocks is None
    ):
        return None
    gained = after.virtual_blocks - before.virtual_blocks
    if before.virtual_bytes is not None and after.virtual_bytes is not None:
        return _virtual_bytes(before, after, states, thresholds)
    least = gained * SMALLEST_VIRTUAL_BLOCK[after.bits or before.bits or 32]
    if least <= thresholds.min_bytes:
        return None
    text = (
        f"{gained} more virtual blocks ({before.virtual_blocks} -> {after.virtual_blocks}), which "
        f"Commit does not count. The table does not tell their sizes; a block is mapped on its own "
        f"from about {kib(least // gained)} on"
    )
    cause = Cause("virtual blocks", text, least)
    return Verdict(
        "growth", f"virtual blocks of {after.name}", least, None, None, None,
        _names(states),
        (None, None), (None, None), (None, None), (None, None), (None, None),
        (cause, *stat_cause(states, after)), (Cure(ADVICE["virtual blocks"]),),
        handle=after.handle, how="at least",
    )  # fmt: skip


def _virtual_bytes(
    before: Observation, after: Observation, states: Sequence[State], thresholds: Thresholds
) -> Verdict | None:
    """The same, where the text tells what they hold."""
    levels = (before.virtual_bytes or 0, after.virtual_bytes or 0)
    gain = levels[1] - levels[0]
    if gain <= thresholds.tolerance(levels[0], None):
        return None
    text = (
        f"{kib(gain)} more in virtual blocks ({before.virtual_blocks} -> {after.virtual_blocks} of "
        "them), which Commit does not count"
    )
    nothing = (None, None)
    return Verdict(
        "growth", f"virtual blocks of {after.name}", gain, None, None, None,
        _names(states), levels, nothing, nothing, nothing,
        nothing, (Cause("virtual blocks", text, gain), *stat_cause(states, after)),
        (Cure(ADVICE["virtual blocks"]),), handle=after.handle,
    )  # fmt: skip
