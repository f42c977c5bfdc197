"""Builds the native libraries: libdmi.so and the preload library, or libdmi.dll.

Both make and setup.py build them here, with the flags below and no others of the project's making:
what the interpreter was built with does not reach them. Debian's Python, for example, links with
-Bsymbolic-functions, which binds the preload library's malloc to itself, so that a program's own
malloc is never called.

An object is compiled again when its source, a header that it includes, or its command changed.
A C file is part of the library by where it stands: every folder under csrc is, but `preload` is
of the preload library alone. A file whose name begins with the name of another system is left out.

Run from the repository's root, `python -m tools.native` builds into the package of the source tree.
The environment may set CC, and CPPFLAGS, CFLAGS and LDFLAGS in addition to the project's flags.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS = ("linux", "windows", "fake")
# Folders of csrc that are not part of libdmi.
APART = ("include", "preload", "foreign")
# Extensions that carry the folder of their name: what only Python asks for.
CARRIED = ("_foreign",)

COMPILE = ["-std=gnu11", "-O2", "-g", "-fvisibility=hidden", "-Wall", "-Wextra"]
COMPILE_LINUX = ["-fPIC", "-pthread", "-fno-semantic-interposition", "-ftls-model=initial-exec"]
COMPILE_WINDOWS = ["-D__USE_MINGW_ANSI_STDIO=1"]
LINK_LINUX = ["-pthread", "-ldl", "-Wl,-z,nodelete", "-Wl,-z,now", "-Wl,--no-undefined"]
LINK_WINDOWS = ["-s", "-static-libgcc", "-lsynchronization"]
# No landing pads: each is an instruction on every malloc and free.
COMPILE_PRELOAD = ["-fcf-protection=none"]
# Stacks are read through the doors and their slow paths: these link their frames, but for what
# calls nothing. malloc.c of the preload library does so by hand: its slow malloc would cost more.
FRAMES = ["-fno-omit-frame-pointer", "-momit-leaf-frame-pointer"]
FRAMED = ("realloc.c", "door.c", "new.c", "new_more.c", "sampler.c", "agent.c")
# Never taken from the environment either: the first breaks interposition, and the second lets the
# compiler move what the order of the objects fixes.
REFUSED = ("-Wl,-Bsymbolic", "-flto")


class BuildError(Exception):
    """The compiler or the linker failed; the text is what it said."""


def words(variable: str) -> list[str]:
    """The words of an environment variable that holds flags, without the refused ones."""
    found = shlex.split(os.environ.get(variable, ""))
    return [word for word in found if not word.startswith(REFUSED)]


def find_compiler() -> list[str]:
    """The C compiler: CC, or the first that is found."""
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        return chosen
    for name in ("gcc", "clang", "cc"):
        if shutil.which(name):
            return [name]
    raise BuildError("no C compiler found: install gcc, or name one in CC")


@dataclass(frozen=True)
class Toolchain:
    """A C compiler and the system that it builds for."""

    compiler: tuple[str, ...]
    machine: str

    @classmethod
    def find(cls) -> Toolchain:
        compiler = find_compiler()
        return cls(tuple(compiler), run([*compiler, "-dumpmachine"]).strip())

    @property
    def windows(self) -> bool:
        return any(name in self.machine for name in ("mingw", "windows"))

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("libdmi.dll",) if self.windows else ("libdmi.so", "libdmi_malloc.so")

    def compile_flags(self, preload: bool) -> list[str]:
        flags = COMPILE + (COMPILE_WINDOWS if self.windows else COMPILE_LINUX)
        if preload and self.machine.startswith(("x86_64", "amd64")):
            flags = flags + COMPILE_PRELOAD
        return [*flags, "-Icsrc/include", "-Icsrc", *words("CPPFLAGS"), *words("CFLAGS")]

    def link_flags(self, name: str) -> list[str]:
        named = [] if self.windows else [f"-Wl,-soname,{name}"]
        flags = LINK_WINDOWS if self.windows else LINK_LINUX
        return [*flags, *named, *words("CFLAGS"), *words("LDFLAGS")]


def run(command: list[str]) -> str:
    """What the command printed; raises BuildError with what it said when it fails."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise BuildError(f"{shlex.join(command)}\n{done.stdout}{done.stderr}".rstrip())
    # Warnings are shown, and do not stop the build.
    sys.stderr.write(done.stderr)
    return done.stdout


