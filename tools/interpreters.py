"""The Pythons of this machine that dmi can be built for, and why others cannot be used.

Looked at are the PATH, the versions of pyenv, and /usr/bin; one is chosen for each version.
`python -m tools.interpreters` prints what `make dist` and the packaging check will use.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OLDEST = (3, 11)
NEWEST = (3, 15)

# What is asked of each candidate, in its own words.
_QUESTION = """
import importlib.util, json, os, sys, sysconfig
print(json.dumps({
    "name": sys.implementation.name,
    "version": list(sys.version_info[:3]),
    "final": sys.version_info.releaselevel == "final",
    "threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "headers": os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")),
    "venv": importlib.util.find_spec("ensurepip") is not None,
    "real": os.path.realpath(sys.executable),
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python that has what a build needs."""

    path: Path
    version: tuple[int, int, int]
    free_threaded: bool

    @property
    def tag(self) -> str:
        """As in the name of a wheel: cp313, or cp313t."""
        return f"cp{self.version[0]}{self.version[1]}{'t' if self.free_threaded else ''}"

    def __str__(self) -> str:
        number = ".".join(map(str, self.version))
        return f"Python {number}{' free-threaded' if self.free_threaded else ''} ({self.path})"


def candidates() -> list[Path]:
    """Every file that may be a Python, the likeliest of a version first; links are not followed."""
    names = [f"python{OLDEST[0]}.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]
    names += [f"{name}t" for name in names]
    found = [Path(sys.executable)]
    found += [Path(path) for name in names if (path := shutil.which(name))]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found += [path for name in names for path in sorted(pyenv.glob(f"*/bin/{name}"))]
    found += [Path("/usr/bin", name) for name in names if Path("/usr/bin", name).exists()]
    return list(dict.fromkeys(found))


def look(path: Path) -> tuple[Interpreter | None, str]:
    """The interpreter, or None and what is missing."""
    try:
        answer = subprocess.run(
            [path, "-I", "-c", _QUESTION], check=True, capture_output=True, text=True, timeout=60
        )
        facts = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        # A shim of pyenv for a version that is not switched on, for example.
        return None, "does not run"
    version: tuple[int, int, int] = tuple(facts["version"])
    missing = [
        text
        for text, wrong in (
            (f"is {facts['name']}, not CPython", facts["name"] != "cpython"),
            ("is no final release", not facts["final"]),
            ("its version is not supported", not OLDEST <= version[:2] <= NEWEST),
            ("has no headers", not facts["headers"]),
            ("has no ensurepip", not facts["venv"]),
        )
        if wrong
    ]
    if missing:
        return None, ", ".join(missing)
    # Of a virtual environment the Python beneath, so that new ones do not build on it.
    return Interpreter(Path(facts["real"]), version, facts["threaded"]), ""


def find() -> tuple[list[Interpreter], dict[Path, str]]:
    """One interpreter for each version, oldest first; and why the others were left out."""
    chosen: dict[str, Interpreter] = {}
    refused: dict[Path, str] = {}
    for path in candidates():
        interpreter, why = look(path)
        if interpreter is None:
            refused[path] = why
        else:
            chosen.setdefault(interpreter.tag, interpreter)
    return sorted(chosen.values(), key=lambda one: (one.version, one.free_threaded)), refused


def main() -> int:
    found, refused = find()
    for interpreter in found:
        print(f"{interpreter.tag:7} {interpreter}")
    for path, why in refused.items():
        print(f"{'-':7} {path} {why}")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
