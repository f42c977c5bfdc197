"""What stands in front of nearly every line of a log and is no part of it: time stamps of any form
with their levels and names, the name of a container, a file and line as grep prints them, the mark
of a comment or of a difference.

The digits of the lines are masked, and what most of them begin with alike is looked for such a
front. A front that only some lines have is none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["front_of"]

_FEWEST: Final = 4
_SHARE: Final = 0.8
_LONGEST: Final = 160
_MOST_LINES: Final = 400

_TIME: Final = (
    r"[\[(]?(?:[A-Z][a-z]{2},? )?"
    r"(?:(?:0[-/.]0[-/.]0(?:T|,? )|[A-Z][a-z]{2} 0,?(?: 0)? )0:0(?::0)?|0:0:0)"
    r"(?:[.,]0)?(?:Z| ?[+-]0(?::0)?| ?(?:UTC|GMT|AM|PM))?[\])]?"
)
_EPOCH: Final = r"\[? ?0\.0 ?\]?"
_AFTER: Final = (
    r"(?: ?(?:\[[^\]]{0,60}\]|\([^)]{0,60}\)|TRACE|DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR|##\[\w+\]"
    r"|[A-Za-z][\w.\-/]{0,60}(?: [A-Za-z][\w.\-/]{0,60})?(?:\[0\])?:|[-|:]))*"
)
_FRONT: Final = re.compile(
    rf" ?(?:{_TIME}{_AFTER}|{_EPOCH}(?= |$){_AFTER}|[\w.\-]*[A-Za-z][\w.\-]* ?\||[^\s:]+:0[:-]"
    r"|//+|#+|\*(?!\*)|--|;+|'|%|REM\b|rem\b|[+-](?![+-])) ?"
)
_RUNS: Final = re.compile(r"[0-9]+|[ \t]+")


def front_of(lines: Iterable[str]) -> re.Pattern[str] | None:
    """The pattern of the front that these lines have in common; None where they have none."""
    masked = []
    for line in lines:
        if line.strip():
            masked.append(_masked(line[:_LONGEST]))
        if len(masked) == _MOST_LINES:
            break
    count = len(masked)
    if count < _FEWEST:
        return None
    masked.sort()
    width = max(_FEWEST, int(_SHARE * count))
    best = max(
        (_alike(masked[n], masked[n + width - 1]) for n in range(count - width + 1)), key=len
    )
    found = _FRONT.match(best)
    if found is None or not found[0].strip():
        return None
    parts = {"0": "[0-9]+", " ": r"[ \t]*"}
    pattern = "".join(parts.get(each) or re.escape(each) for each in found[0].rstrip(" "))
    return re.compile(r"[ \t]*" + pattern.removeprefix(r"[ \t]*") + r"(?:[ \t]|$|(?=\S))")


def _masked(line: str) -> str:
    return _RUNS.sub(lambda run: " " if run[0][0] in " \t" else "0", line)


def _alike(one: str, other: str) -> str:
    """What both begin with. A word that goes on in one of them is not taken by half."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return one[:length]
