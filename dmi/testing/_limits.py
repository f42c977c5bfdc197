"""What a test may leave behind."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from dmi._sizes import parse_share, parse_size, show_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dmi.testing._watch import Found, HeapFound

__all__ = ["Limits"]

TOLERANCE: Final = 1 << 20
"""Bytes that are no second-order leak: what an idle heap keeps anyway."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one test; None is no limit. Sizes in bytes, shares from 0 to 1.

    max_retained          what may stay committed without being busy, beyond what was there before
    max_growth            what may stay allocated, beyond what was there before
    returns               the share of what the test made the heap commit that must have gone back
    no_second_order_leak  True: where busy came back commit must have come back too; more than
                          ``tolerance`` that stays pinned, or that the policy would keep, fails.
                          Less than what grew is no such leak: growth needs pages, and
                          ``max_growth`` judges it
    tolerance             see there
    loops                 run the test so often, and judge from the end of the first run on: what is
                          made once (imports, caches) is no leak
    """

    max_retained: int | None = None
    max_growth: int | None = None
    returns: float | None = None
    no_second_order_leak: bool = False
    tolerance: int = TOLERANCE
    loops: int = 1

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Limits:
        """From the arguments of a mark. ValueError or TypeError names the one that is wrong."""
        known = [each.name for each in fields(cls)]
        for name in values:
            if name not in known:
                raise TypeError(f"no limit {name!r}; there are: {', '.join(known)}, heap")
        made: dict[str, Any] = {}
        for name, value in values.items():
            if value is None:
                continue
            if name in ("max_retained", "max_growth", "tolerance"):
                made[name] = parse_size(value, name)
            elif name == "returns":
                made[name] = parse_share(value, name)
            elif name == "loops":
                if type(value) is not int or not 1 <= value <= 1_000_000:
                    raise ValueError(f"loops must be an int from 1 to 1,000,000, not {value!r:.60}")
                made[name] = value
            else:
                if not isinstance(value, bool):
                    raise TypeError(f"{name} must be True or False, not {type(value).__name__}")
                made[name] = value
        return cls(**made)

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return self.no_second_order_leak or any(
            value is not None for value in (self.max_retained, self.max_growth, self.returns)
        )

    def broken(self, found: Found) -> list[str]:
        """A sentence for each limit that is broken; none when all hold."""
        return [text for texts in self.broken_by_name(found).values() for text in texts]

    def broken_by_name(self, found: Found) -> dict[str, list[str]]:
        """The limits that are broken, each with its sentences."""
        said: dict[str, list[str]] = {}
        if self.max_growth is not None and found.busy_growth > self.max_growth:
            text = (
                f"grew: {show_size(found.busy_growth)} are allocated that were not before "
                f"(max_growth {show_size(self.max_growth)})"
            )
            said["max_growth"] = [text]
        if self.max_retained is not None and found.retained_growth > self.max_retained:
            text = (
                f"retained: {show_size(found.retained_growth)} more are committed without being in "
                f"use (max_retained {show_size(self.max_retained)})"
            )
            said["max_retained"] = [text]
        if self.returns is not None and found.returned < self.returns:
            text = (
                f"returned {100 * found.returned:.1f} % of the {show_size(found.committed_in_all)} "
                f"that it made the heap commit; {show_size(found.committed_growth)} stay "
                f"(returns {100 * self.returns:g} %)"
            )
            said["returns"] = [text]
        if self.no_second_order_leak and (texts := self._second_orders(found)):
            said["no_second_order_leak"] = texts
        return said

    def broken_again(self, found: Found, first: Found) -> set[str]:
        """The limits that a repetition breaks, or would have broken had it been the first run.

        found: of a Watch that walked, because a repetition fills the holes of the runs before.
        """
        names = set(self.broken_by_name(found))
        alone = found.scattered or 0
        grown = max(0, found.busy_growth)
        if self.max_retained is not None and alone > self.max_retained:
            names.add("max_retained")
        if self.returns is not None and grown + alone > (1 - self.returns) * first.committed_in_all:
            names.add("returns")
        if self.no_second_order_leak and not self._is_no_leak(alone, grown, found.kept_by_policy):
            names.add("no_second_order_leak")
        return names

    def _second_orders(self, found: Found) -> list[str]:
        said = [text for each in found.heaps if (text := self._second_order(each))]
        if said:
            return said
        # A little in each of many heaps is as much as much in one.
        pinned = sum(max(0, each.retained_growth) for each in found.heaps)
        grown = sum(max(0, each.busy_growth) for each in found.heaps)
        if self._is_no_leak(pinned, grown, found.kept_by_policy):
            return []
        text = (
            f"second-order leak in {len(found.heaps)} heaps together: {show_size(pinned)} lie on "
            f"pages that busy blocks keep, and the policies would keep "
            f"{show_size(found.kept_by_policy)} for good (tolerance {show_size(self.tolerance)})"
        )
        return [text]

    def _is_no_leak(self, pinned: int, grown: int, kept: int) -> bool:
        # What grew lies on pages that are not full: that is its price, and no leak of its own.
        counts = pinned if pinned > max(0, grown) else 0
        return counts + kept <= self.tolerance

    def _second_order(self, each: HeapFound) -> str:
        pinned, kept = each.retained_growth, each.kept_by_policy
        if self._is_no_leak(pinned, each.busy_growth, kept):
            return ""
        parts = []
        if pinned > 0:
            parts.append(f"{show_size(pinned)} lie on pages that busy blocks keep")
        if kept:
            parts.append(f"the policy would keep {show_size(kept)} for good")
        went = "grew" if each.busy_growth >= 0 else "shrank"
        return (
            f"second-order leak in {each.name}: busy {went} by {show_size(abs(each.busy_growth))}, "
            f"and {' and '.join(parts)} (tolerance {show_size(self.tolerance)})"
        )
