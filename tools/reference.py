"""The API and the CLI reference, as Markdown, from docstrings, type stubs and the parsers.

What is public stands in the `__all__` of each module; nothing is listed here but the modules. A
public name without a docstring is a fault, and make docs stops at it.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import typing
from functools import cache
from pathlib import Path
from typing import Any

MODULES = (
    "dmi",
    "dmi.address",
    "dmi.diagnose",
    "dmi.profile",
    "dmi.experiment",
    "dmi.metrics",
    "dmi.numpy",
    "dmi.python",
    "dmi.testing",
    "dmi.trace",
    "dmi.windbg",
)
# Wide enough for the descriptions, which are wrapped by hand.
WIDTH = "100"


class AsWritten:
    """An annotation that the source writes as text, without the quotes around it."""

    def __init__(self, text: str) -> None:
        self.text = text.replace('"', "").replace("'", "") if "Literal" not in text else text

    def __repr__(self) -> str:
        return self.text

    @classmethod
    def of(cls, annotation: Any) -> Any:
        if isinstance(annotation, typing.ForwardRef):
            annotation = annotation.__forward_arg__
        return cls(annotation) if isinstance(annotation, str) else annotation


@cache
def stub(module: str) -> dict[str, ast.AST]:
    """What the type stub beside a native module declares: name, or Class.name, to the node."""
    path = Path(importlib.import_module(module).__file__ or "").parent
    file = path / f"{module.rpartition('.')[2]}.pyi"
    found: dict[str, ast.AST] = {}
    if file.is_file():
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{inner.name}": inner for inner in node.body
                          if isinstance(inner, ast.FunctionDef)}  # fmt: skip
            elif isinstance(node, ast.FunctionDef):
                found[node.name] = node
    return found


def signature(thing: Any, module: str, name: str) -> str:
    """The parameters as the source writes them; empty where there are none to know."""
    node = stub(module).get(name)
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        text = f"({ast.unparse(node.args)}){returns}"
    else:
        try:
            found = inspect.signature(thing)
        except (TypeError, ValueError):
            return ""
        parameters = [
            one.replace(annotation=AsWritten.of(one.annotation))
            for one in found.parameters.values()
        ]
        returns = AsWritten.of(found.return_annotation)
        text = str(found.replace(parameters=parameters, return_annotation=returns))
    return re.sub(r"\((self|cls)(, /)?(, )?", "(", text)


def doc(thing: Any, where: str, missing: list[str]) -> str:
    """The docstring; what belongs to a line above it keeps its place."""
    text = inspect.getdoc(thing) or ""
    if not text:
        missing.append(where)
    return "\n".join(
        # Four blanks would be code, and a table of names is best shown as one.
        f"    {line}" if line.startswith("    ") else line
        for line in re.sub(r"``([^`]*)``", r"`\1`", text).splitlines()
    )


def block(text: str) -> str:
    """A docstring as it stands: its lines are set by hand."""
    paragraphs = re.split(r"\n\s*\n", text)
    said: list[str] = []
    for paragraph in paragraphs:
        lines = paragraph.splitlines()
        table = any(re.match(r"\s+\S|\S+ {2,}\S", line) for line in lines)
        code = paragraph.lstrip().startswith(">>>")
        said.append(f"```text\n{paragraph}\n```" if table or code else paragraph)
    return "\n\n".join(said)


def of_class(cls: type, module: str, missing: list[str]) -> list[str]:
    """The public members of a class, inherited ones of dmi included."""
    said: list[str] = []
    seen: set[str] = set()
    for base in cls.__mro__:
        if not base.__module__.startswith("dmi"):
            continue
        for name, member in vars(base).items():
            if name.startswith("_") or name in seen:
                continue
            seen.add(name)
            plain = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            where = f"{module}.{cls.__name__}.{name}"
            if isinstance(plain, property) or inspect.isgetsetdescriptor(plain):
                text = inspect.getdoc(plain) or ""
                said.append(f"#### {cls.__name__}.{name}\n\n{block(text)}".rstrip())
            elif callable(plain):
                words = signature(plain, base.__module__, f"{base.__name__}.{name}")
                text = block(doc(plain, where, missing))
                said.append(
                    f"#### {cls.__name__}.{name}\n\n```python\n{name}{words}\n```\n\n{text}"
                )
    return said


def of_module(module: str, missing: list[str]) -> str:
    """One page."""
    loaded = importlib.import_module(module)
    said = [f"# {module}", block(doc(loaded, module, missing))]
    for name in loaded.__all__:
        thing = getattr(loaded, name)
        if inspect.ismodule(thing) or name.startswith("__"):
            continue
        where = f"{module}.{name}"
        if typing.get_origin(thing) is not None:
            said += [f"## {name}", f"```python\n{name} = {thing}\n```".replace("typing.", "")]
        elif inspect.isclass(thing):
            words = signature(thing, thing.__module__, f"{thing.__name__}.__init__")
            said += [f"## {name}", f"```python\n{name}{words.removesuffix(' -> None')}\n```"]
            said += [block(doc(thing, where, missing)), *of_class(thing, module, missing)]
        elif callable(thing):
            words = signature(thing, thing.__module__, name)
            said += [f"## {name}", f"```python\n{name}{words}\n```"]
            said.append(block(doc(thing, where, missing)))
        else:
            said += [f"## {name}", f"A value of type `{type(thing).__name__}`."]
    return "\n\n".join(said) + "\n"


def of_commands() -> str:
    """One page with the help of every command and subcommand, as the parsers print it."""
    from dmi import cli

    said = [
        "# The command dmi",
        block(inspect.getdoc(cli) or "").partition("\n\nEach module")[0],
    ]

    def add(parser: argparse.ArgumentParser) -> None:
        said.append(f"## {parser.prog}\n\n```text\n{parser.format_help().rstrip()}\n```")
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for sub in dict.fromkeys(action.choices.values()):
                    add(sub)

    add(cli.parser())
    return "\n\n".join(said) + "\n"


def write(folder: Path) -> list[str]:
    """Write every page into the folder; returns the public names that say nothing of themselves."""
    folder.mkdir(parents=True, exist_ok=True)
    missing: list[str] = []
    for module in MODULES:
        (folder / f"{module}.md").write_text(of_module(module, missing))
    (folder / "cli.md").write_text(of_commands())
    return missing
