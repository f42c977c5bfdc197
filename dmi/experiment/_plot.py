"""The trade-off as a picture: mean retained commit against CPU time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dmi import _files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

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
