"""The service of the example leaks in the second order on glibc, and does not on dmi."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dmi import windbg
from dmi._layers import glibc_malloc

EXAMPLE = Path(__file__).parents[2] / "examples" / "second_order_leak.py"


def moments(text: str) -> dict[str, tuple[int, int]]:
    """Busy and committed KB by label."""
    rows = re.findall(r"^  (\w+) +([0-9,]+) KB busy +([0-9,]+) KB committed", text, re.MULTILINE)
    return {
        label: (int(busy.replace(",", "")), int(committed.replace(",", "")))
        for label, busy, committed in rows
    }


def played(act: str) -> str:
    command = [sys.executable, str(EXAMPLE), "--act", act, "--requests", "1500"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_on_glibc_commit_stays() -> None:
    if glibc_malloc() is None:
        pytest.skip("another C library")
    text = played("glibc")
    found = moments(text)
    assert found["after"][0] < found["peak"][0] / 5
    assert found["after"][1] > found["peak"][1] * 0.9
    assert "Second-order leak in glibc malloc" in text
    assert "Most of what no program uses is held by glibc malloc" in text


def test_on_dmi_commit_comes_back() -> None:
    text = played("dmi")
    found = moments(text)
    assert found["after"][0] < found["peak"][0] / 5
    assert found["after"][1] < found["peak"][1] / 5
    (row,) = windbg.parse(text).heaps[0].rows
    assert abs(row.busy_kib - found["after"][0]) < 512
