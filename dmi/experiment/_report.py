"""What a replay says on paper: `!heap -s` rows, the comparison, the sentence at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmi.policy import Decommit
from dmi.windbg import format_heap_summary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dmi.experiment._results import Cell, Run

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
    """Which policy is the best trade, what it gave back and at what cost, in one sentence.

    The best trade has the least sum of two shares: what it still retains at the end, of what the
    keeper
    retains (`never` where that was run, else the policy that kept most), and what its CPU time is
    above the cheapest, of that one's. So one per cent of the memory is worth one per cent of the
    time. Within a hundredth the one with less CPU time speaks for them.
    """
    never = [run for run in runs if run.policy.when == "never"]
    keeper = never[0] if never else max(runs, key=lambda run: run.end.stats.retained)
    best = _best_trade(runs, keeper)
    bound = best.end.stats.page_bound
    times = f"{best.end.stats.committed / bound:.2f} times the page bound" if bound else ""
    if len(runs) == 1:
        return (
            f"{best.decommit} ends with {mib(best.end.stats.committed)} MiB committed for "
            f"{mib(best.end.stats.busy)} MiB busy{times and ', ' + times}, at "
            f"{best.cpu_seconds:.2f} s of CPU time."
        )
    most = min(runs, key=lambda run: (run.end.stats.retained, run.cpu_seconds))
    if most.end.stats.retained >= keeper.end.stats.retained:
        return (
            f"No policy gave back more than {keeper.decommit}, which ends with "
            f"{mib(keeper.end.stats.retained)} MiB retained at {keeper.cpu_seconds:.2f} s of CPU "
            "time."
        )
    given = keeper.end.stats.retained - best.end.stats.retained
    more = best.end.stats.retained - most.end.stats.retained
    other = (
        f"; {most.decommit} gave back {mib(more)} MiB {'more ' if given > 0 else ''}"
        f"{_price(most, best)}"
        if more > 0.01 * keeper.end.stats.retained
        or (more > 0 and most.cpu_seconds > 1.1 * best.cpu_seconds)
        else ""
    )
    if given <= 0:
        return f"{best.decommit}, which gave nothing back, is the best trade{other}."
    return (
        f"{best.decommit} is the best trade: it gave back {mib(given)} of the "
        f"{mib(keeper.end.stats.retained)} MiB that {keeper.decommit} still retained at the end"
        f"{times and ', down to ' + times}, {_price(best, keeper)}{other}."
    )


def _best_trade(runs: Sequence[Run], keeper: Run) -> Run:
    kept = max(keeper.end.stats.retained, 1)
    cheapest = min(run.cpu_seconds for run in runs) or 1.0

    def sum_of_shares(run: Run) -> float:
        return run.end.stats.retained / kept + run.cpu_seconds / cheapest

    least = min(sum_of_shares(run) for run in runs)
    close = [run for run in runs if sum_of_shares(run) <= least + 0.01]
    return min(close, key=lambda run: run.cpu_seconds)


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


def sweep_table(cells: Sequence[Cell], front: Sequence[Cell], tied: Sequence[Cell] = ()) -> str:
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
            ("=" if cell in tied else "*") if cell in front else "",
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
    if tied:
        drawn.append("= the same, and a tie within noise with another one so marked")
    drawn += too_short(cells[0].duration, [cell.decommit for cell in cells])
    return "\n".join(drawn)


def too_short(duration: float | None, decommits: Sequence[str]) -> list[str]:
    """A line that names the policies whose delay the recording does not outlast, or nothing."""
    if not duration:
        return []
    waiting = []
    for text in decommits:
        policy = Decommit.parse(text)
        delay = {"lazy": policy.delay, "decay": policy.half_life}.get(policy.when, 0.0)
        if delay >= duration:
            waiting.append(text)
    if not waiting:
        return []
    named = ", ".join(waiting)
    return [
        f"The recording lasts {duration:.1f} s, no longer than the delay of {named}, "
        + ("which" if len(waiting) == 1 else "each of which")
        + " gives back later than it shows."
    ]
