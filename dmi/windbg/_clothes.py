"""Takes off what a debugger's text wears when it has been mailed, pasted, logged or printed.

``decode`` finds the encoding of a file; ``plain_lines`` gives the lines of a text without colours,
HTML, entities, mail quotes, line numbers and time stamps, each with the number of the line of the
file that it stood in. No figure is changed.
"""

from __future__ import annotations

import base64
import codecs
import html
import itertools
import re
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from ._front import front_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_LINE", "Line", "LongText", "decode", "plain_lines"]

MAX_LINE: Final = 1024
"""Characters of a line that are looked at; a row that is longer is not read."""

_SAMPLE: Final = 1 << 16
_PIECE: Final = 1 << 20
_LONGEST: Final = 2 << 20

# Bytes that are no UTF-8 come from the code page that most consoles and editors of Windows use.
_CP1252: Final = {
    0xDC00 + byte: bytes((byte,)).decode("cp1252", "replace") for byte in range(0x80, 0x100)
}
_CHARACTERS: Final[dict[int, str | None]] = {
    **dict.fromkeys((0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000), " "),
    **dict.fromkeys((0x00AD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), 0x2060, 0xFEFF), None),
    **{0xFEE0 + code: chr(code) for code in range(0x21, 0x7F)},
    0x2500: "-",
    0x2501: "-",
    0x2502: "|",
    0x2503: "|",
    0x2212: "-",
    0x2010: "-",
    0x2011: "-",
    0x2018: "'",
    0x2019: "'",
}
_BREAK: Final = re.compile(r"\r*\n|\r|[\x0b\x0c\x85\u2028\u2029]")
_COLOUR: Final = re.compile(
    r"\x1b\[[0-9;?]{0,32}[ -/]?[@-~]|\x1b\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)|\^\[\[[0-9;]{0,16}m"
)
_THIN: Final = re.compile(r"(?<=[0-9])[\u2009\u202f](?=[0-9]{3}(?![0-9]))")
_FRENCH: Final = re.compile(r"(?<=[0-9])\u00a0(?=[0-9]{3}(?![0-9]))")
_ESCAPE: Final = re.compile(r"(?:\\r)?\\n|&#(?:10|x0?[aA]);")
_ESCAPES: Final = {"\\t": " ", '\\"': '"', "\\/": "/", "\\\\": "\\"}
_FEWEST_ESCAPES: Final = 5
_LONG: Final = 200
_FEWEST_ROLLED: Final = 3
_ROLLED: Final = (
    # A usage of `!address` in the old form and in the new one, a row of `!heap -s`.
    r"\b[0-9a-f]{1,8} \( *[0-9]{1,10}\) : +[0-9.]{4,6}%"
    r"|(?:\b[A-Z]\w+|<\w+>) +[0-9]{1,8} +[0-9a-f]{0,8}`?[0-9a-f]{4,8} \( *[0-9.]{1,9} [kMGT]?B\)"
    r"|\b(?:[0-9a-f]{8}`?)?[0-9a-f]{8} [0-9a-f]{8} +[0-9]{1,10}(?: +[0-9]{1,10}){5,7}\b"
    # A row of -stat, of -l and of -flt.
    r"|\b[0-9a-f]{1,8} [0-9a-f]{1,8} - [0-9a-f]{1,10} +\([0-9]{1,3}\.[0-9]{2}\)"
    r"|(?<![0-9a-z])(?:[0-9a-f]{8,16} +){4}(?:[0-9a-f]{1,8} +){2,3}(?:busy|free)\b"
    r"|(?<![0-9a-z])[0-9a-f]{8,16} (?:[0-9a-f]{4,8} +){2}\[[0-9a-f]{2}\] +[0-9a-f]{8,16} +"
    r"[0-9a-f]{5,8} - \((?:busy|free)"
)
_ROLLED_ROW: Final = re.compile(_ROLLED)
_ROLLED_START: Final = re.compile(
    rf"{_ROLLED}|[-\u2013\u2014]{{3,}} ?\w+ (?:SUMMARY|Summary)\b|\bTotSize \(|\bTot: [0-9a-f]"
    r"|\b(?:External|Virtual address) fragmentation\b|\bgroup-by: "
    r"|\b_?(?:HEAP|heap) @ [0-9a-f]{4,16}|\bHEAP_ENTRY +Size\b"
    r"|\bsize +#blocks\b|\bEntry +User +Heap\b"
)
_SOFT: Final = range(60, 79)
_RTF: Final = re.compile(r"\\(?:par|line)\b\s*$")
_CSV: Final = re.compile(
    r"\s*\"?(?:Heap\"?[;,]\s*\"?Flags|(?:0x)?[0-9a-fA-F`]{5,17}\"?[;,]\s*\"?[0-9a-fA-F]{8}\"?[;,])"
)
_ESCAPED: Final = re.compile(r"\\([!()\[\]{}<>#*_+.|`~-])")
_BOLD: Final = re.compile(r"(?<!\*)\*\*(?=[0-9a-fA-F]{4})|(?<=[0-9a-fA-F])\*\*(?!\*)")
_PIPE: Final = re.compile(r"(?:^|(?<=\s))\|+|\|+(?=\s|$)")
_QUOTE: Final = re.compile(r"\s*>(?:[ \t]?>)*[ \t]?")
_NUMBER: Final = re.compile(r"\s{0,8}([0-9]{1,7})(?:[:.)|\t]|(?=\s)|$)")
_STAMP: Final = re.compile(
    r"\s*\[?(?:[0-9]{4}[-/][0-9]{2}[-/][0-9]{2}[T ]|[A-Z][a-z]{2} {1,2}[0-9]{1,2} )?"
    r"[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,9})?(?:Z|[+-][0-9]{2}:?[0-9]{2})?\]?"
    r"(?:[ \t]*[|:-](?=[ \t]))?(?:[ \t]|$)"
)

