"""The trade-off as a picture: mean retained commit against CPU time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dmi import _files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dmi.experiment._replay import Replay
    from dmi.experiment._results import Cell

_MIB = 1 << 20


def check(path: Path) -> None:
    """Refuse what could not be drawn to, before there is anything to draw.

    ImportError without matplotlib, ValueError for a suffix that it does not know, OSError for a
    place where no file can be made.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise ImportError("plotting needs the extra 'plot': pip install 'dmi-heap[plot]'") from None
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        kinds = ", ".join(f".{kind}" for kind in sorted(known))
        raise ValueError(f"{path}: the name of a picture ends in one of {kinds}")
    _files.check_target(path)


def pareto(
    panels: Mapping[str, Sequence[Cell]], fronts: Mapping[str, Sequence[Cell]], path: Path
) -> None:
    """Draw a panel for each recording, the cells of its front joined by a line; raises as check().

    Never opens a window.
    """
    check(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, cells) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(len(panels), 1, number)
        front = fronts[name]
        axes.plot(
            [cell.cpu_seconds for cell in front],
            [cell.mean_retained / _MIB for cell in front],
            drawstyle="steps-post",
            color="0.6",
            zorder=1,
        )
        for place, cell in enumerate(sorted(cells, key=lambda cell: cell.cpu_seconds)):
            point = (cell.cpu_seconds, cell.mean_retained / _MIB)
            axes.scatter(*point, color="C0" if cell in front else "C1", zorder=2)
            # Neighbours often cost the same: their names go to three heights.
            away = (5, 5 + 10 * (place % 3))
            axes.annotate(cell.decommit, point, xytext=away, textcoords="offset points", size=8)
        axes.set_title(os.path.basename(name))  # noqa: PTH119 - not always a path
        axes.set_xlabel("CPU time of the replay, s (less is better)")
        axes.set_ylabel("mean retained, MiB (less is better)")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.15)
        axes.grid(alpha=0.3)
    with _files.replacing(path) as file:
        figure.savefig(file, dpi=120, format=path.suffix[1:].lower())


def timeline(replay: Replay, path: Path) -> None:
    """Draw committed memory over the recording, a line for each policy; raises as check()."""
    check(path)
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    timed = replay.duration > 0
    for run in replay.runs:
        places = [s.seconds if timed else s.position for s in run.timeline]
        axes.plot(places, [s.stats.committed / _MIB for s in run.timeline], label=run.decommit)
    first = replay.runs[0].timeline
    places = [s.seconds if timed else s.position for s in first]
    axes.fill_between(places, [s.stats.busy / _MIB for s in first], color="0.85", label="busy")
    bounds = [run.end.stats.page_bound for run in replay.runs]
    known = [bound for bound in bounds if bound is not None]
    if known:
        label = "page bound at the end"
        axes.axhline(min(known) / _MIB, color="0.4", linestyle=":", label=label)
    axes.set_xlabel("seconds of the recording" if timed else "records")
    axes.set_ylabel("committed, MiB")
    axes.set_title(os.path.basename(replay.recording))  # noqa: PTH119 - not always a path
    axes.set_xlim(left=0, right=places[-1] or 1)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", fontsize="small")
    kind = path.suffix[1:].lower()
    # The same replay gives the same file.
    metadata = {"Date": None} if kind == "svg" else None
    with rc_context({"svg.hashsalt": "dmi"}), _files.replacing(path) as file:
        figure.savefig(file, dpi=120, format=kind, metadata=metadata)
