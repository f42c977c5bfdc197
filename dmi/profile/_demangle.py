"""C++ names as they are written, by the C++ library where one is installed."""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Final

__all__ = ["demangled"]

_MOST: Final = 2048


@functools.cache
def _library() -> tuple[Any, Any] | None:
    for name in ("libstdc++.so.6", "libc++abi.so.1"):
        try:
            demangle = ctypes.CDLL(name).__cxa_demangle
            free = ctypes.CDLL(None).free
        except (OSError, AttributeError):
            continue
        demangle.restype = ctypes.c_void_p
        demangle.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        free.restype = None
        free.argtypes = [ctypes.c_void_p]
        return demangle, free
    return None


def demangled(name: str) -> str:
    """The name of a function without its parameters, or ``name`` where it is not a C++ name."""
    if not name.startswith("_Z") or len(name) > _MOST or (both := _library()) is None:
        return name
    demangle, free = both
    found = demangle(name.encode(), None, None, None)
    if not found:
        return name
    try:
        return _without_parameters(ctypes.string_at(found).decode("utf-8", "replace"))
    finally:
        free(found)


def _without_parameters(name: str) -> str:
    """Cut at the parenthesis that the parameters begin with, and the type that is returned."""
    depth, cut = 0, len(name)
    for place in range(len(name) - 1, -1, -1):
        if name[place] == ")":
            depth += 1
        elif name[place] == "(":
            depth -= 1
            if depth == 0:
                cut = place
                break
    head = name[:cut] or name
    if head.endswith("operator"):  # operator()
        return name[: cut + 2]
    depth = 0
    for place in range(len(head) - 1, -1, -1):
        if head[place] in ">)":
            depth += 1
        elif head[place] in "<(":
            depth -= 1
        elif head[place] == " " and depth == 0 and "operator" not in head[: place + 1]:
            return head[place + 1 :]
    return head
