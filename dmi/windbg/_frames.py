"""Frames of a debugger's stacks: which of them are the allocator's own, and name nobody."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["of_allocator", "without_offset"]

_MODULES: Final = ("ntdll!", "verifier!", "vrfcore!", "vfbasics!", "msvcr", "ucrtbase")
_FUNCTION: Final = re.compile(
    r"(?:operator (?:new|delete)(?:\[\])?|_*(?:nh_)?(?:heap_alloc|aligned_malloc|aligned_free"
    r"|malloc|calloc|realloc|recalloc|free|strdup|wcsdup)(?:_(?:base|dbg|crt|impl|nolock|internal))*"
    r"|(?:Rtlp?|Heap|Local|Global|Virtual)\w{0,20}(?:Re)?(?:Alloc|Free)\w{0,20}"
    r"|std::_Allocate\w*|std::allocator<.*)(?![\w:])"
)
_OFFSET: Final = re.compile(r"\+(?:0x)?[0-9a-fA-F]+(?=\s|$)")


def of_allocator(frame: str) -> bool:
    """Whether it is a function that hands memory on, not one that wants it."""
    module, _, function = frame.partition("!")
    if f"{module}!".lower().startswith(_MODULES):
        return True
    return _FUNCTION.match(without_offset(function).lstrip()) is not None


def without_offset(frame: str) -> str:
    """A frame by its function, and the place in the source where that is told."""
    return _OFFSET.sub("", frame, count=1)
