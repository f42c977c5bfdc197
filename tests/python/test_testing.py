"""The pytest plugin, by runs of pytest in processes of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import dmi
from dmi._sizes import parse_share, parse_size, show_size
from dmi.testing import Limits, NotOnDmiError, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """pytest on the given text; with preload=True on dmi."""

    def call(
        text: str, *options: str, preload: bool = False, name: str = "test_it.py"
    ) -> subprocess.CompletedProcess[str]:
        (tmp_path / name).write_text(textwrap.dedent(text))
        (tmp_path / "pytest.ini").touch()
        environment = dict(os.environ, PYTHONPATH=str(ROOT), PYTEST_ADDOPTS="")
        environment.pop("CI", None)  # pytest would say everything twice
        if preload:
            environment |= {"LD_PRELOAD": dmi.get_preload_path(), "PYTHONMALLOC": "malloc"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, name]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )

    return call


OWN_HEAP = """
    import dmi, pytest

    @pytest.mark.dmi(no_second_order_leak=True, max_retained="64 KiB")
    def test_well(dmi_watch):
        heap = dmi_watch(dmi.Heap("lazy"))
        for block in [heap.malloc(200) for _ in range(20_000)]:
            heap.free(block)

    @pytest.mark.dmi(no_second_order_leak=True)
    def test_pinned(dmi_watch):
        heap = dmi_watch(dmi.Heap("eager"))
        for n, block in enumerate([heap.malloc(200) for _ in range(40_000)]):
            if n % 20:
                heap.free(block)

    @pytest.mark.dmi(no_second_order_leak=True)
    def test_policy_keeps(dmi_watch):
        heap = dmi_watch(dmi.Heap("never"))
        for block in [heap.malloc(200) for _ in range(40_000)]:
            heap.free(block)

    @pytest.mark.dmi(max_growth="1 MiB", heap="cache")
    def test_grows():
        global kept
        kept = dmi.Heap("lazy", name="cache")
        for _ in range(20_000):
            kept.malloc(200)

    @pytest.mark.dmi(returns="95 %")
    def test_returns(dmi_watch):
        heap = dmi_watch(dmi.Heap("lazy"))
        for n, block in enumerate([heap.malloc(200) for _ in range(40_000)]):
            if n % 20:
                heap.free(block)
"""


@pytest.mark.keeps
def test_heaps_of_tests(run: Run) -> None:
    done = run(OWN_HEAP)
    assert "4 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("second-order leak in heap") == 2
    assert "lie on pages that busy blocks keep" in done.stdout
    assert re.search(r"the policy would keep 7\.\d+ MiB for good", done.stdout)
    assert re.search(r"grew: 3\.\d+ MiB are allocated", done.stdout)
    assert "(returns 95 %)" in done.stdout


def test_loops_leave_out_what_is_made_once(run: Run) -> None:
    done = run(
        """
        import dmi, pytest
        runs = []
        heap = dmi.Heap("lazy", name="cache")

        @pytest.mark.dmi(max_growth="64 KiB", heap="cache", loops=5)
        def test_once():
            if not runs:
                [heap.malloc(1000) for _ in range(1000)]
            runs.append(1)

        def test_count():
            assert len(runs) == 5

        @pytest.mark.dmi(max_growth="64 KiB", heap="cache", loops=5)
        def test_each_time():
            [heap.malloc(1000) for _ in range(100)]
        """
    )
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr


def test_not_on_dmi_is_an_error(run: Run) -> None:
    done = run(
        """
        import pytest

        @pytest.mark.dmi(max_retained="1 MiB")
        def test_python():
            pass

        @pytest.mark.dmi(max_retained="1 MiB", heap="nobody's")
        def test_no_such_heap():
            pass

        @pytest.mark.dmi(max_retained="1 MiB")
        def test_nothing_handed_over(dmi_watch):
            pass
        """
    )
    assert "passed" not in done.stdout
    assert "2 failed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "Python's objects are not on dmi" in done.stdout


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("max_retained='much'", "max_retained must be bytes"),
        ("returns=7", "returns must be a share"),
        ("loops=0", "loops must be an int"),
        ("no_second_order_leak=1", "no_second_order_leak must be True or False"),
        ("leak=True", "no limit 'leak'"),
        ("", "names no limit"),
        ("'1 MiB'", "takes its limits by name"),
        ("heap=3", "heap must be a heap's name"),
    ],
)
def test_wrong_marks(mark: str, said: str, request: pytest.FixtureRequest) -> None:
    values = eval(f"dict({mark})") if not mark.startswith("'") else None
    if values is not None and "heap" not in values and values:
        with pytest.raises((TypeError, ValueError), match=said.replace("'", ".")):
            Limits.of(values)
        return
    run = request.getfixturevalue("run")
    done = run(f"import pytest\n@pytest.mark.dmi({mark})\ndef test_it(): pass\n")
    assert said in done.stdout, done.stdout
    assert "1 error" in done.stdout


PYTHON = """
    import pytest
    kept = []

    @pytest.mark.dmi(no_second_order_leak=True, max_retained="1 MiB", max_growth="1 MiB", loops=3)
    def test_lets_go():
        [bytes(100 + n % 500) for n in range(30_000)]

    @pytest.mark.dmi(no_second_order_leak=True, loops=2)
    def test_one_in_twenty_stays():
        kept.extend([bytes(100 + n % 300) for n in range(60_000)][::20])

    @pytest.mark.dmi(max_growth="1 MiB", loops=2)
    def test_keeps():
        kept.extend(bytes(300) for n in range(20_000))
