"""Charts as SVG text: they need no script and follow the page's colours."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dmi.report._content import Chart, Series, Waterfall

__all__ = ["COLOURS", "PARTS", "chart_svg", "waterfall_svg"]

WIDTH: Final = 960
HEIGHT: Final = 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 30
MIB: Final = 1 << 20
COLOURS: Final = 8
PARTS: Final = {
    "busy": 0, "retained": 1, "pinned": 2, "in_flight": 6, "delay": 4, "decay": 4, "budget": 3,
    "pressure": 3, "never": 1, "block_threshold": 5, "total_threshold": 3,
    "commit_granularity": 6, "offered": 7, "refused": 5, "overhead": 7,
}  # fmt: skip
"""The colour of each part of a waterfall; those that share one rarely stand in one bar."""
POINTS: Final = 600
"""Points of a line that are drawn; more cannot be told apart."""


def ticks(most: float, wanted: int = 5) -> list[float]:
    """Round numbers from 0 to at least ``most``."""
    if most <= 0:
        return [0.0, 1.0]
    raw = most / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 2.5, 5) if m * power >= raw), 10 * power)
    return [step * n for n in range(math.ceil(most / step) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


def _text(kind: str, x: float, y: float, text: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(text)}</text>'


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Fewer points, every extreme among them."""
    if len(points) <= POINTS:
        return list(points)
    group = math.ceil(len(points) / (POINTS // 2))
    kept: list[tuple[float, float]] = []
    for n in range(0, len(points), group):
        part = points[n : n + group]
        both = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(both)
    return [points[0], *kept, points[-1]]


def chart_svg(chart: Chart, number: int) -> str:
    """Lines over time, MiB on the left. The legend names each line with its last value."""
    every = [point for series in chart.series for point in series.points]
    if not every:
        return ""
    left, right = min(x for x, _ in every), max(x for x, _ in every)
    marks = ticks(max(y for _, y in every) / MIB)
    top = marks[-1] * MIB
    span = (right - left) or 1.0

    def x_of(value: float) -> float:
        return LEFT + (value - left) / span * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    opened = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="c{number}t c{number}d" data-chart="{number}" data-x0="{left:g}" '
        f'data-x1="{right:g}" data-left="{LEFT}" data-right="{WIDTH - RIGHT}">'
    )
    parts = [
        opened,
        f'<title id="c{number}t">{escape(chart.title)}</title>',
        f'<desc id="c{number}d">{escape(_described(chart.series))}</desc>',
    ]
    for mark in marks:
        y = y_of(mark * MIB)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text("tick", LEFT - 8, y + 4, _number(mark), "end"))
    parts.append(_text("tick", 4, TOP + 4, "MiB", "start"))
    parts += [
        _text("tick", x_of(mark), HEIGHT - 8, f"{_number(mark)} s", "middle")
        for mark in ticks(right, 8)
        if left - span / 50 <= mark <= right
    ]
    for place, series in enumerate(chart.series):
        line = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in _thin(series.points))
        colour = place % COLOURS
        if series.area and series.points:
            base = y_of(0)
            first, last = x_of(series.points[0][0]), x_of(series.points[-1][0])
            parts.append(
                f'<polygon class="area s{colour}" points="{first:.1f},{base:.1f} {line} '
                f'{last:.1f},{base:.1f}"/>'
            )
        if len(series.points) == 1:
            x, y = series.points[0]
            parts.append(
                f'<circle class="dot s{colour}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="5"/>'
            )
        else:
            parts.append(f'<polyline class="line s{colour}" points="{line}"/>')
            if len(series.points) <= 24:
                parts += [
                    f'<circle class="dot s{colour}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3.5"/>'
                    for x, y in series.points
                ]
    parts.append('<line class="cursor" x1="0" x2="0" y1="0" y2="0" visibility="hidden"/></svg>')
    return "".join(parts)


def _described(series: Sequence[Series]) -> str:
    """The chart in words: where each line begins, its highest point, and its end."""
    words = []
    for each in series:
        if each.points:
            first, last = each.points[0][1], each.points[-1][1]
            most = max(y for _, y in each.points)
            words.append(
                f"{each.name}: {first / MIB:.1f} MiB at first, at most {most / MIB:.1f}, "
                f"{last / MIB:.1f} at the end"
            )
    return "; ".join(words)


def waterfall_svg(waterfall: Waterfall, number: int) -> str:
    """A bar for each moment, its parts in their order."""
    bar, gap, names = 26, 12, 190
    most = max((sum(size for _, size in parts) for _, parts in waterfall.rows), default=0)
    if not most:
        return ""
    height = TOP + len(waterfall.rows) * (bar + gap) + 4
    scale = (WIDTH - names - 110) / most
    box = f'viewBox="0 0 {WIDTH} {height}"'
    out = [
        f'<svg class="chart" {box} role="img" aria-labelledby="w{number}t">',
        f'<title id="w{number}t">{escape(waterfall.title)}</title>',
    ]
    for place, (label, parts) in enumerate(waterfall.rows):
        y = TOP + place * (bar + gap)
        out.append(_text("label", names - 10, y + 18, label[:28], "end"))
        x = float(names)
        for name, size in parts:
            if size <= 0:
                continue
            width = size * scale
            colour = PARTS.get(name, COLOURS - 1)
            out.append(
                f'<rect class="bar s{colour}" x="{x:.1f}" y="{y}" width="{max(width, 0.6):.1f}" '
                f'height="{bar}"><title>{escape(label)}: {escape(name)} {size / MIB:,.2f} MiB'
                "</title></rect>"
            )
            x += width
        total = sum(size for _, size in parts)
        out.append(_text("label", x + 8, y + 18, f"{total / MIB:,.1f} MiB", "start"))
    return "".join(out) + "</svg>"
