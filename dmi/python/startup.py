"""The start-up file of a virtual environment: with it every Python of the environment uses dmi."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from dmi import _files
from dmi.python import _checks
from dmi.python._install import InstallError, hook

FILE = "dmi-python.pth"

# One line, which site executes because it begins with import. It must not break a Python from which
# dmi has gone, nor leave a file open, which -X dev tells of.
_LINE = (
    "import os; p = {path!r}; os.path.isfile(p) and "
    'exec(\'with open(p, "rb") as o: c = o.read()\\nexec(compile(c, p, "exec"), '
    '{{"__file__": p, "__name__": "dmi.python._start by path"}})\')\n'
)


@dataclass(frozen=True, slots=True)
class Startup:
    """Whether the objects of an environment's programs are on dmi from their start."""

    environment: Path
    file: Path
    enabled: bool
    installed: bool
    """In this very process."""
    asked_for: str | None
    """What PYTHONMALLOC names here: a program that is started so is left with that allocator."""

    def __str__(self) -> str:
        state = "enabled" if self.enabled else "disabled"
        said = f"{state} for {self.environment} ({self.file})"
        if self.enabled and self.asked_for:
            said += (
                f"\nbut PYTHONMALLOC={self.asked_for} is set here and asks for another allocator: "
                "programs that are started with it keep that one (DMI_PYTHON=1 puts them on dmi "
                "all the same)"
            )
        return said


def is_environment() -> bool:
    """Whether this Python is a virtual environment's, and not the system's own."""
    return sys.prefix != sys.base_prefix


def startup_file() -> Path:
    """The start-up file of this environment, whether it is there or not."""
    return Path(sysconfig.get_path("purelib")) / FILE


def status() -> Startup:
    """How things stand in this environment."""
    file = startup_file()
    return Startup(
        Path(sys.prefix),
        file,
        file.is_file(),
        _checks.not_here() is None and bool(hook().installed()),
        _checks.asked_for(),
    )


def enable() -> Startup:
    """Have every Python of this virtual environment start with its objects on dmi.

    InstallError for the system's own Python, which every program of the machine may use, and for
    an interpreter that install() refuses.
    """
    if not is_environment():
        raise InstallError(
            f"{sys.prefix} is not a virtual environment, and a start-up file there would be for "
            "every program that uses it: make one (python -m venv DIRECTORY), or call "
            "dmi.python.install() in the program"
        )
    if reason := _checks.refusal(hook(), ("mem", "obj")):
        raise InstallError(reason)
    file = startup_file()
    code = Path(__file__).with_name("_start.py").resolve()
    # Whoever may read the code may read the line that leads to it.
    _files.write_text(file, _LINE.format(path=str(code)), mode=code.stat().st_mode & 0o644)
    return status()


def disable() -> Startup:
    """Take the start-up file away; nothing happens where there is none."""
    startup_file().unlink(missing_ok=True)
    return status()
