"""Which kind of leak is it, where, how much, why, and what to do.

    diagnose(before, peak, after)    a Verdict from two or three moments
    from_log(log)                    from WinDbg text read by dmi.windbg
    from_files(paths)                from logs and snapshots on disk

Pure Python. The module itself can be called like its function, so that ``dmi.diagnose(a, b, c)``
works however it was imported.
"""

from __future__ import annotations

import json
import re
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dmi import windbg

from ._judge import THRESHOLDS, Kind, Thresholds, Verdict, judge
from ._observe import Observation, State, state_of, states_of_log
from ._words import Cause

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

__all__ = [
    "THRESHOLDS",
    "Cause",
    "Kind",
    "Observation",
    "State",
    "Thresholds",
    "Verdict",
    "diagnose",
    "from_files",
    "from_log",
    "from_replay",
    "state_of",
    "states_of_file",
]


_JSON: Final = re.compile(r"\s*(?:\{|\[\s*\{)")


def diagnose(
    before: Any,
    peak: Any = None,
    after: Any = None,
    *,
    thresholds: Thresholds = THRESHOLDS,
    page_size: int = 4096,
) -> Verdict:
    """The verdict on two or three moments: ``diagnose(before, peak, after)``, or
    ``diagnose(before, after)`` where the peak is not known.

    Each moment is anything with ``busy`` and ``committed`` in bytes (statistics of a heap, their
    dict), a row or a table of `!heap -s`, a summary of `!address`, or a snapshot with many heaps.
    Without a moment between, growth cannot be told from a first-order leak and is called growth.
    Raises TypeError or ValueError naming what is missing. Thread-safe.
    """
    if after is None:
        peak, after = None, peak
    if after is None:
        raise TypeError("diagnose needs before and after")
    moments = [before, after] if peak is None else [before, peak, after]
    _check_page(page_size)
    return judge([state_of(moment) for moment in moments], thresholds, page_size)


def from_log(
    log: windbg.Log, *, thresholds: Thresholds = THRESHOLDS, page_size: int = 4096
) -> Verdict:
    """The verdict on a debugger log with two or more moments, in the order of the text. Of more
    than three, the busiest between the first and the last counts as the peak."""
    _check_page(page_size)
    states = states_of_log(log)
    if len(states) < 2:
        raise ValueError(
            "the log shows one moment only; a verdict needs at least two: before and after"
        )
    return judge(states, thresholds, page_size)


def from_files(
    paths: Iterable[str | os.PathLike[str]],
    *,
    thresholds: Thresholds = THRESHOLDS,
    page_size: int = 4096,
) -> Verdict:
    """The verdict on files in the order of time: WinDbg logs with one or more moments, and JSON
    snapshots. Raises OSError or ValueError (naming the file) for what cannot be read."""
    _check_page(page_size)
    names = list(paths)
    states = [state for name in names for state in states_of_file(name)]
    if len(states) < 2:
        what = ", ".join(str(name) for name in names) or "no file"
        raise ValueError(f"{what}: one moment only; a verdict needs at least two")
    return judge(states, thresholds, page_size)


def from_replay(
    result: Mapping[str, Any], *, thresholds: Thresholds = THRESHOLDS, page_size: int = 4096
) -> dict[str, Verdict]:
    """A verdict for each policy of a replay's JSON, whose ``runs`` have ``decommit`` and the states
    ``before``, ``peak`` and ``end``. Raises ValueError when a run lacks one of them.
    """
    verdicts: dict[str, Verdict] = {}
    for run in result["runs"]:
        missing = [name for name in ("decommit", "before", "peak", "end") if name not in run]
        if missing:
            raise ValueError(f"a run of the replay lacks {', '.join(missing)}")
        policy = str(run["decommit"])
        states = [
            state_of({"label": label, "heaps": [{"decommit": policy, "stats": run[name]}]})
            for label, name in (("before", "before"), ("peak", "peak"), ("after", "end"))
        ]
        verdicts[policy] = judge(states, thresholds, page_size)
    return verdicts


def states_of_file(path: str | os.PathLike[str]) -> list[State]:
    """The moments that a file holds: a WinDbg log, a JSON snapshot, or a JSON list of them."""
    name = Path(path)
    data = windbg.read_bytes(name, windbg.MAX_FILE)
    if data is None:
        raise ValueError(f"{name}: larger than {windbg.MAX_FILE >> 20} MiB")
    text = windbg.decode(data)
    try:
        if _JSON.match(text):
            given = json.loads(text)
            states = [_state(part) for part in (given if isinstance(given, list) else [given])]
        else:
            states = states_of_log(windbg.parse(text))
        return [_titled(states[0], name.stem)] if len(states) == 1 else states
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name}: {error}") from error


def _state(given: Any) -> State:
    if isinstance(given, dict) and given.get("format") == "dmi-snapshot":
        from dmi._snapshot import Snapshot  # loads the native part, which logs can do without

        return state_of(Snapshot.from_dict(given))
    return state_of(given)


def _titled(state: State, label: str) -> State:
    return state if state.label else replace(state, label=label)


def _check_page(page_size: int) -> None:
    if page_size <= 0 or page_size & (page_size - 1):
        raise ValueError(f"page_size must be a power of two, not {page_size}")


class _Callable(types.ModuleType):
    """``import dmi.diagnose`` binds the module where the package promises a function: be both."""

    def __call__(self, *args: Any, **options: Any) -> Verdict:
        return diagnose(*args, **options)


sys.modules[__name__].__class__ = _Callable
