"""What a replay says on paper: `!heap -s` rows, the comparison, the sentence at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmi.windbg import format_heap_summary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dmi.experiment._replay import Run
    from dmi.experiment._sweep import Cell

_MIB = 1 << 20


def mib(size: float | None) -> str:
    """Bytes as MiB with two decimals; a dash for None."""
    return "-" if size is None else f"{size / _MIB:,.2f}"


def ratio(part: int, whole: int | None) -> str:
    """part / whole; a dash where there is nothing to divide by."""
    return f"{part / whole:.3f}" if whole else "-"


def _percent(value: int | None) -> str:
    return "-" if value is None else f"{value}"


def heap_summaries(runs: Sequence[Run]) -> str:
    """For each run the rows at its moments, each under its own title."""
    parts = []
    for run in runs:
        moments = [
            ("before the peak", run.before),
            ("at the peak", run.peak),
            ("after the peak", run.end),
        ]
        if run.at:
            moments = [("", sample) for sample in run.at]
        for name, sample in moments:
            title = f"{name}, {sample.seconds:.2f} s" if name else f"{sample.seconds:.2f} s"
            parts.append(f"{run.decommit}, {title}:\n{format_heap_summary([sample.row])}")
    return "\n".join(parts)


_ROWS: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("committed at peak, MiB", lambda run: mib(run.peak.stats.committed)),
    ("committed at end, MiB", lambda run: mib(run.end.stats.committed)),
    ("retained at peak, MiB", lambda run: mib(run.peak.stats.retained)),
    ("retained at end, MiB", lambda run: mib(run.end.stats.retained)),
    ("mean retained, MiB", lambda run: mib(run.mean_retained)),
    ("page bound at end, MiB", lambda run: mib(run.end.stats.page_bound)),
    (
        "committed / page bound at end",
        lambda run: ratio(run.end.stats.committed, run.end.stats.page_bound),
    ),
    ("decommit calls", lambda run: f"{run.end.stats.decommit_calls:,}"),
    ("decommitted, MiB", lambda run: mib(run.end.stats.decommit_bytes)),
    ("recommit calls", lambda run: f"{run.end.stats.recommit_calls:,}"),
    ("recommitted, MiB", lambda run: mib(run.end.stats.recommit_bytes)),
    ("CPU time, s", lambda run: f"{run.cpu_seconds:.3f}"),
    (
        "events/s, millions",
        lambda run: f"{run.events_per_second / 1e6:.2f}" if run.events_per_second else "-",
    ),
    (
        "External fragmentation at end, %",
        lambda run: _percent(run.end.stats.external_fragmentation),
    ),
    (
        "Virtual address fragmentation at end, %",
        lambda run: _percent(run.end.stats.virtual_address_fragmentation),
    ),
)


# Offered pages stay committed until the system takes them: only resident tells.
_OFFER_ROWS: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("offer calls", lambda run: f"{run.end.stats.offer_calls:,}"),
    ("offered at end, MiB", lambda run: mib(run.end.stats.offered)),
    ("taken back from the offer, MiB", lambda run: mib(run.end.stats.unoffer_bytes)),
)


def table(runs: Sequence[Run]) -> str:
    """A line for each figure, a column for each run; lines about offers only if there were any."""
    rows = list(_ROWS)
    if any(run.end.stats.offer_calls for run in runs):
        place = [title for title, _ in rows].index("CPU time, s")
        rows[place:place] = _OFFER_ROWS
    cells = [["", *(run.decommit for run in runs)]]
    cells += [[title, *(show(run) for run in runs)] for title, show in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(runs) + 1)]
    lines = []
    for line in cells:
        first = line[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        lines.append("  ".join((first, *rest)).rstrip())
    lines.insert(1, "-" * (sum(widths) + 2 * len(runs)))
    return "\n".join(lines)


def conclusion(runs: Sequence[Run]) -> str:
    """Which policy gave back how much at what cost, in one sentence.

    The measure is what stays committed at the end; among policies within one per cent of the best
    the one with the least CPU time speaks for them. What it gave back is counted against `never`
    where that was run, else against the policy that kept most.
    """
    least = min(run.end.stats.committed for run in runs)
    close = [run for run in runs if run.end.stats.committed <= least * 1.01]
    best = min(close, key=lambda run: run.cpu_seconds)
    rivals = [run for run in runs if run is not best]
    never = [run for run in rivals if run.policy.when == "never"]
    most = max(rivals, key=lambda run: run.end.stats.retained, default=None)
    keeper = never[0] if never else most
    bound = best.end.stats.page_bound
    times = f"{best.end.stats.committed / bound:.2f} times the page bound" if bound else ""
    if keeper is None:
        return (
            f"{best.decommit} ends with {mib(best.end.stats.committed)} MiB committed for "
            f"{mib(best.end.stats.busy)} MiB busy{times and ', ' + times}, at "
            f"{best.cpu_seconds:.2f} s of CPU time."
        )
    given = keeper.end.stats.retained - best.end.stats.retained
    if given <= 0:
        return (
            f"No policy gave back more than {keeper.decommit}, which ends with "
            f"{mib(keeper.end.stats.retained)} MiB retained at {keeper.cpu_seconds:.2f} s of CPU "
            "time."
        )
    return (
        f"{best.decommit} gave back {mib(given)} of the {mib(keeper.end.stats.retained)} MiB that "
        f"{keeper.decommit} still retained at the end{times and ', down to ' + times}, "
        f"{_price(best, keeper)}."
    )


def _price(best: Run, keeper: Run) -> str:
    clocks = f"{best.cpu_seconds:.2f} s against {keeper.cpu_seconds:.2f} s"
    if not keeper.cpu_seconds:
        return f"in {clocks} of CPU time"
    change = 100 * (best.cpu_seconds / keeper.cpu_seconds - 1)
    if abs(change) < 1:
        return f"at the same CPU time ({clocks})"
    if change > 200:
        return f"at {best.cpu_seconds / keeper.cpu_seconds:.1f} times the CPU time ({clocks})"
    return f"for {abs(change):.0f} % {'more' if change > 0 else 'less'} CPU time ({clocks})"


def sweep_table(cells: Sequence[Cell], front: Sequence[Cell]) -> str:
    """A line for each policy, the cheapest in CPU time first; what nothing beats is marked."""
    head = ["policy", "mean retained", "retained", "committed", "/ page bound", "CPU s", ""]
    lines = [head]
    lines += [
        [
            cell.decommit,
            mib(cell.mean_retained),
            mib(cell.retained),
            mib(cell.committed),
            ratio(cell.committed, cell.page_bound),
            f"{cell.cpu_seconds:.3f}",
            "*" if cell in front else "",
        ]
        for cell in sorted(cells, key=lambda cell: cell.cpu_seconds)
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    drawn = []
    for line in lines:
        rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        drawn.append("  ".join((line[0].ljust(widths[0]), *rest)).rstrip())
    drawn.insert(1, "-" * len(max(drawn, key=len)))
    drawn.append(
        "MiB, at the end where not a mean; * no other policy is better in both mean "
        "retained and CPU time"
    )
    return "\n".join(drawn)