_BASE64: Final = re.compile(
    r"(?im)(^Content-Transfer-Encoding:[ \t]*base64[ \t]*\r?\n"
    r"(?:[\w-]{1,60}:.*\r?\n|[ \t]+\S.*\r?\n){0,40})"
    r"[ \t]*\r?\n((?:[A-Za-z0-9+/]{4,200}={0,2}[ \t]*(?:\r?\n|\Z))+)"
)
_INLINE_TAGS: Final = (
    "html|head|body|code|span|b|i|u|em|strong|font|a|small|tt|kbd|samp|thead|tbody|tfoot|table|"
    "colgroup|col|img|style|script|blockquote|section|article|wbr|var|sub|sup|ins|del|mark"
)
_BLOCK_TAGS: Final = "br|p|div|li|ul|ol|pre|h[1-6]|hr|dt|dd|dl"
_HTML: Final = re.compile(
    r"</(?:pre|td|th|tr|p|div|span|code|body|html|li|font)\s*>|<br\s*/?>|<(?:pre|td|tr)[\s>]",
    re.IGNORECASE,
)
_TAG: Final = re.compile(
    rf"<(/?)(?:(tr)|(t[dh])|({_BLOCK_TAGS})|(?:{_INLINE_TAGS}))(?:\s[^<>]{{0,500}})?/?>"
    r"|<!--.{0,500}?-->",
    re.IGNORECASE,
)


class Line(NamedTuple):
    """A line without its clothes."""

    number: int
    text: str
    cut: bool
    """It had more than MAX_LINE characters."""


def decode(data: bytes) -> str:
    """Text of a log file: UTF-8, UTF-16 or UTF-32, with their marks or without, and Windows' code
    page 1252 for what is none of these. Never fails."""
    coding, errors = _coding(data[:_SAMPLE])
    text = data.decode(coding, errors)
    if errors == "surrogateescape" and not data.isascii():
        text = text.translate(_CP1252)
    return _BASE64.sub(_unpacked, text) if _BASE64.search(text) else text


