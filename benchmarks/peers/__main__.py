"""Compare the allocators of this machine on the workloads of `benchmarks/native`.

Every round runs each workload under each allocator, in a new random order, and the base a second
time beside itself: what that A/A pair shows is noise. Ratios are medians over the rounds with a
90 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peers import allocators as finder
from benchmarks.peers import measure, report, stats
from benchmarks.peers.allocators import Allocator, AllocatorError
from benchmarks.peers.build import BuildError, build

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = ("time", "instructions", "retained")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=15, help="interleaved rounds (default 15)")
    add("--quick", action="store_true", help="3 rounds, and 4 s after each peak")
    add("--base", help="allocator that the ratios are to (default mimalloc3, else glibc)")
    add("--judge", default="dmi", help="allocator held against the bounds (default dmi)")
    add("--lib", action="append", default=[], metavar="NAME=PATH", help="one more allocator")
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE",
        help="an environment variable for one allocator",
    )
    add("--only", help="comma-separated names of allocators (default all found)")
    add("--workloads", help="comma-separated names of workloads (default all)")
    add(
        "--parts",
        default="time,instructions",
        help=f"what to measure, comma-separated: {', '.join(PARTS)} (default time,instructions)",
    )
    add("--patterns", default=",".join(measure.PEAKS), help="peaks for `retained` (default all)")
    add("--seconds", type=int, default=12, help="watched after each peak (default 12)")
    add("--json", type=Path, metavar="FILE", help="write everything measured")
    add("--plot", type=Path, metavar="FILE", help="draw the ratios (needs matplotlib)")
    add("--list", action="store_true", help="name the allocators found and stop")
    return parser


def _choice(text: str, known: Sequence[str], what: str) -> list[str]:
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise AllocatorError(f"no {what} {', '.join(unknown) or text!r}; known: {', '.join(known)}")
    return list(dict.fromkeys(chosen))


def _chosen_allocators(options: argparse.Namespace) -> list[Allocator]:
    found = {a.name: a for a in finder.find()}
    for text in options.lib:
        added = finder.parse_library(text)
        found[added.name] = added
    for text in options.env:
        name, key, value = finder.parse_option(text)
        if name not in found:
            raise AllocatorError(f"--env: no allocator {name}; known: {', '.join(found)}")
        found[name] = replace(found[name], options=found[name].options | {key: value})
    if not options.only:
        return list(found.values())
    return [found[name] for name in _choice(options.only, list(found), "allocator")]


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _run(options: argparse.Namespace, programs: Path) -> int:
    chosen = _chosen_allocators(options)
    names = [a.name for a in chosen]
    if options.list:
        for a in chosen:
            settings = " ".join(f"{k}={v}" for k, v in a.options.items())
            print(a.name, a.library or "(the C library)", settings)
        return 0
    base = options.base or ("mimalloc3" if "mimalloc3" in names else names[0])
    if base not in names:
        raise AllocatorError(f"--base: no allocator {base}; known: {', '.join(names)}")
    parts = _choice(options.parts, PARTS, "part")
    workloads = _choice(
        options.workloads or ",".join(measure.WORKLOADS), measure.WORKLOADS, "workload"
    )
    patterns = _choice(options.patterns, list(measure.PEAKS), "pattern")
    rounds, seconds = (3, 4) if options.quick else (options.rounds, options.seconds)
    if rounds < 1 or seconds < 1:
        raise AllocatorError("--rounds and --seconds take a number above 0")

    build(programs, measure.PROGRAMS)
    for a in chosen:
        finder.check(a, programs)

    samples: measure.Samples = {}
    instructions: dict[str, dict[str, float]] = {}
    kept: dict[str, dict[str, list[measure.Kept]]] = {}
    verdicts: list[stats.Verdict] = []
    failures: list[str] = []
    sections = []
    compared = [*chosen, next(a for a in chosen if a.name == base).again()]
    columns = [a.name for a in compared]
    if "time" in parts:
        samples, failures = measure.run_rounds(programs, compared, workloads, rounds, _progress)
        sections += [report.ratio_table(samples, m, base, columns) for m in report.METRICS]
    if "instructions" in parts:
        instructions, more = measure.count_instructions(programs, chosen, _progress)
        failures += more
        sections.append(
            report.instruction_table(instructions)
            if instructions
            else "instructions were not counted: valgrind is not installed"
        )
    if "retained" in parts:
        kept, more = measure.watch_peaks(programs, chosen, patterns, seconds, _progress)
        failures += more
        sections.append(report.kept_table(kept, names))
    if samples and options.judge in names:
        peers = [n for n in names if not n.startswith(options.judge)]
        rival = "mimalloc3" if "mimalloc3" in peers else base
        verdicts = stats.judge(samples, options.judge, peers, rival)
        sections.append(report.verdict_table(verdicts, options.judge))
    shown = compared if samples else chosen
    sections.append(report.overview_table(shown, base, samples, instructions, kept))
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    print("\n\n".join(sections))

    if options.json:
        document = report.as_json(compared, base, samples, instructions, kept, verdicts, failures)
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.plot and samples:
        report.plot(options.plot, samples, base, columns)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; 0 when everything ran, 1 when a program failed, 2 on a wrong argument."""
    options = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="dmi-bench-") as folder:
            return _run(options, Path(folder))
    except (AllocatorError, BuildError, measure.RunError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
