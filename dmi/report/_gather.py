"""From files and processes to the contents of a report."""

from __future__ import annotations

import itertools
import mmap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dmi import _files, windbg
from dmi._snapshot import FORMAT, Snapshot
from dmi.diagnose import from_replay, of_moments
from dmi.process import open_process, text
from dmi.profile._read import may_be_large
from dmi.report._content import (
    Chart,
    Content,
    HeapMap,
    Series,
    Table,
    Text,
    Waterfall,
)
from dmi.report._lines import add_lines
from dmi.report._map import MAX_BLOCKS, budget, map_of_ranges, map_of_segments, map_of_walk
from dmi.report._page import Report
from dmi.stats import REASONS, HeapStats

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from dmi.experiment import Replay, Sweep

    Path_ = str | os.PathLike[str]

__all__ = ["report", "report_of_run", "report_of_sweep"]

POLICIES: Final = "never,eager,lazy,threshold"
MIB: Final = 1 << 20


def report(
    sources: Sequence[Path_ | Snapshot] | Path_ | Snapshot = (),
    *,
    pid: int | None = None,
    decommit: str = POLICIES,
    title: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """A page about these files, in the order of time, or about process ``pid``.

    sources   snapshots (files or dmi.Snapshot), the JSON of one `dmi replay --json`, or recordings,
              which are replayed under ``decommit``; kinds are told apart by content
    progress  called with a label, what is done and how much there is

    ValueError, naming the file, for what is none of these; ImportError without the extra
    ``report``.
    """
    if isinstance(sources, (str, Snapshot)) or hasattr(sources, "__fspath__"):
        sources = [sources]
    if not sources and pid is None:
        raise ValueError("a report needs a file or a process (pid)")
    snapshots: list[Snapshot] = []
    contents: list[Content] = []
    for each in sources:
        if isinstance(each, Snapshot):
            snapshots.append(each)
            continue
        kind, values = _kind(Path(each))
        if kind == "snapshot":
            snapshots.append(Snapshot.load(each))
        elif kind == "replay":
            contents.append(_of_replay(values, Path(each).name))
        else:
            contents.append(_of_recording(Path(each), decommit, progress))
    if snapshots:
        contents.append(_of_snapshots(snapshots))
    if pid is not None:
        contents.append(_of_process(pid))
    whole = _joined(contents)
    if title is not None:
        whole.title = title
    return Report(whole)


def _kind(path: Path) -> tuple[str, Any]:
    """What a file is: JSON of ours is small and begins with a brace, all else is a recording."""
    with _files.open_regular(path) as file:
        first = file.read(1)
        if first != b"{":
            return "recording", None
        if may_be_large(file):
            return "snapshot", None  # nothing else of ours is; loading it tells what is wrong
    values = _files.read_json(path)
    if isinstance(values, dict) and values.get("format") == FORMAT:
        return "snapshot", None
    if isinstance(values, dict) and isinstance(values.get("runs"), list):
        return "replay", values
    raise ValueError(f"{path}: neither a snapshot, the JSON of a replay, nor a recording")


def _joined(contents: Sequence[Content]) -> Content:
    whole = contents[0]
    for each in contents[1:]:
        for name in (
            "findings",
            "words",
            "charts",
            "waterfalls",
            "tables",
            "maps",
            "texts",
            "notes",
        ):
            getattr(whole, name).extend(getattr(each, name))
        whole.subtitle = f"{whole.subtitle}; {each.subtitle}"
    return whole


def _parts(stats: HeapStats | dict[str, Any]) -> list[tuple[str, int]] | None:
    """busy, then each reason for what is retained; None without detail."""
    reasons = stats["reasons"] if isinstance(stats, dict) else stats.reasons
    busy = stats["busy"] if isinstance(stats, dict) else stats.busy
    if reasons is None:
        return None
    return [("busy", busy), *((name, reasons.get(name, 0)) for name in REASONS)]


# ---- snapshots ----------------------------------------------------------------------------------


def _of_snapshots(found: Sequence[Snapshot]) -> Content:
    first, last = found[0], found[-1]
    program = last.program or "a program"
    made = Content(
        f"{program}: where its memory is",
        f"process {last.pid}, {len(found)} moment{'s' * (len(found) > 1)}, "
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(first.time))}",
    )
    labels = [each.label or f"moment {n}" for n, each in enumerate(found, 1)]
    made.words.append(Text("What the doctor says", str(of_moments(found))))
    if len(found) > 1:
        made.charts.append(_moments(found))
    made.waterfalls.append(_waterfall_of(found, labels))
    made.tables.append(_outside(last))
    made.maps += _maps(last)
    add_lines(made, found)
    for each, label in zip(found, labels, strict=True):
        text = windbg.format_heap_summary([heap.row() for heap in each.heaps])
        made.texts.append(Text(f"!heap -s, {label}", text))
    if last.address is None:
        made.notes.append("The address space was not seen: nothing is said of what lies outside.")
    return made


