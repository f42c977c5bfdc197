"""Installs what `make dist` made into clean environments and tests it there.

Each wheel goes into an environment of the Python it was made for, the sdist into one of every
Python that is found. In each, tests/embed runs: tests/smoke.py, the example packages built and run,
the table of the C API, pkg-config and CMake. What the sdist gives is built from the same files as
the wheel: on Pythons but the first tests/smoke.py is enough for it. Says which were tested; fails
if any failed, or if there was nothing to test. Run as `python -m tools.check_dist`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tools.interpreters import Interpreter, find

ROOT = Path(__file__).resolve().parents[1]


class Result(NamedTuple):
    """What came of one file on one Python."""

    file: Path
    interpreter: Interpreter
    passed: bool
    seconds: float
    output: str


def check(file: Path, interpreter: Interpreter, whole: bool) -> Result:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dmi-check-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "long", "tests/embed",
             "-p", "no:cacheprovider", "--basetemp", f"{folder}/t",
             *([] if whole else ["-k", "test_what_is_installed_works"])],
            check=False, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"DMI_DIST": str(file), "DMI_DIST_PYTHON": str(interpreter.path)},
        )  # fmt: skip
    seconds = time.monotonic() - started
    return Result(file, interpreter, done.returncode == 0, seconds, done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description="Test the files of dist in clean environments.")
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "dist")
    folder = parser.parse_args().folder.resolve()
    found, refused = find()
    pythons = [interpreter for interpreter in found if not interpreter.free_threaded]
    work = [
        (file, interpreter, interpreter is pythons[0] or not file.name.endswith(".tar.gz"))
        for interpreter in pythons
        for file in sorted(folder.glob("dmi_heap-*"))
        if file.name.endswith(".tar.gz") or f"-{interpreter.tag}-" in file.name
    ]
    results: list[Result] = []
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        for result in pool.map(lambda one: check(*one), work):
            results.append(result)
            if not result.passed:
                print(result.output)
            last = result.output.strip().rpartition("\n")[2]
            words = "passed" if result.passed else "FAILED"
            print(f"{words} {result.file.name} on {result.interpreter}: {last}", flush=True)
    for path, why in refused.items():
        print(f"left out {path}: {why}")
    tested = {interpreter.tag for _, interpreter, _ in work}
    print(f"{len(work)} environments, {', '.join(sorted(tested)) or 'no Python'}")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    released = {each.partition("-")[0] for each in settings["tool"]["cibuildwheel"]["build"]}
    if released - tested:
        print(f"NOT TESTED, no such Python was found: {', '.join(sorted(released - tested))}")
    wheels = {tag for tag in tested for file, _, _ in work if f"-{tag}-" in file.name}
    return 0 if tested and tested == wheels and all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
