"""CPython's free lists: objects that it keeps for the next ones of their type."""

from __future__ import annotations

import gc


def clear_free_lists() -> None:
    """Give back the objects that CPython keeps for the next ones of their type.

    CPython does so in a full garbage collection. Here the collector is given nothing to look at
    meanwhile, so that it takes some 10 µs, whatever the program holds; afterwards everything it
    tracks is in its oldest generation. Where gc.freeze() is in use it is a full collection.
    """
    if gc.get_freeze_count():
        gc.collect()
        return
    gc.freeze()
    try:
        gc.collect()
    finally:
        gc.unfreeze()
