"""Run a program with its objects on dmi: python -m dmi.python SCRIPT | -m MODULE | -c CODE ...

As `python` itself runs it, from the first line of the program on; the interpreter and dmi were
there before.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dmi.errors import DmiError
from dmi.heap import Heap
from dmi.python._install import NAME, install

if TYPE_CHECKING:
    from collections.abc import Sequence


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        prog="python -m dmi.python",
        usage="python -m dmi.python [--decommit POLICY] [--usage] "
        "(SCRIPT | -m MODULE | -c CODE) [ARGUMENT ...]",
        description="Run a Python program with its objects on a dmi heap.",
        allow_abbrev=False,
    )
    made.add_argument("--decommit", metavar="POLICY", help="such as lazy:delay=0.5")
    made.add_argument(
        "--usage", action="store_true", help="print what each context holds when it ends"
    )
    made.add_argument("-m", dest="module", metavar="MODULE", help="run a module")
    made.add_argument("-c", dest="code", metavar="CODE", help="run a program text")
    made.add_argument("script", nargs="?", help="run a file or a folder with a __main__.py")
    return made


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our own arguments, and those of the program."""
    options = list(arguments)
    at = 0
    while at < len(options):
        if options[at] in ("-m", "-c", "--decommit"):
            if options[at] != "--decommit":
                return options[: at + 2], options[at + 2 :]
            at += 2
        elif options[at].startswith("-"):
            at += 1
        else:
            return options[: at + 1], options[at + 1 :]
    return options, []


def main(arguments: Sequence[str] | None = None) -> None:
    """Install, then become the program."""
    own, rest = split(sys.argv[1:] if arguments is None else arguments)
    made = parser()
    args = made.parse_args(own)
    if sum(each is not None for each in (args.module, args.code, args.script)) != 1:
        made.error("SCRIPT, -m MODULE or -c CODE is needed")
    try:
        install(Heap(args.decommit, name=NAME) if args.decommit else None)
    except (DmiError, ValueError) as error:
        made.error(str(error))
    if args.usage:
        import atexit

        atexit.register(_print_usage)
    if args.module is not None:
        sys.argv = [args.module, *rest]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(args.module, run_name="__main__", alter_sys=True)
    elif args.code is not None:
        sys.argv = ["-c", *rest]
        sys.path[0] = ""
        module = type(sys)("__main__")
        sys.modules["__main__"] = module
        exec(compile(args.code, "<string>", "exec"), module.__dict__)
    else:
        path = Path(args.script)
        if not path.exists():
            made.error(f"can't open file {args.script!r}: there is none")
        sys.argv = [args.script, *rest]
        if path.is_file():
            sys.path[0] = str(path.resolve().parent)
        runpy.run_path(args.script, run_name="__main__")


def _print_usage() -> None:
    from dmi.python._contexts import usage

    print(usage(), file=sys.stderr)


if __name__ == "__main__":
    main()
