"""Small faults put into the core one at a time: each must be noticed by the C test that is named.

mutants.toml says what is changed and who must notice. Each fault is built in a copy of the core, so
the tree stays as it is. First the named tests must pass without any fault. A fault that nobody
notices, one that does not compile, and one whose text is no longer in the core fail the check.

    make mutate                      all of them
    make mutate MUTANTS="tag ledger" those whose name has one of the words
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("mutants.toml")
# A fault may well make a loop endless.
SECONDS = 120


@dataclass(frozen=True)
class Mutant:
    """A change of the core, and the test program that must fail of it."""

    name: str
    old: str
    new: str
    suite: str
    file: str = ""  # where the text stands in more than one

    def find(self) -> tuple[Path, str]:
        """The file that holds the text, relative to the root, and the file's text."""
        found = [
            (path, text)
            for path in sorted((ROOT / "csrc").rglob("*.[ch]"))
            if path.name.endswith(self.file)
            and "preload" not in path.parts
            and self.old in (text := path.read_text())
        ]
        if len(found) != 1 or found[0][1].count(self.old) != 1:
            places = ", ".join(str(path.relative_to(ROOT)) for path, _ in found) or "no file"
            raise SystemExit(f"{self.name}: {self.old!r} must be in the core once, but: {places}")
        return found[0][0].relative_to(ROOT), found[0][1]


class Copy:
    """A copy of the core and of its tests, in which one fault at a time is built."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("csrc", "tests/c"):
            self.copy(name)

    def copy(self, name: str) -> None:
        """Bring a folder up to date, and leave alone what did not change: it is built already."""
        source, target = ROOT / name, self.folder / name
        files = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
        for stray in [path for path in target.rglob("*") if path.is_file()]:
            if stray.relative_to(target) not in files:
                stray.unlink()
        for file in files:
            there = target / file
            if not there.exists() or there.read_bytes() != (source / file).read_bytes():
                there.parent.mkdir(parents=True, exist_ok=True)
                # Not with the time of the original: what was built from the old one is older.
                shutil.copyfile(source / file, there)

    def make(self, suite: str) -> str:
        """Build a test program; returns what the compiler said when it failed."""
        target = f"build/c/native/{suite}"
        done = subprocess.run(
            ["make", "-s", "-f", "csrc/build.mk", target],
            cwd=self.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stderr if done.returncode else ""

    def passes(self, suite: str) -> bool:
        try:
            done = subprocess.run(
                [f"build/c/native/{suite}"],
                cwd=self.folder, capture_output=True, timeout=SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def judge(self, mutant: Mutant) -> str:
        """Why the mutant is not noticed; empty when it is."""
        path, text = mutant.find()
        file = self.folder / path
        try:
            file.write_text(text.replace(mutant.old, mutant.new))
            if said := self.make(mutant.suite):
                return f"does not compile:\n{said}"
            return "" if not self.passes(mutant.suite) else f"{mutant.suite} passes all the same"
        finally:
            file.write_text(text)


def read(chosen: list[str]) -> list[Mutant]:
    table = tomllib.loads(TABLE.read_text())["mutant"]
    every = [Mutant(**entry) for entry in table]
    return [one for one in every if not chosen or any(word in one.name for word in chosen)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Put faults into the core; each must be noticed.")
    parser.add_argument("words", nargs="*", help="only mutants whose name has one of these words")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    mutants = read(given.words)
    for mutant in mutants:
        mutant.find()
    copies: SimpleQueue[Copy] = SimpleQueue()
    made = [Copy(ROOT / "build" / "mutate" / str(number)) for number in range(given.jobs)]
    for copy in made:
        copies.put(copy)

    def with_copy(work: Mutant | str) -> str:
        copy = copies.get()
        try:
            if isinstance(work, Mutant):
                return copy.judge(work)
            said = copy.make(work)
            return said or ("" if copy.passes(work) else "fails without any fault")
        finally:
            copies.put(copy)

    wrong: list[str] = []
    with ThreadPoolExecutor(given.jobs) as pool:
        suites = sorted({mutant.suite for mutant in mutants})
        for suite, why in zip(suites, pool.map(with_copy, suites), strict=True):
            if why:
                raise SystemExit(f"{suite}: {why}")
        for mutant, why in zip(mutants, pool.map(with_copy, mutants), strict=True):
            print(f"{'NOT NOTICED' if why else 'noticed':12} {mutant.suite:14} {mutant.name}")
            if why:
                wrong.append(f"{mutant.name}: {why}")
            sys.stdout.flush()
    print("\n".join(wrong), file=sys.stderr)
    print(f"mutants: {len(mutants) - len(wrong)} of {len(mutants)} noticed")
    return 1 if wrong or not mutants else 0


if __name__ == "__main__":
    sys.exit(main())
