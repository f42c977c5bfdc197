"""How often the pytest plugin fails a test that does nothing wrong, by runs of whole suites.

    python tools/false_alarms.py FOLDER [--runs toolz=48,more-itertools=48,dmi=4]

FOLDER gets a virtual environment with this tree and pytest in it, and the suites of two public
packages, as they are published. This project's own fast suite runs in the environment of its tree,
whole, a quarter of an hour of processor time a run. Each test of a suite is judged for second-order
leaks and for growth. Every run is a line of FOLDER/runs.jsonl; a run that is there is not made
again, so that what was interrupted goes on. The status is 1 when there was an alarm, or a run that
ended badly. What its tests start runs without dmi, as it does in `make test`. Failures that are no
alarm are counted apart, and so is what a test broke once and not again.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMITS = ("--dmi", "--dmi-no-second-order-leak", "--dmi-max-growth=8M")
# What `make build` makes.
OWN = ROOT / ".venv" / "bin"
# The process itself is on dmi by now.
START = """
import os, sys, pytest
for name in ("LD_PRELOAD", "DMI_OPTIONS", "PYTHONMALLOC"):
    os.environ.pop(name, None)
sys.exit(pytest.main(sys.argv[1:]))
"""
ALARM = re.compile(r"^(?:FAILED|ERROR) (\S+::.*?) - (?:Failed: )?memory did not")
NOTE = re.compile(r"^(\S+::.*): (.*); in the first run, (.*)")
ENDED = re.compile(r"^=+ (?:(\d+) failed, )?(\d+) passed(?:, (\d+) skipped)?.* in [\d.]+s")


def make_environment(folder: Path) -> None:
    if (folder / "env" / "made").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    pip = [str(folder / "env/bin/pip"), "install", "-q"]
    subprocess.run([*pip, str(ROOT), "pytest"], check=True)
    (folder / "env" / "made").touch()


def suite(name: str, folder: Path) -> tuple[Path, list[str]]:
    """Where to run pytest, and on what."""
    if name == "dmi":
        return ROOT, ["tests/python", "-m", "not long and not alone"]
    source = folder / "source" / name
    if not source.exists():
        download = [str(folder / "env/bin/pip"), "download", "-q", "--no-deps", "--no-binary=:all:"]
        subprocess.run([*download, "-d", str(folder), name], check=True)
        archive = next(folder.glob(f"{name.replace('-', '_')}-*.tar.gz"))
        with tarfile.open(archive) as packed:
            packed.extractall(source, filter="data")
    tests = {"toolz": "toolz", "more-itertools": "tests"}[name]
    return next(source.iterdir()), [tests]


def run(name: str, folder: Path) -> dict[str, Any]:
    """One run of a suite."""
    where, tests = suite(name, folder)
    tools = OWN if name == "dmi" else folder / "env/bin"
    pytest = [f"{tools}/dmi", "run", "--", f"{tools}/python", "-c", START, "-rfE"]
    options = ["-v", "-p", "no:cacheprovider", "--color=no", "--durations=20", *LIMITS]
    # Wide, for pytest cuts the lines that name the alarms.
    environment = {"PATH": f"{tools}:/usr/local/bin:/usr/bin:/bin", "COLUMNS": "400"}
    log = folder / f"{name}.log"
    with log.open("w") as out:
        done = subprocess.run(
            [*pytest, *options, *tests],
            cwd=where,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=3600,
        )
    lines = log.read_text(errors="replace").splitlines()
    ended = next((found for line in reversed(lines) if (found := ENDED.match(line))), None)
    return {
        "suite": name,
        "status": done.returncode,
        "passed": int(ended[2]) if ended else None,
        "failed": int(ended[1] or 0) if ended else None,
        "skipped": int(ended[3] or 0) if ended else None,
        "notes": [found.groups() for line in lines if (found := NOTE.match(line))],
        "alarms": [found[1] for line in lines if (found := ALARM.match(line))],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", default="toolz=48,more-itertools=48,dmi=4")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {name: int(n) for name, n in (each.split("=") for each in given.runs.split(","))}
    make_environment(folder)
    log = folder / "runs.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for turn in range(max(wanted.values())):
        for name, times in wanted.items():
            if turn >= times or sum(row["suite"] == name for row in rows) > turn:
                continue
            rows.append(run(name, folder))
            with log.open("a") as out:
                out.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
    wrong = [row for row in rows if row["alarms"] or row["passed"] is None]
    for name in wanted:
        mine = [row for row in rows if row["suite"] == name]
        tests = sum(row["passed"] or 0 for row in mine)
        alarms = sum(len(row["alarms"]) for row in mine)
        notes = sum(len(row.get("notes", ())) for row in mine)
        print(
            f"{name}: {len(mine)} runs, {tests} tests passed, {alarms} alarms, "
            f"{notes} broken once and not again"
        )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
