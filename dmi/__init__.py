"""dmi: a heap you can see into, and whose memory comes back.

>>> import dmi
>>> with dmi.Heap(decommit="lazy:delay=0.5", name="cache") as heap:
...     with heap.alloc(1000) as block:
...         memoryview(block)[:5] = b"hello"
...     print(heap.summary())
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmi import windbg
from dmi._core import Block
from dmi._version import __version__
from dmi.errors import DmiError, HeapError, SizeError, TraceError
from dmi.explain import Explanation
from dmi.heap import Found, Heap, default_heap, find, heaps, metadata_committed, summary
from dmi.policy import Decommit, expand
from dmi.stats import HeapStats, TrimReport
from dmi.walk import HeapWalk, HistogramRow, Range, Segment

if TYPE_CHECKING:
    from dmi._cffi import ffi, lib

__all__ = [
    "__version__",
    "Heap",
    "Block",
    "Decommit",
    "expand",
    "HeapStats",
    "TrimReport",
    "HeapWalk",
    "Range",
    "Segment",
    "HistogramRow",
    "Explanation",
    "Found",
    "heaps",
    "default_heap",
    "find",
    "summary",
    "metadata_committed",
    "DmiError",
    "HeapError",
    "SizeError",
    "TraceError",
    "windbg",
    "ffi",
    "lib",
    "get_include",
    "get_library_dirs",
    "get_library_path",
]

_PACKAGE = Path(__file__).resolve().parent


def get_include() -> str:
    """The directory to put on a compiler's include path; it holds dmi/dmi.h."""
    return str(_PACKAGE / "include")


def get_library_dirs() -> list[str]:
    """The directories to put on a linker's search path, to link with -ldmi."""
    return [str(_PACKAGE)]


def get_library_path() -> str:
    """The file of the library, the one copy that this process uses."""
    return str(_PACKAGE / "libdmi.so")


def __getattr__(name: str) -> Any:
    # cffi parses the headers, which takes a while and which most programs never need.
    if name in ("ffi", "lib"):
        from dmi import _cffi

        globals().update(ffi=_cffi.ffi, lib=_cffi.lib)
        return globals()[name]
    raise AttributeError(f"module 'dmi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
