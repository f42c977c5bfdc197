"""tools/cpython_tests.py: what it reads out of the logs of CPython, and what it blames dmi for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tools import cpython_tests

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.reads

LOG = """
test_a (test.test_x.Some.test_a) ... ok
======================================================================
FAIL: test_b (test.test_x.Some.test_b) (value=3)
----------------------------------------------------------------------
======================================================================
FAIL: test_b (test.test_x.Some.test_b) (value=4)
======================================================================
ERROR: setUpClass (test.test_x.Other)
Ran 12 tests in 0.1s
Ran 1 test in 3s
"""
B = "test_b (test.test_x.Some.test_b)"
C = "test_c (test.test_x.Some.test_c)"


@pytest.mark.parametrize(
    ("log", "status", "tests", "failed"),
    [
        (LOG, 2, 13, ["setUpClass (test.test_x.Other)", B]),
        ("Ran 5 tests in 1s", 0, 5, []),
        # Something was left changed; no test wanted to run.
        ("Ran 5 tests in 1s", 3, 5, []),
        ("", 4, 0, []),
        # A test of the runner's own prints failures that are not its.
        (LOG, 0, 13, []),
        ("", 2, 0, [cpython_tests.NO_NAME]),
        ("", -11, 0, [cpython_tests.CRASHED]),
        (LOG, None, 13, ["setUpClass (test.test_x.Other)", B, cpython_tests.RAN_OUT]),
    ],
)
def test_a_log_is_read(log: str, status: int | None, tests: int, failed: list[str]) -> None:
    assert cpython_tests.read(log, status) == (tests, failed)


@pytest.mark.parametrize(
    ("runs", "only"),
    [
        ([[]], []),
        ([[B], [B]], []),
        ([[B, C], [B], [C]], [C]),
        # It failed once: one of those that fail one time in ten.
        ([[B], [], []], []),
        ([[cpython_tests.CRASHED], [], [cpython_tests.CRASHED]], [cpython_tests.CRASHED]),
        ([[cpython_tests.CRASHED], [], [B]], [B]),
        ([[cpython_tests.CRASHED], [B], [B]], []),
        ([[cpython_tests.RAN_OUT], [cpython_tests.RAN_OUT]], []),
    ],
)
def test_only_what_fails_twice_and_not_without_is_dmis(
    runs: list[list[str]], only: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(runs)
    ways = []

    def run(_: object, name: str, dmi: bool) -> tuple[int, list[str]]:
        ways.append(dmi)
        return 1, left.pop(0)

    monkeypatch.setattr(cpython_tests.Runner, "run", run)
    pythons = cpython_tests.Pythons(["with"], ["without"])
    judged = cpython_tests.Runner(pythons, tmp_path / "logs", 1, []).judge("test_x")
    assert judged.only == only
    assert not left
    assert ways == [True, False, True][: len(runs)]
