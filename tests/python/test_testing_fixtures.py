"""The pytest plugin and what is made beside a test: fixtures, imports, what pytest itself holds."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import dmi
from dmi.testing import Limits, Watch

ROOT = Path(__file__).resolve().parents[2]


def outcomes(folder: Path, text: str, *options: str, **files: str) -> tuple[dict[str, str], str]:
    """What became of each test, and all that was printed. Python's objects are on dmi."""
    (folder / "pytest.ini").touch()
    for name, content in {"test_it": text, **files}.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(content))
    environment = dict(os.environ, PYTHONPATH=f"{folder}:{ROOT}", PYTEST_ADDOPTS="")
    environment |= {"LD_PRELOAD": dmi.get_preload_path(), "PYTHONMALLOC": "malloc"}
    environment.pop("CI", None)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "-q", *options]
    done = subprocess.run(
        [*command, "test_it.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("PASSED", "FAILED", "ERROR", "XFAIL", "XPASS", "SKIPPED") and "::" in rest:
            name = rest.split("::", 1)[1].split(" ")[0]
            found[name] = f"{found[name]}, {word.lower()}" if name in found else word.lower()
    assert found, done.stdout + done.stderr
    return found, done.stdout


FIXTURES = """
    import importlib, logging, sys, unittest
    import dmi, pytest

    grows = pytest.mark.dmi(max_growth="1 MiB")
    kept = []

    def much():
        return [bytes(1000) for _ in range(4000)]

    @pytest.fixture
    def box():
        values = []
        yield values
        values.clear()

    @pytest.fixture
    def returned():
        return []

    @pytest.fixture(scope="module")
    def shared():
        return much()

    @pytest.fixture(scope="session")
    def late():
        return much()

    @pytest.fixture
    def forgets():
        yield
        kept.append(much())

    @pytest.fixture
    def holds():
        values = [bytes(200) for _ in range(40_000)]
        yield values
        del values[:]

    @grows
    def test_a_fixture_frees(box): box.extend(much())

    @grows
    def test_a_fixture_was_returned(returned): returned.extend(much())

    @grows
    def test_wider_fixtures_are_not_the_test(shared, request): request.getfixturevalue("late")

    @grows
    def test_growth_of_a_wider_fixture_is(shared): shared.extend(much())

    @grows
    def test_a_fixture_forgets(forgets): pass

    @grows
    def test_a_leak_is_not_hidden_by_what_a_fixture_frees(holds): kept.append(much())

    # What stays pinned is seen only when the fixture has let go of what lies around it.
    @pytest.mark.dmi(no_second_order_leak=True)
    def test_a_few_of_a_fixture_stay(holds): kept.append(holds[::20])

    @pytest.mark.dmi(max_growth="1 MiB", loops=3)
    def test_loops_with_a_fixture(box): box.extend(much())

    @pytest.mark.dmi(max_growth="1 MiB", loops=3)
    def test_loops_that_leak(box): kept.append(much())

    @grows
    def test_an_import(): importlib.import_module("large")

    @grows
    def test_an_import_statement():
        import other_large

    @grows
    def test_an_import_again_and_again():
        for _ in range(2):
            sys.modules.pop("large")
            kept.append(importlib.import_module("large"))

    @grows
    def test_an_import_that_fails():
        for _ in range(300):
            with pytest.raises(ImportError):
                import nothing_of_this_name
        kept.append(much())

    @grows
    def test_an_import_beside_a_leak():
        import third_large
        kept.append(much())

    @grows
    def test_an_import_beside_a_heap_that_stays():
        kept.append(heap := dmi.Heap())
        for _ in range(4000):
            heap.malloc(1000)
        import fourth_large

    @grows
    def test_an_import_gives_nothing_back():
        with dmi.Heap("never") as heap:
            heap.free(heap.malloc(1 << 20))
            before = heap.stats().committed
            import fifth_large
            assert heap.stats().committed == before

    @grows
    def test_an_import_that_makes_a_heap(): import makes_a_heap

    @grows
    def test_an_import_that_raises():
        with pytest.raises(ImportError) as raised:
            import raises
        names = [entry.name for entry in raised.traceback]
        assert names == ["test_an_import_that_raises", "<module>"]

    @grows
    def test_log_records():
        for values in [much(), much()]:
            logging.getLogger("it").debug("%s", values)

    @grows
    class TestMany(unittest.TestCase):
        def test_subtests(self):
            for n in range(3000):
                with self.subTest(n=n):
                    pass

    @grows
    def test_prints():
        print("x" * (3 << 20))

    class TestOfAClass:
        @grows
        def test_sets(self): self.values = much()

    @pytest.mark.xfail
    @grows
    def test_known(): kept.append(much())

    @pytest.mark.xfail(strict=True)
    @grows
    def test_known_and_better(): pass

    @grows
    def test_fails_itself(box):
        box.extend(much())
        assert len(box) == 0

    @grows
    def test_skips(): pytest.skip("no")
"""

WELL = {
    "test_a_fixture_frees",
    "test_a_fixture_was_returned",
    "test_wider_fixtures_are_not_the_test",
    "test_loops_with_a_fixture",
    "test_an_import",
    "test_an_import_statement",
    "test_an_import_that_makes_a_heap",
    "test_an_import_gives_nothing_back",
    "test_an_import_that_raises",
    "test_log_records",
    "test_prints",
    "TestMany::test_subtests",
    "TestOfAClass::test_sets",
}
BROKEN = {
    "test_growth_of_a_wider_fixture_is",
    "test_a_fixture_forgets",
    "test_a_leak_is_not_hidden_by_what_a_fixture_frees",
    "test_a_few_of_a_fixture_stay",
    "test_loops_that_leak",
    "test_an_import_again_and_again",
    "test_an_import_that_fails",
    "test_an_import_beside_a_leak",
    "test_an_import_beside_a_heap_that_stays",
    "test_known_and_better",
    "test_fails_itself",
}
LARGE = "values = [bytes(1000) for _ in range(4000)]\n"
MAKES_A_HEAP = """
import dmi
heap = dmi.Heap()
blocks = [heap.malloc(1000) for _ in range(4000)]
"""
RAISES = 'raise ImportError("no")'


def test_what_a_test_is_judged_by(tmp_path: Path) -> None:
    names = ("large", "other_large", "third_large", "fourth_large", "fifth_large")
    modules = {**dict.fromkeys(names, LARGE), "raises": RAISES, "makes_a_heap": MAKES_A_HEAP}
    found, said = outcomes(tmp_path, FIXTURES, **modules)
    expected = dict.fromkeys(WELL, "passed") | dict.fromkeys(BROKEN, "failed")
    assert {name: found.get(name) for name in expected} == expected, said
    assert found["test_known"] == "xfail"
    assert "1 skipped" in said
    assert "not counted: 4." in said
    assert "machinery" not in said


HEAPS = """
    import dmi, pytest
    there = dmi.Heap("lazy", name="there")

    @pytest.fixture
    def made():
        with dmi.Heap("lazy", name="made") as heap:
            yield heap

    @pytest.fixture
    def filled():
        blocks = [there.malloc(1000) for _ in range(4000)]
        yield blocks
        for block in blocks:
            there.free(block)

    @pytest.mark.dmi(max_growth="1 MiB", heap="there")
    def test_a_fixture_frees(filled): filled.extend(there.malloc(1000) for _ in range(4000))

    @pytest.mark.dmi(max_growth="1 MiB", heap="there")
    def test_keeps(filled): [there.malloc(1000) for _ in range(4000)]

    @pytest.mark.dmi(max_growth="1 MiB", heap="made")
    def test_fills_what_is_closed(made): [made.malloc(1000) for _ in range(4000)]

    @pytest.mark.dmi(max_growth="1 MiB", heap=["made", "there"])
    def test_well(made, filled): made.free(made.malloc(1000))

    @pytest.mark.dmi(max_growth="1 MiB")
    def test_handed_over(dmi_watch, made, filled):
        dmi_watch(made)
        made.free(made.malloc(1000))
"""


def test_heaps_of_fixtures(tmp_path: Path) -> None:
    found, said = outcomes(tmp_path, HEAPS)
    assert found == {
        "test_a_fixture_frees": "passed",
        "test_keeps": "failed",
        "test_fills_what_is_closed": "failed",
        "test_well": "passed",
        "test_handed_over": "passed",
    }, said


def test_another_plugin_that_runs_the_tests(tmp_path: Path) -> None:
    """Then the test has been told to have passed before its fixtures are gone."""
    runs = """
        from _pytest.runner import runtestprotocol
        def pytest_runtest_protocol(item, nextitem):
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            runtestprotocol(item, nextitem=nextitem)
            return True
    """
    text = """
        import pytest
        kept = []
        @pytest.mark.dmi(max_growth="1 MiB")
        def test_well(): pass
        @pytest.mark.dmi(max_growth="1 MiB")
        def test_keeps(): kept.extend(bytes(1000) for _ in range(4000))
    """
    found, said = outcomes(tmp_path, text, conftest=runs)
    assert found == {"test_well": "passed", "test_keeps": "passed, error"}, said
    assert "memory did not come back" in said


@pytest.mark.parametrize(("size", "kept_of", "alarm"), [(1024, (3, 4), False), (48, (1, 85), True)])
def test_growth_may_pin_as_much_as_it_is_and_no_more(
    size: int, kept_of: tuple[int, int], alarm: bool
) -> None:
    """Three of four blocks that stay are growth with holes; one small block a page is a leak."""
    heap = dmi.Heap()
    watch = Watch([heap])
    for number, block in enumerate([heap.malloc(size) for _ in range((8 << 20) // size)]):
        if number % kept_of[1] >= kept_of[0]:
            heap.free(block)
    found = watch.found()
    assert found.retained_growth > 1 << 20
    assert bool(Limits(no_second_order_leak=True).broken(found)) == alarm
