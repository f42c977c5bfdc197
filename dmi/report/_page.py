"""The page itself: contents through a template into one file."""

from __future__ import annotations

import base64
import json
import zlib
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from dmi import _files, _names
from dmi._inspect import REASONS_TABLE
from dmi._version import __version__
from dmi.report._map import STATES
from dmi.report._svg import COLOURS, PARTS, chart_svg, waterfall_svg
from dmi.stats import REASONS

if TYPE_CHECKING:
    import os

    from dmi.report._content import Chart, Content, HeapMap, Waterfall

__all__ = ["Report"]

_ORDER: Final = ("busy", "retained", *REASONS)
_REASONS: Final = {name: text for name, _, text in REASONS_TABLE}


class Report:
    """A finished page. str() or .html is its text; save() writes it."""

    def __init__(self, content: Content) -> None:
        self.content = _names.hidden(content)
        self._html: str | None = None

    @property
    def html(self) -> str:
        """The page. ImportError, naming the extra, without jinja2."""
        if self._html is None:
            self._html = _render(self.content)
        return self._html

    def __str__(self) -> str:
        return self.html

    def _repr_html_(self) -> str:
        """In a notebook: the charts, without the rest."""
        parts = [f"<h3>{_escaped(self.content.title)}</h3>"]
        parts += [chart_svg(each, n) for n, each in enumerate(self.content.charts)]
        return "".join(parts)

    def __repr__(self) -> str:
        return f"<dmi.report.Report: {self.content.title}>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page. OSError as usual."""
        _files.write_text(path, self.html)


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)


def _file(name: str) -> str:
    return (resources.files("dmi.report") / name).read_text(encoding="utf-8")


def _render(content: Content) -> str:
    try:
        import jinja2
    except ImportError:
        raise ImportError(
            "a report needs the extra 'report': pip install 'dmi-heap[report]'"
        ) from None
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_file("page.html.j2"))
    data = {
        "states": STATES,
        "maps": [_map_data(each) for each in content.maps],
        "charts": [
            {"series": [{"name": s.name, "points": s.points} for s in chart.series]}
            for chart in content.charts
        ],
    }
    return template.render(
        content=content,
        version=__version__,
        style=_safe(_file("page.css")),
        script=_safe(_file("page.js")),
        data=_safe(_json(data)),
        charts=[
            (each, _safe(chart_svg(each, n)), _legend(each))
            for n, each in enumerate(content.charts)
        ],
        waterfalls=[
            (each, _safe(waterfall_svg(each, n)), _reasons(each))
            for n, each in enumerate(content.waterfalls)
        ],
        mib=lambda size: f"{size / (1 << 20):,.2f}",
    )


def _safe(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _json(data: Any) -> str:
    """JSON that can stand inside a script element whatever names it holds."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _legend(chart: Chart) -> list[tuple[int, str, str]]:
    """(colour, name, last value) of each line."""
    return [
        (n % COLOURS, each.name, f"{each.points[-1][1] / (1 << 20):,.1f} MiB")
        for n, each in enumerate(chart.series)
        if each.points
    ]


def _reasons(waterfall: Waterfall) -> list[tuple[int, str, str]]:
    """(colour, part, what it means) of the parts that occur."""
    used = {name for _, parts in waterfall.rows for name, size in parts if size > 0}
    return [(PARTS.get(name, COLOURS - 1), name, _meaning(name)) for name in _ORDER if name in used]


def _meaning(name: str) -> str:
    return {
        "busy": "in use by the program",
        "retained": "committed and not in use",
    }.get(name) or _REASONS[name]


def _map_data(each: HeapMap) -> dict[str, Any]:
    return {
        "title": each.title,
        "page": each.page_size,
        "note": each.note,
        "pins": [[f"{address:x}", size, pinned] for address, size, pinned in each.pins],
        "owners": {f"{address:x}": name for address, name in each.owners.items()},
        "segments": [
            {
                "address": f"{segment.address:x}",
                "virtual": segment.virtual,
                "pages": _packed(segment.pages),
                "blocks": None if segment.blocks is None else _packed(segment.blocks),
                "count": segment.count,
            }
            for segment in each.segments
        ],
    }


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")
