"""Whether Python's objects can move to dmi in this process, and why not.

Imports nothing of the package: the start-up file loads it alone.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

DOMAINS = ("raw", "mem", "obj")


def is_traced() -> bool:
    """Whether tracemalloc is at work, whose hooks are known."""
    # Not the module tracemalloc: with -X tracemalloc nobody need have imported it.
    import _tracemalloc

    return bool(_tracemalloc.is_tracing())


def threads() -> int:
    """How many threads the process has."""
    return sum(1 for _ in os.scandir("/proc/self/task"))


# What PYTHONMALLOC may say without naming an allocator: CPython's default, with or without hooks.
_NAMES_NONE = ("", "default", "debug")


def asked_for() -> str | None:
    """The allocator that PYTHONMALLOC asks this process to use, in its words, and that it is to
    keep; None without one, and where DMI_PYTHON=1 asks for dmi all the same."""
    named = os.environ.get("PYTHONMALLOC", "")
    ignored = sys.flags.ignore_environment or os.environ.get("DMI_PYTHON") == "1"
    return None if ignored or named in _NAMES_NONE else named


def not_here() -> str | None:
    """Why no interpreter of this kind can be served, before anything native is loaded."""
    if sys.implementation.name != "cpython":
        return f"{sys.implementation.name} has an allocator of its own that cannot be changed"
    if sys.platform != "linux":
        return f"install() was never tried on {sys.platform}; dmi.Heap works there"
    return None


def refusal(hook: Any, domains: Sequence[str]) -> str | None:
    """Why the domains cannot be served now, as a sentence; None when they can."""
    if hook.FREE_THREADED:
        return (
            "this is a free-threaded build of CPython, whose objects must stay on its own "
            "mimalloc. Buffers can live on dmi (dmi.Heap.alloc, dmi.numpy.use), and so can the "
            "memory of C code (dmi run); dmi layers says what mimalloc holds"
        )
    if not hook.is_main_interpreter():
        return "install() must be called in the main interpreter, not in a sub-interpreter"
    count = hook.interpreters()
    if count > 1 and sys.version_info >= (3, 12):
        return (
            f"the process has {count - 1} sub-interpreters, which may have a GIL of their own and "
            "may be allocating at this moment: call install() before they are made"
        )
    if "raw" in domains and "raw" not in hook.installed() and threads() > 1:
        return (
            f"the domain raw is used without the GIL, and the process has {threads()} threads: "
            "install it before there are any, or leave raw out"
        )
    traced = is_traced()
    raw, raw_debug, _whose = hook.look("raw", traced)
    for domain in domains:
        state, _debug, whose = hook.look(domain, traced)
        if state == "unknown":
            return (
                f"another tool's hooks are on the domain {domain} ({whose}); it would take dmi out "
                "with them: call install() before it starts"
            )
    if (raw_debug or raw == "unknown") and hook.is_preloaded():
        return (
            "dmi is preloaded and the domain raw has debug hooks, whose blocks begin inside those "
            "of malloc: use one of the two, PYTHONMALLOC=debug (-X dev) or dmi run"
        )
    return None
