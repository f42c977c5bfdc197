"""Does a profile name the right lines? `tests/labelled/lines/run.py [--sample N] [NAME ...]`

Each program of this folder keeps memory at the lines that labels.json names, which were written
down before any of them was profiled. Each runs under `dmi run --profile`; printed is how many of
its pinned bytes lie on these lines, and whether the line that is named first is one of them. Exit
status 1 where less than 90 % of all pinned bytes lie on the right lines, or a wrong line is named
first.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from dmi.profile import Profile, blame

HERE = Path(__file__).resolve().parent
BOUND = 90.0


class Found(NamedTuple):
    """One program: MiB pinned, per cent on the right lines, what is named first, samples."""

    name: str
    small: bool
    pinned: int
    right: int
    top: str
    verdict: str
    samples: int


def built(name: str, folder: Path, flags: list[str]) -> list[str]:
    """The command that runs a program."""
    source = HERE / name
    if source.suffix == ".py":
        native = source.with_suffix(".c")
        if native.exists():
            library = folder / f"{native.stem}.so"
            subprocess.run(
                ["gcc", "-g", *flags, "-shared", "-fPIC", "-o", library, native], check=True
            )
        return [sys.executable, str(source), str(folder)]
    program = folder / source.stem
    compiler = "gcc" if source.suffix == ".c" else "g++"
    subprocess.run([compiler, "-g", *flags, "-pthread", "-o", program, source], check=True)
    return [str(program)]


def profiled(name: str, folder: Path, sample: int | None, flags: list[str]) -> Path:
    """Run it until it waits, and have it write its profile; returns the file."""
    file = folder / f"{name}.profile"
    file.unlink(missing_ok=True)
    rate = [] if sample is None else ["--sample", str(sample)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [
        sys.executable, "-m", "dmi", "run", "--profile", str(file), *rate, "--at", "SIGURG", "--",
        *built(name, folder, flags),
    ]  # fmt: skip
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout is not None
        if not process.stdout.read(5):
            raise RuntimeError(f"{name} ended with status {process.wait()}")
        process.send_signal(signal.SIGURG)
        deadline = time.monotonic() + 60
        while not file.exists():
            if time.monotonic() > deadline:
                process.kill()
                raise RuntimeError(f"{name} wrote no profile")
            time.sleep(0.02)
        process.kill()
    return file


def looked_at(name: str, label: dict[str, object], file: Path) -> Found:
    """Compare a profile with a label."""
    profile = Profile.load(file)
    found = blame(profile)
    lines = label["lines"]
    assert isinstance(lines, list)

    def is_right(path: str, line: int) -> bool:
        return f"{Path(path).name}:{line}" in lines

    right = sum(row.bytes for row in found.rows if is_right(row.file, row.line))
    top = found.top
    verdict, first = "none named", found.sentence
    if top is not None:
        verdict, first = "right" if is_right(top.file, top.line) else "WRONG", top.name
    return Found(name, bool(label["small"]), found.bytes, right, first, verdict, found.samples)


def main() -> int:
    """Run all, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--sample", type=int, metavar="N")
    parser.add_argument("--flags", default="-O2 -fno-omit-frame-pointer", help="for gcc and g++")
    parser.add_argument("--keep", metavar="FOLDER", help="keep the profiles there")
    args = parser.parse_args()
    labels = json.loads((HERE / "labels.json").read_text())
    rows = []
    with tempfile.TemporaryDirectory(prefix="dmi-lines-") as made:
        folder = Path(args.keep or made)
        folder.mkdir(exist_ok=True)
        for name in args.names or labels:
            file = profiled(name, folder, args.sample, args.flags.split())
            row = looked_at(name, labels[name], file)
            rows.append(row)
            share = 100 * row.right / row.pinned if row.pinned else 0.0
            print(
                f"{row.name:<18} {row.pinned / (1 << 20):7.1f} MiB pinned, {row.samples:5} "
                f"samples, {share:5.1f} % right, first: {row.verdict:<10} {row.top}",
                flush=True,
            )
    pinned, right = sum(row.pinned for row in rows), sum(row.right for row in rows)
    whole = 100 * right / pinned if pinned else 0.0
    wrong = [row.name for row in rows if row.verdict == "WRONG"]
    none = [row.name for row in rows if row.verdict == "none named"]
    least = min((100 * row.right / row.pinned for row in rows if row.pinned), default=0.0)
    print(
        f"\n{len(rows)} programs, {sum(row.small for row in rows)} with small pins: {whole:.1f} % "
        f"of the pinned bytes on the right lines (least {least:.1f} %), {len(wrong)} wrong first "
        f"lines, {len(none)} without one"
    )
    return int(whole < BOUND or bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
