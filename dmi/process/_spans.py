"""Stretches of addresses with owners, none of which overlap."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Claim", "Claims"]


class Claim(NamedTuple):
    """[start, end) and who has it."""

    start: int
    end: int
    owner: int


class Claims:
    """Claims by address. Who comes first has it; later ones get what is left."""

    def __init__(self) -> None:
        self._claims: list[Claim] = []
        self._starts: list[int] = []

    def add(self, spans: Iterable[tuple[int, int]], owner: int) -> None:
        """Claim the spans for the owner."""
        new = [
            Claim(low, high, owner)
            for start, end in _joined(spans)
            for low, high, taken in self.cut(start, end)
            if taken is None
        ]
        if new:
            self._claims = sorted([*self._claims, *new])
            self._starts = [claim.start for claim in self._claims]

    def cut(self, start: int, end: int) -> Iterator[tuple[int, int, int | None]]:
        """[start, end) in parts, each with its owner; None: nobody's."""
        at = start
        for claim in self._claims[
            max(0, bisect_right(self._starts, start) - 1) : bisect_left(self._starts, end)
        ]:
            low, high = max(claim.start, at), min(claim.end, end)
            if high > low:
                if low > at:
                    yield at, low, None
                yield low, high, claim.owner
                at = high
        if at < end:
            yield at, end, None


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if end <= start:
            continue
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out
