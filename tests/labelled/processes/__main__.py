"""Looks at the programs from outside and compares with what their malloc says.

    python -m tests.labelled.processes             every program that is installed
    python -m tests.labelled.processes NAME...     these
    python -m tests.labelled.processes --root DIR  those of a bare root, with its glibc

Free and used bytes must agree within 1 % (or 16 KiB), the trim figure with a real one within the
larger of 1 MiB and 2 %, the kinds and the largest holder with the labels. Exit status: how many
programs disagree.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import dmi

from .programs import PROGRAMS, Program
from .surprises import SURPRISES

SAY: Final = 61
TRIM: Final = 62
HERE: Final = Path(__file__).parent


def postgres(root: str) -> str:
    """Where the programs of PostgreSQL are, as the root has it."""
    found = sorted(Path(f"{root}/usr/lib/postgresql").glob("*/bin"))
    return "/" + str(found[-1].relative_to(root or "/")) if found else "/nonexistent"


def build(folder: Path) -> None:
    """The witness."""
    library = folder / "witness.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-nostdlib", "-fno-stack-protector",
         "-Wl,--unresolved-symbols=ignore-all", "-o", str(library), str(HERE / "witness.c")],
        check=True,
    )  # fmt: skip


def descendants(pid: int) -> list[int]:
    """The process and all below it."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            below.setdefault(int(parent), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += below.get(each, [])
    return found


def title(pid: int) -> str:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} {words}"
    return ""


def used(pid: int) -> float:
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return float(fields[11]) + float(fields[12])
    return 0.0


def rest(pid: int, wait: float) -> None:
    """Until it has done nothing for a while."""
    time.sleep(wait)
    last = -1.0
    for _ in range(60):
        now = used(pid)
        if now == last:
            return
        last = now
        time.sleep(0.4)


def ask(pid: int, number: int, folder: Path) -> dict[str, int]:
    """What the witness in the process says."""
    path = folder / str(pid)
    path.unlink(missing_ok=True)
    os.kill(pid, number)
    for _ in range(100):
        time.sleep(0.02)
        if path.exists() and f"said={number}" in (text := path.read_text()):
            return {k: int(v) for k, _, v in (line.partition("=") for line in text.split())}
    raise TimeoutError("the witness does not answer")


def figures(pid: int) -> dict[str, object]:
    """What is seen from outside."""
    total = dict.fromkeys(("free", "system", "trim", "mapped", "unknown"), 0)
    held: dict[str, int] = {}
    with dmi.open_process(pid) as process:
        for heap in process.heaps():
            stats = heap.stats()
            held[heap.kind] = held.get(heap.kind, 0) + (stats.committed or 0) + (stats.mapped or 0)
            if heap.kind != "glibc":
                continue
            details = stats.details or {}
            total["free"] += sum(details[name] or 0 for name in ("top", "bins", "fastbins"))
            total["system"] += details["system"] or 0
            total["trim"] += stats.trim or 0
            total["mapped"] += stats.mapped or 0
            total["unknown"] += stats.unknown or 0
        layers = process.layers()
        by_kind: dict[str, int] = {}
        for leaf in layers.leaves:
            if leaf.allocator:
                by_kind[leaf.allocator] = by_kind.get(leaf.allocator, 0) + (leaf.holds or 0)
        summed = sum(leaf.holds or 0 for leaf in layers.leaves)
        smaps = sum((m.resident or 0) + (m.swapped or 0) for m in process.moment().mappings)
        total["astray"] = abs(summed - smaps) + abs(summed - (layers["3"].holds or 0))
        named = layers.stuck
    return {**total, "held": held, "holders": by_kind, "named": named.name if named else ""}


KNOWN = ("glibc", "pymalloc", "dmi")
"""Kinds whose use is known."""


def close(ours: int, theirs: int, least: int, part: float) -> bool:
    return abs(ours - theirs) <= max(least, theirs * part)


