"""dmi.sweep: recordings times policies, one process a cell, and the trade-off they show.

A cell is a child process, `python -m dmi replay --json`, whatever the executor: no heap, no
fragmentation and no page fault of one cell reaches another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import dmi.experiment._report as _report
from dmi._tables import frame, html_table
from dmi.errors import DmiError
from dmi.experiment._replay import DEFAULT_REPEAT, DEFAULT_SAMPLES, policies_of
from dmi.experiment._results import Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas

    from dmi.policy import Decommit

DEFAULT_POLICIES = (
    "never,eager,lazy:delay=0.1|1|10,decay:half_life=1|5,"
    "threshold:block=4K|64K:total=64K,budget:ratio=0.1"
)

Recording = str | os.PathLike[str] | bytes


class SweepError(DmiError):
    """A cell whose process failed; the message is what it said."""


class Executor(Protocol):
    """What is asked of an executor; concurrent.futures and Dask's get_executor() have it."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Sweep:
    """All cells, recordings in the order given, policies within each. str() is a table."""

    cells: tuple[Cell, ...]

    def recordings(self) -> dict[str, list[Cell]]:
        """The cells of each recording."""
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.recording, []).append(cell)
        return found

    def pareto(self, recording: str) -> list[Cell]:
        """The cells that no other one beats, cheapest first: none is better in mean retained or
        CPU time without being worse in the other, as far as these can be told apart (Cell.ties)."""
        cells = self.recordings()[recording]
        front = [cell for cell in cells if not any(other.beats(cell) for other in cells)]
        return sorted(front, key=lambda cell: (cell.cpu_seconds, cell.mean_retained))

    def tied(self, recording: str) -> list[Cell]:
        """Those of the front that cannot be told from another one there, in neither measure."""
        front = self.pareto(recording)
        return [
            cell
            for cell in front
            if any(other is not cell and all(cell.ties(other)) for other in front)
        ]

    def as_dict(self) -> dict[str, Any]:
        """What `dmi sweep --json` prints."""
        return {
            "recordings": [
                {
                    "recording": name,
                    "events": cells[0].events,
                    "pareto": [cell.decommit for cell in self.pareto(name)],
                    "tied": [cell.decommit for cell in self.tied(name)],
                    "runs": [cell.run for cell in cells],
                }
                for name, cells in self.recordings().items()
            ]
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """as_dict() as JSON text."""
        return json.dumps(self.as_dict(), indent=indent, allow_nan=False)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw mean retained against CPU time, a panel for each recording, into a file.

        The suffix decides the kind of file. ImportError without the extra `plot`, ValueError and
        OSError for a name that cannot be drawn to.
        """
        import dmi.experiment._plot as _plot

        _plot.pareto(
            self.recordings(), {name: self.pareto(name) for name in self.recordings()}, Path(path)
        )

    def frame(self) -> pandas.DataFrame:
        """A row a cell. Bytes and seconds. ImportError without pandas (the extra ``frames``)."""
        return frame([
            {"recording": cell.recording, "decommit": cell.decommit,
             "mean_retained": cell.mean_retained, "retained": cell.retained,
             "committed": cell.committed, "page_bound": cell.page_bound,
             "cpu_seconds": cell.cpu_seconds,
             "pareto": any(cell is each for each in self.pareto(cell.recording))}
            for cell in self.cells
        ])  # fmt: skip

    def _repr_html_(self) -> str:
        head = ("policy", "mean retained", "retained", "committed", "page bound", "CPU s", "pareto")
        parts = []
        for name, cells in self.recordings().items():
            front = self.pareto(name)
            rows = [
                (cell.decommit, round(cell.mean_retained), cell.retained, cell.committed,
                 cell.page_bound, cell.cpu_seconds, any(cell is each for each in front))
                for cell in cells
            ]  # fmt: skip
            parts.append(html_table(name, head, rows))
        return "".join(parts)

    def __str__(self) -> str:
        return "\n\n".join(
            f"{name}\n{_report.sweep_table(cells, self.pareto(name), self.tied(name))}"
            for name, cells in self.recordings().items()
        )


def check_plot(path: str | os.PathLike[str]) -> None:
    """Raise now what Sweep.plot(path) would raise after the work."""
    import dmi.experiment._plot as _plot

    _plot.check(Path(path))


_START = """
import json, runpy, sys
sys.path[:] = json.loads(sys.argv.pop(1))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def child(module: str = "dmi") -> list[str]:
    """How to start a module of dmi as it is in this process, whatever lies in the working
    directory.

    Isolated, with the places where this process looks for modules but for that directory; dmi
    itself is found where this one lies, also if that is there.
    """
    here = os.path.realpath(os.curdir)
    places = [
        place for place in sys.path if Path(place).is_absolute() and os.path.realpath(place) != here
    ]
    home = str(Path(__file__).resolve().parents[2])
    if home not in places:
        places.append(home)
    return [sys.executable, "-I", "-c", _START, json.dumps(places), module]


def run_cell(recording: str | bytes, decommit: str, samples: int, repeat: int) -> dict[str, Any]:
    """Replay in a child process and return its JSON. Runs wherever the executor puts it.

    A recording given as bytes is written to a temporary file there. SweepError when the child
    fails.
    """
    with ExitStack() as stack:
        if isinstance(recording, bytes):
            file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".recording"))
            file.write(recording)
            file.flush()
            path = file.name
        else:
            path = recording
        command = [*child(), "replay", path, "--json"]
        command += ["--decommit", decommit, "--samples", str(samples), "--repeat", str(repeat)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        reason = said[-1] if said else f"exit status {done.returncode}"
        raise SweepError(f"{decommit} on {path}: {reason}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def sweep(
    traces: Recording | Sequence[Recording],
    policies: str | Decommit | Sequence[str | Decommit] = DEFAULT_POLICIES,
    *,
    executor: Executor | None = None,
    samples: int = DEFAULT_SAMPLES,
    repeat: int = DEFAULT_REPEAT,
    progress: Callable[[str, int, int], None] | None = None,
) -> Sweep:
    """Replay every recording under every policy, each in a process of its own.

    traces    recordings: paths, which the workers must be able to open, or the bytes of files
    policies  as for dmi.replay()
    executor  anything with submit(); default: half as many at a time as there are processors, so
              that cells do not disturb each other's CPU time
    progress  called with the cell that is waited for, cells done, and cells in all

    SweepError names the first cell that failed.
    """
    if isinstance(traces, str | os.PathLike | bytes):
        traces = [traces]
    names: list[str] = []
    sources: list[str | bytes] = []
    for number, trace in enumerate(traces, 1):
        if isinstance(trace, bytes):
            names.append(f"recording {number}")
            sources.append(trace)
        else:
            names.append(os.fspath(trace))
            sources.append(os.fspath(trace))
    if not sources:
        raise ValueError("traces names no recording")
    texts = [str(policy) for policy in policies_of(policies)]
    with ExitStack() as stack:
        if executor is None:
            pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2))
            stack.callback(pool.shutdown, cancel_futures=True)
            executor = pool
        waiting = [
            (name, text, executor.submit(run_cell, source, text, samples, repeat))
            for name, source in zip(names, sources, strict=True)
            for text in texts
        ]
        cells: list[Cell] = []
        for name, text, future in waiting:
            if progress:
                progress(f"{name}, {text}", len(cells), len(waiting))
            result = future.result()
            duration = result["duration"] or None
            cells.append(Cell(name, text, result["events"], result["runs"][0], duration))
    return Sweep(tuple(cells))
