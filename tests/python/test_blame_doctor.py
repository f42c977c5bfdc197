"""The lines of a profile in what else dmi says: the doctor, snapshots, the report."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from profiles import page, profile

import dmi
from dmi.diagnose import diagnose, state_of
from dmi.diagnose._judge import judge
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
    made: dict[str, Any] = profile([page([[size, stack]], number=n) for n in range(count)])
    return made


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
    only = state_of(moment(10, 90, carried(1), pinned=80))
    assert "cache.py:57 put" in str(judge([only]))


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


def test_the_report_shows_lines(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    from dmi.report import report

    heap = dmi.Heap(decommit="never", name="reported")
    block = heap.malloc(100)
    last = carried(1)
    last["marks"][0]["blocks"][0][0] = block
    last["marks"][0].pop("page")
    taken = dmi.snapshot(blocks=True)
    made = report([replace(taken, profile=carried(3)), replace(taken, profile=last, time=2e9)])
    html = made.html
    assert "100 % of what stays although it is free is pinned by cache.py:57 put" in html
    titles = [table.title for table in made.content.tables]
    assert any(title.startswith("Pinned by line: ") for title in titles)
    assert any(title.startswith("Grew by line: ") for title in titles)
    assert f'"{block:x}":"cache.py:57 put"' in html
    heap.destroy()


def test_sizes_and_lines_that_grew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dmi.cli import main

    heap = dmi.Heap(decommit="never", name="grows")
    first = dmi.snapshot()
    kept = [heap.malloc(1000) for _ in range(300)]
    second = dmi.snapshot()
    later = profile([page([[48, 1], [1000, 3]], number=n) for n in range(300)], time=2e9)
    replace(first, profile=carried(1)).save(tmp_path / "a.json")
    replace(second, profile=later).save(tmp_path / "b.json")
    second.save(tmp_path / "c.json")
    assert main(["heap", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "-stat"]) == 0
    out = capsys.readouterr().out
    assert "KB busy" in out
    assert "of what grew was allocated by app.py:9 run" in out
    assert main(["heap", str(tmp_path / "a.json"), str(tmp_path / "c.json"), "-stat"]) == 0
    assert "what grew" not in capsys.readouterr().out
    assert len(kept) == 300
    heap.destroy()


def test_pins_have_stacks_where_a_sampler_saw_them() -> None:
    heap = dmi.Heap(decommit="never", name="pinning")
    for block in [heap.malloc(64) for _ in range(20)]:
        heap.free(block)

    def keeps() -> list[int]:
        return [heap.malloc(64) for _ in range(6400)]

    with dmi.profile(one_in=1):
        blocks = keeps()
        kept = blocks[::64]
        for block in set(blocks) - set(kept):
            heap.free(block)
        pins = heap.pins(1000)
    known = [pin for pin in pins if pin.stack is not None]
    assert known
    assert any("keeps" in name for name in known[0].stack or ())
    address, size, pinned, _ = known[0]
    assert address in kept
    assert (size, pinned > 0) == (64, True)
    heap.destroy(force=True)


def test_a_snapshot_of_this_process_carries_its_profile() -> None:
    assert dmi.snapshot().pid > 0
    with dmi.profile(one_in=8):
        taken = dmi.snapshot()
    assert taken.profile is not None
    assert taken.profile["kind"] == "dmi-profile"
    assert dmi.blame(taken, what="busy").one_in == 8
