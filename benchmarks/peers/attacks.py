"""What an attacker gets from each installed allocator: `python -m benchmarks.peers.attacks`.

Runs tests/attacks on the C library's malloc, on the installed peers, on both tiers of dmi and on
whatever library is named with `--lib NAME=PATH`, and prints the worst outcome of each attack, and
how many are exploitable, wild, found, harmless. Where places are drawn at random chance decides:
of `--runs N` the worst counts. `--only` leaves out what is not named with `--lib`. `--markdown`
prints the rows of a table of docs/security.md; in each, `!` marks what is worse than the best of
the columns that are named with `--beside NAME`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import dmi

from .allocators import Allocator, AllocatorError, find, parse_library, parse_option

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
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AllocatorError(f"{allocator.name}: the attacks do not run: {done.stderr.strip()}")
    rows = [line.split() for line in done.stdout.splitlines()]
    return {name: worst(cells) for name, *cells in rows}


def worst_of(tables: list[dict[str, str]]) -> dict[str, str]:
    """The same of several runs."""
    return {name: min((t[name] for t in tables), key=ORDER.index) for name in tables[0]}


def mark_worse(tables: dict[str, dict[str, str]], columns: list[str], beside: list[str]) -> None:
    """Put a `!` behind each cell of these columns that is worse than the best of those beside."""
    better = "fhwX"
    for attack in tables[columns[0]]:
        theirs = [tables[name][attack] for name in beside]
        best = min((better.index(cell) for cell in theirs if cell in better), default=len(better))
        for name in columns:
            cell = tables[name][attack]
            if cell in better and better.index(cell) > best:
                tables[name][attack] = f"{cell} !"


def columns_of(arguments: argparse.Namespace) -> list[Allocator]:
    """What to attack, with the options that were given for each."""
    named = [parse_library(text) for text in arguments.lib]
    columns = named
    if not arguments.only:
        preload = Path(dmi.get_preload_path())
        found = [a for a in find() if a.name != "mimalloc3-nothp"]  # the same library
        own = Allocator("dmi hardened", preload, {"DMI_OPTIONS": "hardened=on"})
        columns = (
            [*found[:-1], *named, found[-1], own] if found[-1].name == "dmi" else found + named
        )
    for text in arguments.env:
        name, key, value = parse_option(text)
        chosen = [column for column in columns if column.name == name]
        if not chosen:
            raise AllocatorError(
                f"--env {name}: no such column; there are {[c.name for c in columns]}"
            )
        chosen[0].options[key] = value
    return columns


def main(words: list[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.attacks", description=__doc__)
    parser.add_argument("--lib", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--env", action="append", default=[], metavar="NAME:KEY=VALUE")
    parser.add_argument("--only", action="store_true", help="no column but those named with --lib")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument(
        "--runs", type=int, default=1, metavar="N", help="of which the worst counts"
    )
    parser.add_argument(
        "--beside", action="append", default=[], metavar="NAME", help="a column to be as good as"
    )
    parser.add_argument("sizes", nargs="*", help="bytes of the attacked blocks")
    arguments = parser.parse_args(words)
    try:
        columns = columns_of(arguments)
        names = [column.name for column in columns]
        for name in arguments.beside:
            if name not in names:
                raise AllocatorError(f"--beside {name}: no such column; there are {names}")
        if arguments.runs < 1:
            raise AllocatorError(f"--runs must be 1 at least, not {arguments.runs}")
        with tempfile.TemporaryDirectory() as work:
            program = Path(work) / "attacks"
            source = ROOT / "tests" / "attacks" / "attacks.c"
            command = ["cc", "-O1", "-fno-builtin", "-pthread", str(source), "-o", str(program)]
            subprocess.run(command, check=True)
            sizes = arguments.sizes or SIZES
            tables = {
                column.name: worst_of(
                    [table(program, column, sizes) for _ in range(arguments.runs)]
                )
                for column in columns
            }
    except AllocatorError as error:
        parser.error(str(error))
    sums = [
        [meaning, *(str(list(cells.values()).count(letter)) for cells in tables.values())]
        for letter, meaning in zip(
            "Xwfh", ("exploitable", "wild", "found", "harmless"), strict=True
        )
    ]
    rows = [["", *tables]]
    ours = [name for name in ("dmi", "dmi hardened") if name in tables]
    if arguments.beside and ours:
        mark_worse(tables, ours, arguments.beside)
    if tables:
        attacks = next(iter(tables.values()))
        rows += [[attack, *(cells[attack] for cells in tables.values())] for attack in attacks]
    rows += sums
    for row in rows:
        if arguments.markdown:
            print("| " + " | ".join(cell.replace("_", " ") for cell in row) + " |")
        else:
            print(f"{row[0]:45}" + "".join(f"{cell:>17}" for cell in row[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