def _unpacked(found: re.Match[str]) -> str:
    """The body of a mail that was sent as base64, in its place; as it is where it is none."""
    body = "".join(found[2].split())
    try:
        data = base64.b64decode(body[: len(body) // 4 * 4], validate=True)
    except ValueError:
        return found[0]
    coding, errors = _coding(data[:_SAMPLE])
    return f"{found[1]}\n{data.decode(coding, errors)}"


def _wide(data: bytes) -> str:
    """The name of UTF-16 without its mark, told by where the zeros are; empty for anything else."""
    sample = data[: min(len(data), 4096)]
    pairs = len(sample) // 2
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if pairs >= 4 and odd > 0.6 * pairs and even < 0.1 * pairs:
        return "utf-16-le"
    if pairs >= 4 and even > 0.6 * pairs and odd < 0.1 * pairs:
        return "utf-16-be"
    return ""


class LongText:
    """The text of a file that is not to be in memory as a whole: its lines are read when they are
    asked for, and of a line at most _LONGEST characters are kept."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._coding, self._errors = _coding(file.read(_SAMPLE))
        self.sample = next(self._pieces(), "")[:_SAMPLE]
        # What stands across the seam of two pieces is not looked for: a page has many tags.
        self.is_html = any(_HTML.search(piece) for piece in self._pieces())

    def _pieces(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(self._coding)(self._errors)
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            yield self._mapped(decoder.decode(piece))
        yield self._mapped(decoder.decode(b"", final=True))

    def _mapped(self, text: str) -> str:
        odd = self._errors == "surrogateescape" and not text.isascii()
        return text.translate(_CP1252) if odd else text

    def physical(self) -> Iterator[tuple[int, str]]:
        """Numbered lines, as _physical() gives them."""
        number, carry = 0, ""
        for piece in self._pieces():
            # What was carried has no break but perhaps the first half of one.
            text, start, begin = carry + piece, 0, len(carry.rstrip("\r"))
            # A break at the end may be the half of one.
            end = len(text.rstrip("\r"))
            for found in _BREAK.finditer(text, begin, end):
                number += 1
                if found.start() > start:
                    yield number, text[start : found.start()]
                start = found.end()
            carry = text[start:end][:_LONGEST] + text[end:]
        carry = carry.rstrip("\r")
        if carry:
            yield number + 1, carry


def _coding(head: bytes) -> tuple[str, str]:
    """The encoding of a text that begins so, and what to do with what is not in it; as decode()."""
    if head[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "utf-32", "replace"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16", "replace"
    if coding := _wide(head):
        return coding, "replace"
    return "utf-8-sig", "surrogateescape"


def plain_lines(text: str | LongText) -> Iterator[Line]:
    """The lines of ``text`` that are not empty. Time is linear in its length."""
    if isinstance(text, LongText):
        sample, is_html = text.sample, text.is_html
        physical = text.physical()
    else:
        sample, is_html = text[:_SAMPLE], bool(_HTML.search(text))
        physical = _physical(text)
    numbered = _is_numbered(sample)
    front = None if numbered or is_html else front_of(raw for _, raw in _physical(sample))
    physical = _renumbered(_unrolled(_unescaped(_whole(physical))))
    source = _renumbered(_unwoven(physical)) if is_html else physical
    for number, raw in source:
        # Clothes take room too; what is cut here is cut again below.
        dressed = raw[: 8 * MAX_LINE]
        if front is not None and (found := front.match(dressed)):
            dressed = dressed[found.end() :]
        line = _undress(dressed, numbered=numbered)
        if line.strip():
            yield Line(number, line[:MAX_LINE], len(line) > MAX_LINE or len(raw) > 8 * MAX_LINE)


def _physical(text: str) -> Iterator[tuple[int, str]]:
    start, number = 0, 0
    for found in _BREAK.finditer(text):
        number += 1
        if found.start() > start:
            yield number, text[start : found.start()]
        start = found.end()
    if start < len(text):
        yield number + 1, text[start:]


def _whole(physical: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Lines that a mail's encoding broke, with a sign at the end, as one."""
    begun: tuple[int, str] | None = None
    for number, line in physical:
        joined = (number, line) if begun is None else (begun[0], begun[1] + line)
        soft = line.endswith("=") and not line.endswith("==") and len(line) in _SOFT
        if soft and len(joined[1]) < 4 * MAX_LINE:
            begun = (joined[0], joined[1][:-1])
            continue
        begun = None
        yield joined
    if begun is not None:
        yield begun


def _renumbered(source: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """A line of the file that shows as many counts as many, so that no two have one number."""
    shift = 0
    for number, group in itertools.groupby(source, key=lambda line: line[0]):
        shown = [line for _, line in group]
        step = int(len(shown) >= _FEWEST_ESCAPES)
        for n, line in enumerate(shown):
            yield number + shift + step * n, line
        shift += step * (len(shown) - 1)


def _unescaped(physical: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Lines that a program wrote as one, their ends as `\\n` or as entities."""
    for number, line in physical:
        if "\\n" not in line and "&#" not in line:
            yield number, line
            continue
        ends = list(itertools.islice(_ESCAPE.finditer(line), _FEWEST_ESCAPES))
        if len(ends) < _FEWEST_ESCAPES:
            yield number, line
            continue
        start = 0
        for end in _ESCAPE.finditer(line):
            piece = line[start : end.start()]
            start = end.end()
            if piece.strip():
                yield number, _without_escapes(piece)
        if line[start:].strip():
            yield number, _without_escapes(line[start:])


def _unrolled(physical: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Lines of tables that a page or a mail ran together into one."""
    for number, line in physical:
        if len(line) < _LONG or len(line) > 8 * MAX_LINE:
            yield number, line
            continue
        rows = list(itertools.islice(_ROLLED_ROW.finditer(line), _FEWEST_ROLLED))
        if len(rows) < _FEWEST_ROLLED:
            yield number, line
            continue
        start = 0
        for found in _ROLLED_START.finditer(line):
            if line[start : found.start()].strip():
                yield number, line[start : found.start()]
                start = found.start()
        yield number, line[start:]


def _without_escapes(piece: str) -> str:
    if "\\" not in piece:
        return piece
    return re.sub(r"\\[t\"/\\]", lambda found: _ESCAPES[found[0]], piece)


def _unwoven(physical: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """The lines that a browser would show. A row of a table is one line, however it was written."""
    row: list[str] | None = None
    begun = 0
    for number, line in physical:
        pieces: list[str] = []
        at = 0
        for tag in _TAG.finditer(line):
            pieces.append(line[at : tag.start()])
            at = tag.end()
            closing, is_row, is_cell, is_block = tag.groups()
            if is_cell:
                pieces.append("  ")
            elif is_row or (is_block and row is None):
                yield from _shown(begun if row else number, [*(row or ()), *pieces])
                pieces, begun = [], number
                row = None if closing or not is_row else []
        pieces.append(line[at:])
        if row is None:
            yield from _shown(number, pieces)
        elif sum(map(len, row)) < 4 * MAX_LINE:
            row += [*pieces, " "]
        else:
            yield from _shown(begun, [*row, *pieces])
            row = None
    if row:
        yield from _shown(begun, row)


def _shown(number: int, pieces: list[str]) -> Iterator[tuple[int, str]]:
    line = "".join(pieces)
    if line.strip():
        yield number, line


def _undress(text: str, *, numbered: bool) -> str:
    if "\x1b" in text or "^[[" in text:
        text = _COLOUR.sub("", text)
    for _ in range(2):
        if "&" in text:
            text = html.unescape(text)
    if not text.isascii():
        if "\u00a0" in text and " " in text and not _FRENCH.sub("", text).count("\u00a0"):
            text = _FRENCH.sub("", text)
        text = _THIN.sub("", text).translate(_CHARACTERS)
    if "\0" in text:
        text = text.replace("\0", "")
    if text.endswith("=20"):
        text = re.sub(r"(?:=20)+$", "", text)  # of a mail
    if "\\" in text:
        text = _RTF.sub("", text)
        text = _ESCAPED.sub(r"\1", text)
    if "**" in text:
        text = _BOLD.sub("", text)
    text = _bare(text, numbered=numbered)
    if "|" in text:
        text = _unboxed(text)
    if (text.count(";") > 4 or text.count(",") > 4) and _CSV.match(text):
        text = re.sub('[;,"]+', " ", text)
    return text


def _bare(text: str, *, numbered: bool) -> str:
    """Without quotes, number and time at its front."""
    quote = _QUOTE.match(text)
    text = text[quote.end() :] if quote else text
    if numbered and (number := _NUMBER.match(text)):
        text = text[number.end() :]
    if stamp := _STAMP.match(text):
        text = text[stamp.end() :]
    if numbered or stamp:
        quote = _QUOTE.match(text)
        text = text[quote.end() :] if quote else text
    return text


def _unboxed(text: str) -> str:
    """A row of a table drawn with bars, as one without."""
    inner = text.strip()
    if inner[0] == "|" and inner[-1] == "|" and inner.count("|") > 3:
        # Between the names of protections the bar belongs to the name.
        return re.sub(r"\|(?!PAGE_)", "  ", inner)
    if inner.count("|") > 3 or inner[0] == "|":
        return _PIPE.sub("  ", text)
    return text


def _is_numbered(sample: str) -> bool:
    """Most lines begin with a number, each with one more than the line before."""
    seen = following = 0
    last: int | None = None
    for _, raw in _physical(sample):
        quote = _QUOTE.match(raw)
        line = raw[quote.end() :] if quote else raw
        if not line.strip():
            continue
        seen += 1
        found = _NUMBER.match(line)
        if found:
            value = int(found[1])
            following += last is not None and 0 < value - last < 4
            last = value
    return following >= 3 and following + 1 >= 0.7 * seen
