"""Ratios of interleaved runs, with bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.peers.measure import Sample, Samples

RESAMPLES = 4000
LEVEL = 90.0  # per cent

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """A median ratio and the ends of its 90 % bootstrap interval."""

    value: float
    low: float
    high: float


def values(samples: Sequence[Sample], metric: str) -> Array:
    """One metric of each run: `wall` or `cpu` in seconds, `peak_rss` in KiB."""
    return np.array([getattr(s, metric) for s in samples], dtype=np.float64)


def _resampled_medians(ratios: Array) -> Array:
    """Medians of RESAMPLES draws of whole rounds; ratios[workload, round] -> [workload, draw].

    All workloads of a draw use the same rounds, because what disturbs a machine disturbs a round.
    """
    rounds = ratios.shape[1]
    drawn = np.random.default_rng(1).integers(0, rounds, (RESAMPLES, rounds))
    medians: Array = np.median(ratios[:, drawn], axis=2)
    return medians


def _interval(value: float, draws: Array) -> Ratio:
    low, high = np.percentile(draws, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return Ratio(value, float(low), float(high))


def ratio(ours: Array, theirs: Array) -> Ratio:
    """Median over the rounds of ours / theirs."""
    ratios = (ours / theirs)[np.newaxis, :]
    return _interval(float(np.median(ratios)), _resampled_medians(ratios)[0])


def geometric_mean(pairs: Sequence[tuple[Array, Array]]) -> Ratio:
    """Geometric mean over the workloads of the median ratio over the rounds."""
    ratios = np.stack([ours / theirs for ours, theirs in pairs])
    value = float(np.exp(np.log(np.median(ratios, axis=1)).mean()))
    draws: Array = np.exp(np.log(_resampled_medians(ratios)).mean(axis=0))
    return _interval(value, draws)


def workload_ratios(samples: Samples, metric: str, base: str) -> dict[str, dict[str, Ratio]]:
    """ratios[workload][allocator], each to the base; what failed is not there."""
    result: dict[str, dict[str, Ratio]] = {}
    for workload, runs in samples.items():
        if base not in runs:
            continue
        theirs = values(runs[base], metric)
        result[workload] = {n: ratio(values(s, metric), theirs) for n, s in runs.items()}
    return result


def mean_ratios(
    samples: Samples, metric: str, base: str, allocators: Sequence[str]
) -> dict[str, Ratio]:
    """Geometric mean to the base of each allocator that ran every workload the base ran."""
    shared = [runs for runs in samples.values() if base in runs]
    result = {}
    for name in allocators:
        if shared and all(name in runs for runs in shared):
            pairs = [(values(r[name], metric), values(r[base], metric)) for r in shared]
            result[name] = geometric_mean(pairs)
    return result


@dataclass(frozen=True)
class Verdict:
    """One bound of the judged allocator. Missed only when the interval's lower end is above it."""

    what: str
    ratio: Ratio
    bound: float

    @property
    def met(self) -> bool:
        """False when even the lower end of the interval lies above the bound."""
        return self.ratio.low <= self.bound


def _medians(runs: Mapping[str, Sequence[Sample]], names: Sequence[str], metric: str) -> Array:
    return np.array([np.median(values(runs[n], metric)) for n in names])


def judge(samples: Samples, judged: str, peers: Sequence[str], rival: str) -> list[Verdict]:
    """The bounds of the project on `judged`, against the rival and against the best peer of each.

    Workloads that the judged one failed are the caller's to report; peers that failed are left out.
    """
    verdicts = []
    ran = {w: runs for w, runs in samples.items() if judged in runs}
    duels = [r for r in ran.values() if rival in r]
    if duels:
        pairs = [(values(r[judged], "wall"), values(r[rival], "wall")) for r in duels]
        verdicts.append(Verdict(f"time, mean, to {rival}", geometric_mean(pairs), 0.97))
    for workload, runs in ran.items():
        names = [n for n in peers if n in runs]
        if not names:
            continue
        fastest = names[int(np.argmin(_medians(runs, names, "wall")))]
        found = ratio(values(runs[judged], "wall"), values(runs[fastest], "wall"))
        verdicts.append(Verdict(f"time, {workload}, to the fastest ({fastest})", found, 1.15))
    for workload in ("larson", "xmalloc"):
        runs = ran.get(workload, {})
        if rival in runs:
            found = ratio(values(runs[judged], "wall"), values(runs[rival], "wall"))
            verdicts.append(Verdict(f"time, {workload}, to {rival}", found, 1.0))
    leanness = {
        name: geometric_mean(
            [(values(r[judged], "peak_rss"), values(r[name], "peak_rss")) for r in ran.values()]
        )
        for name in peers
        if ran and all(name in r for r in ran.values())
    }
    if leanness:
        leanest = max(leanness, key=lambda name: leanness[name].value)
        what = f"peak RSS, mean, to the leanest ({leanest})"
        verdicts.append(Verdict(what, leanness[leanest], 1.05))
    return verdicts