def judge(program: Program, pid: int, folder: Path) -> list[str]:
    """What disagrees; prints the row."""
    said = ask(pid, SAY, folder)
    ours = figures(pid)
    gained = ask(pid, TRIM, folder)
    held = ours["held"]
    assert isinstance(held, dict)
    number = {name: value for name, value in ours.items() if isinstance(value, int)}
    faults: list[str] = []
    if not close(number["free"], said["fordblks"], 16384, 0.01):
        faults.append("free")
    if not close(number["system"] - number["free"], said["uordblks"], 16384, 0.01):
        faults.append("used")
    if not close(number["mapped"], said["hblkhd"], 0, 0.01):
        faults.append("mapped")
    if not close(number["trim"], gained["trimmed"], 1 << 20, 0.02):
        faults.append("trim")
    if not frozenset(held) >= program.kinds & {"glibc", "pymalloc", "dmi"}:
        faults.append("kinds")
    holders = ours["holders"]
    assert isinstance(holders, dict)
    # Who holds most of what allocators have in memory, whatever their kind.
    known = max(holders, key=lambda kind: holders[kind], default="")
    if known not in program.holder.split("|"):
        faults.append(f"holder is {known or 'nobody'}")
    # Nobody may be named while a larger one's use is unknown.
    open_ = max((size for kind, size in holders.items() if kind not in KNOWN), default=0)
    if ours["named"] and open_ > held.get("glibc", 0) + held.get("pymalloc", 0):
        faults.append(f"{ours['named']} is named")
    if number["astray"]:
        faults.append(f"leaves are {number['astray']} bytes astray")
    print(
        f"{program.name:<28}{number['system'] >> 10:>9}{number['free'] >> 10:>9}"
        f"{said['fordblks'] >> 10:>9}{number['mapped'] >> 10:>9}{said['hblkhd'] >> 10:>9}"
        f"{number['trim'] >> 10:>8}{gained['trimmed'] >> 10:>8}{number['unknown'] >> 10:>6}  "
        f"{known:<9}{' '.join(sorted(held)):<16} {', '.join(faults) or 'ok'}",
        flush=True,
    )
    return faults


def try_program(program: Program, base: Path, root: str) -> list[str] | None:
    """Start it, bring it to rest, judge it. None: it is not here."""
    inside = Path("/") / base.relative_to(root) if root else base
    names = {"tmp": str(inside / program.name), "pg": postgres(root)}
    (base / program.name).mkdir(exist_ok=True)
    (base / "said").mkdir(exist_ok=True)
    (base / "said").chmod(0o777)

    def fill(text: str) -> str:
        for name, value in names.items():
            text = text.replace("{" + name + "}", value)
        return text

    command = [fill(word) for word in program.command]
    if root and command[0].startswith("/"):
        there = Path(root + command[0]).exists()
    else:
        there = bool(shutil.which(command[0], path=f"{root}/usr/bin:{root}/bin" if root else None))
    if not there:
        return None
    if program.setup:
        # What it leaves in the background must not hold the output of this program.
        subprocess.run(
            [*(("chroot", root) if root else ()), "/bin/sh", "-c", fill(program.setup)],
            check=False, timeout=60,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    environment = {**os.environ, **dict(program.environment)}
    environment |= {"LD_PRELOAD": str(inside / "witness.so"), "WITNESS": str(inside / "said")}
    if root:
        command = ["chroot", root, *command]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=environment, text=True, start_new_session=True, cwd="/" if root else None,
    )  # fmt: skip
    below: list[int] = []
    try:
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.write(program.feed)
            process.stdin.flush()
        rest(process.pid, program.wait)
        below = descendants(process.pid)
        pid = process.pid
        if program.child:
            others = below[1:]
            if program.child.startswith("tmux"):
                others = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
            named = [each for each in others if program.child in title(each)]
            pid = named[-1] if named else pid
            rest(pid, 0.5)
            below.append(pid)
        return judge(program, pid, base / "said")
    except (OSError, TimeoutError) as error:
        print(f"{program.name:<28}{error}")
        return ["not looked at"]
    finally:
        for each in {*below, *descendants(process.pid)} - {os.getpid()}:
            with suppress(OSError):
                os.kill(each, signal.SIGKILL)
        process.kill()
        with suppress(OSError):
            process.communicate()


def main() -> int:
    """Look at all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument(
        "--root", default="", help="a bare root with /proc in which the programs run"
    )
    parser.add_argument("--set", default="all", choices=("all", "first", "surprises"))
    args = parser.parse_args()
    sets = {"first": PROGRAMS, "surprises": SURPRISES, "all": (*PROGRAMS, *SURPRISES)}
    names = args.names
    chosen = [each for each in sets[args.set] if not names or each.name in names]
    print(
        f"{'KiB':<28}{'system':>9}{'free':>9}{'says':>9}{'mapped':>9}{'says':>9}{'trim':>8}"
        f"{'gave':>8}{'?':>6}  holder   kinds"
    )
    base = Path(tempfile.mkdtemp(prefix="dmi-", dir=f"{args.root}/tmp" if args.root else None))
    base.chmod(0o755)
    wrong = seen = 0
    try:
        build(base)
        for program in chosen:
            faults = try_program(program, base, args.root)
            seen += faults is not None
            wrong += bool(faults)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(f"{seen} programs, {wrong} of them wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
