"""Writes the lists that follow from the two tables of the core.

    python tools/generate.py            write them
    python tools/generate.py --check    exit 1 and name the files that are not as they should be

The counters stand in csrc/include/dmi/stats.h. From them follow the fields of HeapStats in
dmi/stats.py and of dmi_stats in dmi/cdmi.pxd. The C struct and the words of Heap.explain() and of
HeapStats.describe() read the table itself.

The policies stand in csrc/decommit/policies.c, each in the place of its public number. From them
follow dmi_when in dmi.h and cdmi.pxd, how many there are in policies.h, and the names in policy.py.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "csrc" / "include" / "dmi" / "stats.h"
POLICIES = ROOT / "csrc" / "decommit" / "policies.c"
WIDTH = 100


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


def policies() -> list[str]:
    """The names of the policies, in the order of their rows."""
    found = re.findall(r"\[DMI_WHEN_(\w+)\] = \{\s*\.name = \"(\w+)\"", POLICIES.read_text())
    for name, word in found:
        if name != word.upper():
            raise SystemExit(f"{POLICIES}: the row of DMI_WHEN_{name} is named {word!r}")
    return [word for _, word in found]


def put_counters(files: dict[Path, str]) -> None:
    """Put the lists of counters into the files that have them."""
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
    files[python] = put(
        files[python],
        "    # The counters, in the order of dmi/stats.h: written by tools/generate.py.",
        "    reasons: Mapping",
        fields,
        python,
    )
    files[cython] = put(
        files[cython],
        "    ctypedef struct dmi_stats:\n        uint64_t size",
        "\n    int dmi_heap_stats(",
        members,
        cython,
    )


def put_policies(files: dict[Path, str]) -> None:
    """Put the lists of policies into the files that have them."""
    words = policies()
    names = [f"DMI_WHEN_{word.upper()}" for word in words]
    header = ROOT / "csrc" / "include" / "dmi" / "dmi.h"
    numbers = [f"    {name} = {i}," for i, name in enumerate(names)]
    numbers[-1] = numbers[-1].rstrip(",")
    files[header] = put(files[header], "typedef enum dmi_when {", "} dmi_when;", numbers, header)
    table = ROOT / "csrc" / "decommit" / "policies.h"
    count = [f"#define DMI_POLICIES ({names[-1]} + 1)"]
    begin = "/* Written by tools/generate.py. */"
    files[table] = put(files[table], begin, "\n/* Why a byte is retained", count, table)
    cython = ROOT / "dmi" / "cdmi.pxd"
    files[cython] = put(
        files[cython],
        "    const char *dmi_version()\n\n    enum:",
        "\n    enum:\n        DMI_HOW_DEFAULT",
        [f"        {name}" for name in names],
        cython,
    )
    python = ROOT / "dmi" / "policy.py"
    begin = "# Written by tools/generate.py, as is the line of Decommit that names them."
    quoted = ", ".join(f'"{word}"' for word in words)
    literal = f"When = Literal[{quoted}]"
    if len(literal) > WIDTH:
        literal = f"When = Literal[\n    {quoted},\n]"
    files[python] = put(files[python], begin, "How = Literal", literal.split("\n"), python)
    line = f"    when       {', '.join(words[:-1])} or {words[-1]}"
    begin = '    """A policy. A parameter that does not belong to `when` is a ValueError.\n'
    files[python] = put(files[python], begin, "    how        ", [line], python)


class Files(dict[Path, str]):
    """Files as they are, read when they are first asked for."""

    def __missing__(self, path: Path) -> str:
        self[path] = path.read_text()
        return self[path]


def made() -> dict[Path, str]:
    """What each file should be."""
    files = Files()
    put_counters(files)
    put_policies(files)
    return files


def main(argv: list[str]) -> int:
    """Write, or check."""
    stale = [path for path, text in made().items() if path.read_text() != text]
    if "--check" not in argv:
        for path, text in made().items():
            path.write_text(text)
        return 0
    for path in stale:
        print(f"{path.relative_to(ROOT)}: not as the tables have it; run python tools/generate.py")
    if not stale:
        print("generated lists: as the tables have it")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
