"""Run programs under allocators: time and memory in rounds, instructions, what is kept."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.peers.allocators import Allocator

if TYPE_CHECKING:
    from pathlib import Path

WORKLOADS = (
    "alloc_free_all",
    "alloc_test",
    "cache_scratch",
    "cache_thrash",
    "cfrac",
    "large_blocks",
    "larson",
    "mstress",
    "realloc_grow",
    "rptest",
    "sh6",
    "sh8",
    "xmalloc",
)
# A mode of `micro` and the mode that is the same loop without malloc and free.
PAIRS = {
    "pair64": "base_pair",
    "pair1024": "base_pair",
    "fifo": "base_fifo",
    "random": "base_random",
}
PEAKS: dict[str, tuple[str, ...]] = {
    "r": ("retained", "r"),
    "c": ("retained", "c"),
    "p": ("retained", "p"),
    "sleepers": ("sleepers",),
}
PROGRAMS = (*WORKLOADS, "micro", "pause", "retained", "scale", "sleepers")
TIMEOUT = 300.0  # seconds; no workload comes near it unless it hangs

Progress = Callable[[str], None]


class RunError(RuntimeError):
    """A program failed under an allocator."""


@dataclass(frozen=True)
class Sample:
    """What one run cost: seconds, and KiB of peak resident memory."""

    wall: float
    user: float
    system: float
    peak_rss: int

    @property
    def cpu(self) -> float:
        """User and system seconds together."""
        return self.user + self.system


# samples[workload][allocator name] has one entry a round.
Samples = dict[str, dict[str, list[Sample]]]


def run_once(programs: Path, allocator: Allocator, workload: str) -> Sample:
    """Run one workload once. Raises RunError when it does not end with status 0."""
    library = str(allocator.library) if allocator.library else "-"
    reader, writer = os.pipe()
    with os.fdopen(reader) as report:
        try:
            child = subprocess.Popen(
                [programs / "launch", str(writer), library, programs / workload],
                env=allocator.environment(),
                pass_fds=(writer,),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        finally:
            os.close(writer)
        try:
            output, errors = child.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            raise RunError(
                f"{workload} under {allocator.name}: no end in {TIMEOUT:.0f} s"
            ) from None
        fields = report.read().split()
    if child.returncode != 0 or len(fields) != 5 or fields[4] != "0":
        status = fields[4] if len(fields) == 5 else child.returncode
        raise RunError(f"{workload} under {allocator.name}: status {status}: {errors.strip()}")
    if not output.startswith(workload + " "):
        raise RunError(f"{workload} under {allocator.name}: printed {output!r}")
    return Sample(float(fields[0]), float(fields[1]), float(fields[2]), int(fields[3]))


def run_rounds(
    programs: Path,
    allocators: Sequence[Allocator],
    workloads: Sequence[str],
    rounds: int,
    progress: Progress,
) -> tuple[Samples, list[str]]:
    """Run every workload under every allocator, `rounds` times, in a new random order each round.

    The allocators follow one another within a workload, so that what the machine does meanwhile
    meets all of them. A pair that fails once is left out for good; its message is in the list.
    """
    order = random.Random(1)
    samples: Samples = {w: {a.name: [] for a in allocators} for w in workloads}
    failures: list[str] = []
    for number in range(rounds):
        for workload in workloads:
            for allocator in order.sample(list(allocators), len(allocators)):
                if allocator.name not in samples[workload]:
                    continue
                progress(f"round {number + 1}/{rounds} {workload} {allocator.name}")
                try:
                    sample = run_once(programs, allocator, workload)
                except RunError as error:
                    failures.append(str(error))
                    del samples[workload][allocator.name]
                else:
                    samples[workload][allocator.name].append(sample)
    return samples, failures


def _instructions(programs: Path, allocator: Allocator, mode: str, count: int) -> int:
    environment = allocator.environment()
    if allocator.library:
        environment["LD_PRELOAD"] = str(allocator.library)
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    done = subprocess.run(
        [*command, str(programs / "micro"), mode, str(count)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or not collected:
        raise RunError(f"micro {mode} under {allocator.name}: {done.stderr.strip()[-300:]}")
    return int(collected[1])


def count_instructions(
    programs: Path, allocators: Sequence[Allocator], progress: Progress
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Instructions a malloc+free pair, by allocator and mode of `micro`.

    Two lengths of a run are subtracted, which leaves start and warm-up out, and of that the same
    loop without malloc and free. An allocator that does not run under valgrind is left out; what it
    said is in the list. Empty when valgrind is not installed.
    """
    if not shutil.which("valgrind"):
        return {}, []
    short, long = 200_000, 700_000
    plain = Allocator("glibc", None)

    def slope(allocator: Allocator, mode: str) -> float:
        progress(f"instructions {mode} {allocator.name}")
        counted = [_instructions(programs, allocator, mode, n) for n in (short, long)]
        return (counted[1] - counted[0]) / (long - short)

    empty = {mode: slope(plain, mode) for mode in sorted(set(PAIRS.values()))}
    counts: dict[str, dict[str, float]] = {}
    failures: list[str] = []
    for a in allocators:
        try:
            counts[a.name] = {m: round(slope(a, m) - empty[base], 2) for m, base in PAIRS.items()}
        except (RunError, subprocess.TimeoutExpired) as error:
            failures.append(str(error))
    return counts, failures


@dataclass(frozen=True)
class Kept:
    """One second after a peak: bytes resident, the page bound, bytes the kernel may take."""

    second: int
    resident: int
    page_bound: int
    lazy: int

    @property
    def ratio(self) -> float:
        """Resident divided by page bound."""
        return self.resident / self.page_bound


def _run_peak(programs: Path, allocator: Allocator, pattern: str, seconds: int) -> list[Kept]:
    environment = allocator.environment()
    if allocator.library:
        environment["LD_PRELOAD"] = str(allocator.library)
    program, *arguments = PEAKS[pattern]
    done = subprocess.run(
        [str(programs / program), *arguments, str(seconds)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        raise RunError(f"{pattern} under {allocator.name}: {done.stderr.strip()}")
    kept = []
    for line in done.stdout.splitlines()[:-1]:
        second, resident, bound, _, lazy = line.split()
        kept.append(Kept(int(second), int(resident), int(bound), int(lazy)))
    return kept


def watch_peaks(
    programs: Path,
    allocators: Sequence[Allocator],
    patterns: Sequence[str],
    seconds: int,
    progress: Progress,
) -> tuple[dict[str, dict[str, list[Kept]]], list[str]]:
    """What each allocator keeps after each pattern, second by second: kept[pattern][allocator].

    Nothing is timed here, so that runs share the processors.
    """
    kept: dict[str, dict[str, list[Kept]]] = {p: {} for p in patterns}
    failures: list[str] = []

    def one(job: tuple[str, Allocator]) -> tuple[str, str, list[Kept] | str]:
        pattern, allocator = job
        progress(f"after the peak {pattern} {allocator.name}")
        try:
            return pattern, allocator.name, _run_peak(programs, allocator, pattern, seconds)
        except (RunError, subprocess.TimeoutExpired) as error:
            return pattern, allocator.name, str(error)

    jobs = [(p, a) for p in patterns for a in allocators]
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for pattern, name, result in pool.map(one, jobs):
            if isinstance(result, str):
                failures.append(result)
            else:
                kept[pattern][name] = result
    return kept, failures