def _moments(found: Sequence[Snapshot]) -> Chart:
    begin = found[0].time
    timed = all(b.time > a.time for a, b in itertools.pairwise(found))

    def line(name: str, value: Callable[[Snapshot], int | None], area: bool = False) -> Series:
        points = [
            (each.time - begin if timed else float(n), size)
            for n, each in enumerate(found)
            if (size := value(each)) is not None
        ]
        return Series(name, [(x, float(y)) for x, y in points], area)

    def total(name: str) -> Callable[[Snapshot], int | None]:
        def value(each: Snapshot) -> int | None:
            known = [getattr(heap.stats, name) for heap in each.heaps]
            # No heap of dmi was seen: that is no 0 of the process.
            return None if not known or None in known else sum(known)

        return value

    series = [
        line("busy", total("busy"), True),
        line("committed", total("committed")),
        line("page bound", total("page_bound")),
        line("resident, whole process", lambda each: (each.process or {}).get("resident")),
    ]
    note = "All heaps of dmi together; what is not known at a moment has no point."
    return Chart("Memory at each moment", note, [each for each in series if each.points])


def _waterfall_of(found: Sequence[Snapshot], labels: Sequence[str]) -> Waterfall:
    rows = []
    for each, label in zip(found, labels, strict=True):
        sums: dict[str, int] = {}
        for heap in each.heaps:
            parts = _parts(heap.stats)
            for name, size in parts or [("busy", heap.stats.busy)]:
                sums[name] = sums.get(name, 0) + size
        rows.append((label, list(sums.items())))
    return Waterfall("Why it is committed", "busy, then each reason for what is retained", rows)


def _outside(last: Snapshot) -> Table:
    rows: list[list[str | None]] = [
        [
            f"dmi heap {heap.handle:x} {heap.name}".rstrip(),
            _mib(heap.stats.committed),
            _mib(heap.stats.busy),
            _mib(heap.stats.retained),
            heap.decommit,
        ]
        for heap in last.heaps
    ]
    for each in last.outside:
        held, used = each.get("committed"), each.get("busy")
        rest = None if held is None or used is None else held - used
        rows.append([str(each.get("name")), _mib(held), _mib(used), _mib(rest), None])
    process = last.process or {}
    rows.append(["resident, whole process", _mib(process.get("resident")), None, None, None])
    head = ["holder", "committed, MiB", "busy, MiB", "retained, MiB", "policy"]
    return Table("Who holds it", "A dash is not known; it is not 0.", head, rows)


def _mib(size: int | None) -> str | None:
    return None if size is None else f"{size / MIB:,.2f}"


