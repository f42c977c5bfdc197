"""Which code holds the memory: profiles, and who is to blame.

    blame(source, by="line", what="pinned")    a Blame: rows with bytes, error and samples
    Profile                                    one moment; load(), save()
    profile(one_in=64)                        the sampler of this process; also dmi.profile()
    write(source, file, format=...)            folded, speedscope, pprof, flame graph, JSON

docs/which-code.md shows how it is used, docs/profile-format.md what a file holds.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from dmi._profiling import Profiler, profile
from dmi.profile._blame import Blame, Row, blame, profile_of
from dmi.profile._measure import MEASURES
from dmi.profile._model import Profile
from dmi.profile._owners import owners, stacks_of
from dmi.profile._write import FORMATS, write

__all__ = [
    "FORMATS",
    "MEASURES",
    "Blame",
    "Profile",
    "Profiler",
    "Row",
    "blame",
    "owners",
    "profile",
    "profile_of",
    "stacks_of",
    "write",
]


class _Callable(types.ModuleType):
    """``import dmi.profile`` binds the module where the package promises a function: be both."""

    def __call__(self, *args: Any, **options: Any) -> Profiler:
        return profile(*args, **options)


sys.modules[__name__].__class__ = _Callable
