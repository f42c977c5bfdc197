"""A whole suite under the pytest plugin: an alarm is one when the test does it again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.python.test_testing_fixtures import outcomes
from tests.python.test_testing_labelled import fates, leaks

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = ("--dmi", "--dmi-no-second-order-leak", "--dmi-max-growth=1M", "--dmi-again=3")

# Few blocks that stay on many pages, or all of many: each run again, or only at first.
SUITE = """
    import functools, logging, unittest
    import pytest
    from hypothesis import given, settings, strategies as st

    kept = []
    cache = []
    runs = {}

    def few(size):
        return [bytes(size + n % 300) for n in range(40_000)][::20]

    def much():
        return [bytes(1000) for _ in range(1500)]

    def times(name):
        runs[name] = runs.get(name, 0) + 1
        return runs[name]

    def test_leaks(): kept.append(few(100))

    @pytest.mark.parametrize("number", [1, 2])
    def test_leaks_with(number): kept.append(much())

    def test_grows(): kept.append(much())

    @pytest.fixture(scope="module")
    def shared():
        assert times("shared") == 1
        yield []
        assert times("torn down") == 1

    @pytest.fixture
    def own():
        runs["made"] = runs.get("made", 0) + 1
        yield []
        runs["gone"] = runs.get("gone", 0) + 1

    def test_leaks_beside_fixtures(shared, own, tmp_path, capsys, caplog):
        assert runs["made"] == runs.get("gone", 0) + 1
        print("x" * 100_000)
        shared.append(much())
        logging.getLogger("it").warning("%s", "y" * 100_000)
        assert len(caplog.records) == 1
        assert len(capsys.readouterr().out) == 100_001

    class TestClass:
        def test_leaks(self):
            assert not hasattr(self, "there")
            self.there = True
            kept.append(much())

    class TestUnit(unittest.TestCase):
        @classmethod
        def setUpClass(cls): assert times("class") == 1
        def setUp(self): self.there = [1]
        def tearDown(self): self.there.clear()
        def test_leaks(self): kept.append(much())
        def test_leaks_in_subtests(self):
            for n in range(3):
                with self.subTest(n=n):
                    kept.append(much())
        def test_a_second_run_fails(self):
            if times("unit") == 1:
                kept.append(much())
            self.assertEqual(runs["unit"], 1)

    @settings(max_examples=2, database=None)
    @given(st.integers())
    def test_leaks_under_hypothesis(number): kept.append(much())

    class TestMethods:
        @settings(max_examples=2, database=None)
        @given(st.integers())
        def test_leaks_under_hypothesis(self, number): kept.append(much())

    def test_fills_a_cache(): cache.append(much()) if not cache else None

    def test_fills_a_cache_filled_in_two():
        if times("two") <= 2:
            kept.append(much())

    def test_replaces_what_a_cache_holds():
        runs["held"] = few(700)

    def test_prints_and_logs_at_length():
        if times("prints") == 1:
            kept.append(much())
        print("x" * (2 << 20))
        logging.getLogger("it").warning("%s", "y" * (2 << 20))

    def test_a_second_run_fails():
        kept.append(much())
        assert times("twice") == 1, "only once"

    def test_a_second_run_skips():
        kept.append(much())
        if times("skips") > 1:
            pytest.skip("no more")

    @pytest.fixture
    def once():
        if times("once") > 1:
            raise RuntimeError("no second time")

    def test_a_fixture_cannot_be_made_again(once): kept.append(much())

    @pytest.mark.dmi
    def test_with_a_mark_fails_at_once():
        assert times("marked") == 1
        kept.append(much())

    @pytest.mark.xfail(strict=True)
    def test_known(): kept.append(much())

    def test_the_last(shared):
        assert runs["made"] == runs["gone"] == 4
        assert times("last") == 1 and runs["shared"] == 1 and runs["class"] == 1
"""
LEAKS = {
    "test_leaks",
    "test_leaks_with[1]",
    "test_leaks_with[2]",
    "test_grows",
    "test_leaks_beside_fixtures",
    "TestClass::test_leaks",
    "TestUnit::test_leaks",
    "TestUnit::test_leaks_in_subtests",
    "test_leaks_under_hypothesis",
    "TestMethods::test_leaks_under_hypothesis",
    "test_with_a_mark_fails_at_once",
}
NONE = {
    "test_fills_a_cache": "not in run 2",
    "test_fills_a_cache_filled_in_two": "not in run 3",
    "test_replaces_what_a_cache_holds": "not in run 2",
    "test_prints_and_logs_at_length": "not in run 2",
    "test_a_second_run_fails": "could not be run again: AssertionError: only once",
    "test_a_second_run_skips": "could not be run again: Skipped: no more",
    "test_a_fixture_cannot_be_made_again": "could not be run again: RuntimeError: no second time",
    "TestUnit::test_a_second_run_fails": "could not be run again: AssertionError: 2 != 1",
}


def test_only_what_is_done_again_is_an_alarm(tmp_path: Path) -> None:
    found, said = outcomes(tmp_path, SUITE, *WHOLE)
    expected = dict.fromkeys(LEAKS, "failed") | dict.fromkeys(NONE, "passed")
    expected |= {"test_known": "xfail", "test_the_last": "passed"}
    assert {name: found.get(name) for name in expected} == expected, said
    assert said.count("did it again in each of 3 further runs") == len(LEAKS) - 1
    notes = said.split("no failures")[1].split("what tests left behind")[0]
    for name, why in NONE.items():
        assert re.search(rf"::{re.escape(name)}: .*{re.escape(why)}", notes), said
    assert set(re.findall(r"^test_it.py::(\S+): ", notes, re.MULTILINE)) == NONE.keys(), said
    # Reports of subtests are told of the first run alone.
    assert "3 subtests passed" in said


def test_without_further_runs_the_first_is_an_alarm(tmp_path: Path) -> None:
    text = """
        runs = []
        def test_fills_a_cache():
            if not runs:
                runs.extend([bytes(100 + n % 300) for n in range(40_000)][::20])
    """
    found, said = outcomes(tmp_path, text, *WHOLE, "--dmi-again=0")
    assert found == {"test_fills_a_cache": "failed"}, said
    assert "further runs" not in said


def test_notes_come_from_other_processes(tmp_path: Path) -> None:
    text = """
        runs = []
        def test_fills_a_cache():
            if not runs:
                runs.extend([bytes(100 + n % 300) for n in range(40_000)][::20])
        def test_another(): pass
    """
    found, said = outcomes(tmp_path, text, *WHOLE, "-n", "2")
    assert found == {"test_fills_a_cache": "passed", "test_another": "passed"}, said
    assert said.count("not in run 2") == 1, said


def test_a_large_leak_is_not_repeated_to_the_end(tmp_path: Path) -> None:
    text = """
        kept = []
        def test_keeps_much(): kept.append(bytearray(100 << 20))
    """
    found, said = outcomes(tmp_path, text, *WHOLE, "--dmi-again=20")
    assert found == {"test_keeps_much": "failed"}, said
    assert "did it again in each of 3 further runs" in said


@pytest.mark.long
def test_labelled_leaks_of_a_whole_suite(tmp_path: Path) -> None:
    """Leaks that are caught at once where the test has a mark are caught without one, too."""
    names = sorted(leaks())
    found = fates(names, tmp_path, "--dmi", "--dmi-no-second-order-leak", marked=False)
    missed = {name for name in names if found.get(name) not in ("failed", "skipped")}
    assert not missed
