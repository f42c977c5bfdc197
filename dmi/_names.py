"""Names that others chose: shown without what a terminal would obey, or not at all.

`dmi COMMAND --hide-names` gives every path and the name of each program, thread, heap and cgroup
another word, the same one each time, in all that the command prints or writes. Readers note names
as they meet them; what is printed goes through ``hidden``.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import fields, is_dataclass, replace
from typing import IO, Any, Final

__all__ = ["escaped", "hidden", "hide", "hiding", "note"]

_PATH: Final = re.compile(r"(?<![\w<./\\])(?:/[^\s/\"'<>|:,;()\\]+){2,}/?")
_LEAST: Final = 2
"""Characters of the shortest name that is looked for: a single letter stands everywhere."""


def escaped(name: str) -> str:
    """A name that somebody else chose, without what a terminal would obey."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in name)


class _Hider:
    def __init__(self) -> None:
        self.words: dict[str, str] = {}
        self._names: set[str] = set()
        self._found: re.Pattern[str] | None = None

    def note(self, name: str) -> None:
        word = self.words.get(name)
        if word is None and len(name) >= _LEAST:
            word = self.words[name] = f"name-{len(self.words) + 1}"
            # In JSON, and on a terminal, it may be spelt otherwise.
            for spelt in (name, json.dumps(name)[1:-1], escaped(name)):
                self.words.setdefault(spelt, word)
                self._names.add(spelt)
            self._found = None

    def text(self, text: str) -> str:
        if self._names:
            if self._found is None:
                each = "|".join(map(re.escape, sorted(self._names, key=len, reverse=True)))
                self._found = re.compile(rf"(?<![\w-])(?:{each})(?![\w-])")
            text = self._found.sub(lambda match: self.words[match[0]], text)
        return _PATH.sub(self._path, text)

    def _path(self, match: re.Match[str]) -> str:
        return self.words.setdefault(match[0], f"path-{len(self.words) + 1}")

    def value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.value(key): self.value(each) for key, each in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self.value(each) for each in value))
        if isinstance(value, list | tuple):
            return type(value)(self.value(each) for each in value)
        if is_dataclass(value) and not isinstance(value, type):
            changed = {
                each.name: self.value(getattr(value, each.name))
                for each in fields(value)
                if each.init
            }
            return replace(value, **changed)
        return value


_hider: _Hider | None = None


def hiding() -> bool:
    """Whether names are hidden."""
    return _hider is not None


def note(*names: str) -> None:
    """These are names that somebody chose: not to be shown where names are hidden."""
    if _hider is not None:
        for name in names:
            _hider.note(name)
            if "/" in name:
                _hider.note(name.rpartition("/")[2])


def hidden(value: Any) -> Any:
    """The same text, dict, list or dataclass without names, where they are hidden."""
    return value if _hider is None else _hider.value(value)


class _Filter:
    """A stream of text that shows no names. Whole lines are written."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._rest = ""

    def write(self, text: str) -> int:
        lines = self._rest + text
        whole, end, self._rest = lines.rpartition("\n")
        if end:
            self._stream.write(hidden(whole) + end)
        return len(text)

    def flush(self) -> None:
        rest, self._rest = self._rest, ""
        self._stream.write(hidden(rest))
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def hide() -> None:
    """From now on, and in all that is printed."""
    global _hider
    if _hider is None:
        _hider = _Hider()
        sys.stdout = _Filter(sys.stdout)
        sys.stderr = _Filter(sys.stderr)
