"""A verdict: its numbers, and the report that says them in words."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from dmi._tables import frame, html_table

from ._causes import Cause, Cure, kib

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas

__all__ = ["Kind", "Verdict", "report"]

Kind = Literal["first-order leak", "second-order leak", "growth", "none", "unknown", "one moment"]
How = Literal["measured", "derived", "at least", "at most", "unknown"]

_NOTEWORTHY: Final = 0.05
_MOST_FINDINGS: Final = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which leak, where, how much, why, and what to do. Sizes in bytes.

    The tuples ``busy``, ``committed``, ``free`` and ``mean_free_block`` have one entry for each of
    ``moments``: before, peak if it is known, after; None where a number is not known.
    """

    kind: Kind
    subject: str
    bytes: int | None
    """What is leaked or grown: of busy for first order and growth, of commit for second order; None
    where that is not known."""
    percent: float | None
    """``bytes`` in per cent of the same number before; None when that was 0 or is not known."""
    first_order_bytes: int | None
    second_order_bytes: int | None
    moments: tuple[str, ...]
    busy: tuple[int | None, ...]
    committed: tuple[int | None, ...]
    free: tuple[int | None, ...]
    free_blocks: tuple[int | None, ...]
    mean_free_block: tuple[int | None, ...]
    causes: tuple[Cause, ...]
    cures: tuple[Cure, ...] = ()
    evidence: tuple[str, ...] = ()
    handle: int | None = None
    others: tuple[Verdict, ...] = field(default=(), repr=False)
    """Further findings, largest first."""
    how: How = "measured"
    """How ``bytes`` was come by."""
    missing: tuple[str, ...] = ()
    """What was not seen, and would be needed to say more."""
    notes: tuple[str, ...] = ()
    """What else is worth to know: how moments were put together, what was set aside."""
    headline: str = ""
    """The first line of the report, where the figures alone do not make it."""
    lines: tuple[str, ...] = field(default=(), repr=False)
    """A table of its own, in place of that of busy and commit."""

    @property
    def leak(self) -> bool:
        """A leak of either order."""
        return self.kind.endswith("leak")

    @property
    def finding(self) -> bool:
        """Something was found: a leak, growth, or what a single moment shows to be wrong."""
        if self.kind == "one moment":
            return self.bytes is not None
        return self.kind not in ("none", "unknown")

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do, in words."""
        return tuple(map(str, self.cures))

    @property
    def findings(self) -> tuple[Verdict, ...]:
        """This and the others, as far as they are findings: five at most, in order of bytes."""
        return tuple(each for each in (self, *self.others) if each.finding)[:_MOST_FINDINGS]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, as verdict.schema.json beside this module describes it."""
        return {
            "kind": self.kind,
            "subject": self.subject,
            "handle": self.handle,
            "bytes": self.bytes,
            "how": "unknown" if self.bytes is None else self.how,
            "percent": self.percent,
            "first_order_bytes": self.first_order_bytes,
            "second_order_bytes": self.second_order_bytes,
            "moments": list(self.moments),
            "busy": list(self.busy),
            "committed": list(self.committed),
            "free": list(self.free),
            "free_blocks": list(self.free_blocks),
            "mean_free_block": list(self.mean_free_block),
            "causes": [cause.as_dict() for cause in self.causes],
            "advice": list(self.advice),
            "cures": [cure.as_dict() for cure in self.cures],
            "evidence": list(self.evidence),
            "missing": list(self.missing),
            "notes": list(self.notes),
            "headline": self.headline or _headline(self),
            "others": [other.as_dict() for other in self.others],
        }

    def frame(self) -> pandas.DataFrame:
        """A row a moment and finding. ImportError without pandas."""
        names = ("busy", "committed", "free", "free_blocks", "mean_free_block")
        return frame([
            {"subject": each.subject, "kind": each.kind, "moment": moment,
             **{name: getattr(each, name)[n] for name in names}}
            for each in (self, *self.others) for n, moment in enumerate(each.moments)
        ])  # fmt: skip

    def __str__(self) -> str:
        return report(self)

    def _repr_html_(self) -> str:
        rows = [("busy", *self.busy), ("committed", *self.committed), ("free", *self.free)]
        made = html_table(self.headline or _headline(self), ("bytes", *self.moments), rows)
        said = (
            ("Causes", [cause.text for cause in self.causes]),
            ("What to do", self.advice),
            ("Not seen", self.missing),
            ("Also", [each.headline or _headline(each) for each in self.others]),
        )
        for title, lines in said:
            if lines:
                made += html_table(title, (), [(line,) for line in lines])
        return made


