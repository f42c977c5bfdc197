"""Run any program on dmi: its malloc, and that of every program it starts, is dmi's.

The library is preloaded (LD_PRELOAD), the options travel in DMI_OPTIONS. Python programs keep small
objects in pools of their own, which no malloc sees: they run with PYTHONMALLOC=malloc, so that
every object is seen, unless PYTHONMALLOC is set already. The exit status is the program's; 127 when
it is not found, 126 when it cannot be started.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path

import dmi

NAME = "run"
HELP = "run a program on dmi"

# What a CPython's file is called; pypy has an allocator of its own.
_PYTHON = re.compile(r"python(\d+(\.\d+)*t?)?(-dbg|d)?$")
_SHEBANG_BYTES = 256
# When the library prints a summary; the signals are those that programs leave to others.
WHENS = ("exit", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGURG", "SIGWINCH")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.usage = (
        "dmi run [--decommit POLICY] [--name NAME] [--summary[=WHEN]] -- PROGRAM [ARGUMENT ...]"
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
    return ",".join(parts)


def is_python(program: str) -> bool:
    """Whether the program is a CPython, or a script that names one in its first line."""
    path = Path(program)
    if _PYTHON.fullmatch(path.name):
        return True
    try:
        with path.open("rb") as file:
            first = file.read(_SHEBANG_BYTES).partition(b"\n")[0]
    except OSError:
        return False
    if not first.startswith(b"#!"):
        return False
    return any(_PYTHON.fullmatch(Path(word).name) for word in os.fsdecode(first[2:]).split()[:3])


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
    return made


def run(args: argparse.Namespace) -> int:
    """Become the program."""
    program = shutil.which(args.program)
    if program is None:
        print(f"dmi run: {args.program}: not found", file=sys.stderr)
        return 127
    prepared = environment(args, program)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(program, [args.program, *args.arguments], prepared)
    except OSError as error:
        print(f"dmi run: {args.program}: {error.strerror}", file=sys.stderr)
        return 126
