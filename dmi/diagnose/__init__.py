"""Which kind of leak is it, where, how much, why, and what to do.

    diagnose(before, peak, after)    a Verdict from two or three moments, or a report on one
    from_log(log)                    from WinDbg text read by dmi.windbg
    from_files(paths)                from logs and snapshots on disk

Pure Python. The module itself can be called like its function, so that ``dmi.diagnose(a, b, c)``
works however it was imported.
"""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ._causes import Cause, Cure
from ._files import from_files, states_of_file
from ._judge import THRESHOLDS, DifferentProcessError, Thresholds, judge
from ._moments import UnclearError, in_order, of_one_process, states_of_log
from ._observe import Observation, State, state_of
from ._scope import Scope
from ._verdict import Kind, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dmi import windbg

__all__ = [
    "THRESHOLDS",
    "Cause",
    "Cure",
    "DifferentProcessError",
    "Kind",
    "Observation",
    "Scope",
    "State",
    "Thresholds",
    "UnclearError",
    "Verdict",
    "diagnose",
    "from_files",
    "from_log",
    "from_replay",
    "of_moments",
    "state_of",
    "states_of_file",
]


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
    That the moments are of one process is the caller's word here; where they say otherwise, the
    verdict notes it. Raises TypeError or ValueError naming what is missing. Thread-safe.
    """
    if after is None:
        peak, after = None, peak
    if after is None:
        raise TypeError("diagnose needs before and after")
    moments = [before, after] if peak is None else [before, peak, after]
    return of_moments(moments, thresholds=thresholds, page_size=page_size)


def of_moments(
    moments: Iterable[Any], *, thresholds: Thresholds = THRESHOLDS, page_size: int = 4096
) -> Verdict:
    """The verdict on any number of moments in the order of time, each as diagnose() takes them; of
    one there is a report. Of more than three the busiest between the first and the last counts as
    the peak. ValueError for none."""
    _check_page(page_size)
    return judge([state_of(moment) for moment in moments], thresholds, page_size, across=None)


def from_log(
    log: windbg.Log,
    *,
    thresholds: Thresholds = THRESHOLDS,
    page_size: int = 4096,
    across: bool = False,
) -> Verdict:
    """The verdict on a debugger log, whose moments are taken in the order of the text, unless it
    gives their times. Of more than three, the busiest between the first and the last counts as the
    peak; of one there is a report. Raises ValueError for a log without figures,
    DifferentProcessError for different processes."""
    _check_page(page_size)
    states = states_of_log(log)
    if not states:
        raise ValueError("the log holds no figures of heaps or of the address space")
    notes: list[str] = []
    if not across:
        states, notes = of_one_process(states)
    states, more = in_order(states)
    verdict = judge(states, thresholds, page_size, across=across)
    return replace(verdict, notes=(*verdict.notes, *notes, *more))


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


def _check_page(page_size: int) -> None:
    if page_size <= 0 or page_size & (page_size - 1):
        raise ValueError(f"page_size must be a power of two, not {page_size}")


class _Callable(types.ModuleType):
    """``import dmi.diagnose`` binds the module where the package promises a function: be both."""

    def __call__(self, *args: Any, **options: Any) -> Verdict:
        return diagnose(*args, **options)


sys.modules[__name__].__class__ = _Callable
