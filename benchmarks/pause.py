"""How long does one malloc take while a gigabyte is given back? Against the same run under `never`.

    python -m benchmarks.pause [--rounds 9] [--policy lazy] [--json FILE]

Every round runs `benchmarks/native/pause.c` three times in a random order on the preload library:
under the policy, under `never`, and under `never` once more, which shows what the machine does to
two equal runs. A malloc is timed on the wall: that other threads had the processor counts, and so
does the first touch of a page inside malloc. What a percentile cannot show is a moment in which
nobody gets anywhere, because then no malloc ends; `longest` and `fewest` (mallocs in a slot of
50 ms, least of the window) stand below for that. The window is where resident memory falls in the
round's run under the policy; the percentiles of all three are taken over the same window. Ratios
are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dmi
from benchmarks.peers.build import BuildError, build

if TYPE_CHECKING:
    from collections.abc import Sequence

PERCENTILES = (50.0, 99.0, 99.9, 99.99, 99.999)
BOUND = 3.0
"""The 99.99th percentile under the policy may be so many times that under never."""

MARGIN = 0.01
"""A slot belongs to the window when this part of the whole fall or more happened in it."""


class PauseError(RuntimeError):
    """The program failed, or printed what cannot be read."""


@dataclass(frozen=True)
class Slots:
    """One run: for each slot of 50 ms resident bytes and mallocs by bucket of time."""

    resident: tuple[int, ...]
    counts: tuple[dict[int, int], ...]
    longest: float
    mallocs: int

    def window(self) -> range:
        """The slots from the first to the last in which resident memory fell."""
        total = max(self.resident) - self.resident[-1]
        before = (self.resident[0], *self.resident[:-1])
        falls = [b - r for b, r in zip(before, self.resident, strict=True)]
        falling = [i for i, fall in enumerate(falls) if fall > MARGIN * total]
        if total <= 0 or not falling:
            raise PauseError("resident memory did not fall: nothing was given back")
        return range(falling[0], falling[-1] + 1)

    def fallen(self, window: range) -> int:
        """Bytes by which resident memory is lower at the window's end."""
        return self.resident[max(0, window.start - 1)] - self.resident[window.stop - 1]

    def fewest(self, window: range) -> int:
        """Mallocs in the slot of the window that saw the fewest end."""
        return min(sum(self.counts[slot].values()) for slot in window)

    def percentile(self, percent: float, window: range) -> float:
        """Nanoseconds: that part of the window's mallocs took no longer.

        Within a bucket, whose ends are 19 % apart, times are taken to be spread evenly.
        """
        counts: Counter[int] = Counter()
        for slot in window:
            counts.update(self.counts[slot])
        rank = percent / 100 * sum(counts.values())
        for bucket, count in sorted(counts.items()):
            if rank <= count:
                return float(2 ** ((bucket + rank / count) / 4))
            rank -= count
        raise PauseError("no malloc ended in the window")


def read(text: str) -> Slots:
    """What the program printed. PauseError for anything else."""
    resident: list[int] = []
    counts: list[dict[int, int]] = []
    try:
        *lines, longest, last = text.splitlines()
        for number, line in enumerate(lines):
            slot, now, *pairs = line.split()
            if int(slot) != number:
                raise ValueError(f"slot {slot} in line {number}")
            resident.append(int(now))
            counts.append({int(b): int(n) for b, n in (pair.split(":") for pair in pairs)})
        word, _, worst = longest.partition(" ")
        name, mallocs, _ = last.split()
        if (word, name) != ("longest", "pause") or not resident:
            raise ValueError("no result")
        return Slots(tuple(resident), tuple(counts), float(worst), int(mallocs))
    except ValueError as error:
        raise PauseError(f"pause printed what cannot be read: {error}") from None


