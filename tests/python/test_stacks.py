"""Stacks go through code that links no frames, by the tables that exceptions need: the C library's,
C++'s, a stripped library's, and of a plugin that was loaded where another one had been."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dmi.profile import Profile
from dmi.profile._symbols import Resolver

SOURCES = Path(__file__).parents[1] / "preload"
LIBC, VERSION = platform.libc_ver()

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="tables are read for x86-64"),
    pytest.mark.skipif(
        LIBC != "glibc" or tuple(map(int, VERSION.split("."))) < (2, 35),
        reason="glibc finds tables without a lock since 2.35",
    ),
]


def compiled(folder: Path, source: str, target: str, *flags: str | Path) -> Path:
    compiler = "g++" if source.endswith(".cpp") else "gcc"
    file = folder / target
    unlinked = ["-O2", "-fomit-frame-pointer", "-fno-builtin-malloc"]
    command = [compiler, *unlinked, "-o", str(file), str(SOURCES / source), *map(str, flags)]
    subprocess.run(command, check=True, timeout=60)
    return file


def profiled(folder: Path, *command: str | Path) -> tuple[Profile, str]:
    file = folder / "found.profile"
    start = [
        sys.executable,
        "-m",
        "dmi",
        "run",
        "--profile",
        str(file),
        "--sample",
        "1",
        "--cost",
        "off",
        "--",
    ]
    done = subprocess.run(
        [*start, *command], check=True, timeout=60, stdout=subprocess.PIPE, text=True
    )
    return Profile.load(file), done.stdout


def functions(profile: Profile, size: int) -> list[list[str]]:
    """The functions of each stack that holds blocks of that size, from the innermost on."""
    numbers = {block.stack for mark in profile.marks for block in mark.blocks if block.size == size}
    with Resolver(profile) as resolver:
        return [[each.function for each in resolver.stack(number)] for number in numbers]


@pytest.mark.parametrize(
    "flags",
    [
        ["-z", "now"],
        # Segments that do not lie close together, as other linkers make them.
        ["-Wl,-z,max-page-size=0x200000"],
        ["-no-pie", "-Wl,-z,max-page-size=0x200000"],
    ],
    ids=["close", "apart", "fixed"],
)
def test_code_without_frame_pointers(tmp_path: Path, flags: list[str]) -> None:
    apart = [flag for flag in flags if flag != "-no-pie"]
    library = compiled(tmp_path, "through.c", "libthrough.so", "-shared", "-fPIC", "-s", *apart)
    program = compiled(tmp_path, "unlinked.cpp", "unlinked", library, *flags)
    profile, _ = profiled(tmp_path, program)
    for size, function in (
        (160, "keep_copies"),
        (320, "keep_strings"),
        (512, "keep_while_sorting"),
        (960, "keep_through_library"),
    ):
        stacks = functions(profile, size)
        assert stacks
        for stack in stacks:
            assert function in stack, (size, stack)
            after = stack[stack.index(function) + 1 :]
            assert after[0] == "main"
            assert after[-1] == "_start", after


def test_rows_of_a_library_that_is_gone_are_not_used_for_the_next(tmp_path: Path) -> None:
    plugins = [
        compiled(tmp_path, "reload_plugin.c", f"{n}.so", "-shared", "-fPIC", f"-DBYTES={n}", "-g0")
        for n in (24, 88)
    ]
    program = compiled(tmp_path, "reload.c", "reload", "-g0")
    profile, out = profiled(tmp_path, program, *plugins)
    if int(out) < 10:
        pytest.skip("the plugins came to lie at different places")
    stacks = functions(profile, 2048)
    assert len(stacks) >= 1
    for stack in stacks:
        at = stack.index("load_and_keep")
        assert stack[at : at + 3] == ["load_and_keep", "turn", "main"]
        assert stack[-1] == "_start"
