"""Say what was measured: tables for a terminal, JSON, a plot."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.measure import PAIRS, Kept, Samples
from benchmarks.peers.stats import Ratio, Verdict, mean_ratios, workload_ratios

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.peers.allocators import Allocator

METRICS = {"wall": "elapsed time", "cpu": "user + system time", "peak_rss": "peak resident memory"}
MEAN = "geometric mean"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned text, the first row being the head and the first column the names."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cell(ratio: Ratio | None) -> str:
    return "failed" if ratio is None else f"{ratio.value:.2f} {ratio.low:.2f}-{ratio.high:.2f}"


def ratio_table(samples: Samples, metric: str, base: str, names: Sequence[str]) -> str:
    """One metric of every allocator on every workload as ratios to the base, with intervals."""
    ratios = workload_ratios(samples, metric, base)
    means = mean_ratios(samples, metric, base, names)
    rows = [["workload", *names]]
    for workload, found in ratios.items():
        rows.append([workload, *(_cell(found.get(name)) for name in names)])
    rows.append([MEAN, *(_cell(means.get(name)) for name in names)])
    rounds = max((len(s) for runs in samples.values() for s in runs.values()), default=0)
    head = f"{METRICS[metric]} as a ratio to {base}: median of {rounds} rounds, 90 % interval"
    return f"{head}\n\n{table(rows)}"


def instruction_table(counts: Mapping[str, Mapping[str, float]]) -> str:
    """Instructions a pair, by allocator and loop."""
    rows = [["allocator", *PAIRS]]
    rows += [[name, *(f"{found[mode]:.1f}" for mode in PAIRS)] for name, found in counts.items()]
    return f"instructions a malloc+free pair, the loop removed\n\n{table(rows)}"


def kept_table(kept: Mapping[str, Mapping[str, Sequence[Kept]]], names: Sequence[str]) -> str:
    """Resident over page bound at the last second, with the page bound in MiB."""
    rows = [["allocator", *(f"{p}: ratio (bound MiB)" for p in kept)]]
    for name in names:
        cells = []
        for runs in kept.values():
            last = runs[name][-1] if name in runs else None
            cells.append(f"{last.ratio:.2f} ({last.page_bound / 2**20:.0f})" if last else "failed")
        rows.append([name, *cells])
    seconds = max((s[-1].second for runs in kept.values() for s in runs.values()), default=0)
    return f"resident / page bound {seconds} s after the peak\n\n{table(rows)}"


def verdict_table(verdicts: Sequence[Verdict], judged: str) -> str:
    """Each bound of the judged allocator and whether it is met."""
    rows = [["bound", "ratio", "at most", ""]]
    rows += [
        [v.what, _cell(v.ratio), f"{v.bound:.2f}", "met" if v.met else "MISSED"] for v in verdicts
    ]
    return f"{judged}, judged (missed: even the interval's lower end is above)\n\n{table(rows)}"


def overview_table(
    allocators: Sequence[Allocator],
    base: str,
    samples: Samples,
    instructions: Mapping[str, Mapping[str, float]],
    kept: Mapping[str, Mapping[str, Sequence[Kept]]],
) -> str:
    """All that was measured, a row an allocator; a dash where nothing was, or it failed."""
    names = [a.name for a in allocators]
    columns: dict[str, dict[str, str]] = {}
    if samples:
        for metric, title in (("wall", "time"), ("peak_rss", "peak RSS")):
            means = mean_ratios(samples, metric, base, names)
            columns[f"{title} / {base}"] = {n: _cell(r) for n, r in means.items()}
    if instructions:
        for mode in PAIRS:
            columns[mode] = {n: f"{found[mode]:.1f}" for n, found in instructions.items()}
    for pattern, runs in kept.items():
        columns[f"kept {pattern}"] = {n: f"{found[-1].ratio:.2f}" for n, found in runs.items()}
    rows = [["allocator", *columns]]
    rows += [[name, *(cells.get(name, "-") for cells in columns.values())] for name in names]
    return table(rows)


def machine() -> dict[str, str | int]:
    """What a reader needs to know of this machine to compare."""
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "system": platform.platform(),
        "processors": os.cpu_count() or 0,
        "transparent_huge_pages": huge.read_text().strip() if huge.is_file() else "",
    }


def as_json(
    allocators: Sequence[Allocator],
    base: str,
    samples: Samples,
    instructions: Mapping[str, Mapping[str, float]],
    kept: Mapping[str, Mapping[str, Sequence[Kept]]],
    verdicts: Sequence[Verdict],
    failures: Sequence[str],
) -> dict[str, Any]:
    """All that was measured, and the ratios drawn from it. Seconds, KiB (peak_rss), bytes."""
    names = [a.name for a in allocators]
    ratios: dict[str, Any] = {}
    for metric in METRICS if samples else ():
        found = workload_ratios(samples, metric, base)
        ratios[metric] = {w: {n: asdict(r) for n, r in row.items()} for w, row in found.items()}
        means = mean_ratios(samples, metric, base, names)
        ratios[metric][MEAN] = {n: asdict(r) for n, r in means.items()}
    return {
        "machine": machine(),
        "allocators": {
            a.name: {"library": str(a.library) if a.library else None, "options": a.options}
            for a in allocators
        },
        "base": base,
        "samples": {
            w: {n: [asdict(s) for s in found] for n, found in runs.items()}
            for w, runs in samples.items()
        },
        "ratios": ratios,
        "instructions": {n: dict(found) for n, found in instructions.items()},
        "after_peak": {
            p: {n: [asdict(k) for k in found] for n, found in runs.items()}
            for p, runs in kept.items()
        },
        "verdicts": [asdict(v) | {"met": v.met} for v in verdicts],
        "failures": list(failures),
    }


def plot(file: Path, samples: Samples, base: str, names: Sequence[str]) -> None:
    """Elapsed time and peak memory of every allocator and workload as ratios to the base.

    The format follows the file's suffix. Raises ImportError without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = ("wall", "peak_rss")
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 1.5 + 0.55 * (len(samples) + 1)), sharey=True)
    for axis, metric in zip(axes, panels, strict=True):
        found = workload_ratios(samples, metric, base)
        rows = {**found, MEAN: mean_ratios(samples, metric, base, names)}
        for number, name in enumerate(names):
            shift = (number - (len(names) - 1) / 2) * 0.8 / len(names)
            points = [(i + shift, r[name]) for i, r in enumerate(rows.values()) if name in r]
            axis.errorbar(
                [r.value for _, r in points],
                [y for y, _ in points],
                xerr=[
                    [max(0.0, r.value - r.low) for _, r in points],
                    [max(0.0, r.high - r.value) for _, r in points],
                ],
                fmt="o",
                markersize=4,
                linewidth=1,
                label=name,
            )
        axis.axvline(1.0, color="grey", linewidth=0.8)
        axis.set_xscale("log", base=2)
        axis.set_xlabel(f"{METRICS[metric]} / {base}")
        axis.set_yticks(range(len(rows)), list(rows))
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)
