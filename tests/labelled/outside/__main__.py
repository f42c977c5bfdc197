"""Runs the programs and compares what the doctor says with the labels.

    python -m tests.labelled.outside                   every program
    python -m tests.labelled.outside --set fresh       the second set (fresh.py)
    python -m tests.labelled.outside --set third       the third set (third.py)
    python -m tests.labelled.outside --set fourth      the fourth set (fourth.py)
    python -m tests.labelled.outside --set fifth       the fifth set (fifth.py)
    python -m tests.labelled.outside --set sixth       the sixth set (sixth.py)
    python -m tests.labelled.outside --set seventh     the seventh set (seventh.py)
    python -m tests.labelled.outside NAME...           these, with the report of each
    python -m tests.labelled.outside --markdown        the tables as docs/diagnosis.md has them

What the programs need is installed into --folder (default: build/outside): a virtual environment
with the packages of PyPI, node_modules for npm. What is not there is left out and said.
Exit status: how many differ.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import dmi
from dmi.diagnose import diagnose

from .fifth import FIFTH
from .fourth import FOURTH
from .fresh import FRESH
from .languages import COMMANDS, build
from .programs import PROGRAMS, Program
from .seventh import SEVENTH
from .sixth import SIXTH
from .third import THIRD

if TYPE_CHECKING:
    from dmi._snapshot import Snapshot
    from dmi.diagnose import Verdict

KINDS = ("none", "first-order leak", "second-order leak", "growth", "unknown")
_SETS = {
    "first": PROGRAMS, "fresh": FRESH, "third": THIRD, "fourth": FOURTH, "fifth": FIFTH,
    "sixth": SIXTH, "seventh": SEVENTH,
}  # fmt: skip
_END_SECONDS = 15


class MissingError(Exception):
    """This machine cannot run the program."""


def interpreter(folder: Path, programs: list[Program]) -> Path:
    """A Python of its own with the packages that are needed."""
    venv = folder / "venv"
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    for name in sorted({need for each in programs for need in each.needs if ":" not in need}):
        done = venv / f".{name}"
        if not done.exists():
            command = [python, "-m", "pip", "install", "-q", "--only-binary=:all:", name]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                done.touch()
    for name in {need[4:] for each in programs for need in each.needs if need.startswith("npm:")}:
        if shutil.which("npm") and not (folder / "node_modules" / name).exists():
            command = ["npm", "install", "--silent", "--prefix", str(folder), name]
            subprocess.run(command, capture_output=True, check=False)
    return python


def moments(each: Program, python: Path, folder: Path) -> list[Snapshot]:
    """Runs it, and looks at it from outside after each phase."""
    environment = {**os.environ, "NODE_PATH": str(folder / "node_modules"), "PYTHONHASHSEED": "0",
                   "OPENBLAS_NUM_THREADS": "1"}  # fmt: skip
    environment.pop("PYTHONMALLOC", None)
    # Debian keeps the programs of a server of PostgreSQL beside its version.
    servers = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
    environment["PATH"] = os.pathsep.join([environment["PATH"], *servers])
    kind, *options = each.on.split()
    if "malloc" in (kind, *options) or "dmi" in (kind, *options):
        environment["PYTHONMALLOC"] = "malloc"
    if "dmi" in (kind, *options):
        environment["LD_PRELOAD"] = dmi.get_preload_path()
    for need in each.needs:
        source, _, name = need.rpartition(":")
        there = {
            "": (folder / "venv" / f".{need}").exists(),
            "npm": (folder / "node_modules" / name).exists(),
            "program": shutil.which(name, path=environment["PATH"]) is not None,
        }[source]
        if not there:
            raise MissingError(need)
    program = COMMANDS.get(kind, str(python))
    if shutil.which(program) is None:
        raise MissingError(program)
    found = []
    with tempfile.TemporaryDirectory() as place:
        options = [option for option in options if option != "dmi"]
        command = [program, *options, *build(each, Path(place), folder)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=place,
        ) as child:  # fmt: skip
            assert child.stdout is not None
            assert child.stdin is not None
            try:
                for label in ("before", "peak", "after"):
                    said = child.stdout.readline().decode().split()
                    if said[:1] != [label]:
                        raise MissingError(f"it ended before {label}")
                    time.sleep(each.wait)
                    with dmi.open_process(int(said[1]) if said[1:] else child.pid) as process:
                        found.append(process.snapshot(label))
                    with suppress(BrokenPipeError):
                        child.stdin.write(b"\n")
                        child.stdin.flush()
                # One that started a server ends it.
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_END_SECONDS)
            finally:
                child.kill()
    return found


def right(each: Program, verdict: Verdict) -> bool:
    """The kind, and where it is."""
    where = each.subject in verdict.subject or not each.subject
    return verdict.kind == each.kind and (where or verdict.kind == "none")


def table(rows: list[list[str]], *, markdown: bool) -> str:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines.insert(1, "|" + "---|" * len(rows[0]))
        return "\n".join(lines)
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--folder", type=Path, default=Path("build/outside"))
    parser.add_argument("--set", choices=tuple(_SETS), default="first")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    chosen = [each for each in _SETS[args.set] if not args.names or each.name in args.names]
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    python = interpreter(folder, chosen)
    rows = [["program", "on", "label", "verdict", "of", "KB", "right"]]
    counts: Counter[tuple[str, str]] = Counter()
    wrong = ran = 0
    for each in chosen:
        label = f"{each.kind}{', ' + each.subject if each.subject else ''}"
        try:
            verdict = diagnose(*moments(each, python, folder))
        except (MissingError, OSError, subprocess.CalledProcessError) as error:
            rows.append([each.name, each.on, label, "-", "-", "-", f"not here: {error}"])
            continue
        ran += 1
        good = right(each, verdict)
        wrong += not good
        counts[each.kind, verdict.kind] += 1
        size = "-" if verdict.bytes is None else f"{verdict.bytes // 1024:,}"
        rows.append([each.name, each.on, label, verdict.kind, verdict.subject, size,
                     "yes" if good else "WRONG"])  # fmt: skip
        if args.names or not good:
            print(f"{each.name}\n{verdict}\n", file=sys.stderr)
    print(table(rows, markdown=args.markdown))
    matrix = [["label \\ verdict", *KINDS]]
    matrix += [[kind, *(str(counts[kind, said]) for said in KINDS)] for kind in KINDS[:-1]]
    print("\n" + table(matrix, markdown=args.markdown))
    print(f"\n{ran - wrong} of {ran} right.")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
