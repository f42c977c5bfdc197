"""Profiles in the formats of other programs, and as a page."""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from dmi import _files
from dmi._version import __version__
from dmi.profile._blame import Blame, blame, pair_of
from dmi.profile._pprof import pprof
from dmi.profile._stacks import MOMENT, by_names, gained
from dmi.profile._symbols import Resolver

if TYPE_CHECKING:
    import os
    from collections.abc import Collection

    from dmi.profile._measure import What
    from dmi.profile._model import Profile
    from dmi.profile._stacks import Named

__all__ = ["FORMATS", "render", "write"]

FORMATS: Final = {
    "flame": "a page with a flame graph, for a browser; it needs no network",
    "pprof": "for `go tool pprof`",
    "folded": "a line a stack, for flamegraph.pl and its kin",
    "speedscope": "for speedscope",
    "json": "as `blame` answers, with the schema in blame.schema.json",
}
_SPEEDSCOPE: Final = "https://www.speedscope.app/file-format-schema.json"

_Stacks = dict[tuple["Named", ...], list[int]]


def write(
    source: Any,
    file: str | os.PathLike[str],
    format: str,  # noqa: A002
    what: What = "pinned",
    *,
    by: Any = "line",
    skip: Collection[str] = (),
    across: bool = False,
) -> None:
    """Write a profile to a new file, mode 0600. OSError as usual, ValueError as blame()."""
    _files.check_target(file)
    data = render(source, format, what, by=by, skip=skip, across=across)
    _files.write_bytes(file, data)


def render(
    source: Any,
    format: str,  # noqa: A002
    what: What = "pinned",
    *,
    by: Any = "line",
    skip: Collection[str] = (),
    across: bool = False,
) -> bytes:
    """The bytes of such a file. Of two moments what each stack gained, where the format can say
    it; pprof has a way of its own to compare (`-diff_base`)."""
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r:.40}")
    if format == "json":
        found: Blame = blame(source, by, what, skip=skip, across=across)
        return (json.dumps(found.as_dict(), indent=2) + "\n").encode()
    pair = pair_of(source, by, what, across=across)
    if format == "pprof":
        if len(pair) == 2:
            raise ValueError(
                "pprof compares by itself: write each moment, then `go tool pprof -diff_base`"
            )
        with Resolver(pair[0], skip=skip) as resolver:
            return pprof(pair[0], resolver, what)
    measures = _measures(pair, what)
    stacks = _stacks(pair, measures, skip)
    if format == "folded":
        return _folded(stacks, measures.index(what)).encode("utf-8", "replace")
    if format == "speedscope":
        return json.dumps(_speedscope(stacks, measures, what), separators=(",", ":")).encode()
    return _flame(stacks, measures, what, pair).encode("utf-8", "replace")


def _measures(pair: list[Profile], what: str) -> list[str]:
    if len(pair) == 2:
        return [what, *(each for each in MOMENT if each != what and each != "busy")]
    return [what, *(each for each in MOMENT if each != what)]


def _stacks(pair: list[Profile], measures: list[str], skip: Collection[str]) -> _Stacks:
    found = []
    for each in pair:
        with Resolver(each, skip=skip) as resolver:
            found.append(by_names(each, resolver, measures))
    return found[0] if len(found) == 1 else gained(*found)


def _folded(stacks: _Stacks, place: int) -> str:
    lines = [
        ";".join(_one_word(frame.name) for frame in stack) + f" {sizes[place]}"
        for stack, sizes in stacks.items()
        if sizes[place]
    ]
    return "".join(f"{line}\n" for line in sorted(lines))


def _one_word(name: str) -> str:
    """A name that ends neither its frame nor its line."""
    return "".join(c if c.isprintable() else "?" for c in name).replace(";", ":")


def _speedscope(stacks: _Stacks, measures: list[str], what: str) -> dict[str, Any]:
    numbers: dict[Named, int] = {}
    for stack in stacks:
        for frame in stack:
            numbers.setdefault(frame, len(numbers))
    profiles = []
    for place, name in enumerate(measures):
        rows = [(stack, sizes[place]) for stack, sizes in stacks.items() if sizes[place]]
        profiles.append(
            {
                "type": "sampled",
                "name": name,
                "unit": "bytes",
                "startValue": 0,
                "endValue": sum(size for _, size in rows),
                "samples": [[numbers[frame] for frame in stack] for stack, _ in rows],
                "weights": [size for _, size in rows],
            }
        )
    frames: list[dict[str, Any]] = []
    for frame in numbers:
        made: dict[str, Any] = {"name": frame.name}
        if frame.file:
            made["file"] = frame.file
        if frame.line:
            made["line"] = frame.line
        frames.append(made)
    return {
        "$schema": _SPEEDSCOPE,
        "shared": {"frames": frames},
        "profiles": profiles,
        "name": f"dmi: {what}",
        "activeProfileIndex": 0,
        "exporter": f"dmi {__version__}",
    }


def _flame(stacks: _Stacks, measures: list[str], what: str, pair: list[Profile]) -> str:
    """The page: the tree as flat lists, so that deep stacks need no deep nesting."""
    names: dict[str, int] = {"all": 0}
    nodes: list[list[int]] = [[-1, 0, *([0] * len(measures))]]
    children: dict[tuple[int, int], int] = {}
    for stack, sizes in stacks.items():
        at = 0
        nodes[0][2:] = [a + b for a, b in zip(nodes[0][2:], sizes, strict=True)]
        for frame in stack:
            name = names.setdefault(frame.name, len(names))
            nearest = children.get((at, name))
            if nearest is None:
                nearest = children[at, name] = len(nodes)
                nodes.append([at, name, *([0] * len(measures))])
            at = nearest
            nodes[at][2:] = [a + b for a, b in zip(nodes[at][2:], sizes, strict=True)]
    profile = pair[-1]
    data = {
        "measures": measures,
        "names": list(names),
        "nodes": nodes,
        "gained": len(pair) == 2,
        "process": f"{profile.program.rpartition('/')[2] or 'process'} {profile.pid}".strip(),
        "one_in": profile.one_in,
        "made": f"dmi {__version__}",
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    page = (resources.files("dmi.profile") / "flame.html").read_text(encoding="utf-8")
    return page.replace("/*DATA*/null", text, 1)
