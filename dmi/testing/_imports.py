"""What the first import of a module holds, kept apart from what the code that imports it does."""

from __future__ import annotations

import importlib
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

__all__ = ["imports_apart"]

# Every way to import ends here when a module is not there yet: the statement, import_module() and C
# code. It is no public name, so a Python without it imports as ever and nothing is kept apart.
DOOR: Final = "_find_and_load"
# Tracebacks leave out the frames of this file, ours with them.
FILE: Final = "<frozen importlib._bootstrap>"

_tried: Final[set[str]] = set()


@contextmanager
def imports_apart(apart: Callable[[], AbstractContextManager[None]]) -> Generator[None]:
    """Calls ``apart`` around each import of this thread that nobody tried before in this process.

    Of nested imports around the outermost. A module that is imported again and again is the
    program's own doing and is not kept apart.
    """
    machinery: Any = importlib._bootstrap
    door = getattr(machinery, DOOR, None)
    if door is None:
        yield
        return
    thread = threading.get_ident()
    busy = False

    def _find_and_load(name: str, *rest: Any) -> Any:
        nonlocal busy
        if busy or name in _tried or threading.get_ident() != thread:
            return door(name, *rest)
        _tried.add(name)
        busy = True
        try:
            with apart():
                return door(name, *rest)
        finally:
            busy = False

    _find_and_load.__code__ = _find_and_load.__code__.replace(co_filename=FILE)
    setattr(machinery, DOOR, _find_and_load)
    try:
        yield
    finally:
        if getattr(machinery, DOOR) is _find_and_load:
            setattr(machinery, DOOR, door)
