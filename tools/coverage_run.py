"""How much of the C and of the Python the tests run: `make coverage`.

Works in a copy of the tree, in an environment of its own. The C tests and the libraries are built
there with gcc's counters, so that what the Python suite and the preloaded programs run counts too;
coverage.py follows the Python of the tests and of every process that they start. Prints a line for
each folder, and fails where the whole is below the bounds.

A test that fails in the instrumented build is named, and no reason to fail: other runs judge them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from tools.copy_environment import copy_environment

ROOT = Path(__file__).resolve().parents[1]
# Part of every C compilation: counters that threads do not lose, and code as it is written. Two
# functions are marked always_inline, so that the product has a copy of them for each constant
# argument, in which most branches cannot be taken. Here each of their branches counts once.
COUNTERS = "--coverage -fprofile-update=atomic -O0 -Dalways_inline=unused"
# Below these the check fails. Not counted: the backends of tests and of Windows, and branches to
# which the compiler gives no line.
BOUNDS = {"C lines": 90, "C branches": 80, "Python lines": 95}

Counts = dict[str, int]


def run(command: list[str], folder: Path, **environment: str) -> int:
    print("+", *command, flush=True)
    return subprocess.run(command, cwd=folder, env=os.environ | environment, check=False).returncode


def must(command: list[str], folder: Path, **environment: str) -> None:
    status = run(command, folder, **environment)
    if status:
        raise SystemExit(f"{' '.join(command)}: exit {status}")


def lay_out(copy: Path) -> None:
    """The files that git knows, as they stand now; what was counted before is gone."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    names = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    for name in names:
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != (ROOT / name).read_bytes():
            shutil.copy2(ROOT / name, target)
    # A file that went, or moved, would be counted as one that nothing runs.
    for folder in ("csrc", "dmi", "tests"):
        for path in (copy / folder).rglob("*"):
            kept = path.suffix in (".so", ".pyc") or "include" in path.parts
            if path.is_file() and not kept and str(path.relative_to(copy)) not in names:
                path.unlink()
    for pattern in ("*.gcda", ".coverage*"):
        for path in copy.rglob(pattern):
            path.unlink()


def run_suites(copy: Path, jobs: int, chosen: str) -> None:
    """Build with counters and run all suites."""
    python = str(copy / ".venv" / "bin" / "python")
    make = ["make", "-s", "VENV=.venv", f"JOBS={jobs}"]
    copy_environment(copy)
    must([*make, ".venv/.coverage"], copy)
    must([*make, "build"], copy)
    must([python, "-m", "tools.native"], copy, CC="gcc", CFLAGS=COUNTERS)
    counted = f"CC=gcc {COUNTERS}"
    must([*make, f"-j{jobs}", counted, "C_OPTIMIZE=-O0", "programs"], copy)
    must([*make, counted, "C_OPTIMIZE=-O0", "test-c"], copy)
    tests = [
        python,
        "-m",
        "pytest",
        "-q",
        "-n",
        str(jobs + 1),
        "-m",
        chosen,
        "-p",
        "no:cacheprovider",
    ]
    # pytest itself imports the package (a plugin of it), so coverage.py has to start first.
    status = run([python, "-m", "coverage", "run", *tests[1:]], copy)
    if status > 1:
        raise SystemExit(f"the Python tests did not run: exit {status}")
    must([python, "-m", "coverage", "combine", "-q"], copy)
    must([python, "-m", "coverage", "json", "-q", "-i", "-o", "build/python.json"], copy)
    must(
        [
            *(python, "-m", "gcovr", "--root", ".", "--filter", "csrc/"),
            *("--exclude", r"csrc/os/(fake|windows)", "--gcov-ignore-parse-errors", "all"),
            *("--merge-mode-functions", "separate", "--json", "build/c.json"),
            *("--exclude-unreachable-branches", "-j", str(jobs), "build"),
        ],
        copy,
    )


def c_counts(report: Path) -> dict[str, Counts]:
    """For each file: lines and branches, and how many of them were run."""
    found: dict[str, Counts] = {}
    for file in json.loads(report.read_text())["files"]:
        counts: Counts = defaultdict(int)
        for line in file["lines"]:
            if line.get("gcovr/excluded") or line.get("gcovr/noncode"):
                continue
            counts["lines"] += 1
            counts["lines run"] += line["count"] > 0
            for branch in line["branches"]:
                counts["branches"] += 1
                counts["branches run"] += branch["count"] > 0
        found[file["file"]] = counts
    return found


def python_counts(report: Path) -> dict[str, Counts]:
    return {
        name: {
            "lines": file["summary"]["num_statements"],
            "lines run": file["summary"]["covered_lines"],
        }
        for name, file in json.loads(report.read_text())["files"].items()
    }


def share(counts: Counts, what: str) -> float:
    total = counts.get(what, 0)
    return 100 * counts[f"{what} run"] / total if total else 100.0


def add(files: dict[str, Counts]) -> Counts:
    total: Counts = defaultdict(int)
    for counts in files.values():
        for name, number in counts.items():
            total[name] += number
    return total


def table(files: dict[str, Counts]) -> list[str]:
    """A line for each folder, and one for each file of which less than 80 per cent ran."""
    folders: dict[str, dict[str, Counts]] = defaultdict(dict)
    for name, counts in files.items():
        folders[str(Path(name).parent)][name] = counts
    said: list[str] = []
    for folder, inside in sorted(folders.items()):
        said.append(line(folder, add(inside)))
        said += [
            line(f"  {Path(name).name}", counts)
            for name, counts in sorted(inside.items())
            if share(counts, "lines") < 80
        ]
    return said


def line(name: str, counts: Counts) -> str:
    branches = f"{share(counts, 'branches'):6.1f} %" if counts.get("branches") else "       -"
    return f"{name:28} {share(counts, 'lines'):6.1f} % {branches} {counts.get('lines', 0):7,} lines"


def main() -> int:
    parser = argparse.ArgumentParser(description="Run all suites with counters, and sum up.")
    parser.add_argument("folder", type=Path, help="where the copy of the tree is made")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--tests", default="not long", help="the Python tests, as pytest's -m")
    parser.add_argument("--report", action="store_true", help="sum up the last run again")
    given = parser.parse_args()
    copy: Path = given.folder.resolve()
    if not given.report:
        lay_out(copy)
        run_suites(copy, given.jobs, given.tests)
    native, python = c_counts(copy / "build/c.json"), python_counts(copy / "build/python.json")
    print("\n".join(["", f"{'':28}    lines  branches", *table(native), *table(python)]))
    reached = {
        "C lines": share(add(native), "lines"),
        "C branches": share(add(native), "branches"),
        "Python lines": share(add(python), "lines"),
    }
    for name, number in reached.items():
        print(f"coverage: {name} {number:.1f} % (at least {BOUNDS[name]} %)")
    return 1 if any(number < BOUNDS[name] for name, number in reached.items()) else 0


if __name__ == "__main__":
    sys.exit(main())