"""


def test_python_objects_on_dmi(run: Run) -> None:
    done = run(PYTHON, preload=True)
    assert "2 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "second-order leak in " in done.stdout
    assert "pins" in done.stdout


def test_a_whole_suite_and_its_baseline(run: Run, tmp_path: Path) -> None:
    suite = """
        import os
        kept = []
        def test_steady():
            kept.extend([bytes(1000)] * 10)
        def test_grown():
            kept.extend(bytes(1000) for _ in range(int(os.environ.get("GROWN", "0"))))
    """
    options = ("--dmi", "--dmi-max-growth=8M", "--dmi-no-second-order-leak")
    done = run(suite, *options, "--dmi-baseline-write=base.json", preload=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "what tests left behind" in done.stdout
    base = json.loads((tmp_path / "base.json").read_text())
    assert set(base["tests"]) == {"test_it.py::test_steady", "test_it.py::test_grown"}
    os.environ["GROWN"] = "3000"
    try:
        done = run(suite, *options, "--dmi-baseline=base.json", preload=True)
    finally:
        del os.environ["GROWN"]
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "in the baseline" in done.stdout


def test_options_without_sense_are_refused(run: Run, tmp_path: Path) -> None:
    text = "def test_it(): pass\n"
    done = run(text, "--dmi-returns=95 %")
    assert done.returncode == 4
    assert "need --dmi" in done.stderr
    done = run(text, "--dmi", "--dmi-returns=most")
    assert done.returncode == 4
    assert "returns must be a share" in done.stderr
    (tmp_path / "link.json").symlink_to("elsewhere")
    for name, why in (("link.json", "a symbolic link"), ("none/x", "no directory")):
        done = run(text, f"--dmi-baseline-write={name}")
        assert done.returncode == 4
        assert "--dmi-baseline-write: " in done.stderr
        assert why in done.stderr
    (tmp_path / "no.json").write_text('{"format": "dmi-test-baseline", "tests": {"a": [1]}}')
    done = run(text, "--dmi-baseline=no.json")
    assert done.returncode == 4
    assert "not a baseline of dmi" in done.stderr


def test_watch_in_other_runners(heap: dmi.Heap) -> None:
    with pytest.raises(NotOnDmiError):
        Watch().found()
    with pytest.raises(TypeError, match=r"a dmi\.Heap can be watched"):
        Watch([3])  # type: ignore[list-item]
    watch = Watch([heap])
    blocks = [heap.malloc(1000) for _ in range(5000)]
    assert watch.found().busy_growth >= 5_000_000
    for block in blocks:
        heap.free(block)
    found = watch.found()
    assert found.busy_growth == 0
    assert found.returned > 0.9
    assert not Limits.of({"returns": 0.9, "max_growth": 0}).broken(found)


def test_a_heap_that_went_is_no_growth() -> None:
    watch = Watch([dmi.Heap("never")])
    with dmi.Heap("never") as heap:
        watch.add(heap)
        heap.malloc(5 << 20)
    assert watch.found().committed_growth <= 0


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (17, 17),
        ("17", 17),
        ("64 KiB", 65536),
        ("1.5M", 3 << 19),
        ("1,024 B", 1024),
        ("2g", 1 << 31),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text, "it") == size


@pytest.mark.parametrize("text", [-1, True, None, "", "x", "1 TB", "1e9", "9" * 40, 1.5])
def test_no_sizes(text: object) -> None:
    with pytest.raises(ValueError, match="it must be bytes"):
        parse_size(text, "it")


def test_shares_and_words() -> None:
    assert parse_share("95 %", "it") == parse_share(0.95, "it") == 0.95
    assert [show_size(n) for n in (None, 5, 2048, -(3 << 20))] == [
        "-",
        "5 B",
        "2.00 KiB",
        "-3.00 MiB",
    ]
