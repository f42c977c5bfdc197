"""The verdict on real programs of which it is known what they do (tests/labelled/diagnosis.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).resolve().parents[1] / "labelled" / "diagnosis.py"

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="scenarios fork and read /proc"),
    pytest.mark.timeout(1800),
]


def play(*names: str) -> str:
    done = subprocess.run(
        [sys.executable, DRIVER, *names], capture_output=True, text=True, timeout=1700, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout
    return done.stdout


@pytest.mark.keeps
def test_one_of_each_kind() -> None:
    text = play(
        "lazy after its delay",
        "one of two heaps",
        "never with virtual blocks",
        "a total below the threshold",
        "mappings of its own",
    )
    assert "5 of 5 right." in text
    assert "First-order leak in heap" in text
    assert "(ill)" in text


@pytest.mark.long
def test_the_whole_set() -> None:
    text = play()
    (row,) = (line.split() for line in text.splitlines() if line.startswith("second-order leak  "))
    found = [int(word) for word in row[2:6]]
    assert sum(found) >= 15
    assert text.count("known") <= 1
