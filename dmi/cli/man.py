"""The manual page of dmi, or of one command, for man.

    dmi man | man -l -
    dmi man --to ~/.local/share/man/man1

With --to the pages of all commands are written into a folder, dmi.1 and dmi-COMMAND.1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dmi import cli
from dmi._version import __version__
from dmi.cli._words import Command, Option, all_commands

if TYPE_CHECKING:
    import argparse

NAME = "man"
HELP = "print manual pages"

_ABOUT = "A heap you can see into, and whose memory comes back."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "command_name", nargs="?", metavar="COMMAND", help="the command (default: dmi itself)"
    )
    parser.add_argument("--to", metavar="FOLDER", help="write all pages there")


def run(args: argparse.Namespace) -> None:
    """Print the page, or write all."""
    from dmi import _files

    commands = all_commands()
    if args.to is not None:
        if args.command_name is not None:
            raise ValueError("--to writes the pages of all commands; name none")
        folder = Path(args.to)
        _files.write_text(folder / "dmi.1", overview(commands))
        for command in commands:
            _files.write_text(folder / f"dmi-{command.name}.1", page(command))
        print(f"{len(commands) + 1} pages in {folder}")
        return
    if args.command_name is None:
        print(overview(commands), end="")
        return
    for command in commands:
        if command.name == args.command_name:
            print(page(command), end="")
            return
    raise ValueError(f"no command {args.command_name!r}; there are {', '.join(cli.names())}")


def _plain(text: str) -> str:
    """Text that roff takes for text, whatever it holds."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")


def _lines(text: str) -> list[str]:
    """Paragraphs; what is indented stays as it is. No line is taken for a request."""
    made: list[str] = []
    block = False
    for line in text.strip("\n").splitlines():
        if line.startswith("    ") != block and line.strip():
            made += [".fi", ".RE", ".PP"] if block else [".PP", ".RS", ".nf"]
            block = not block
        made.append("\\&" + _plain(line.strip()) if line.strip() else ("" if block else ".PP"))
    if block:
        made += [".fi", ".RE"]
    # Two paragraphs in a row are one.
    return [line for at, line in enumerate(made) if line != ".PP" or made[at - 1 : at] != [".PP"]]


def _title(name: str) -> str:
    return f'.TH {name.upper()} 1 "" "dmi {__version__}" "dmi"'


def _option(option: Option) -> list[str]:
    value = ""
    if option.value:
        value = " \\fI" + _plain(option.value) + "\\fR"
    names = ", ".join(f"\\fB{_plain(name)}\\fR{value}" for name in option.names) or value.strip()
    words = f" ({', '.join(option.choices)})" if option.choices else ""
    return [".TP", names, "\\&" + _plain(option.help + words)]


def page(command: Command) -> str:
    """The page of one command."""
    name = f"dmi-{command.name}"
    lines = [
        _title(name), ".SH NAME", f"{_plain(name)} \\- {_plain(command.help)}",
        ".SH SYNOPSIS", "\\&" + _plain(command.usage), ".SH DESCRIPTION", *_lines(command.about),
    ]  # fmt: skip
    words = [*command.places, *command.options]
    if words:
        lines.append(".SH OPTIONS")
        for option in words:
            lines += _option(option)
    return "\n".join([*lines, *_exit_status(), ".SH SEE ALSO", "\\fBdmi\\fR(1)", ""])


def overview(commands: list[Command]) -> str:
    """The page of dmi."""
    lines = [
        _title("dmi"), ".SH NAME", f"dmi \\- {_plain(_ABOUT)}",
        ".SH SYNOPSIS", "\\fBdmi\\fR \\fICOMMAND\\fR [\\fIARGUMENT\\fR ...]", ".SH COMMANDS",
    ]  # fmt: skip
    for command in commands:
        lines += [".TP", f"\\fBdmi\\-{_plain(command.name)}\\fR(1)", "\\&" + _plain(command.help)]
    return "\n".join([*lines, *_exit_status(), ""])


def _exit_status() -> list[str]:
    lines = [".SH EXIT STATUS"]
    for status, words in cli.STATUS.items():
        lines += [".TP", str(status), _plain(words)]
    return lines