def _maps(found: Snapshot) -> list[HeapMap]:
    counts = [0 if heap.blocks is None else heap.stats.busy_blocks for heap in found.heaps]
    made = []
    for heap, allowed in zip(found.heaps, budget(counts), strict=True):
        title = f"heap {heap.handle:x} {heap.name}".rstrip()
        if heap.blocks is not None:
            drawn = map_of_ranges(title, heap.blocks, found.page_size, blocks=allowed)
        else:
            drawn = map_of_segments(title, heap.segments or (), found.page_size)
        if drawn.segments or drawn.note:
            made.append(drawn)
    return made


def report_of_run(program: str, status: int, chart: Chart, end: Snapshot | None) -> Report:
    """A page about a program that ran: what was seen meanwhile, and its end where that is known."""
    made = Content(f"{program}: where its memory is", "") if end is None else _of_snapshots([end])
    made.title = f"{program}: where its memory is"
    made.subtitle = f"ended with status {status}, {time.strftime('%Y-%m-%d %H:%M:%S')}"
    made.charts.insert(0, chart)
    if end is None:
        made.notes.append(
            "The heaps at its end: it was killed, called _exit(), or became another program."
        )
    return Report(made)


# ---- replays ------------------------------------------------------------------------------------


def _of_recording(
    path: Path, decommit: str, progress: Callable[[str, int, int], None] | None
) -> Content:
    from dmi import experiment
    from dmi.trace import load

    trace = load(path)
    result = experiment.replay(trace, decommit, progress=progress)
    made = _of_replay(result.as_dict(), path.name)
    made.findings.insert(0, Text("What it comes to", result.conclusion()))
    made.texts.append(Text("!heap -s before, at and after the peak", result.heap_summaries()))
    made.tables.insert(0, _compared(result))
    least = min(result.runs, key=lambda run: run.end.stats.committed)
    for run in dict.fromkeys([least.decommit, *(run.decommit for run in result.runs)]):
        ranges = experiment.ranges_at_end(trace, result[run].policy)
        title = f"the end of the recording under {run}"
        drawn = map_of_ranges(title, ranges, mmap.PAGESIZE, blocks=run == least.decommit)
        if run != least.decommit:
            drawn.note = f"blocks are listed for {least.decommit} only, to keep the page small"
        made.maps.append(drawn)
    return made


def report_of_sweep(sweep: Sweep) -> Report:
    """A page about a sweep: each recording under every policy, those that none beats marked."""
    contents = []
    for name, cells in sweep.recordings().items():
        front = sweep.pareto(name)
        runs = [cell.run for cell in cells]
        seconds = max(float(run["moments"]["end"]["seconds"]) for run in runs)
        values = {"runs": runs, "events": cells[0].events, "duration": seconds}
        made = _of_replay(values, Path(name).name)
        made.words.clear()  # a verdict for each of many policies is more than anybody reads
        rows: list[list[str | None]] = [
            [
                cell.decommit,
                _mib(round(cell.mean_retained)),
                _mib(cell.retained),
                _mib(cell.committed),
                _mib(cell.page_bound),
                f"{cell.cpu_seconds:.3f}",
                "yes" if any(cell is each for each in front) else "",
            ]
            for cell in sorted(cells, key=lambda cell: cell.cpu_seconds)
        ]
        head = ["policy", "mean retained, MiB", "retained at end", "committed at end",
                "page bound at end", "CPU time, s", "none is better"]  # fmt: skip
        note = "A policy is marked when no other one is better in both mean retained and CPU time."
        made.tables.insert(0, Table(f"The trade-off, {Path(name).name}", note, head, rows))
        contents.append(made)
    return Report(_joined(contents))


def _of_replay(values: dict[str, Any], name: str) -> Content:
    try:
        return _replayed(values, name)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{name}: not the JSON of a replay: {error!r}") from None


