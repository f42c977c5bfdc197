"""The words of the command line as data, taken from its parsers."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from dmi import cli


@dataclass(frozen=True, slots=True)
class Option:
    """An option, or (without names) a place for a word."""

    names: tuple[str, ...]
    value: str
    """What stands behind it in the usage; empty when it takes nothing."""
    choices: tuple[str, ...]
    help: str
    repeats: bool = False
    value_is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A command with its words."""

    name: str
    help: str
    about: str
    usage: str
    options: tuple[Option, ...]
    places: tuple[Option, ...]


def all_commands() -> list[Command]:
    """Every command, by name."""
    found = []
    for module in cli.commands():
        top = cli.parser(module.NAME)
        (holder,) = (
            action for action in top._actions if isinstance(action, argparse._SubParsersAction)
        )
        parser: argparse.ArgumentParser = holder.choices[module.NAME]
        words = [_word(action, parser) for action in parser._actions]
        usage = parser.format_usage().removeprefix("usage: ")
        found.append(
            Command(
                module.NAME,
                module.HELP,
                parser.description or "",
                " ".join(usage.split()),
                tuple(word for word in words if word.names),
                tuple(word for word in words if not word.names),
            )
        )
    return found


def _word(action: argparse.Action, parser: argparse.ArgumentParser) -> Option:
    takes = action.nargs != 0
    value = ""
    if takes:
        metavar = action.metavar if action.metavar is not None else action.dest.upper()
        value = " ".join(metavar) if isinstance(metavar, tuple) else metavar
    text = ""
    if action.help and action.help is not argparse.SUPPRESS:
        text = " ".join((action.help % {**vars(action), "prog": parser.prog}).split())
    return Option(
        tuple(action.option_strings),
        value,
        tuple(str(choice) for choice in action.choices or ()),
        text,
        isinstance(action, argparse._AppendAction),
        action.nargs in ("?", "*"),
    )
