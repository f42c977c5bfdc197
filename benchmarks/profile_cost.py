"""What the sampler of `dmi run --profile` costs, in instructions.

Ten Python programs (those of benchmarks.objects) and the allocator workloads of benchmarks/native,
compiled with frame pointers, run on dmi without and with a profile, under callgrind, each at two
lengths. The difference of the two is what the work costs; what is left of the shorter one is what
each run pays once. The sampler bounds itself by time, and callgrind makes time go some thirty
times slower; so the clock of the programs is slowed by as much (slow_clock.c).

    python -m benchmarks.profile_cost [--only NAME,...] [--python PATH] [--times N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dmi
from benchmarks.objects import PROGRAMS

HERE = Path(__file__).resolve().parent
# Arguments, and the number that makes it longer.
NATIVE = {
    "alloc_free_all": ("2 {}", 750_000),
    "alloc_test": ("20000 {}", 3_000_000),
    "cache_scratch": ("2 {}", 50_000),
    "large_blocks": ("{}", 3_000),
    "larson": ("2 {} 2000 10000", 80),
    "mstress": ("2 {} 10000", 35),
    "realloc_grow": ("2 {}", 1_500),
    "rptest": ("2 {} 4000 10000", 50),
    "sh6": ("{}", 10_000),
    "sh8": ("2 {}", 10_000),
    "xmalloc": ("1 1 {} 250", 4_000),
}
COMPILE = ("-std=c11", "-O2", "-D_GNU_SOURCE", "-fno-omit-frame-pointer")
LONGER = 4  # than the rounds of benchmarks.objects
VALGRIND_STARTS = 0.1  # seconds of processor time before the program does anything
RATE = 2.5e9  # instructions a second of these programs, on a machine of their own
_COLLECTED = re.compile(r"Collected : (\d+)")


@dataclass(frozen=True)
class Program:
    """One program: its command, and what its environment needs on dmi."""

    name: str
    shorter: tuple[str, ...]
    longer: tuple[str, ...]
    environment: dict[str, str]


def programs(folder: Path, python: str, longer: int = 1) -> list[Program]:
    """All of them, compiled and written into a folder; so many times as long as usual."""
    found = []
    python_needs = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONMALLOC": "malloc"}
    for name, (rounds, text) in PROGRAMS.items():
        script = folder / f"work_{name}.py"  # not the name of a module that it imports
        script.write_text(f"{text}\nimport sys\nwork(int(sys.argv[1]))\n")
        command = (python, "-S", str(script))
        lengths = [(*command, str(rounds * LONGER * longer * times)) for times in (1, 2)]
        found.append(Program(f"{name}.py", *lengths, python_needs))
    for name, (words, count) in NATIVE.items():
        source, made = HERE / "native" / f"{name}.c", folder / name
        subprocess.run(
            ["gcc", *COMPILE, str(source), "-o", str(made), "-lpthread", "-lm"], check=True
        )
        lengths = [(str(made), *words.format(count * longer * times).split()) for times in (1, 2)]
        found.append(Program(name, *lengths, {}))
    return found


def instructions(command: tuple[str, ...], environment: dict[str, str]) -> tuple[int, float]:
    """Instructions of a run under callgrind, and its seconds of processor time."""
    status, text, seconds = run(
        ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *command), environment
    )
    found = _COLLECTED.search(text)
    if status or not found:
        raise SystemExit(f"{command}: status {status}\n{text[-2000:]}")
    return int(found[1]), seconds


def run(command: tuple[str, ...], environment: dict[str, str]) -> tuple[int, str, float]:
    """A program's status, what it wrote to stderr, and its seconds of processor time."""
    with tempfile.TemporaryFile() as errors:
        child = os.posix_spawnp(
            command[0],
            command,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
            ],
        )
        _, status, used = os.wait4(child, 0)
        errors.seek(0)
        text = errors.read().decode(errors="replace")
    return os.waitstatus_to_exitcode(status), text, used.ru_utime + used.ru_stime


def base_environment() -> dict[str, str]:
    """What the programs start with: nothing that chooses an allocator."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in ("LD_PRELOAD", "DMI_OPTIONS") and not key.startswith("PYTHON")
    }


@dataclass(frozen=True)
class Cost:
    """Instructions without and with a profile, at both lengths."""

    name: str
    off: tuple[int, int]
    on: tuple[int, int]
    seconds: float
    """Of the shorter run without any tool, by its instructions."""
    slower: float

    @property
    def work(self) -> int:
        """What the second half of the longer run takes without a profile."""
        return self.off[1] - self.off[0]

    @property
    def percent(self) -> float:
        """What the profile adds to it."""
        return 100 * ((self.on[1] - self.on[0]) / self.work - 1)

    @property
    def whole(self) -> float:
        """What the profile adds to the longer run, with what is paid once."""
        return 100 * (self.on[1] / self.off[1] - 1)

    @property
    def once(self) -> float:
        """What each run pays once, in millions."""
        return (2 * (self.on[0] - self.off[0]) - (self.on[1] - self.off[1])) / 1e6


def measure(program: Program, folder: Path) -> Cost:
    """Without and with a profile, at two lengths."""
    library = dmi.get_preload_path()
    environment = base_environment() | program.environment | {"LD_PRELOAD": library}
    first, slow = instructions(program.shorter, environment)
    seconds = first / RATE
    slower = max(1.0, (slow - VALGRIND_STARTS) / seconds)
    # Without a profile too: what the heap gives back by itself goes by time as well.
    environment["LD_PRELOAD"] = f"{folder / 'slow_clock.so'} {library}"
    environment["SLOW_CLOCK"] = f"{slower:.1f}"
    off = (
        instructions(program.shorter, environment)[0],
        instructions(program.longer, environment)[0],
    )
    environment["DMI_OPTIONS"] = f"profile={folder / program.name}.profile"
    on = (
        instructions(program.shorter, environment)[0],
        instructions(program.longer, environment)[0],
    )
    return Cost(program.name, off, on, seconds, slower)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="these programs, by name")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--times", type=int, default=1, help="so many times as long")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else None
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clock = ["gcc", "-O2", "-shared", "-fPIC", str(HERE / "slow_clock.c"), "-o"]
        subprocess.run([*clock, str(folder / "slow_clock.so")], check=True)
        chosen = [
            p
            for p in programs(folder, options.python, options.times)
            if wanted is None or p.name in wanted
        ]
        print(
            f"{'':16}{'work, M':>9}{'seconds':>9}{'slower':>8}{'on, %':>8}{'once, M':>9}"
            f"{'whole, %':>9}"
        )
        with ThreadPoolExecutor(2) as pool:
            for cost in pool.map(lambda p: measure(p, folder), chosen):
                costs.append(cost)
                print(
                    f"{cost.name:16}{cost.work / 1e6:9.1f}{cost.seconds:9.2f}{cost.slower:8.1f}"
                    f"{cost.percent:8.2f}{cost.once:9.1f}"
                    f"{cost.whole:9.2f}",
                    flush=True,
                )
    for kind, group in (
        ("Python", [c for c in costs if c.name.endswith(".py")]),
        ("C", [c for c in costs if not c.name.endswith(".py")]),
        ("all", costs),
    ):
        if group:
            mean = statistics.geometric_mean(1 + c.percent / 100 for c in group)
            most = max(group, key=lambda c: c.percent)
            print(f"{kind}: mean {100 * (mean - 1):.2f} %, most {most.percent:.2f} % ({most.name})")
    if options.json:
        options.json.write_text(
            json.dumps({c.name: {"off": c.off, "on": c.on} for c in costs}, indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
