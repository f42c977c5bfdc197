"""What an attacker gets from each installed allocator: `python -m benchmarks.peers.attacks`.

Runs tests/attacks on the C library's malloc, on the installed peers, and on both tiers of dmi,
and prints the worst outcome of each attack, and how many are exploitable, wild, found, harmless.
Arguments are sizes of the attacked blocks.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import dmi

from .allocators import Allocator, find

ROOT = Path(__file__).parents[2]
SIZES = ["48", "64", "1024", "32768"]
ORDER = "Xwfh-"  # the worst first


def worst(cells: list[str]) -> str:
    """The worst outcome of a row of SIZE:few-and-many cells."""
    outcomes = "".join(cell.split(":")[1] for cell in cells)
    return min(outcomes, key=lambda outcome: ORDER.find(outcome) % 9)


def table(program: Path, allocator: Allocator, sizes: list[str]) -> dict[str, str]:
    """{attack: its worst outcome} of one allocator."""
    environment = allocator.environment()
    if allocator.library:
        environment["LD_PRELOAD"] = str(allocator.library)
    command = [str(program), "all", *sizes]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    return {name: worst(cells) for name, *cells in rows}


def main() -> int:
    """Print the tables."""
    sizes = sys.argv[1:] or SIZES
    preload = Path(dmi.get_preload_path())
    columns = [*find(), Allocator("dmi hardened", preload, {"DMI_OPTIONS": "hardened=on"})]
    with tempfile.TemporaryDirectory() as work:
        program = Path(work) / "attacks"
        source = ROOT / "tests" / "attacks" / "attacks.c"
        subprocess.run(
            ["cc", "-O1", "-fno-builtin", "-pthread", str(source), "-o", str(program)], check=True
        )
        tables = {column.name: table(program, column, sizes) for column in columns}
    print(f"{'':45}" + "".join(f"{name:>14}" for name in tables))
    for attack in next(iter(tables.values())):
        print(f"{attack:45}" + "".join(f"{rows[attack]:>14}" for rows in tables.values()))
    for letter, meaning in zip("Xwfh", ("exploitable", "wild", "found", "harmless"), strict=True):
        counts = [list(rows.values()).count(letter) for rows in tables.values()]
        print(f"{meaning:45}" + "".join(f"{count:>14}" for count in counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