def report(verdict: Verdict) -> str:
    """The verdict as text: one line, what is missing, a table, causes, advice, the others."""
    lines = [verdict.headline or _headline(verdict)]
    if verdict.missing:
        lines += ["", "Not known"]
        for line in verdict.missing:
            lines += _wrap(line)
    lines += ["", *(verdict.lines or _table(verdict))]
    if verdict.causes:
        lines += ["", "Why"]
        for cause in verdict.causes:
            size = "" if cause.bytes is None else f" ({kib(cause.bytes)})"
            lines += _wrap(f"{cause.kind}{size}: {cause.text.rstrip('.')}.")
    if verdict.evidence:
        lines += ["", "Beside it"]
        for line in verdict.evidence:
            lines += _wrap(line)
    if verdict.advice:
        lines += ["", "What to do"]
        for line in verdict.advice:
            lines += _wrap(line)
    for other in verdict.others:
        lines += ["", f"Also: {other.headline or _headline(other)}"]
        if other.causes:
            lines += _wrap(f"{other.causes[0].kind}: {other.causes[0].text.rstrip('.')}.")
        if other.cures:
            lines += _wrap(f"What to do: {other.cures[0]}")
    if verdict.notes:
        lines += ["", "Read"]
        for line in verdict.notes:
            lines += _wrap(line)
    return "\n".join(lines)


def _headline(verdict: Verdict) -> str:
    if verdict.kind == "none":
        return (
            f"No leak in {verdict.subject}: busy {steps(verdict.busy)}, commit "
            f"{steps(verdict.committed)}."
        )
    if verdict.kind == "unknown" or verdict.bytes is None:
        return f"Not known: {verdict.subject}."
    share = "" if verdict.percent is None else f" (+{verdict.percent:.1f} % over the start)"
    least = {"at least": "at least ", "at most": "up to "}.get(verdict.how, "")
    size = f"{least}{kib(verdict.bytes)}{share}"
    if verdict.kind == "second-order leak":
        first, second = verdict.first_order_bytes, verdict.second_order_bytes
        came = (
            "busy came back"
            if first is not None and first <= _NOTEWORTHY * max(1, second or 0)
            else f"busy grew by only {kib(first or 0)}"
        )
        text = f"{size} of commit stayed although {came} ({steps(verdict.busy)})"
    elif verdict.kind == "first-order leak":
        text = f"{size} of busy blocks stayed ({steps(verdict.busy)})"
    elif verdict.causes and verdict.causes[0].kind == "virtual blocks":
        text = f"{size} in blocks that are mapped on their own, outside Commit"
    elif verdict.causes and verdict.causes[0].kind in ("outside", "busy unknown"):
        text = f"{size} more committed ({steps(verdict.committed)})"
        if verdict.causes[0].kind == "busy unknown":
            text += ", busy unknown"
    else:
        text = f"{size} more in use ({steps(verdict.busy)})"
    name = verdict.kind[0].upper() + verdict.kind[1:]
    return f"{name} in {verdict.subject}: {text}."


def _table(verdict: Verdict) -> list[str]:
    head = ("", "busy KB", "commit KB", "free KB", "free blocks", "mean free block")
    return columns(
        [
            head,
            *(
                (
                    moment,
                    kib_or_dash(verdict.busy[n]),
                    kib_or_dash(verdict.committed[n]),
                    kib_or_dash(verdict.free[n]),
                    number(verdict.free_blocks[n]),
                    number(verdict.mean_free_block[n]),
                )
                for n, moment in enumerate(verdict.moments)
            ),
        ]
    )


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    if not rows:
        return []
    first = max(len(row[0]) for row in rows)
    widths = [max(len(row[n]) for row in rows) for n in range(1, len(rows[0]))]
    return [
        ("  " + row[0].ljust(first) + "".join(
            "  " + cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True)
        )).rstrip()
        for row in rows
    ]  # fmt: skip


def steps(levels: Sequence[int | None]) -> str:
    """Bytes of one moment after the other."""
    return " -> ".join(kib_or_dash(level) for level in levels) + " KB"


def kib_or_dash(size: int | None) -> str:
    """KB, and a dash for what is not known."""
    return "-" if size is None else f"{size // 1024:,}"


def number(value: int | None) -> str:
    """A count, and a dash for what is not known."""
    return "-" if value is None else f"{value:,}"


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, 96, initial_indent="  ", subsequent_indent="    ")
