"""Where the heaps of a process lie: one random window, out of the way of others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dmi

ROOT = Path(__file__).parents[2]
LIBRARY = Path(dmi.__file__).parent / "libdmi_malloc.so"
PROGRAM = ROOT / "tests/preload/where.c"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="preloading is for Linux")


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that says where its blocks lie."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    target = tmp_path_factory.mktemp("where") / "where"
    subprocess.run([compiler, "-O1", "-o", target, PROGRAM], check=True)
    return target


def places(program: Path, *words: str, around: tuple[str, ...] = ()) -> list[int]:
    """What one process says."""
    done = subprocess.run(
        [*around, str(program), *words],
        env={"LD_PRELOAD": str(LIBRARY), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [int(word, 16) for word in done.stdout.split()]


def test_each_process_has_a_window_of_its_own(where: Path) -> None:
    """No two of 256 processes have the same, and each of 28 bits is as often set as not."""
    firsts = []
    for _ in range(256):
        first, second, third = places(where)
        # In order, and near each other.
        assert first < second < third < first + (64 << 20)
        assert 0x1_0000_0000 < first < 0x7000_0000_0000
        firsts.append(first)
    assert len(set(firsts)) == 256
    # 21 bits say which stretch of 4 MiB, 7 at least which page of it.
    numbers = [(first >> 22 & (1 << 21) - 1) << 7 | first >> 12 & 0x7F for first in firsts]
    for bit in range(28):
        often = sum(number >> bit & 1 for number in numbers)
        assert 80 <= often <= 176, (bit, often)  # six standard deviations


def test_a_limit_on_address_space_is_no_hindrance(where: Path) -> None:
    """Where the kernel refuses, another address or an error as before: here there is enough."""
    assert len(places(where, "2000")) == 3


@pytest.mark.long
def test_valgrind_lets_it_run(where: Path) -> None:
    """Valgrind has no such addresses: then any will do."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        pytest.skip("no valgrind")
    tool = (valgrind, "-q", "--tool=none", "--trace-children=no")
    assert len(places(where, around=tool)) == 3
