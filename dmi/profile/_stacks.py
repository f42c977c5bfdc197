"""The stacks of one moment, or of two, with what they hold: the stuff of other formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from dmi.profile._measure import BY_ITSELF, estimates
from dmi.profile._symbols import NO_STACK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dmi.profile._measure import Holder
    from dmi.profile._model import Profile
    from dmi.profile._symbols import Place, Resolver

__all__ = ["MOMENT", "Named", "by_names", "by_number"]

MOMENT: Final = ("pinned", "retained", "busy", "allocated")
"""The measures of one moment."""
_NOBODY: Final = -1


class Named(NamedTuple):
    """A frame as it is shown: two addresses on one line are one."""

    name: str
    file: str
    line: int


def by_number(profile: Profile, measures: Sequence[str]) -> dict[int | None, list[int]]:
    """Bytes of each measure by the number of a stack; -1 stands for nobody."""

    def key(holder: Holder) -> int | None:
        return _NOBODY if holder.nobody else holder.stack

    sums: dict[int | None, list[int]] = {}
    for place, what in enumerate(measures):
        for number, found in estimates(profile, what, key).items():
            assert number is None or isinstance(number, int)
            sums.setdefault(number, [0] * len(measures))[place] = round(found.bytes)
    return sums


def by_names(
    profile: Profile, resolver: Resolver, measures: Sequence[str]
) -> dict[tuple[Named, ...], list[int]]:
    """Bytes of each measure by stack, the outermost frame first."""
    sums: dict[tuple[Named, ...], list[int]] = {}
    for number, sizes in by_number(profile, measures).items():
        if number == _NOBODY:
            stack: tuple[Named, ...] = (Named(BY_ITSELF, "", 0),)
        else:
            places = resolver.stack(number)
            stack = tuple(map(_named, reversed(places))) or (Named(NO_STACK, "", 0),)
        had = sums.setdefault(stack, [0] * len(measures))
        sums[stack] = [a + b for a, b in zip(had, sizes, strict=True)]
    return sums


def gained(
    earlier: Mapping[tuple[Named, ...], Sequence[int]],
    later: Mapping[tuple[Named, ...], Sequence[int]],
) -> dict[tuple[Named, ...], list[int]]:
    """What each stack gained; what it lost is left out."""
    found = {}
    for stack, sizes in later.items():
        had = earlier.get(stack, [0] * len(sizes))
        rise = [max(0, a - b) for a, b in zip(sizes, had, strict=True)]
        if any(rise):
            found[stack] = rise
    return found


def _named(place: Place) -> Named:
    return Named(place.name, place.file or place.module, place.line)
