"""Run any program on dmi: its malloc, and that of every program it starts, is dmi's.

The library is preloaded (LD_PRELOAD), the options travel in DMI_OPTIONS. Python programs keep small
objects in pools of their own, which no malloc sees: they run with PYTHONMALLOC=malloc, so that
every object is seen, unless PYTHONMALLOC is set already. The exit status is the program's; 127 when
it is not found, 126 when it cannot be started.

--snapshot FILE writes what dmi.snapshot().save(FILE) writes, for `dmi heap` and `dmi doctor`, of
the program itself and not of those that it starts. In FILE %p stands for the number of the process
(then every process writes one), %n for the number of the snapshot, %% for a per cent sign. It is
written when the program ends by itself, not when it is killed or calls _exit(), as some shells do;
with --at SIGNAL whenever the program gets that signal, as in kill -URG PID. SIGURG and SIGWINCH are
the safe ones: where a program has taken the signal for itself or set it back, as gunicorn's
workers do with SIGUSR1 and SIGUSR2, those two are ignored, while the others end it.

--profile FILE writes which code holds the memory, for `dmi blame FILE`: at the same moments, to a
file that is named in the same way. A snapshot that is taken meanwhile carries it too. Of a Python
program it is written when Python ends, before it frees all that the program still held.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dmi
from dmi import _files
from dmi.cli import _elf

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "run"
HELP = "run a program on dmi"

# What a CPython's file is called; pypy has an allocator of its own.
_PYTHON = re.compile(r"python(\d+(\.\d+)*t?)?(-dbg|d)?$")
_SHEBANG_BYTES = 256
_MOST_SAMPLE = 1 << 20
_BITS = 8 * struct.calcsize("P")
# When the library prints a summary; the signals are those that programs leave to others.
WHENS = ("exit", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGURG", "SIGWINCH")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.usage = (
        "dmi run [--decommit POLICY] [--name NAME] [--summary[=WHEN]] [--snapshot FILE [--blocks] "
        "| --report FILE] [--profile FILE [--sample N] [--cost SHARE]] [--at WHEN]... "
        "-- PROGRAM [ARGUMENT ...]"
    )
    parser.add_argument("--decommit", metavar="POLICY", help="such as lazy:delay=0.5")
    parser.add_argument("--name", help="of the default heap")
    parser.add_argument(
        "--summary",
        nargs="?",
        const="exit",
        choices=WHENS,
        metavar="WHEN",
        help=f"print `!heap -s` to standard error: {', '.join(WHENS)}; exit without WHEN",
    )
    parser.add_argument("--snapshot", metavar="FILE", help="write a snapshot when the program ends")
    parser.add_argument(
        "--blocks", action="store_true", help="with every block, in FILE.blocks, for `dmi heap -h`"
    )
    parser.add_argument(
        "--at",
        action="append",
        choices=WHENS,
        metavar="WHEN",
        help="when to write snapshot and profile, instead of at the end; may be given several "
        "times: exit or a signal, as with --summary",
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        help="write an HTML page about the run: a time line, and the heaps at its end",
    )
    parser.add_argument(
        "--profile",
        metavar="FILE",
        help="write which code holds the memory, for `dmi blame FILE`, when the program ends",
    )
    parser.add_argument(
        "--sample",
        metavar="N",
        help="of --profile: watch one page in N (default 64); less costs more and knows more",
    )
    parser.add_argument(
        "--cost",
        metavar="SHARE",
        help="of --profile: when it takes more of the time than that, half of the pages are given "
        "up (default 0.008); off: never",
    )
    parser.add_argument("program", metavar="PROGRAM")
    parser.add_argument("arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER)


def options(args: argparse.Namespace, inherited: str) -> str:
    """DMI_OPTIONS for the program: what was inherited, then what was asked for, which wins."""
    parts = [inherited] if inherited else []
    if args.decommit is not None:
        parts.append(f"decommit={dmi.Decommit.of(args.decommit)}")
    for key in ("name", "summary"):
        value = getattr(args, key)
        if value is None:
            continue
        if not value or "," in value:
            raise ValueError(f"--{key} must be text without a comma, not {value!r}")
        parts.append(f"{key}={value}")
    if args.snapshot is not None:
        words = ["blocks"] if args.blocks else []
        parts.append(file_option("snapshot", args.snapshot, words, args.at or ()))
    elif args.blocks:
        raise ValueError("--blocks needs --snapshot FILE")
    if args.profile is not None:
        words = [] if args.sample is None else [f"sample={sample_of(args.sample)}"]
        words += [] if args.cost is None else [f"cost={cost_of(args.cost)}"]
        parts.append(file_option("profile", args.profile, words, args.at or ()))
    elif args.sample is not None or args.cost is not None:
        raise ValueError(f"--{'cost' if args.sample is None else 'sample'} needs --profile FILE")
    if args.at and args.snapshot is None and args.profile is None:
        raise ValueError("--at needs --snapshot FILE or --profile FILE")
    return ",".join(parts)


def sample_of(text: str) -> int:
    """The number of --sample."""
    if not re.fullmatch("[0-9]{1,7}", text) or not 1 <= int(text) <= _MOST_SAMPLE:
        raise ValueError(f"--sample must be a number from 1 to {_MOST_SAMPLE:,}, not {text!r}")
    return int(text)


def cost_of(text: str) -> str:
    """Millionths of the time, as DMI_OPTIONS has them, from the share of --cost; or off."""
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if text != "off" and not 1e-6 <= share <= 1:
        raise ValueError(f"--cost must be a share from 0.000001 to 1, or off, not {text!r}")
    return "off" if text == "off" else str(round(share * 1e6))


def file_option(option: str, name: str, words: list[str], moments: Iterable[str]) -> str:
    """snapshot=... or profile=... for DMI_OPTIONS. ValueError for a name that cannot be written
    to."""
    path = Path.cwd() / name
    if not name or name.endswith("/") or path.is_dir():
        raise ValueError(f"--{option} must name a file, not {name!r}")
    if any(mark in str(path) for mark in ",:"):
        raise ValueError(f"--{option}: a path without comma and colon is needed, not {str(path)!r}")
    if odd := re.search(r"%(?![pn%])", re.sub(r"%[pn%]", "", name)):
        raise ValueError(
            f"--{option}: %p, %n and %% may stand in FILE, not {name[odd.start() :]!r}"
        )
    signals = {moment for moment in moments if moment != "exit"}
    if len(signals) > 1:
        raise ValueError("--at: one signal and exit, not " + ", ".join(sorted(signals)))
    if not (path.parent.is_dir() or "%" in str(path.parent)):
        raise ValueError(f"--{option}: there is no directory {path.parent}")
    parts = [str(path), *words, *(f"at={moment}" for moment in moments)]
    # The number stays the same when this process becomes the program.
    if "%p" not in name:
        parts.append(f"only={os.getpid()}")
    return f"{option}=" + ":".join(parts)


def is_python(program: str) -> bool:
    """Whether the program is a CPython, or a script that names one in its first line."""
    path = Path(program)
    if _PYTHON.fullmatch(path.name):
        return True
    try:
        with _files.open_regular(path) as file:
            first = file.read(_SHEBANG_BYTES).partition(b"\n")[0]
    except OSError:
        return False
    if not first.startswith(b"#!"):
        return False
    return any(_PYTHON.fullmatch(Path(word).name) for word in os.fsdecode(first[2:]).split()[:3])


def ignores_environment(program: str, arguments: Iterable[str]) -> str | None:
    """The option (-I or -E) that makes a Python ignore PYTHONMALLOC; None without one."""
    words = list(arguments)
    if not _PYTHON.fullmatch(Path(program).name):
        # A script: what counts stands in its first line.
        try:
            with _files.open_regular(program) as file:
                words = os.fsdecode(file.read(_SHEBANG_BYTES).partition(b"\n")[0]).split()[1:]
        except OSError:
            return None
    skip = False
    for word in words:
        if skip or _PYTHON.fullmatch(Path(word).name):
            skip = False
            continue
        if not word.startswith("-") or word == "-" or word.startswith("--"):
            return None
        letters = re.split("[cmWX]", word[1:], maxsplit=1)
        for letter in "IE":
            if letter in letters[0]:
                return f"-{letter}"
        taker = word[1 + len(letters[0]) : 2 + len(letters[0])]
        if taker and taker in "cm":
            return None
        skip = bool(taker) and not letters[1]
    return None


def environment(args: argparse.Namespace, program: str) -> dict[str, str]:
    """The environment to start the program in."""
    made = dict(os.environ)
    library = dmi.get_preload_path()
    if not Path(library).is_file():
        raise OSError(f"{library} is missing: install dmi-heap again")
    others = [name for name in re.split("[ :]+", made.get("LD_PRELOAD", "")) if name]
    made["LD_PRELOAD"] = ":".join([library, *(name for name in others if name != library)])
    if text := options(args, made.get("DMI_OPTIONS", "")):
        made["DMI_OPTIONS"] = text
    if is_python(program):
        if "PYTHONMALLOC" not in made:
            made["PYTHONMALLOC"] = "malloc"
            note = "PYTHONMALLOC=malloc is set, so that Python's small objects are seen too"
        else:
            note = f"PYTHONMALLOC={made['PYTHONMALLOC']} is kept as it was set"
        print(f"dmi run: {note}", file=sys.stderr)
        if option := ignores_environment(program, args.arguments):
            print(
                f"dmi run: {option} makes Python ignore PYTHONMALLOC: its objects stay with "
                "pymalloc, unless the program calls dmi.python.install()",
                file=sys.stderr,
            )
    return made


def found(name: str) -> tuple[str | None, str]:
    """The file of a program as a shell finds it; without one, the words of the shell."""
    if os.sep not in name:
        there = shutil.which(name, os.F_OK)
        return shutil.which(name), "permission denied" if there else "not found"
    try:
        is_folder = Path(name).is_dir()
        Path(name).stat()
    except OSError as error:
        return None, "not found" if isinstance(error, FileNotFoundError) else str(error.strerror)
    if is_folder:
        return None, "is a directory"
    return (name, "") if os.access(name, os.X_OK) else (None, "permission denied")


def obstacle(program: str) -> tuple[str, bool]:
    """Why the library will not serve the program, and whether the program cannot even start with
    it."""
    for path in _elf.chain(program):
        elf = _elf.read(path)
        if elf is None:
            continue
        if elf.is_musl:
            words = (
                f"{path} is linked with musl ({elf.loader}), libdmi_malloc.so with glibc: musl's "
                "loader refuses it. Run a build for glibc, or without dmi"
            )
            return words, True
        if elf.is_static:
            words = (
                f"{path} is linked statically: nothing can be preloaded, so dmi does not serve it, "
                "only dynamically linked programs that it starts"
            )
            return words, False
        if elf.bits != _BITS:
            words = f"{path} has {elf.bits} bits, libdmi_malloc.so {_BITS}: dmi does not serve it"
            return words, False
    return "", False


def run(args: argparse.Namespace) -> int:
    """Become the program."""
    program, words = found(args.program)
    if program is None:
        print(f"dmi run: {args.program}: {words}", file=sys.stderr)
        return 127 if words == "not found" else 126
    why, fatal = obstacle(program)
    if why:
        print(f"dmi run: {why}", file=sys.stderr)
    if fatal:
        return 126
    if args.report is None:
        return become(args, program)
    if args.snapshot is not None:
        raise ValueError("--report takes its own snapshot: give --report or --snapshot")
    from dmi.cli._reported import run_reported

    def start(file: str) -> int:
        args.snapshot, args.blocks = file, True
        return become(args, program)

    return run_reported(args.report, start, args.program)


def become(args: argparse.Namespace, program: str) -> int:
    """Become the program; returns only where that cannot be."""
    prepared = environment(args, program)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(program, [args.program, *args.arguments], prepared)
    except OSError as error:
        print(f"dmi run: {args.program}: {error.strerror}", file=sys.stderr)
        return 126
