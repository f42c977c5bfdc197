"""Damaged texts and snapshots (tests/fuzz/fuzz.py): a short run, and a longer one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).resolve().parents[1] / "fuzz" / "fuzz.py"

pytestmark = [
    pytest.mark.reads,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it"),
    pytest.mark.timeout(7200),
]


@pytest.mark.parametrize("target", ["texts", "leaks", "snapshots"])
@pytest.mark.parametrize(
    "count",
    [
        500,
        pytest.param(10_000, marks=pytest.mark.long),
        pytest.param(300_000, marks=pytest.mark.nightly),
    ],
)
def test_no_crash_no_hang_no_flood(target: str, count: int) -> None:
    done = subprocess.run(
        [sys.executable, DRIVER, target, "--count", str(count)],
        capture_output=True,
        text=True,
        timeout=7000,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, rest = done.stdout.split(": ", 1)
    assert first == f"{count:,} {target}, seed 1"
    numbers = [int(word.replace(",", "")) for word in rest.split() if word[0].isdigit()][:2]
    # Both must happen, or nothing is tried.
    assert min(numbers) > count // 30
