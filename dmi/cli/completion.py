"""What a shell needs to complete the words of dmi.

dmi completion bash > ~/.local/share/bash-completion/completions/dmi
dmi completion zsh > "${fpath[1]}/_dmi"
dmi completion fish > ~/.config/fish/completions/dmi.fish
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dmi.cli._words import Command, Option, all_commands

if TYPE_CHECKING:
    import argparse

NAME = "completion"
HELP = "print what bash, zsh or fish need to complete dmi's words"


# As a file of fpath zsh runs it at the first completion; a start-up file may source it as well.
ZSH_END = (
    "if [[ ${funcstack[1]} == _dmi ]]; then",
    '    _dmi "$@"',
    "elif (( ${+functions[compdef]} )); then",
    "    compdef _dmi dmi",
    "fi",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("shell", choices=sorted(_SHELLS), metavar="SHELL", help="bash, zsh or fish")


def run(args: argparse.Namespace) -> None:
    """Print it."""
    print("\n".join(_SHELLS[args.shell](all_commands())))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# ---- bash ---------------------------------------------------------------------------------------


def bash(commands: list[Command]) -> list[str]:
    """A function and its registration."""
    lines = [
        "# Completion of dmi for bash, made by `dmi completion bash`.",
        "_dmi() {",
        "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words= i",
        "    COMPREPLY=()",
        "    if ((COMP_CWORD == 1)); then",
        f"        words='--help --version {' '.join(each.name for each in commands)}'",
        '        COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "        return",
        "    fi",
        "    # What comes behind -- is another program's.",
        "    for ((i = 2; i < COMP_CWORD; i++)); do",
        "        if [[ ${COMP_WORDS[i]} == -- ]]; then",
        '            COMPREPLY=($(compgen -c -f -- "$word"))',
        "            return",
        "        fi",
        "    done",
        "    case ${COMP_WORDS[1]} in",
    ]
    for command in commands:
        lines.append(f"    {command.name})")
        chosen = [option for option in command.options if option.choices]
        if chosen:
            lines.append("        case $before in")
            for option in chosen:
                names, words = "|".join(option.names), " ".join(option.choices)
                lines.append(f"        {names}) words='{words}' ;;")
            lines.append("        esac")
        everything = [name for option in command.options for name in option.names]
        everything += [word for place in command.places for word in place.choices]
        lines += [f"        [[ $words ]] || words='{' '.join(everything)}'", "        ;;"]
    return [
        *lines,
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$word"))',
        '    [[ $word == -* ]] || COMPREPLY+=($(compgen -f -- "$word"))',
        "}",
        "complete -o filenames -F _dmi dmi",
    ]


# ---- zsh ----------------------------------------------------------------------------------------


def _zsh_words(text: str) -> str:
    """What stands in brackets may hold neither these nor a colon."""
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


def _zsh_value(option: Option) -> str:
    kind = f"({' '.join(option.choices)})" if option.choices else "_files"
    return f":{_zsh_words(option.value.lower())}:{kind}" if option.value else ""


def zsh(commands: list[Command]) -> list[str]:
    """A function that the completion system calls for dmi."""
    lines = [
        "#compdef dmi",
        "# Completion of dmi for zsh, made by `dmi completion zsh`.",
        "_dmi() {",
        "    local -a commands",
        "    commands=(",
        *(f"        {_quoted(f'{each.name}:{each.help}')}" for each in commands),
        "    )",
        "    if ((CURRENT == 2)); then",
        "        _describe command commands",
        "        return",
        "    fi",
        "    local chosen=$words[2]",
        "    shift words",
        "    ((CURRENT--))",
        "    case $chosen in",
    ]
    for command in commands:
        lines += [f"    {command.name})", "        _arguments \\"]
        for option in command.options:
            star = "*" if option.repeats else ""
            for name in option.names:
                word = f"{star}{name}[{_zsh_words(option.help)}]{_zsh_value(option)}"
                lines.append(f"            {_quoted(word)} \\")
        for place in command.places:
            lines.append(f"            {_quoted('*' + (_zsh_value(place) or ':file:_files'))} \\")
            break
        lines[-1] = lines[-1].removesuffix(" \\")
        lines.append("        ;;")
    return [*lines, "    esac", "}", *ZSH_END]


# ---- fish ---------------------------------------------------------------------------------------


def fish(commands: list[Command]) -> list[str]:
    """A line for each word."""
    lines = [
        "# Completion of dmi for fish, made by `dmi completion fish`.",
        "complete -c dmi -n __fish_use_subcommand -l help -d 'show help'",
        "complete -c dmi -n __fish_use_subcommand -l version -d 'show the version'",
    ]
    lines += [
        f"complete -c dmi -n __fish_use_subcommand -f -a {command.name} -d {_fish(command.help)}"
        for command in commands
    ]
    for command in commands:
        head = f"complete -c dmi -n '__fish_seen_subcommand_from {command.name}'"
        for option in command.options:
            # One dash and several letters is fish's old style.
            kinds = [
                f"-l {name[2:]}"
                if name.startswith("--")
                else f"-{'s' if len(name) == 2 else 'o'} {name[1:]}"
                for name in option.names
            ]
            value = " -r" if option.value else ""
            if option.choices:
                value = f" -x -a {_fish(' '.join(option.choices))}"
            lines.append(f"{head} {' '.join(kinds)}{value} -d {_fish(option.help)}")
        lines += [
            f"{head} -a {_fish(' '.join(place.choices))}"
            for place in command.places
            if place.choices
        ]
    return lines


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
