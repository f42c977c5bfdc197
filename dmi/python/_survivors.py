"""What stays after a peak: onto pages of its own, so that the peak's pages can go."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, TypeVar

from dmi.python._contexts import heap
from dmi.python._free_lists import clear_free_lists

if TYPE_CHECKING:
    from dmi.policy import Decommit

T = TypeVar("T")


def copy_into(name: str, value: T, *, decommit: str | Decommit | None = None) -> T:
    """A copy of a value, made of new objects on the pages of the context of that name.

    For the case that nobody knew beforehand what would survive a peak: copy what survives, drop the
    originals, and their pages go back. Everything inside is copied, numbers and strings as well
    (through pickle, so it must be picklable, and needs as much again while it is being made);
    what the interpreter keeps only once (None, small ints, interned strings, classes) is not.
    The copy is equal to the value and not identical: who holds the original keeps the original.
    """
    with heap():
        # On pages that are free again at once.
        packed = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    with heap(name, decommit=decommit):
        # Inside, for on the way in a few more objects are dropped.
        clear_free_lists()
        made: T = pickle.loads(packed)
    del packed
    return made
