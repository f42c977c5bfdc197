"""Which code holds the memory: profiles, and who is to blame.

    blame(source, by="line", what="pinned")    a Blame: rows with bytes, error and samples
    Profile                                    one moment; load(), save()
    write(source, file, format=...)            folded, speedscope, pprof, flame graph, JSON

docs/which-code.md shows how it is used, docs/profile-format.md what a file holds.
"""

from __future__ import annotations

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
    "Row",
    "blame",
    "owners",
    "profile_of",
    "stacks_of",
    "write",
]