def run(program: Path, library: Path, policy: str, arguments: Sequence[str]) -> Slots:
    """Run the program once on the preload library under a policy."""
    environment = dict(os.environ)
    environment["LD_PRELOAD"] = str(library)
    environment["DMI_OPTIONS"] = f"decommit={policy}"
    done = subprocess.run(
        [str(program), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0 or done.stderr:
        raise PauseError(f"pause under {policy}: status {done.returncode}: {done.stderr.strip()}")
    return read(done.stdout)


def compare(first: Slots, second: Slots, third: Slots) -> dict[str, Any]:
    """A round: the policy's run, never, never again, over the window of the first."""
    window = first.window()
    runs = {"policy": first, "never": second, "never again": third}
    return {
        "window": [window.start, window.stop],
        "fallen": first.fallen(window),
        "longest": {name: one.longest for name, one in runs.items()},
        "fewest": {name: one.fewest(window) for name, one in runs.items()},
        "mallocs": {name: one.mallocs for name, one in runs.items()},
        "ns": {
            name: {str(p): one.percentile(p, window) for p in PERCENTILES}
            for name, one in runs.items()
        },
    }


def table(rounds: Sequence[dict[str, Any]]) -> str:
    """Medians over the rounds, and of the ratios."""
    lines = ["one malloc, us       policy     never  never again  policy/never  never/never"]

    def row(label: str, values: Sequence[dict[str, float]]) -> None:
        columns = [statistics.median(v[name] for v in values) / 1e3 for name in values[0]]
        ratio = statistics.median(v["policy"] / v["never"] for v in values)
        noise = statistics.median(v["never again"] / v["never"] for v in values)
        a, b, c = columns
        lines.append(f"{label:14} {a:12.3f} {b:9.3f} {c:12.3f} {ratio:13.2f} {noise:12.2f}")

    for p in PERCENTILES:
        row(f"{p} %", [{n: ns[str(p)] for n, ns in r["ns"].items()} for r in rounds])
    row("longest", [r["longest"] for r in rounds])
    fewest = [statistics.median(r["fewest"][name] for r in rounds) for name in rounds[0]["fewest"]]
    lines.append("fewest in 50 ms " + "{:11.0f} {:9.0f} {:12.0f}".format(*fewest))
    fallen = statistics.median(r["fallen"] for r in rounds) / 2**20
    width = statistics.median(r["window"][1] - r["window"][0] for r in rounds) * 0.05
    ratios = sorted(r["ns"]["policy"]["99.99"] / r["ns"]["never"]["99.99"] for r in rounds)
    lines.append(f"{fallen:.0f} MiB fell in {width:.2f} s (medians of {len(rounds)} rounds)")
    lines.append("99.99 % ratios " + " ".join(f"{r:.2f}" for r in ratios))
    verdict = "met" if statistics.median(ratios) <= BOUND else "missed"
    lines.append(f"bound {BOUND} on the 99.99th percentile: {verdict}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 when everything ran, whatever came out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pause", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=9, help="interleaved rounds (default 9)")
    add("--policy", default="lazy", help="held against never (default lazy)")
    add("--lib", type=Path, help="preload library (default this package's)")
    add("--mib", type=int, default=1024, help="to give back (default 1024)")
    add("--slots", type=int, default=80, help="of 50 ms that a run lasts (default 80)")
    add("--threads", type=int, default=8, help="that allocate (default 8)")
    add("--survive", type=int, default=40, help="one byte in so many stays busy (default 40)")
    add("--json", type=Path, metavar="FILE", help="write every round")
    options = parser.parse_args(arguments)
    library = options.lib or Path(dmi.get_preload_path())
    sizes = [str(n) for n in (options.mib, options.slots, options.threads, options.survive)]
    order = random.Random(1)
    rounds = []
    try:
        with tempfile.TemporaryDirectory(prefix="dmi-pause-") as folder:
            build(Path(folder), ["pause"])
            for number in range(options.rounds):
                done: dict[int, Slots] = {}
                for which in order.sample(range(3), 3):
                    policy = "never" if which else options.policy
                    done[which] = run(Path(folder) / "pause", library, policy, sizes)
                rounds.append(compare(done[0], done[1], done[2]))
                if sys.stderr.isatty():
                    print(f"\rround {number + 1}/{options.rounds}", end="", file=sys.stderr)
    except (BuildError, PauseError) as error:
        print(error, file=sys.stderr)
        return 1
    print(table(rounds))
    if options.json:
        options.json.write_text(json.dumps(rounds, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
