"""CPython's own tests with Python's objects on dmi, and what fails only there.

    python tools/cpython_tests.py FOLDER [--python PATH] [--jobs N] [--timeout S] [--only NAME,...]
        [--use RESOURCES] [--skip PATTERN] [--again] [--alone]

FOLDER gets a virtual environment of PATH with dmi in it, its start-up file in place (`dmi python
enable`), so that every Python that a test starts is on dmi as well. With --alone the process of the
tests is, and those that it starts are not (`python -m dmi.python -m test`, which is what
dmi.python.install() in a program does). Each file of tests runs by itself, for S seconds at most. A
file that fails runs once more in an environment that has no dmi at all, and what fails there too is
not dmi's; what is left runs with dmi a second time, for some tests fail one time in ten. Whatever
was judged is kept in FOLDER/results.json (of --alone in alone.json), so that an interrupted run
goes on where it stopped; --again judges anew what had failed. It takes the lowest priority.

The status is 1 when something fails only with dmi. Needs the tests of that Python: where they are a
package of their own (Debian's libpython3.X-testsuite) that must be installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RAN_OUT = "(ran out of time)"
CRASHED = "(ended by a signal)"
NO_NAME = "(failed, no test named)"
# Of `python -m test`: all well; a test left something changed; no tests ran.
PASSED = (0, 3, 4)
_RAN = re.compile(r"^Ran (\d+) tests? in ", re.MULTILINE)
_FAILED = re.compile(r"^(?:FAIL|ERROR): (\S+ \(\S+?\))", re.MULTILINE)
# Of these the environment of the test runs must know nothing.
DROPPED = ("PYTHON", "LD_PRELOAD", "DMI_", "VIRTUAL_ENV", "MAKE", "MFLAGS")
BUILT = (".git", ".venv", "build", "*.so", "*.egg-info", "__pycache__")


@dataclass
class Judged:
    """What became of one file of tests."""

    name: str
    tests: int = 0
    failed: list[str] = field(default_factory=list)
    """With dmi, the first time."""
    without: list[str] | None = None
    """Without dmi; None where that run was not needed."""
    only: list[str] = field(default_factory=list)
    """What fails with dmi, twice, and not without."""


def quiet() -> None:
    """In the child: the last to get a processor. Nice counts within a session only, where Linux
    groups processes by session."""
    os.setsid()
    os.nice(19)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")
    # A shell that starts this in the background lets it ignore what tests send themselves.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(DROPPED)}


class Pythons(NamedTuple):
    """Of environments that differ in nothing but dmi."""

    with_dmi: list[str]
    """The command. All processes are on dmi, or this one alone."""
    without: list[str]


def prepare(folder: Path, python: str, *, alone: bool) -> Pythons:
    """The environments, dmi installed and enabled in one of them."""
    # Of a start-up file even a run that it leaves as it is has a trace: a file that was read.
    home, other = folder / ("alone-venv" if alone else "venv"), folder / "plain-venv"
    made, plain = home / "bin" / "python", other / "bin" / "python"
    if not (other / "ready").exists():
        make(other, [[python, "-m", "venv", "--clear", other]], folder)
    if not (home / "ready").exists():
        with tempfile.TemporaryDirectory() as scratch:
            # A copy, so that this tree keeps what it has built for its own Python.
            tree = Path(scratch, "dmi")
            shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*BUILT), symlinks=True)
            commands: list[list[str | Path]] = [
                [python, "-m", "venv", "--clear", home],
                [made, "-m", "pip", "-q", "--disable-pip-version-check", "install", tree],
            ]
            if not alone:
                commands.append([made, "-m", "dmi", "python", "enable"])
            make(home, commands, folder)
    found = Pythons([str(made), *(["-m", "dmi.python"] if alone else [])], [str(plain)])
    asked = "import sys; print('dmi.python._hook' in sys.modules)"
    for there, command in zip((True, False), found, strict=True):
        done = subprocess.run(
            [*command, "-c", asked],
            check=True,
            env=environment(),
            # Here a source tree of dmi would stand before the one that was installed.
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if done.stdout.strip() != str(there):
            raise SystemExit(f"{command}: dmi is{' not' if there else ''} there: {done.stderr}")
    return found


def make(home: Path, commands: list[list[str | Path]], folder: Path) -> None:
    for command in commands:
        subprocess.run(command, check=True, env=environment(), cwd=folder)
    (home / "ready").touch()


def files(python: str) -> list[str]:
    """The names of its files of tests."""
    done = subprocess.run(
        [python, "-m", "test", "--list-tests"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{python} has no tests of its own: {done.stderr.strip()[-300:]}")
    return done.stdout.split()


def read(log: str, status: int | None) -> tuple[int, list[str]]:
    """How many tests a log tells of, and which failed.

    Where none is named: how the whole file failed. status None: it ran out of time.
    """
    tests = sum(int(number) for number in _RAN.findall(log))
    failed = sorted(set(_FAILED.findall(log)))
    if status is None:
        failed.append(RAN_OUT)
    elif status < 0:
        failed.append(CRASHED)
    elif status in PASSED:
        failed = []
    elif not failed:
        failed = [NO_NAME]
    return tests, failed


class Runner:
    """Runs files of tests, each in a process group of its own."""

    def __init__(self, pythons: Pythons, logs: Path, seconds: int, options: list[str]) -> None:
        self.pythons = pythons
        self.logs = logs
        self.seconds = seconds
        self.options = options
        self.logs.mkdir(exist_ok=True)

    def run(self, name: str, dmi: bool) -> tuple[int, list[str]]:
        """How many tests there were, and the names of those that failed."""
        python = self.pythons.with_dmi if dmi else self.pythons.without
        command = [*python, "-m", "test", "-v", *self.options]
        path = self.logs / f"{name}.{'with' if dmi else 'without'}.log"
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
            path.open("w") as log,
        ):
            child = subprocess.Popen(
                [*command, name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=scratch,
                env=environment() | {"TMPDIR": scratch},
                preexec_fn=quiet,
            )
            try:
                status = child.wait(self.seconds)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        return read(path.read_text(errors="replace"), status)

    def judge(self, name: str) -> Judged:
        """Once with dmi; where that fails without; and what is left with dmi again."""
        found = Judged(name)
        found.tests, found.failed = self.run(name, True)
        if not found.failed:
            return found
        _, found.without = self.run(name, False)
        if left := set(found.failed) - set(found.without):
            _, again = self.run(name, True)
            # A whole file that crashed or hung stands for every test in it.
            whole = {RAN_OUT, CRASHED, NO_NAME}
            both = left & set(again)
            if not both and (left & whole or set(again) & whole):
                both = set(again) - set(found.without)
            found.only = sorted(both)
        return found


def told(results: dict[str, dict[str, Any]]) -> int:
    """Print the sum; the status."""
    judged = [Judged(**each) for each in results.values()]
    only = [(each.name, test) for each in judged for test in each.only]
    print(
        f"{len(judged)} files, {sum(each.tests for each in judged):,} tests; "
        f"{sum(1 for each in judged if each.failed)} files failed, "
        f"{sum(1 for each in judged if each.only)} of them only with dmi"
    )
    for name, test in only:
        print(f"  only with dmi: {name} {test}")
    for each in judged:
        if each.failed and not each.only:
            came = "also without" if set(each.failed) <= set(each.without or ()) else "not again"
            print(f"  {came}: {each.name} {', '.join(each.failed)[:200]}")
    return 1 if only else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="CPython's own tests with its objects on dmi.")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--python", default=sys.executable, metavar="PATH")
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    parser.add_argument("--timeout", type=int, default=900, metavar="S", help="of one file")
    parser.add_argument("--only", metavar="NAME,...", help="these files instead of all")
    parser.add_argument("--use", default="", metavar="RESOURCES", help="as -u of CPython's own")
    parser.add_argument("--skip", default="", metavar="PATTERN", help="as -i of CPython's own")
    parser.add_argument("--again", action="store_true", help="judge anew what had failed")
    parser.add_argument(
        "--alone", action="store_true", help="the processes that tests start are without dmi"
    )
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    pythons = prepare(folder, options.python, alone=options.alone)
    wanted = options.only.split(",") if options.only else files(*pythons.without)
    kept = folder / ("alone.json" if options.alone else "results.json")
    results: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    if options.again:
        results = {name: each for name, each in results.items() if not each["failed"]}
    left = [name for name in wanted if name not in results]
    logs = folder / ("alone" if options.alone else "logs")
    given = (("-u", options.use), ("-i", options.skip))
    passed_on = [word for pair in given if pair[1] for word in pair]
    runner = Runner(pythons, logs, options.timeout, passed_on)
    lock = threading.Lock()

    def one(name: str) -> None:
        judged = runner.judge(name)
        with lock:
            results[name] = asdict(judged)
            kept.with_suffix(".new").write_text(json.dumps(results, indent=1))
            kept.with_suffix(".new").replace(kept)
            if judged.failed:
                print(f"{name}: {', '.join(judged.only or ['nothing only with dmi'])}", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, left))
    return told(results)


if __name__ == "__main__":
    sys.exit(main())