def _replayed(values: dict[str, Any], name: str) -> Content:
    runs = values["runs"]
    made = Content(
        f"{name}: one program, {len(runs)} polic{'y' if len(runs) == 1 else 'ies'}",
        f"{int(values['events']):,} calls in {float(values['duration']):.1f} s, replayed",
    )
    verdicts = from_replay(values)
    made.words += [
        Text(f"The doctor on {policy}", str(verdict)) for policy, verdict in verdicts.items()
    ]
    timed = float(values["duration"]) > 0
    clock = "seconds" if timed else "position"

    def points(run: dict[str, Any], field: str) -> list[tuple[float, float]]:
        return [
            (float(each[clock]), float(each[field]))
            for each in run["timeline"]
            if each.get(field) is not None
        ]

    note = "Committed memory of each policy over what the program uses."
    lines = [Series("busy", points(runs[0], "busy"), True)]
    lines += [Series(str(run["decommit"]), points(run, "committed")) for run in runs]
    recorded = points(runs[0], "recorded_rss")
    if recorded:
        lines.append(Series("resident when recorded", recorded))
    ends = [
        (run, run["page_bound"].get("end"))
        for run in runs
        if run["page_bound"].get("end") is not None
    ]
    if ends:
        run, bound = min(ends, key=lambda each: each[1])
        end = float(run["moments"]["end"][clock])
        lines.append(Series("least page bound at the end", [(end, float(bound))]))
    made.charts.append(Chart("Committed memory under each policy", note, lines))
    for moment in ("peak", "end"):
        rows = [
            (str(run["decommit"]), parts)
            for run in runs
            if (parts := _parts(run[moment])) is not None
        ]
        title = f"Why it is committed at the {moment}"
        made.waterfalls.append(
            Waterfall(title, "busy, then each reason for what is retained", rows)
        )
    return made


def _compared(result: Replay) -> Table:
    rows: list[list[str | None]] = [
        [
            run.decommit,
            _mib(run.peak.stats.committed),
            _mib(run.end.stats.committed),
            _mib(run.end.stats.retained),
            _mib(run.end.stats.page_bound),
            f"{run.cpu_seconds:.3f}",
        ]
        for run in result.runs
    ]
    head = ["policy", "committed at peak, MiB", "at end, MiB", "retained at end, MiB",
            "page bound at end, MiB", "CPU time, s"]  # fmt: skip
    return Table("Side by side", "CPU times are of one run on this machine.", head, rows)


# ---- a process ----------------------------------------------------------------------------------


def _of_process(pid: int) -> Content:
    with open_process(pid) as process:
        found = process.layers()
        made = Content(
            f"{process.program or 'a program'}, process {pid}: where its memory is",
            f"looked at from outside, {time.strftime('%Y-%m-%d %H:%M:%S')}",
        )
        made.words.append(Text("What the doctor says", str(of_moments([process.snapshot()]))))
        waterfall, left = [], MAX_BLOCKS
        for each in process.heaps():
            name = f"{each.kind} {each.name or format(each.handle, 'x')}"
            stats = each.stats()
            if stats.busy is not None and stats.retained is not None:
                waterfall.append((name, [("busy", stats.busy), ("retained", stats.retained)]))
            drawn, listed = map_of_walk(f"heap {name}", each, mmap.PAGESIZE, most=left)
            left -= listed
            if drawn.segments or drawn.note:
                made.maps.append(drawn)
        rows = "\n".join(text.heap(process, "-s"))
    if waterfall:
        note = "Busy and not; the reasons are known to dmi's heaps, inside of their process."
        made.waterfalls.append(Waterfall("Its heaps", note, waterfall))
    head = ["layer", "holder", "holds, MiB", "uses, MiB", "retains, MiB"]
    cells: list[list[str | None]] = [
        [
            f"{layer.number} {layer.name}",
            part.name,
            *map(_mib, (part.holds, part.uses, part.retains)),
        ]
        for layer in found.layers
        for part in layer.parts
    ]
    made.tables.append(Table("Layers", "A dash is not known; it is not 0.", head, cells))
    made.texts.append(Text("!heap -s", rows))
    made.texts.append(Text("dmi layers", str(found)))
    return made
