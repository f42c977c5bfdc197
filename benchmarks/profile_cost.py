"""What the sampler of `dmi run --profile` costs, in instructions of whole programs.

Ten Python programs (those of benchmarks.objects) and the allocator workloads of benchmarks/native,
compiled with frame pointers, run on dmi without and with a profile, under callgrind. Each of them
does a second or so of work. The sampler bounds itself by time, and callgrind makes time go some
thirty times slower; so the clock of the programs is slowed by as much (slow_clock.c), which is
measured for each program. Pages are drawn by chance: the runs with a profile are repeated.

    python -m benchmarks.profile_cost [--runs N] [--only NAME,...] [--python PATH] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dmi
from benchmarks.objects import PROGRAMS

HERE = Path(__file__).resolve().parent
NATIVE = {
    "alloc_free_all": "2 3000000",
    "alloc_test": "20000 8000000",
    "cache_scratch": "2 100000",
    "cfrac": "188643701166941698757897",
    "large_blocks": "3000",
    "larson": "2 200 2000 10000",
    "mstress": "2 80 10000",
    "realloc_grow": "2 4000",
    "rptest": "2 120 4000 10000",
    "sh6": "25000",
    "sh8": "2 25000",
    "xmalloc": "1 1 8000 250",
}
COMPILE = ("-std=c11", "-O2", "-D_GNU_SOURCE", "-fno-omit-frame-pointer")
LONGER = 12  # than the rounds of benchmarks.objects
VALGRIND_STARTS = 0.5  # seconds before the program does anything
_COLLECTED = re.compile(r"Collected : (\d+)")


@dataclass(frozen=True)
class Program:
    """One program: its command, and what its environment needs on dmi."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]


def programs(folder: Path, python: str) -> list[Program]:
    """All of them, compiled and written into a folder."""
    found = []
    for name, (rounds, text) in PROGRAMS.items():
        script = folder / f"{name}.py"
        script.write_text(f"{text}\nwork({rounds * LONGER})\n")
        environment = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        found.append(
            Program(
                f"{name}.py", (python, "-S", str(script)), environment | {"PYTHONMALLOC": "malloc"}
            )
        )
    for name, words in NATIVE.items():
        source, made = HERE / "native" / f"{name}.c", folder / name
        subprocess.run(
            ["gcc", *COMPILE, str(source), "-o", str(made), "-lpthread", "-lm"], check=True
        )
        found.append(Program(name, (str(made), *words.split()), {}))
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
    """Instructions without and with a profile, and the seconds of a run without any tool."""

    name: str
    off: int
    on: tuple[int, ...]
    seconds: float
    slower: float

    @property
    def percent(self) -> float:
        """What the profile adds, on average."""
        return 100 * (statistics.mean(self.on) / self.off - 1)


def measure(program: Program, folder: Path, runs: int) -> Cost:
    """Without and with a profile."""
    library = dmi.get_preload_path()
    environment = base_environment() | program.environment | {"LD_PRELOAD": library}
    seconds = math.inf
    for _ in range(5):
        began = time.monotonic()
        status, text, _ = run(program.command, environment)
        seconds = min(seconds, time.monotonic() - began)
        if status:
            raise SystemExit(f"{program.command}: status {status}\n{text[-2000:]}")
    off, slow = instructions(program.command, environment)
    slower = max(1.0, (slow - VALGRIND_STARTS) / seconds)
    environment["LD_PRELOAD"] = f"{folder / 'slow_clock.so'} {library}"
    environment["SLOW_CLOCK"] = f"{slower:.1f}"
    off, _ = instructions(program.command, environment)
    environment["DMI_OPTIONS"] = f"profile={folder / program.name}.profile"
    on = tuple(instructions(program.command, environment)[0] for _ in range(runs))
    return Cost(program.name, off, on, seconds, slower)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="with a profile, of each program")
    parser.add_argument("--only", help="these programs, by name")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else None
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clock = ["gcc", "-O2", "-shared", "-fPIC", str(HERE / "slow_clock.c"), "-o"]
        subprocess.run([*clock, str(folder / "slow_clock.so")], check=True)
        chosen = [p for p in programs(folder, options.python) if wanted is None or p.name in wanted]
        print(f"{'':16}{'off, M':>9}{'seconds':>9}{'slower':>8}{'on, %':>8}   each run")
        with ThreadPoolExecutor(2) as pool:
            for cost in pool.map(lambda p: measure(p, folder, options.runs), chosen):
                costs.append(cost)
                each = " ".join(f"{100 * (on / cost.off - 1):.2f}" for on in cost.on)
                print(
                    f"{cost.name:16}{cost.off / 1e6:9.1f}{cost.seconds:9.2f}{cost.slower:8.1f}"
                    f"{cost.percent:8.2f}   {each}",
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
