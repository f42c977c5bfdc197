"""Whose code is a frame: the allocator's, the language's, a library's, or the program's own.

    allocator   dmi itself, and functions that do nothing but ask for memory: malloc, operator new,
                a program's own xmalloc. They are dropped from the top of every stack.
    runtime     the C and C++ libraries and their headers, the loader, the Python interpreter and
                its standard library
    library     packages that were installed (site-packages, dist-packages), the scripts that start
                them, and shared libraries in the system's folders
    program     everything else

By line, a stack counts for its innermost frame of the program; where there is none, for the
innermost of a library. A stack that has neither, as one that is cut in the C library, has no line:
it is shown in parentheses and never named first.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from dmi.profile._parts import CUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dmi.profile._symbols import Place

__all__ = ["Owner", "line_of", "owner_of_file", "owner_of_function", "without_allocator"]

Owner = Literal["allocator", "runtime", "library", "program"]

_ORDER: Final[tuple[Owner, ...]] = ("program", "library", "runtime", "allocator")
_DMI: Final = str(Path(__file__).resolve().parents[1])
_ALLOCATORS: Final = re.compile(
    r"libdmi(_malloc)?\.(so|dll)|lib(jemalloc|mimalloc|tcmalloc)[-_.\w]*\.so"
)
_RUNTIMES: Final = re.compile(
    r"(lib(c|m|dl|pthread|rt|gcc_s|stdc\+\+|c\+\+|c\+\+abi|resolv|util|asan|tsan)[-.0-9]*\.so[.0-9]*"
    r"|ld-linux[-\w]*\.so[.0-9]*|ld-[.0-9]+\.so|linux-vdso.*|\[vdso\]"
    r"|libpython[.0-9]+t?d?\.so[.0-9]*|python[.0-9]*t?d?|pypy[.0-9]*)$"
)
_STANDARD: Final = re.compile(r"/(python|pypy)[0-9]+\.[0-9]+t?/|/python[0-9]+\.zip/")
_INSTALLED: Final = re.compile(r"/(site|dist)-packages/")
_STARTER: Final = re.compile(r"/s?bin/[^/]+$")
_SYSTEM: Final = re.compile(r"/(usr/(local/)?)?lib(32|64|x32)?/|/nix/store/|/snap/")
_HEADERS: Final = re.compile(r"/include/c\+\+/|^/usr/(local/)?include/|/lib/gcc/|/libstdc\+\+-v3/")
_C_SOURCES: Final = re.compile(r"/(sysdeps|csu|malloc|stdlib|libio)/\.\./|/glibc-[0-9.]+/")
# The end of a name counts: xmalloc, zcalloc, g_malloc0_n, PyMem_RawMalloc, ngx_palloc, je_realloc.
_ASKS: Final = re.compile(
    r"(\w*(malloc|[crpv]alloc|realloc)(array|_array|_n|_node|0|0_n|_usable|_or_die)?"
    r"|.*(::|::_M_|_Raw|_)allocate|\w*memalign|\w*aligned_alloc|\w*(str|strn|mem)dup"
    r"|operator new(\[\])?)(\.(part|constprop|isra|cold)\S*)?$",
    re.IGNORECASE,
)
_CLASSES: Final = re.compile(
    r"(std::|__gnu_cxx::)(__1::)?(__)?(new_allocator|malloc_allocator|allocator|allocator_traits|"
    r"__new_allocator)\b"
)
_PYTHON: Final = re.compile(r"_?_?Py[A-Z_][A-Za-z]*[_A-Z]|_Py|py(malloc|mem)_")


def owner_of_file(path: str, *, python: bool = False) -> Owner:
    """Whose the code in a file is: a file of the process, or a Python source."""
    if path == _DMI or path.startswith(_DMI + "/") or "/site-packages/dmi/" in path:
        return "allocator"
    name = path.rpartition("/")[2]
    if python:
        if path.startswith("<frozen "):
            return "runtime"
        if _INSTALLED.search(path):
            return "library"
        if _STANDARD.search(path):
            return "runtime"
        return "library" if _STARTER.search(path) else "program"
    if _ALLOCATORS.match(name):
        return "allocator"
    if _RUNTIMES.match(name):
        return "runtime"
    if ".so" not in name:
        return "program"
    if _INSTALLED.search(path):
        return "library"
    if "/lib-dynload/" in path:
        return "runtime"
    return "library" if _SYSTEM.match(path) else "program"


def owner_of_function(function: str, source: str, owner: Owner) -> Owner:
    """The same, once the function and its source are known: what a header of the C++ library put
    into a program is the runtime's."""
    if owner == "allocator" or _CLASSES.match(function):
        return "allocator"
    if _HEADERS.search(source) or function.startswith(("std::", "__gnu_cxx::")):
        return "runtime"
    if _C_SOURCES.search(source):
        return "runtime"
    if owner == "program" and not source.endswith((".py", ".pyx")) and _PYTHON.match(function):
        return "runtime"
    return owner


def asks_for_memory(function: str) -> bool:
    """Whether a function does nothing but ask for memory, by its name."""
    return bool(_ASKS.match(function))


def without_allocator(places: Sequence[Place], skipped: frozenset[str]) -> Sequence[Place]:
    """A stack without what only asks for memory at its top; never without its last frame."""
    for number, place in enumerate(places):
        if place.function == CUT and not place.file:
            return places[max(0, number - 1) :]
        if (
            place.owner != "allocator"
            and place.function not in skipped
            and (place.is_python or not asks_for_memory(place.function))
        ):
            return places[number:]
    return places[-1:]


def line_of(places: Sequence[Place]) -> Place | None:
    """The frame that a stack counts for by line; None for an empty stack."""
    for owner in _ORDER:
        for place in places:
            if place.owner == owner:
                return place
    return None
