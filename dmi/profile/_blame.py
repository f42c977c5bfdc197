"""Blame: the lines, functions, stacks, types or sizes that hold the bytes of a measure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, sqrt
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from dmi._sizes import show_size
from dmi._tables import html_table
from dmi.profile._measure import BY_ITSELF, ENOUGH, MEASURES, Estimate, Holder, What, estimates
from dmi.profile._model import Profile
from dmi.profile._symbols import NO_STACK, Resolver, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable

    from dmi.profile._symbols import Place

__all__ = ["By", "Blame", "Row", "blame", "pair_of", "profile_of"]

By = Literal["line", "function", "stack", "type", "size"]
BYS: Final = get_args(By)
_BY_STACK: Final = ("line", "function", "stack")
_95: Final = 1.96
_SHOWN: Final = 8
"""Frames in the name of a stack."""
# The error of ENOUGH samples of one size: what is known as well as that may be named too.
_ERROR: Final = _95 / sqrt(ENOUGH)


@dataclass(frozen=True, slots=True)
class Row:
    """One line, function, stack, type or size. Bytes.

    error    half of the 95 % interval around ``bytes``
    samples  the marked pages and blocks that it rests on
    named    whether these suffice to name it
    stack    for a stack: its frames, the outermost first
    """

    name: str
    bytes: int
    error: int
    percent: float | None
    samples: int
    named: bool
    file: str = ""
    line: int = 0
    function: str = ""
    stack: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "bytes": self.bytes,
            "error": self.error,
            "percent": self.percent,
            "samples": self.samples,
            "named": self.named,
            "file": self.file or None,
            "line": self.line or None,
            "function": self.function or None,
            "stack": list(self.stack) or None,
        }


@dataclass(frozen=True, slots=True)
class Blame:
    """Rows, those with most bytes first; what they add up to is ``bytes``, to the byte."""

    what: str
    by: str
    moments: int
    one_in: int
    bytes: int
    error: int
    samples: int
    rows: tuple[Row, ...] = field(repr=False)
    lost: int = 0
    """Stacks and marks for which the sampler had no room."""
    kept_one_in: int = 0
    """One page in so many is left where most were given up, for the sampler's time has a bound."""
    cut: int = 0
    """Bytes, of the last moment, of which no more than the caller of malloc is known: code without
    tables for exceptions and without frame pointers does not tell who called it."""

    @property
    def named(self) -> tuple[Row, ...]:
        """The rows whose names rest on enough samples."""
        return tuple(row for row in self.rows if row.named)

    @property
    def top(self) -> Row | None:
        """The first row, when it may be named and is of code, a type or a size; else None."""
        for row in self.rows:
            if row.name not in _NOBODYS and not row.name.startswith(NO_LINE):
                return row if row.named and row.bytes > 0 else None
        return None

    @property
    def sentence(self) -> str:
        """What was found, in a sentence."""
        of = {
            "pinned": "what stays although it is free is pinned by",
            "retained": "what is retained lies beside blocks of",
            "busy": "what is busy was allocated by",
            "allocated": "what was allocated, was by",
            "grew": "what grew was allocated by",
        }[self.what]
        if self.by in ("type", "size"):
            of = f"what is {self.what} is of" if self.what != "grew" else "what grew is of"
        if self.top is not None and self.top.percent is not None:
            return (
                f"{self.top.percent:.0f} % of {of} {self.top.name}: "
                f"{show_size(self.top.bytes)} ± {show_size(self.top.error)}."
            )
        if not self.rows or not self.bytes:
            return f"Nothing is {self.what}." if self.what != "grew" else "Nothing grew."
        rows = [
            row
            for row in self.rows
            if row.name not in _NOBODYS and not row.name.startswith(NO_LINE)
        ]
        if not rows:
            return f"No {self.by} is known of what is {self.what}."
        if not rows[0].named and rows[0].samples < ENOUGH:
            return f"No {self.by} is named: {self.too_few(rows[0].samples)}."
        return f"No {self.by} stands out from its error."

    def too_few(self, samples: int) -> str:
        """Why a row has no name, and what to do."""
        cost = " --cost off" if self.kept_one_in > self.one_in else ""
        if self.one_in <= 1:
            return f"too few ({samples})" + (f": use{cost}" if cost else "")
        rate = max(1, self.one_in * max(1, samples) // ENOUGH)
        rate = min(self.one_in // 2, 1 << (rate.bit_length() - 1))
        return f"too few ({samples}): use --sample {max(1, rate)}{cost}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON, as blame.schema.json beside this module describes it."""
        return {
            "kind": "dmi-blame",
            "version": 1,
            "what": self.what,
            "by": self.by,
            "moments": self.moments,
            "one_in": self.one_in,
            "kept_one_in": self.kept_one_in,
            "bytes": self.bytes,
            "error": self.error,
            "samples": self.samples,
            "lost": self.lost,
            "cut": self.cut,
            "sentence": self.sentence,
            "rows": [row.as_dict() for row in self.rows],
        }

    def __str__(self) -> str:
        from dmi.profile._table import text

        return text(self)

    def _repr_html_(self) -> str:
        rows = [
            (row.name if row.named else self.too_few(row.samples), row.bytes, row.error,
             row.percent, row.samples)
            for row in self.rows[:20]
        ]  # fmt: skip
        return html_table(f"{self.what} by {self.by}", _HEAD, rows)


NO_LINE: Final = "(no line of the program: "
NO_TYPE: Final = "(type not recorded)"
NO_OBJECT: Final = "(no object)"
"""The type of a block that the sampler looked at, and found no Python object in."""
NO_SIZE: Final = "(size not known)"
_NOBODYS: Final = (NO_STACK, BY_ITSELF, NO_TYPE, NO_OBJECT, NO_SIZE)
_HEAD: Final = ("by", "bytes", "±", "%", "samples")

Source = Any
"""A path, a Profile, its dict, a Snapshot that carries one, or what dmi.profile() gave."""


def profile_of(source: Source) -> Profile:
    """The profile that a source is or carries. TypeError or ValueError where there is none."""
    if isinstance(source, Profile):
        return source
    if isinstance(source, (str, os.PathLike)):
        return Profile.load(source)
    if isinstance(source, Mapping):
        carried = source.get("profile")
        return Profile.from_dict(carried if isinstance(carried, Mapping) else source)
    if callable(data := getattr(source, "data", None)):  # what dmi.profile() gave
        return Profile.from_dict(data())
    try:
        carried = source.profile
    except AttributeError:
        raise TypeError(
            "a profile is a path, a Profile, a dict or a Snapshot with a profile, "
            f"not {type(source).__name__}"
        ) from None
    if carried is None:
        raise ValueError("it carries no profile: it was taken without a sampler")
    return profile_of(carried)


def blame(
    source: Source,
    by: By = "line",
    what: What = "pinned",
    *,
    skip: Collection[str] = (),
    across: bool = False,
) -> Blame:
    """Who holds the bytes of a profile; with a pair of moments, (earlier, later), what they gained.

    source  a path of a profile or of a snapshot, a Profile, a Snapshot, or two of them
    by      line, function, stack, type or size
    what    pinned, retained, busy or allocated; of a pair what each of these gained, and grew is
            what busy gained
    skip    functions that are dropped from the top of every stack, beside the allocator's own
    across  two moments of different processes may be compared

    Symbols are looked up in the files that the profile names, as they are now. ImportError names
    the extra that this needs. ValueError for a file that is no profile, names what is accepted.
    """
    pair = pair_of(source, by, what, across=across)
    merged: dict[Hashable, Estimate] = {}
    places: dict[Hashable, Place] = {}
    for sign, profile in zip((-1, 1) if len(pair) == 2 else (1,), pair, strict=True):
        with Resolver(profile, skip=skip) as resolver:
            key = _Key(resolver, by, places)
            by_stack = by in _BY_STACK
            for name, found in estimates(profile, what, key, by_stack=by_stack).items():
                had = merged.get(name, Estimate(0.0, 0.0, 0))
                merged[name] = Estimate(
                    had.bytes + sign * found.bytes,
                    had.variance + found.variance,
                    max(had.samples, found.samples),
                )
    last = pair[-1]
    total, error, count = _total(pair, what, by_stack=by in _BY_STACK)
    rows = _rows(merged, places, by, total, len(pair))
    lost = sum(each.lost_stacks + each.lost_marks for each in pair)
    kept = round(max((mark.weight for mark in last.marks), default=last.one_in))
    return Blame(
        what, by, len(pair), last.one_in, total, error, count, rows, lost,
        max(kept, last.one_in), _cut(last, what),
    )  # fmt: skip


def _cut(profile: Profile, what: str) -> int:
    def is_cut(holder: Holder) -> bool:
        if holder.stack is None:
            return False
        frames = [profile.frames[number] for number in profile.stacks[holder.stack]]
        if len(frames) == 2 and frames[1].is_cut:
            frames.pop()
        return len(frames) == 1 and frames[0].address is not None

    return round(estimates(profile, what, is_cut).get(True, Estimate(0.0, 0.0, 0)).bytes)


def pair_of(source: Source, by: str, what: str, *, across: bool) -> list[Profile]:
    """The moment or the two that are meant, once the words fit. As blame()."""
    pair = _pair(source)
    _check_words(by, what, len(pair))
    if len(pair) == 2 and not across:
        _check_pair(*pair)
    return pair


def _pair(source: Source) -> list[Profile]:
    if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        if not 1 <= len(source) <= 2:
            raise ValueError(f"one moment or two, (earlier, later), not {len(source)}")
        return [profile_of(each) for each in source]
    return [profile_of(source)]


def _check_words(by: str, what: str, moments: int) -> None:
    if by not in BYS:
        raise ValueError(f"by must be one of {', '.join(BYS)}, not {by!r:.40}")
    if what not in MEASURES:
        raise ValueError(f"what must be one of {', '.join(MEASURES)}, not {what!r:.40}")
    if what == "grew" and moments == 1:
        raise ValueError("what grew shows between two moments: give (earlier, later)")


def _check_pair(earlier: Profile, later: Profile) -> None:
    if earlier.pid and later.pid and earlier.pid != later.pid:
        raise ValueError(
            f"two processes, {earlier.pid} and {later.pid}: their profiles are compared only "
            "where it is said that this is meant (--across)"
        )
    if earlier.time and later.time and earlier.time > later.time:
        raise ValueError("the second moment is earlier than the first")


class _Key:
    """The row that a holder counts for; notes where each is."""

    def __init__(self, resolver: Resolver, by: str, places: dict[Hashable, Place]) -> None:
        self._resolver = resolver
        self._by = by
        self._places = places

    def __call__(self, holder: Holder) -> Hashable:
        if holder.nobody:
            return BY_ITSELF
        if self._by == "size":
            return NO_SIZE if holder.size is None else holder.size
        if self._by == "type":
            return printable(holder.type) if holder.type else NO_TYPE
        if self._by == "stack":
            stack = self._resolver.stack(holder.stack)
            return tuple(place.name for place in reversed(stack)) or NO_STACK
        place = self._resolver.line(holder.stack)
        if place is None:
            return NO_STACK
        if place.owner in ("runtime", "allocator"):
            return printable(f"{NO_LINE}{place.function or place.name})")
        # By all that is known of the place: two files of one name stay two.
        made: Hashable
        if self._by == "line":
            made = place if not place.file else (place.file, place.line, place.function)
        else:
            made = (place.function, place.file or place.module)
        self._places.setdefault(made, place)
        return made


def _total(pair: list[Profile], what: str, *, by_stack: bool) -> tuple[int, int, int]:
    none = Estimate(0.0, 0.0, 0)
    found = [estimates(each, what, lambda _: None, by_stack=by_stack) for each in pair]
    sums = [each.get(None, none) for each in found]
    size = sums[-1].bytes - (sums[0].bytes if len(sums) == 2 else 0.0)
    error = _95 * sqrt(sum(each.variance for each in sums))
    return round(size), round(error), max(each.samples for each in sums)


def _rows(
    merged: Mapping[Hashable, Estimate],
    places: Mapping[Hashable, Place],
    by: str,
    total: int,
    moments: int,
) -> tuple[Row, ...]:
    whole = _whole(merged, total)
    rows = []
    for name, each in merged.items():
        size, error = abs(each.bytes), _95 * sqrt(each.variance)
        named = each.samples >= ENOUGH or error <= _ERROR * size
        # Whether something grew at all must be beyond doubt too.
        named = named and (moments == 1 or error <= size)
        percent = round(100 * whole[name] / total, 1) if total > 0 else None
        rows.append(
            Row(
                _name(name, places, by), whole[name], round(error), percent, each.samples, named,
                **_where(name, places),
            )
        )  # fmt: skip
    rows.sort(key=lambda row: (-row.bytes, row.name))
    return tuple(rows)


def _whole(merged: Mapping[Hashable, Estimate], total: int) -> dict[Hashable, int]:
    """Whole bytes that add up to the total: what rounding leaves goes to the largest remainders."""
    whole = {name: floor(each.bytes) for name, each in merged.items()}
    rest = total - sum(whole.values())
    for name in sorted(merged, key=lambda name: whole[name] - merged[name].bytes)[: max(0, rest)]:
        whole[name] += 1
        rest -= 1
    if rest and merged:
        # Sums beyond what a double holds exactly.
        whole[max(merged, key=lambda name: merged[name].bytes)] += rest
    return whole


def _name(name: Hashable, places: Mapping[Hashable, Place], by: str) -> str:
    if (place := places.get(name)) is not None:
        return place.name if by == "line" else place.function_name
    if by == "stack" and isinstance(name, tuple):
        shown = list(reversed(name))
        more = [f"{len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
        return " < ".join(shown[:_SHOWN] + more)
    if by == "size" and isinstance(name, int):
        return f"{name:,} bytes"
    return str(name)


def _where(name: Hashable, places: Mapping[Hashable, Place]) -> dict[str, Any]:
    if (place := places.get(name)) is not None:
        return {"file": place.file or place.module, "line": place.line, "function": place.function}
    return {"stack": name} if isinstance(name, tuple) else {}
