"""Interpreters of one process that have pymalloc of their own, from CPython 3.12 on."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import dmi
from dmi.process import open_core
from tools import interpreters

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
NEWER = [each for each in interpreters.find()[0] if each.version >= (3, 12)]

# Three more interpreters; each says to a file of its own how much it has in use.
TARGET = """
import os, sys
try:
    import _interpreters as them
    ids = [them.create("isolated") for _ in range(3)]
except ImportError:
    import _xxsubinterpreters as them
    ids = [them.create(isolated=True) for _ in range(3)]
WORK = "kept = [(n, str(n) * 3, [n]) for n in range(COUNT)]\\ndel kept[::5]"
SAY = '''
import os, sys
os.dup2(os.open("said-NUMBER", os.O_WRONLY | os.O_CREAT), 2)
sys._debugmallocstats()
'''
for number, each in enumerate(ids):
    them.run_string(each, WORK.replace("COUNT", str(9000 + 9000 * number)))
for number, each in enumerate(ids):
    them.run_string(each, SAY.replace("NUMBER", str(number + 1)))
exec(SAY.replace("NUMBER", "0"))
print("ready", flush=True)
sys.stdin.readline()
"""


def said(folder: Path) -> list[int]:
    found = []
    for file in folder.glob("said-*"):
        match = re.search(r"# bytes in allocated blocks\s*=\s*([\d,]+)", file.read_text())
        assert match is not None
        found.append(int(match[1].replace(",", "")))
    return sorted(found)


def busy(process: dmi.Process) -> list[int]:
    heaps = [heap for heap in process.heaps() if heap.kind == "pymalloc"]
    return sorted(heap.stats().busy or 0 for heap in heaps)


@pytest.mark.skipif(not NEWER, reason="needs CPython 3.12 or newer")
@pytest.mark.parametrize("python", NEWER, ids=lambda each: ".".join(map(str, each.version)))
def test_each_interpreter_has_a_heap_of_its_own(
    python: interpreters.Interpreter, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [python.path, "-c", TARGET], cwd=tmp_path, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        told = said(tmp_path)
        assert len(told) == 4
        with dmi.open_process(child.pid) as process:
            assert busy(process) == pytest.approx(told, rel=0.01)
        if shutil.which("gcore"):
            subprocess.run(
                ["gcore", "-o", str(tmp_path / "core"), str(child.pid)],
                capture_output=True, check=True, timeout=60,
            )  # fmt: skip
            with open_core(tmp_path / f"core.{child.pid}") as process:
                assert busy(process) == pytest.approx(told, rel=0.01)
        child.communicate("\n")