def sources(windows: bool) -> tuple[list[str], list[str]]:
    """The C files of the library and those of the preload library alone, relative to the root."""
    foreign = tuple(name for name in SYSTEMS if name != ("windows" if windows else "linux"))
    core: list[str] = []
    preload: list[str] = []
    for path in sorted((ROOT / "csrc").rglob("*.c")):
        folder = path.relative_to(ROOT / "csrc").parts[0]
        if path.name.startswith(foreign):
            continue
        if folder not in APART:
            core.append(path.relative_to(ROOT).as_posix())
        elif folder == "preload" and not windows:
            preload.append(path.relative_to(ROOT).as_posix())
    return core, preload


def dependencies(listing: str) -> list[str]:
    """The files that a compiler's makefile rule names; an escaped blank is part of a name."""
    _, _, text = listing.replace("\\\n", " ").partition(": ")
    found = text.replace("\\ ", "\0").split()
    return [name.replace("\0", " ") for name in found]


def is_current(target: Path, record: str, inputs: list[Path]) -> bool:
    """Whether the target was made by the recorded command, after all its inputs changed last."""
    try:
        if target.with_name(f"{target.name}.made").read_text() != record:
            return False
        made = target.stat().st_mtime_ns
        return all(path.stat().st_mtime_ns < made for path in inputs)
    except OSError:
        return False


def make(target: Path, command: list[str]) -> None:
    """Run the command that makes the target, and record it once it succeeded."""
    record = target.with_name(f"{target.name}.made")
    record.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    run(command)
    record.write_text(shlex.join(command))


def compile_one(command: list[str], source: str, target: Path) -> bool:
    """Make one object; False when there was nothing to do."""
    listing = target.with_suffix(".d")
    full = [*command, "-MMD", "-MF", str(listing), "-c", source, "-o", str(target)]
    try:
        inputs = [ROOT / name for name in dependencies(listing.read_text())]
    except OSError:
        inputs = []
    if inputs and is_current(target, shlex.join(full), inputs):
        return False
    make(target, full)
    return True


def link_one(command: list[str], objects: list[Path], target: Path) -> None:
    """Make one library, in one step: who has the old one loaded keeps it."""
    if is_current(target, shlex.join(command), objects):
        return
    target.unlink(missing_ok=True)
    make(target, command)
    print(f"linked {target.name}", flush=True)


def build(toolchain: Toolchain | None = None) -> list[Path]:
    """Bring the libraries up to date; returns them where they were built."""
    chosen = toolchain or Toolchain.find()
    folder = ROOT / "build" / "native" / chosen.machine
    core, preload = sources(chosen.windows)
    compiler = list(chosen.compiler)
    parts = dict.fromkeys(core, False) | dict.fromkeys(preload, True)
    objects = {source: folder / Path(source).with_suffix(".o") for source in parts}

    def compile_source(source: str) -> bool:
        command = compiler + chosen.compile_flags(parts[source])
        if Path(source).name in FRAMED and not chosen.windows:
            command += FRAMES
        return compile_one(command, source, objects[source])

    # Printed here and not by the threads, whose lines would run into each other.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for source, compiled in zip(parts, pool.map(compile_source, parts), strict=True):
            if compiled:
                print(f"compiled {source}", flush=True)

    made: list[Path] = []
    for name in chosen.libraries:
        # The preload library carries the core itself: a call into another library would cost more
        # than the core does.
        needed = [objects[source] for source in (core + preload if "malloc" in name else core)]
        target = folder / name
        command = [*compiler, "-shared", *map(str, needed), "-o", str(target)]
        link_one(command + chosen.link_flags(name), needed, target)
        made.append(target)
    return made


def install(paths: list[Path], folder: Path) -> None:
    """Copy what changed into the folder, as a new file: programs may have the old one loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        target = folder / path.name
        if target.exists() and target.read_bytes() == path.read_bytes():
            continue
        part = folder / f".{path.name}.{os.getpid()}"
        shutil.copy2(path, part)
        part.replace(target)


def copy_headers(folder: Path) -> None:
    """Put the public headers where dmi.get_include() finds them, and take away others."""
    headers = sorted((ROOT / "csrc" / "include" / "dmi").glob("*.h*"))
    target = folder / "include" / "dmi"
    install(headers, target)
    for stray in set(target.iterdir()) - {target / header.name for header in headers}:
        stray.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the native libraries.")
    parser.add_argument(
        "--into", type=Path, default=ROOT / "dmi", help="the folder to copy them and the headers to"
    )
    into = parser.parse_args().into
    try:
        made = build()
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    install(made, into)
    copy_headers(into)
    return 0


if __name__ == "__main__":
    sys.exit(main())
