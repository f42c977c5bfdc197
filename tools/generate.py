"""The counters stand in csrc/include/dmi/stats.h; this writes the lists that follow from it.

    python tools/generate.py            write them
    python tools/generate.py --check    exit 1 and name the files that are not as they should be

The lists are the fields of HeapStats in dmi/stats.py and of dmi_stats in dmi/cdmi.pxd. Everything
else (the C struct, the words of Heap.explain() and of HeapStats.describe()) reads the table itself.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "csrc" / "include" / "dmi" / "stats.h"


def rows(text: str, table: str) -> list[tuple[str, str]]:
    """(name, documentation) of each row of a table."""
    match = re.search(rf"#define {table}\(X\)(.*?)[^\\]\n", text, re.DOTALL)
    if match is None:
        raise SystemExit(f"{TABLE}: there is no table {table}")
    body = match[0].replace("\\\n", " ")
    found = re.findall(r"X\((\w+),(?:[^\"]*,)?\s*((?:\"[^\"]*\"\s*)+)\)", body)
    return [(name, "".join(re.findall(r"\"([^\"]*)\"", words))) for name, words in found]


def put(text: str, begin: str, end: str, lines: list[str], where: Path) -> str:
    """The text with the lines between the one that begins a list and the one behind it."""
    match = re.search(rf"(?<={re.escape(begin)}\n).*?(?={re.escape(end)})", text, re.DOTALL)
    if match is None:
        raise SystemExit(f"{where}: the list between {begin!r} and {end!r} is not there")
    return text[: match.start()] + "".join(f"{line}\n" for line in lines) + text[match.end() :]


def made() -> dict[Path, str]:
    """What each file should be."""
    text = TABLE.read_text()
    stats, reasons, ages = (rows(text, f"DMI_{name}") for name in ("STATS", "REASONS", "AGES"))
    python = ROOT / "dmi" / "stats.py"
    fields = [
        f"    {name}: int" + (" | None" if doc.startswith("detail:") else "") for name, doc in stats
    ]
    cython = ROOT / "dmi" / "cdmi.pxd"
    members = [
        f"        uint64_t {prefix}{name}"
        for prefix, table in (("", stats), ("reason_", reasons), ("age_", ages))
        for name, _ in table
    ]
    return {
        python: put(
            python.read_text(),
            "    # The counters, in the order of dmi/stats.h: written by tools/generate.py.",
            "    reasons: Mapping",
            fields,
            python,
        ),
        cython: put(
            cython.read_text(),
            "    ctypedef struct dmi_stats:\n        uint64_t size",
            "\n    int dmi_heap_stats(",
            members,
            cython,
        ),
    }


def main(argv: list[str]) -> int:
    """Write, or check."""
    stale = [path for path, text in made().items() if path.read_text() != text]
    if "--check" not in argv:
        for path, text in made().items():
            path.write_text(text)
        return 0
    for path in stale:
        print(f"{path.relative_to(ROOT)}: not as dmi/stats.h has it; run python tools/generate.py")
    if not stale:
        print("generated lists: as dmi/stats.h has it")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
