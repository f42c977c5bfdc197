"""The pause bench: the program measures what it says, the driver does its sums right."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import dmi
from benchmarks import pause
from benchmarks.peers import build

if sys.platform != "linux":
    pytest.skip("LD_PRELOAD and /proc are Linux", allow_module_level=True)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pause")
    build.build(folder, ["pause"])
    return folder / "pause"


@pytest.mark.keeps
@pytest.mark.alone
def test_what_is_given_back_falls_and_never_keeps_it(program: Path) -> None:
    library = Path(dmi.get_preload_path())
    small = ["64", "12", "3"]
    lazy = pause.run(program, library, "lazy:delay=0.05", small)
    assert len(lazy.resident) == len(lazy.counts) == 12
    window = lazy.window()
    assert lazy.fallen(window) > 32 << 20
    assert sum(sum(slot.values()) for slot in lazy.counts) == pytest.approx(lazy.mallocs, abs=3)
    assert 0 < lazy.percentile(50, window) <= lazy.percentile(99.99, window) <= lazy.longest * 1.2
    never = pause.run(program, library, "never", small)
    with pytest.raises(pause.PauseError, match="did not fall"):
        never.window()
    found = pause.compare(lazy, never, never)
    assert found["ns"]["never"] == found["ns"]["never again"]
    assert "bound 3.0" in pause.table([found])


def test_percentiles_of_known_counts() -> None:
    slots = pause.Slots((9 << 20, 5 << 20, 1 << 20), ({0: 5}, {8: 90, 40: 10}, {8: 100}), 1.0, 205)
    assert slots.window() == range(1, 3)
    assert slots.fallen(range(1, 3)) == 8 << 20
    assert slots.percentile(50, range(1, 2)) == pytest.approx(2 ** ((8 + 50 / 90) / 4))
    assert slots.percentile(95, range(1, 2)) == pytest.approx(2**10.125)
    assert slots.percentile(95, range(1, 3)) == pytest.approx(2 ** ((8 + 1) / 4))
    assert slots.fewest(range(3)) == 5


@pytest.mark.parametrize(
    "text", ["", "pause 1 1", "0 1 2:3\nlongest 5\nother 1 1", "1 1\nlongest 5\npause 1 1"]
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(pause.PauseError, match="cannot be read"):
        pause.read(text)
