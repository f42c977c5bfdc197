"""The line of each block that a profile knows by its address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dmi.profile._blame import profile_of
from dmi.profile._symbols import Resolver

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Any

    from dmi.profile._model import Profile

__all__ = ["MOST", "owners", "stacks_of"]

MOST: Final = 50_000


def _blocks(profile: Profile) -> Iterator[tuple[int, int | None]]:
    for mark in profile.marks:
        for block in mark.blocks:
            yield block.address, block.stack
    for large in profile.large:
        yield large.address, large.stack


def owners(source: Any, most: int = MOST) -> dict[int, str]:
    """Address -> line, of at most so many blocks; the others were on no marked page."""
    profile = profile_of(source)
    found: dict[int, str] = {}
    with Resolver(profile) as resolver:
        for address, stack in _blocks(profile):
            if len(found) >= most:
                break
            if (place := resolver.line(stack)) is not None:
                found[address] = place.name
    return found


def stacks_of(source: Any, addresses: Collection[int]) -> dict[int, tuple[str, ...]]:
    """Address -> stack, the innermost frame first, of those blocks that are known."""
    profile = profile_of(source)
    wanted = set(addresses)
    with Resolver(profile) as resolver:
        return {
            address: tuple(place.name for place in resolver.stack(stack))
            for address, stack in _blocks(profile)
            if address in wanted and stack is not None
        }
