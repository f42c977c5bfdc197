"""The lines of a profile in what else dmi says: the doctor, snapshots, the report."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from profiles import page, profile

import dmi
from dmi.diagnose import diagnose
from dmi.profile import Profile

if TYPE_CHECKING:
    from pathlib import Path


def moment(busy: int, committed: int, carried: Any, **reasons: int) -> dict[str, Any]:
    """A snapshot of one heap, MiB."""
    stats = {
        "busy": busy << 20, "committed": committed << 20, "reclaimable": 0,
        "reasons": {name: size << 20 for name, size in reasons.items()},
    }  # fmt: skip
    heap = {"handle": 0x7F00, "name": "default", "decommit": "lazy", "stats": stats}
    return {"pid": 42, "heaps": [heap], "profile": carried}


def carried(stack: int, size: int = 48, count: int = 300) -> dict[str, Any]:
    return profile([page([[size, stack]], number=n) for n in range(count)])


def test_the_doctor_names_the_line_that_pins() -> None:
    before = moment(10, 20, None)
    peak = moment(300, 310, None)
    after = moment(10, 90, carried(1), pinned=80)
    found = diagnose(before, peak, after)
    assert found.kind == "second-order leak"
    assert found.cures[0].text.startswith("Begin at cache.py:57 put: its blocks pin 100 % of what")
    assert found.cures[0].gives == 300 * 64 * 4048
    assert any(line.startswith("cache.py:57 put: ") for line in found.evidence)
    assert "cache.py:57 put" in str(found)


def test_where_a_policy_keeps_the_memory_no_line_is_the_cure() -> None:
    found = diagnose(moment(10, 20, None), moment(300, 310, None),
                     moment(10, 310, carried(1, count=60), never=290, pinned=2))  # fmt: skip
    assert "cache.py" not in found.advice[0]


def test_the_doctor_names_the_line_that_grew() -> None:
    later = profile([page([[512, 1], [512, 3]], number=n) for n in range(300)])
    found = diagnose(moment(10, 20, carried(1, 512)), moment(80, 90, later))
    assert found.kind == "growth"
    assert found.cures[0].text.startswith("Begin at app.py:9 run: 100 % of what grew")


def test_too_few_samples_name_no_line() -> None:
    after = moment(10, 90, carried(1, count=2), pinned=80)
    found = diagnose(moment(10, 20, None), moment(300, 310, None), after)
    assert "cache.py" not in str(found)
    assert any("too few (2): use --sample" in line for line in found.evidence)


def test_one_moment_names_it_too() -> None:
    (only,) = [moment(10, 90, carried(1), pinned=80)]
    found = dmi.diagnose.from_files  # the module is there
    assert callable(found)
    from dmi.diagnose import state_of
    from dmi.diagnose._judge import judge

    assert "cache.py:57 put" in str(judge([state_of(only)]))


def test_a_snapshot_carries_a_profile(tmp_path: Path) -> None:
    taken = replace(dmi.snapshot(), profile=carried(1))
    taken.save(tmp_path / "s.json")
    loaded = dmi.Snapshot.load(tmp_path / "s.json")
    assert loaded.profile == taken.profile
    for source in (tmp_path / "s.json", loaded, loaded.as_dict()):
        found = dmi.blame(source)
        assert found.top is not None
        assert found.top.name == "cache.py:57 put"
    assert Profile.load(tmp_path / "s.json").pid == 42
    with pytest.raises(ValueError, match="no profile"):
        dmi.blame(replace(taken, profile=None))


def test_a_snapshot_with_a_broken_profile_is_refused(tmp_path: Path) -> None:
    replace(dmi.snapshot(), profile=carried(1) | {"one_in": 0}).save(tmp_path / "s.json")
    with pytest.raises(ValueError, match=r"s\.json: .*one_in must be"):
        dmi.Snapshot.load(tmp_path / "s.json")
