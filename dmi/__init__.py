"""dmi: a heap you can see into, and whose memory comes back.

>>> import dmi
>>> with dmi.Heap(decommit="lazy:delay=0.5", name="cache") as heap:
...     with heap.alloc(1000) as block:
...         memoryview(block)[:5] = b"hello"
...     print(heap.summary())
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmi._version import __version__
from dmi.errors import DmiError, HeapError, SizeError, TraceError

if TYPE_CHECKING:
    from dmi import address, metrics, numpy, python, report, testing, top, trace, windbg
    from dmi._cffi import ffi, lib
    from dmi._core import Block
    from dmi._layers import Layers
    from dmi._profiling import Profiler, profile
    from dmi._snapshot import Snapshot, snapshot
    from dmi.address import address_summary
    from dmi.diagnose import diagnose
    from dmi.experiment import replay, sweep
    from dmi.explain import Explanation
    from dmi.heap import Found, Heap, default_heap, find, heaps, metadata_committed, summary
    from dmi.policy import Decommit, expand
    from dmi.process import Process, layers, open_core, open_process
    from dmi.profile import Blame, Profile, blame
    from dmi.stats import DetailedStats, HeapStats, TrimReport
    from dmi.walk import HeapWalk, HistogramRow, Mark, Pin, Range, Ranges, Segment, ThreadUsage

__all__ = [
    "__version__",
    "Heap",
    "Block",
    "Decommit",
    "expand",
    "HeapStats",
    "DetailedStats",
    "TrimReport",
    "HeapWalk",
    "Range",
    "Ranges",
    "Segment",
    "ThreadUsage",
    "HistogramRow",
    "Pin",
    "Mark",
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
    "address_summary",
    "diagnose",
    "blame",
    "Blame",
    "Profile",
    "layers",
    "Layers",
    "snapshot",
    "Snapshot",
    "open_process",
    "open_core",
    "Process",
    "profile",
    "Profiler",
    "replay",
    "sweep",
    "address",
    "metrics",
    "numpy",
    "python",
    "report",
    "testing",
    "top",
    "trace",
    "windbg",
    "ffi",
    "lib",
    "get_include",
    "get_library_dirs",
    "get_library_path",
    "get_preload_path",
    "get_examples",
]

_PACKAGE = Path(__file__).resolve().parent


def get_include() -> str:
    """The directory to put on a compiler's include path; it holds dmi/capi.h, for extension modules
    that link nothing, dmi/dmi.h, for what links the library, and dmi/dmi.hpp, for C++ on either."""
    return str(_PACKAGE / "include")


def get_library_dirs() -> list[str]:
    """The directories to put on a linker's search path, to link with -ldmi."""
    return [str(_PACKAGE)]


def get_library_path() -> str:
    """The file of the library, the one copy that this process uses: libdmi.so of this package, or
    what was preloaded."""
    from dmi import _cffi

    return _cffi.library_path()


def get_preload_path() -> str:
    """The library to put into LD_PRELOAD, so that a program's malloc is dmi's. See `dmi run`."""
    return str(_PACKAGE / "libdmi_malloc.so")


def get_examples() -> str:
    """The folder of the examples: scripts, packages that build on dmi, dashboards, and recordings
    of real programs to replay."""
    installed = _PACKAGE / "examples"
    return str(installed if installed.is_dir() else _PACKAGE.parent / "examples")


# Loaded when first asked for: so each program imports what it uses, and dmi.windbg and dmi.diagnose
# work where the native part does not. The module dmi.diagnose can be called like its function, as
# the name stands for both.
_LATER = {
    "address": "dmi.address",
    "address_summary": "dmi.address:address_summary",
    "blame": "dmi.profile:blame",
    "Blame": "dmi.profile:Blame",
    "Block": "dmi._core:Block",
    "Decommit": "dmi.policy:Decommit",
    "default_heap": "dmi.heap:default_heap",
    "DetailedStats": "dmi.stats:DetailedStats",
    "diagnose": "dmi.diagnose",
    "expand": "dmi.policy:expand",
    "Explanation": "dmi.explain:Explanation",
    "ffi": "dmi._cffi:ffi",
    "find": "dmi.heap:find",
    "Found": "dmi.heap:Found",
    "Heap": "dmi.heap:Heap",
    "heaps": "dmi.heap:heaps",
    "HeapStats": "dmi.stats:HeapStats",
    "HeapWalk": "dmi.walk:HeapWalk",
    "HistogramRow": "dmi.walk:HistogramRow",
    "Layers": "dmi._layers:Layers",
    "layers": "dmi.process:layers",
    "lib": "dmi._cffi:lib",
    "Mark": "dmi.walk:Mark",
    "metadata_committed": "dmi.heap:metadata_committed",
    "metrics": "dmi.metrics",
    "numpy": "dmi.numpy",
    "open_core": "dmi.process:open_core",
    "open_process": "dmi.process:open_process",
    "Pin": "dmi.walk:Pin",
    "Process": "dmi.process:Process",
    "process": "dmi.process",
    "profile": "dmi.profile",
    "Profile": "dmi.profile:Profile",
    "Profiler": "dmi._profiling:Profiler",
    "python": "dmi.python",
    "Range": "dmi.walk:Range",
    "Ranges": "dmi.walk:Ranges",
    "replay": "dmi.experiment:replay",
    "report": "dmi.report",
    "Segment": "dmi.walk:Segment",
    "Snapshot": "dmi._snapshot:Snapshot",
    "snapshot": "dmi._snapshot:snapshot",
    "summary": "dmi.heap:summary",
    "sweep": "dmi.experiment:sweep",
    "testing": "dmi.testing",
    "top": "dmi.top",
    "trace": "dmi.trace",
    "ThreadUsage": "dmi.walk:ThreadUsage",
    "TrimReport": "dmi.stats:TrimReport",
    "windbg": "dmi.windbg",
}


# Modules that are built. PyCapsule_Import asks for _core as an attribute.
_NATIVE = ("_core", "_decommit", "_faults", "_foreign", "_inspect", "_numpy")


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in [f"dmi.{name}" for name in _NATIVE]:
            raise
        raise ImportError(
            f"the dmi in {_PACKAGE} is a source tree that was not built for this Python: "
            "`make build` or `pip install -e .` builds it. If dmi is installed elsewhere, this "
            "folder hides it: start Python in another directory, or as python3 -P"
        ) from None


if not TYPE_CHECKING:  # or a type checker would take every misspelt name for one of these

    def __getattr__(name: str) -> Any:
        if name in _NATIVE:
            return _load(f"dmi.{name}")
        if name not in _LATER:
            raise AttributeError(f"module 'dmi' has no attribute {name!r}")
        module, _, attribute = _LATER[name].partition(":")
        found: Any = _load(module)
        if attribute:
            found = getattr(found, attribute)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
