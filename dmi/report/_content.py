"""What a report says, before it is a page."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Chart", "Content", "HeapMap", "MapSegment", "Series", "Table", "Text", "Waterfall"]


@dataclass(slots=True)
class Series:
    """Points of one line, (seconds, bytes). area: filled down to 0."""

    name: str
    points: list[tuple[float, float]]
    area: bool = False


@dataclass(slots=True)
class Chart:
    """Bytes over time."""

    title: str
    note: str
    series: list[Series]


@dataclass(slots=True)
class Waterfall:
    """Committed bytes at some moments, each split into busy and the reasons for the rest."""

    title: str
    note: str
    rows: list[tuple[str, list[tuple[str, int]]]]
    """(moment or policy, [(part, bytes), ...]); busy first."""


@dataclass(slots=True)
class Table:
    """Rows of text; None is unknown and shown as "-"."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str | None]]


@dataclass(slots=True)
class Text:
    """Text as the debugger or the doctor prints it."""

    title: str
    text: str


@dataclass(slots=True)
class MapSegment:
    """One segment: a state for each page, and its busy blocks where they are known.

    pages   a byte a page, see _map.STATES
    blocks  pairs of variable-length numbers: bytes from the end of the block before (or from the
            segment's start), and its size; None where blocks are not known
    """

    address: int
    virtual: bool
    pages: bytes
    blocks: bytes | None
    count: int = 0


@dataclass(slots=True)
class HeapMap:
    """The address space of a heap, page by page."""

    title: str
    page_size: int
    segments: list[MapSegment]
    pins: list[tuple[int, int, int]] = field(default_factory=list)
    """(address, size, bytes that it alone pins), most first."""
    note: str = ""
    owners: dict[int, str] = field(default_factory=dict)
    """The line of each block that a profile knows."""


@dataclass(slots=True)
class Content:
    """A whole report."""

    title: str
    subtitle: str
    findings: list[Text] = field(default_factory=list)
    """Sentences that stand first."""
    words: list[Text] = field(default_factory=list)
    """The doctor's reports."""
    charts: list[Chart] = field(default_factory=list)
    waterfalls: list[Waterfall] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    maps: list[HeapMap] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What could not be seen."""
