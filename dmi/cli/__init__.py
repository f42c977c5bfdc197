"""The command dmi.

Each module of this package is one subcommand and has

    NAME       its name on the command line, which is the module's
    HELP       one line
    configure  configure(parser): adds its arguments
    run        run(args): does it; returns the exit status, None for 0

Results go to stdout and messages to stderr. Help is --help only, because -h belongs to `!heap`.
The exit status is one of STATUS; dmi run has those of a shell besides. Without a command the list
of commands is printed, which is wrong use too.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from typing import TYPE_CHECKING, Any, Protocol, cast

from dmi import _names
from dmi._version import __version__
from dmi.errors import DmiError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["STATUS", "main", "parser"]

STATUS = {
    0: "Done.",
    1: "Done, and what was asked about is not well, where a command says that it tells so.",
    2: "Wrong use, or an input that cannot be used: one line on standard error says why.",
    126: "dmi run: the program cannot be started; 127: there is none. Else its own status.",
    130: "Interrupted.",
    141: "The reader of standard output went away.",
}


_OTHERS_WORDS = ("completion", "env", "man", "run", "top")
"""Commands whose output is another program's, a screen, or about this installation."""


class Command(Protocol):
    """What a module of this package provides."""

    NAME: str
    HELP: str
    __doc__: str | None

    def configure(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int | None: ...


def names() -> list[str]:
    """The commands; each is a module of this package of the same name."""
    return sorted(
        module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")
    )


def commands(only: str | None = None) -> list[Command]:
    """The modules of the commands, or of one."""
    wanted = names() if only is None else [only]
    return [cast("Command", importlib.import_module(f"{__name__}.{name}")) for name in wanted]


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser with all subcommands, or with one, so that nothing else is imported."""
    top = argparse.ArgumentParser(
        prog="dmi",
        description="A heap you can see into, and whose memory comes back.",
        add_help=False,
        allow_abbrev=False,
    )
    _add_help(top)
    top.add_argument("--version", action="version", version=f"dmi {__version__}")
    subparsers = top.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for command in commands(only):
        sub = subparsers.add_parser(
            command.NAME,
            help=command.HELP,
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        _add_help(sub)
        command.configure(sub)
        if command.NAME not in _OTHERS_WORDS:
            sub.add_argument(
                "--hide-names",
                action="store_true",
                help="show other words for paths and names of programs, threads, heaps and files",
            )
        sub.set_defaults(run=command.run)
    return top


def _add_help(target: argparse.ArgumentParser) -> None:
    target.add_argument("--help", action="help", help="show this help and exit")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        parser().print_help(sys.stderr)
        return 2
    only = words[0] if words[0] in names() else None
    args = parser(only).parse_args(words)
    run = cast("Any", args.run)
    if getattr(args, "hide_names", False):
        _names.hide()
    try:
        status = run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads on; the interpreter must not try to flush the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    except (DmiError, ValueError, OSError, MemoryError, ImportError) as error:
        print(f"dmi {args.command}: {_one_line(error)}", file=sys.stderr)
        return 2
    return int(status or 0)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
