"""Find the allocators of this machine, and make sure that preloading one really replaces malloc."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field, replace
from pathlib import Path

# Variables that change how an allocator behaves: a comparison starts without any of them.
CLEARED = ("MALLOC_", "MIMALLOC_", "TCMALLOC_", "GLIBC_TUNABLES", "DMI_", "LD_PRELOAD")

# Debian's packages, by the file that they install.
SYSTEM = (
    ("jemalloc", "libjemalloc.so.2"),
    ("mimalloc2", "libmimalloc.so.2.0"),
    ("tcmalloc", "libtcmalloc_minimal.so.4"),
)


class AllocatorError(ValueError):
    """A library that is not there, or that does not serve malloc when preloaded."""


@dataclass(frozen=True)
class Allocator:
    """One column of the tables: a preload library (None: the C library's own) and its options."""

    name: str
    library: Path | None
    options: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """This process's environment without any allocator's variables, with this one's options.

        LD_PRELOAD is not in it: the library is for the measured program alone.
        """
        kept = {k: v for k, v in os.environ.items() if not k.startswith(CLEARED)}
        return kept | self.options

    def again(self) -> Allocator:
        """The same allocator under a second name, for the A/A pair."""
        return replace(self, name=f"{self.name} again")


def _library_folders() -> list[Path]:
    multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    folders = [Path("/usr/lib") / multiarch, Path("/usr/lib64"), Path("/usr/lib")]
    return [*folders, Path("/usr/local/lib")]


def _mimalloc_wheel() -> Path | None:
    """libmimalloc.so of the `cmeel-mimalloc` wheel, when this Python has it installed."""
    for folder in sys.path:
        found = sorted(Path(folder or ".").glob("cmeel.prefix/lib/libmimalloc.so*"))
        if found:
            return found[0].resolve()
    return None


def _own_library() -> Path | None:
    """dmi's preload library, when the package is installed and carries one."""
    try:
        path = Path(str(importlib.import_module("dmi").get_preload_path()))
    except (ImportError, AttributeError, OSError):
        return None
    return path if path.is_file() else None


def find() -> list[Allocator]:
    """Every allocator that this machine has, glibc first and dmi last."""
    found = [Allocator("glibc", None)]
    for name, file in SYSTEM:
        path = next((f / file for f in _library_folders() if (f / file).is_file()), None)
        if path:
            found.append(Allocator(name, path.resolve()))
    wheel = _mimalloc_wheel()
    if wheel:
        found.append(Allocator("mimalloc3", wheel))
        # It takes transparent huge pages where the system allows them on request.
        found.append(Allocator("mimalloc3-nothp", wheel, {"MIMALLOC_ALLOW_THP": "0"}))
    own = _own_library()
    if own:
        found.append(Allocator("dmi", own))
    return found


def parse_library(text: str) -> Allocator:
    """`NAME=PATH` as an allocator. Raises AllocatorError when malformed or no file is there."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise AllocatorError(f"--lib takes NAME=PATH, not {text!r}")
    file = Path(path).resolve()
    if not file.is_file():
        raise AllocatorError(f"--lib {name}: no file {path}")
    return Allocator(name, file)


def parse_option(text: str) -> tuple[str, str, str]:
    """`NAME:KEY=VALUE` as its three parts. Raises AllocatorError when it is malformed."""
    name, colon, setting = text.partition(":")
    key, equals, value = setting.partition("=")
    if not (name and colon and key and equals):
        raise AllocatorError(f"--env takes NAME:KEY=VALUE, not {text!r}")
    return name, key, value


def check(allocator: Allocator, programs: Path) -> None:
    """Raise AllocatorError when a program started under the allocator is served by another file."""
    if allocator.library is None:
        return
    environment = allocator.environment() | {"LD_PRELOAD": str(allocator.library)}
    done = subprocess.run(
        [str(programs / "probe")], env=environment, capture_output=True, text=True, check=False
    )
    served = done.stdout.strip().splitlines()
    if done.returncode != 0 or not served:
        raise AllocatorError(f"{allocator.name}: a program does not run under it: {done.stderr}")
    if Path(served[-1]).resolve() != allocator.library:
        raise AllocatorError(f"{allocator.name}: malloc is served by {served[-1]}, not by it")
