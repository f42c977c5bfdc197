"""Which files of this folder belong together, and the golden table: what is read, what is said.

    python tests/golden/windbg/golden.py > tests/golden/windbg/verdicts.md

makes the table anew; tests/python/test_windbg_cases.py compares it line by line, and has the
figures that are known to be right beside it.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

from dmi.cli import main
from dmi.diagnose._files import what_was_read

HERE = Path(__file__).resolve().parent
SETS: tuple[tuple[str, ...], ...] = (
    ("X-heap-before", "X-heap-during", "X-heap-after", "X-addr-before", "X-addr-during",
     "X-addr-after"),
    ("X-addr-after", "X-addr-before", "X-addr-during", "X-heap-after", "X-heap-before",
     "X-heap-during"),
    ("X-heap-before", "X-heap-after"),
    ("X-addr-before", "X-addr-after"),
    ("A-before", "A-after"),
    ("D-run1", "D-run2"),
    ("E-echo-win10",),
    ("K-twice",),
    ("Y-1heap-2addr",),
    ("Y-2heap-1addr",),
    ("Y-good",),
    ("Z2-before", "Z2-after-tick"),
    ("Z2-before", "Z3-after-errorline"),
    ("X-heap-before", "Z-after-errorline"),
)  # fmt: skip


def cases() -> list[tuple[str, list[str]]]:
    """A name and the files that are given to the doctor together."""
    found = [("several/" + " ".join(names), [f"several/{name}.txt" for name in names])
             for names in SETS]  # fmt: skip
    for folder in ("single", "dressed"):
        found += [(f"{folder}/{path.stem}", [f"{folder}/{path.name}"])
                  for path in sorted((HERE / folder).glob("*.txt"))]  # fmt: skip
    return found


def row(name: str, files: list[str]) -> str:
    """Name, kind of what is in the files, what was read, exit status, first line of the report."""
    here = Path.cwd()
    os.chdir(HERE)
    try:
        kinds: dict[str, int] = {}
        unread = []
        for file in files:
            found = what_was_read(file)
            for table in found["tables"]:
                what = table["what"].split(" of ")[0]
                kinds[what] = kinds.get(what, 0) + table["rows"]
            unread += [f"{each['line']}" for each in found["unread"]]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["doctor", *files])
    finally:
        os.chdir(here)
    said = (out.getvalue() or err.getvalue()).splitlines()[0]
    read = ", ".join(kinds)
    rows = sum(kinds.values())
    missed = f"; line {', '.join(unread)} not read" if unread else ""
    return f"| {name} | {read or '-'} | {rows} rows{missed} | {status} | {said} |"


def table() -> str:
    """The whole table."""
    head = "| files | kind | read | exit | verdict |\n|---|---|---|---|---|\n"
    return head + "\n".join(row(name, files) for name, files in cases()) + "\n"


if __name__ == "__main__":
    print(table(), end="")
