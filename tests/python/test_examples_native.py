"""The C and C++ examples, built as their first lines say."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import dmi
from dmi import cli

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize(
    ("source", "compiler"),
    [("c/heap.c", ["cc", "-std=c11"]), ("cpp/heap.cpp", ["c++", "-std=c++17"])],
)
def test_built_and_run(
    source: str, compiler: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no {compiler[0]} here")
    assert cli.main(["env", "--flags"]) == 0
    flags = shlex.split(capsys.readouterr().out)
    assert f"-I{dmi.get_include()}" in flags
    program = tmp_path / "heap"
    built = subprocess.run(
        [*compiler, "-Wall", "-Wextra", "-Werror", str(EXAMPLES / source), *flags, "-o", program],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    committed = [max(map(int, re.findall(r"\d+", line))) for line in lines]
    assert committed[-1] < committed[0] * 0.6, done.stdout
