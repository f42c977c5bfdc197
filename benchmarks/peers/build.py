"""Compile the native workloads and the two helpers of this package."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent / "native"
FLAGS = ("-std=c11", "-O2", "-D_GNU_SOURCE", "-Wall", "-Wextra")
LIBRARIES = ("-lpthread", "-lm", "-ldl")


class BuildError(RuntimeError):
    """No compiler, or it refused a program."""


def find_compiler() -> str:
    """Path of the C compiler: gcc, so that numbers of two machines share their loops, or cc."""
    for name in ("gcc", "cc"):
        path = shutil.which(name)
        if path:
            return path
    raise BuildError("no C compiler found: install gcc")


def build(target: Path, programs: Iterable[str]) -> None:
    """Compile each named workload, `launch` and `probe` into the folder `target`."""
    compiler = find_compiler()
    target.mkdir(parents=True, exist_ok=True)
    sources = [NATIVE / f"{name}.c" for name in programs]
    sources += [HERE / "launch.c", HERE / "probe.c"]
    for source in sources:
        command = [compiler, *FLAGS, str(source), "-o", str(target / source.stem), *LIBRARIES]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"{source.name} does not compile:\n{done.stderr}")
