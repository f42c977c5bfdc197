"""From marked pages to bytes by stack.

What is measured of a mark, times its weight, and summed, is the estimate; it has no bias, because a
page is marked before anything is known of it. The free bytes of a page that busy blocks keep are
shared among these blocks in equal parts: each of them alone would keep the page, however small it
is, so none has more of it than another (their Shapley values). Bytes that do not divide go one each
to the first blocks by address, so that the shares of a page add up to its free bytes.
"""

from __future__ import annotations

from collections import defaultdict
from math import fsum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from dmi.profile._model import Profile
    from dmi.profile._parts import MarkedPage

__all__ = ["BY_ITSELF", "ENOUGH", "MEASURES", "Estimate", "Holder", "What", "estimates", "samples"]

What = Literal["pinned", "retained", "busy", "allocated", "grew"]

MEASURES: Final = {
    "pinned": "free bytes on pages that only these busy blocks keep from going back",
    "retained": "committed and in no busy block, whatever keeps it",
    "busy": "bytes in busy blocks",
    "allocated": "bytes allocated since the sampler began, freed ones too",
    "grew": "what busy gained from one moment to another",
}
ENOUGH: Final = 50
"""Samples from which on a name is said."""
BY_ITSELF: Final = "(nobody: goes back by itself)"


class Holder(NamedTuple):
    """Who is held to account for some bytes. nobody: a page that no block keeps."""

    stack: int | None
    size: int | None
    type: str | None
    nobody: bool = False


_NOBODY: Final = Holder(None, None, None, True)


class Sample(NamedTuple):
    """One thing that was chosen by chance: bytes by holder, and how many it stands for. samples is
    for allocated alone, whose entries are sums already; else 1."""

    weight: float
    parts: dict[Holder, float]
    samples: int = 1


class Estimate(NamedTuple):
    """Bytes, the variance of the estimate, and the samples behind it."""

    bytes: float
    variance: float
    samples: int


def samples(profile: Profile, what: str) -> Iterator[Sample]:
    """Each sample of a measure; those that hold nothing of it are left out."""
    if what == "allocated":
        for each in profile.allocated:
            if each.bytes:
                holder = Holder(each.stack, _mean(each.bytes, each.number), None)
                yield Sample(1.0, {holder: each.bytes}, each.samples)
        return
    share = _SHARES[what]
    for mark in profile.marks:
        if parts := share(mark):
            yield Sample(mark.weight, parts)
    for block in profile.large:
        size = block.size if what == "busy" else block.retained
        if size:
            yield Sample(block.weight, {Holder(block.stack, block.size, None): size})


def _mean(size: float, count: float) -> int | None:
    return round(size / count) if count else None


def _pinned(mark: MarkedPage) -> dict[Holder, float]:
    return _shared(mark) if mark.fate == "pinned" else {}


def _retained(mark: MarkedPage) -> dict[Holder, float]:
    if mark.blocks:
        return _shared(mark)
    return {_NOBODY: mark.free} if mark.free else {}


def _shared(mark: MarkedPage) -> dict[Holder, float]:
    parts: dict[Holder, float] = defaultdict(int)
    if mark.blocks and mark.free:
        share, rest = divmod(mark.free, len(mark.blocks))
        for number, block in enumerate(sorted(mark.blocks, key=lambda b: b.address)):
            if size := share + (number < rest):
                parts[Holder(block.stack, block.size, block.type)] += size
    return parts


def _busy(mark: MarkedPage) -> dict[Holder, float]:
    parts: dict[Holder, float] = defaultdict(int)
    for block in mark.blocks:
        if size := mark.on_page(block):
            parts[Holder(block.stack, block.size, block.type)] += size
    return parts


_SHARES: Final = {"pinned": _pinned, "retained": _retained, "busy": _busy, "grew": _busy}


def estimates(
    profile: Profile, what: str, key: Callable[[Holder], Hashable]
) -> dict[Hashable, Estimate]:
    """The measure by whatever ``key`` makes of a holder."""
    bytes_of: dict[Hashable, list[float]] = defaultdict(list)
    variance_of: dict[Hashable, list[float]] = defaultdict(list)
    samples_of: dict[Hashable, int] = defaultdict(int)
    for weight, parts, count in samples(profile, what):
        # Blocks on one mark are one sample: they were chosen together.
        sums: dict[Hashable, float] = defaultdict(float)
        for holder, size in parts.items():
            sums[key(holder)] += size
        for name, size in sums.items():
            bytes_of[name].append(weight * size)
            samples_of[name] += count
            if what == "allocated":
                # Sums of samples that are not known apart: taken for equally large.
                variance_of[name].append(size * size / max(1, count))
            else:
                variance_of[name].append(weight * (weight - 1) * size * size)
    return {
        name: Estimate(fsum(sizes), fsum(variance_of[name]), samples_of[name])
        for name, sizes in bytes_of.items()
    }
