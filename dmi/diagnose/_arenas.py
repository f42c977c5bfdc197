"""glibc's arenas of threads as one heap. A thread takes whichever is free, and another one when
that is busy: eight that keep 8 MB each are 64 MB that malloc keeps, and no finding of 8 MB."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from ._observe import Observation, known_sum

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ._observe import State

__all__ = ["is_of_threads", "with_arenas_joined"]

_K = TypeVar("_K", int, str)
_KEY: Final = "glibc thread arenas"


def is_of_threads(heap: Observation) -> bool:
    """Whether it is an arena that glibc made for threads, or all of them."""
    return heap.kind == "glibc" and "thread arena" in heap.name


def with_arenas_joined(states: Sequence[State]) -> list[State]:
    """The moments with such arenas under one name, where one of them has several."""
    several = any(sum(map(is_of_threads, state.heaps.values())) > 1 for state in states)
    return [_joined(state) for state in states] if several else list(states)


def _joined(state: State) -> State:
    arenas = [heap for heap in state.heaps.values() if is_of_threads(heap)]
    if not arenas:
        return state
    rest = {key: heap for key, heap in state.heaps.items() if not is_of_threads(heap)}
    return replace(state, heaps={**rest, _KEY: _together(arenas)})


def _together(arenas: Sequence[Observation]) -> Observation:
    def total(name: str) -> int | None:
        return known_sum(getattr(arena, name) for arena in arenas)

    # Of one whose blocks were not counted the sizes of all are not known.
    counted = all(arena.histogram or arena.busy == 0 for arena in arenas)
    return Observation(
        _KEY,
        f"glibc thread arenas ({len(arenas)})" if len(arenas) > 1 else arenas[0].name,
        total("busy"),
        total("committed"),
        free=total("free"),
        list_length=total("list_length"),
        reasons=_added(arena.reasons for arena in arenas),
        outside=arenas[0].outside,
        kind="glibc",
        resident=total("resident"),
        reserved=total("reserved"),
        mapped=total("mapped"),
        trim=total("trim"),
        histogram=_added(arena.histogram for arena in arenas) if counted else {},
        on_huge_pages=total("on_huge_pages"),
        threads=_added(arena.threads for arena in arenas),
        parts=len(arenas),
    )


def _added(parts: Iterable[Mapping[_K, int]]) -> dict[_K, int]:
    out: dict[_K, int] = {}
    for part in parts:
        for key, number in part.items():
            out[key] = out.get(key, 0) + number
    return out
