"""dmi.replay: a recording under several policies, side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dmi.experiment._report as _report
from dmi._tables import frame, html_table
from dmi.experiment._results import Run
from dmi.experiment._run import (
    Progress,
    Stop,
    before_peak,
    cost,
    mean_retained,
    measure,
    scout,
)
from dmi.policy import Decommit, expand
from dmi.trace import Trace, load

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    import pandas

    from dmi.trace.files import Source

DEFAULT_POLICIES = "never,eager,lazy,threshold"
DEFAULT_SAMPLES = 200
DEFAULT_REPEAT = 3


@dataclass(frozen=True, slots=True, repr=False)
class Replay:
    """A recording under each of several policies. str() is what `dmi replay` prints."""

    recording: str
    events: int
    skipped: int
    notes: dict[str, int]
    duration: float
    runs: tuple[Run, ...]

    def __getitem__(self, decommit: str) -> Run:
        """The run of a policy, by its text."""
        wanted = str(Decommit.parse(decommit))
        for run in self.runs:
            if run.decommit == wanted:
                return run
        raise KeyError(f"{decommit}; there are {', '.join(run.decommit for run in self.runs)}")

    def as_dict(self) -> dict[str, Any]:
        """What `dmi replay --json` prints."""
        return {
            "recording": self.recording,
            "events": self.events,
            "skipped": self.skipped,
            "notes": self.notes,
            "duration": self.duration,
            "runs": [run.as_dict() for run in self.runs],
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """as_dict() as JSON text."""
        return json.dumps(self.as_dict(), indent=indent, allow_nan=False)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw committed memory over the recording into a file, whose suffix decides its kind.

        ImportError without the extra `plot`, ValueError and OSError for a name that cannot be drawn
        to.
        """
        from dmi.experiment import _plot

        _plot.timeline(self, Path(path))

    def heap_summaries(self) -> str:
        """For each policy the `!heap -s` rows before, at and after the peak, or those asked for."""
        return _report.heap_summaries(self.runs)

    def table(self) -> str:
        """The comparison, a column for each policy."""
        return _report.table(self.runs)

    def conclusion(self) -> str:
        """One plain sentence: which policy gave back how much at what cost."""
        return _report.conclusion(self.runs)

    def frame(self) -> pandas.DataFrame:
        """The time lines, a row a sample and policy. ImportError without pandas."""
        return frame([
            {"decommit": run.decommit, **sample.as_dict()}
            for run in self.runs
            for sample in run.timeline
        ])  # fmt: skip

    def __repr__(self) -> str:
        policies = ", ".join(run.decommit for run in self.runs[:4])
        more = f" and {len(self.runs) - 4} more" if len(self.runs) > 4 else ""
        return f"<dmi.Replay of {self.recording}: {self.events:,} events under {policies}{more}>"

    def _repr_html_(self) -> str:
        head = ("policy", "committed at peak", "at end", "retained at end", "page bound", "CPU s")
        rows = [
            (run.decommit, run.peak.stats.committed, run.end.stats.committed,
             run.end.stats.retained, run.end.stats.page_bound, run.cpu_seconds)
            for run in self.runs
        ]  # fmt: skip
        return html_table(self.recording, head, rows)

    def __str__(self) -> str:
        head = f"{self.recording}: {self.events:,} events, {self.duration:.1f} s"
        if self.skipped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.notes.items())
            head += f"; skipped: {reasons}"
        notes = _report.too_short(self.duration, [run.decommit for run in self.runs])
        return "\n".join(
            (head, "", self.heap_summaries(), self.table(), "", self.conclusion(), *notes, "")
        )


def policies_of(decommit: str | Decommit | Sequence[str | Decommit]) -> list[Decommit]:
    """Every policy meant, in order and without repeats. ValueError names what cannot be read."""
    if isinstance(decommit, str):
        return expand(decommit)
    if isinstance(decommit, Decommit):
        return [decommit]
    found: dict[Decommit, None] = {}
    for item in decommit:
        found.update(dict.fromkeys(policies_of(item)))
    if not found:
        raise ValueError("decommit names no policy")
    return list(found)


def replay(
    trace: Source | Trace,
    decommit: str | Decommit | Sequence[str | Decommit] = DEFAULT_POLICIES,
    *,
    at: Sequence[float] = (),
    samples: int = DEFAULT_SAMPLES,
    repeat: int = DEFAULT_REPEAT,
    progress: Callable[[str, int, int], None] | None = None,
) -> Replay:
    """Replay a recording on a fresh heap for each policy, following the recording's own clock.

    trace     a Trace, or what dmi.trace.load() takes: a path or bytes, of any known kind
    decommit  policies: text ("never,lazy:delay=0.1|1"), a Decommit, or a sequence of these
    at        seconds on the recording's clock at which to take further states
    samples   of the timeline: this many even in time, and as many even in records
    repeat    measure so many times and keep the least CPU time
    progress  called with the policy, the records played so far, and the records in all

    Raises TraceError for a recording that cannot be read, ValueError for a bad argument, and
    HeapError should a heap's numbers not close or a block lose its contents. One thread plays,
    whatever the recording's threads; calls release the GIL.
    """
    for name, number in (("samples", samples), ("repeat", repeat)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name} must be an int, not {type(number).__name__}")
        if not 1 <= number <= 100_000:
            raise ValueError(f"{name} must be between 1 and 100,000, not {number}")
    for moment in at:
        if not 0 <= moment <= 1e9:
            raise ValueError(f"at must be seconds between 0 and 1e9, not {moment}")
    policies = policies_of(decommit)
    if not isinstance(trace, Trace):
        trace = load(trace)
    for moment in at:
        if moment > trace.duration:
            raise ValueError(
                f"at: {moment:g} s is outside the recording, which ends at {trace.duration:.2f} s"
            )
    total = len(policies) * (1 + repeat) * trace.count
    done = 0
    label = ""

    def advance(records: int) -> None:
        nonlocal done
        done += records
        if progress:
            progress(label, done, total)

    runs = []
    for policy in policies:
        label = str(policy)
        runs.append(_one(trace, policy, at, samples, repeat, advance))
    return Replay(
        recording=trace.name,
        events=trace.events,
        skipped=trace.skipped,
        notes=trace.notes,
        duration=trace.duration,
        runs=tuple(runs),
    )


def _one(
    trace: Trace,
    policy: Decommit,
    at: Sequence[float],
    samples: int,
    repeat: int,
    progress: Progress,
) -> Run:
    found = scout(trace, policy, samples, progress)
    before, peak = before_peak(found), Stop(record=found.peak_position)
    moments = [Stop(us=round(seconds * 1e6)) for seconds in at]
    measured = measure(trace, policy, [before, peak, *moments], progress)
    costs = [(measured.cpu, measured.wall)]
    costs += [cost(trace, policy, progress) for _ in range(repeat - 1)]
    costs.sort()
    cpu, wall = costs[0]
    return Run(
        decommit=str(policy),
        policy=policy,
        events=trace.events,
        seconds=wall,
        cpu_seconds=cpu,
        mean_retained=mean_retained(found.samples),
        failed=found.failed,
        before=measured.states[before],
        peak=measured.states[peak],
        end=measured.end,
        at=tuple(measured.states[moment] for moment in moments),
        timeline=tuple(found.samples),
        cpu_noise=costs[1][0] - cpu if len(costs) > 1 else None,
    )
