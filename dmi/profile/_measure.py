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
    from dmi.profile._parts import Block, MarkedPage

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


class Part(NamedTuple):
    """The bytes of one block, and for how many of its page it stands where stacks matter: for the
    others, whose stacks chance left out."""

    holder: Holder
    size: float
    times: int = 1


class Sample(NamedTuple):
    """One thing that was chosen by chance: what each of its blocks holds, and how many it stands
    for. samples is for allocated alone, whose entries are sums already; else 1."""

    weight: float
    parts: list[Part]
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
                yield Sample(1.0, [Part(holder, each.bytes)], each.samples)
        return
    share = _SHARES[what]
    for mark in profile.marks:
        if parts := share(mark):
            yield Sample(mark.weight, parts)
    for block in profile.large:
        size = block.size if what == "busy" else block.retained
        if size:
            yield Sample(block.weight, [Part(Holder(block.stack, block.size, None), size)])


def _mean(size: float, count: float) -> int | None:
    return round(size / count) if count else None


def _pinned(mark: MarkedPage) -> list[Part]:
    return _shared(mark) if mark.fate == "pinned" else []


def _retained(mark: MarkedPage) -> list[Part]:
    if mark.blocks:
        return _shared(mark)
    return [Part(_NOBODY, mark.free)] if mark.free else []


def _shared(mark: MarkedPage) -> list[Part]:
    if not mark.blocks or not mark.free:
        return []
    share, rest = divmod(mark.free, len(mark.blocks))
    blocks = sorted(mark.blocks, key=lambda b: b.address)
    return [_part(block, share + (i < rest)) for i, block in enumerate(blocks) if share or i < rest]


def _busy(mark: MarkedPage) -> list[Part]:
    sizes = [(block, mark.on_page(block)) for block in mark.blocks]
    return [_part(block, size) for block, size in sizes if size]


def _part(block: Block, size: float) -> Part:
    return Part(Holder(block.stack, block.size, block.type), size, block.times)


_SHARES: Final = {"pinned": _pinned, "retained": _retained, "busy": _busy, "grew": _busy}


def estimates(
    profile: Profile, what: str, key: Callable[[Holder], Hashable], *, by_stack: bool = True
) -> dict[Hashable, Estimate]:
    """The measure by whatever ``key`` makes of a holder. by_stack: it looks at stacks, so that
    blocks whose stacks chance left out are in what others stand for. Else each stands for itself.

    A page is drawn with the probability 1 / w, and of what is on it a block with 1 / t: the
    variance of the sum of w t x is estimated by that of w (w - 1) (t x)² over pages, where t x is
    summed first, and of w t (t - 1) x² over blocks. Samples of unequal t count as so many equal
    ones as say as much: (sum of t)² / sum of t².
    """
    found: dict[Hashable, _Sums] = defaultdict(_Sums)
    for weight, parts, count in samples(profile, what):
        # Blocks on one mark are one sample: they were chosen together.
        sums: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        for holder, size, times in parts:
            t = times if by_stack else 1
            if t:
                of = sums[key(holder)]
                of[0] += size * t
                of[1] += size * size * t * (t - 1)
                of[2] += size
        for name, (size, variance, plain) in sums.items():
            here = found[name]
            here.bytes.append(weight * size)
            if what == "allocated":
                # Sums of samples that are not known apart: taken for equally large.
                here.variance.append(size * size / max(1, count))
            else:
                here.variance.append(weight * (weight - 1) * size * size + weight * variance)
            here.times.append((size / plain, count))
    return {name: sums.estimate() for name, sums in found.items()}


class _Sums:
    __slots__ = ("bytes", "times", "variance")

    def __init__(self) -> None:
        self.bytes: list[float] = []
        self.variance: list[float] = []
        self.times: list[tuple[float, int]] = []

    def estimate(self) -> Estimate:
        plain = fsum(times * count for times, count in self.times)
        squares = fsum(times * times * count for times, count in self.times)
        count = round(plain * plain / squares) if squares else 0
        return Estimate(fsum(self.bytes), fsum(self.variance), count)
