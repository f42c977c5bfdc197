"""Looking through a large profile before it is read: entry by entry, and nothing of it is kept.

What is read whole takes memory for all of its values. So a file that would take much is read whole
only once it is known that nothing in it will be refused.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from typing import IO, TYPE_CHECKING, Any, Final

from dmi import _files
from dmi.profile._parts import SNAPSHOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["look_through"]

_PIECE: Final = 1 << 16
_MOST_ENTRY: Final = 16 << 20
"""Bytes of memory for one entry of a list; a page with 4,096 blocks takes a tenth of it."""
_MOST_REST: Final = 40 << 20
"""Bytes of memory for all that stands in none of a profile's lists."""
_MOST_KEYS: Final = 1 << 16
"""Of one object."""
_BLANK: Final = re.compile(r"[ \t\n\r]*")
_NUMBER: Final = re.compile(r"[0-9.eE+-]")

Entry = tuple[str, str, int, Any]
"""The object ("" for the file's own, or "profile"), the key, which entry of its list, the value."""


class _Window:
    """The part of a JSON text that is being looked at."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._decoder = _files.json_decoder()
        self._text = ""
        self._at = 0
        self._before = 0  # characters ahead of the window
        self._ended = False

    def fault(self, what: str) -> ValueError:
        return ValueError(f"no JSON: {what}, character {self._before + self._at:,}")

    def _more(self) -> None:
        """Reads as much again as is not used up, so that growing costs twice the text at most."""
        self._before += self._at
        self._text = self._text[self._at :]
        self._at = 0
        piece = self._file.read(max(_PIECE, len(self._text)))
        self._ended = not piece
        try:
            self._text += self._decode(piece, self._ended)
        except UnicodeDecodeError:
            raise self.fault("no UTF-8 text after") from None

    def next(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            self._at = blank.end() if blank else self._at
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def take(self, wanted: str) -> str:
        """Step over one of the characters wanted."""
        found = self.next()
        if not found or found not in wanted:
            raise self.fault(f"one of {' '.join(wanted)} is missing")
        self._at += 1
        return found

    def value(self, most: int) -> tuple[Any, str]:
        """A value that takes up to about ``most`` bytes, and its text. What follows it stays."""
        self.next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                fault = self.fault(error.msg)
            except RecursionError:
                raise self.fault("nested too deeply") from None
            else:
                # A number may go on in the next piece.
                behind = self._text[end : end + 1]
                if self._ended or (behind and not _NUMBER.match(behind)):
                    begin, self._at = self._at, end
                    return value, self._text[begin:end]
                fault = self.fault("a number without an end")
            if self._ended:
                raise fault
            if _files.weight_of_text(self._text[self._at :]) > most:
                raise _files.TooLargeError(
                    f"a value that would take about {most >> 20} MiB of memory or more, "
                    f"character {self._before + self._at:,}"
                )
            self._more()

    def members(self) -> Iterator[str]:
        """The keys of an object; the value of each is taken by whoever iterates."""
        self.take("{")
        seen: set[str] = set()
        if self.next() == "}":
            self.take("}")
            return
        while True:
            key, _ = self.value(_MOST_ENTRY)
            if not isinstance(key, str):
                raise self.fault("a key that is no text before")
            if key in seen:
                raise self.fault(f"a second {key!r:.40} before")
            if len(seen) == _MOST_KEYS:
                raise self.fault("too many keys in one object")
            seen.add(key)
            self.take(":")
            yield key
            if self.take(",}") == "}":
                return

    def entries(self) -> Iterator[Any]:
        """The values of a list."""
        self.take("[")
        if self.next() == "]":
            self.take("]")
            return
        while True:
            yield self.value(_MOST_ENTRY)[0]
            if self.take(",]") == "]":
                return


class _Rest:
    """All that stands in none of a profile's lists, and what it may still take."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {"": {}}
        self._left = _MOST_REST

    def take(self, window: _Window, where: str, key: str) -> None:
        value, text = window.value(self._left)
        self._left -= _files.weight_of_text(text) + _files.weight_of_text(key)
        if self._left < 0:
            raise _files.TooLargeError("too much besides the lists of a profile")
        self.values[where][key] = value


def _walk(window: _Window, lists: Any, rest: _Rest, where: str = "") -> Iterator[Entry]:
    for key in window.members():
        begins = window.next()
        if key in lists and begins == "[":
            rest.values[where][key] = ()
            for number, value in enumerate(window.entries()):
                yield where, key, number, value
        elif key == "profile" and begins == "{" and not where:
            rest.values["profile"] = {}
            yield from _walk(window, lists, rest, "profile")
        else:
            rest.take(window, where, key)


def look_through(
    file: IO[bytes],
    lists: dict[str, Callable[[object, str, int, int], object]],
    whole: Callable[[object], object],
) -> dict[str, Any]:
    """Refuse, with ValueError, what is no profile and no snapshot with one. What is returned is
    the file's object without the profile.

    lists  what refuses one entry: (value, its name, number of frames, number of stacks)
    whole  what refuses the values of a profile, whose lists are empty
    """
    counts: Counter[tuple[str, str]] = Counter()
    rest = _Rest()
    for check in (False, True):
        # First only counted: an entry may refer to a list that comes behind it.
        file.seek(0)
        window, rest = _Window(file), _Rest()
        for where, key, number, value in _walk(window, lists, rest):
            if check:
                frames, stacks = counts[where, "frames"], counts[where, "stacks"]
                lists[key](value, f"{key}[{number}]", frames, stacks)
            else:
                counts[where, key] += 1
        if window.next():
            raise window.fault("more text behind the end")
    top = rest.values[""]
    if top.get("format") == SNAPSHOT:
        if "profile" not in rest.values:
            raise ValueError("a snapshot without a profile")
        whole(rest.values["profile"])
    else:
        whole(top)
    return top
