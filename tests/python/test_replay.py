"""dmi.replay and `dmi replay`: the moments, the numbers, the words."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import dmi
from dmi import windbg
from dmi.experiment import Replay, Run, replay
from dmi.trace import Record, Trace, check, pack, save
from dmi.trace.format import OP_ALLOC, OP_CALLOC, OP_FREE, OP_REALLOC, OP_RSS, OP_TIME

if TYPE_CHECKING:
    from pathlib import Path

BYTES = (
    *("reserved", "uncommitted", "committed", "busy", "free_lfh", "free_list", "free_pages"),
    *("offered", "overhead", "retained", "reclaimable", "pinned"),
)


def make(records: list[Record], name: str = "made") -> Trace:
    objects = max((record.object for record in records), default=-1) + 1
    return check(pack(records), objects=min(objects, len(records)), name=name)


def peaked(blocks: int = 6000, seed: int = 1) -> Trace:
    """A peak at the third second, nine in ten blocks freed at random, then six idle seconds."""
    dice = random.Random(seed)
    records = [Record(OP_TIME, 0, 0, 0, 1)]
    clock = 1
    for number in range(blocks):
        records.append(Record(OP_ALLOC, 0, 0, number, dice.choice((24, 100, 700, 3000, 9000))))
        if number % 200 == 199:
            clock += 3_000_000 * 200 // blocks
            records.append(Record(OP_TIME, 0, 0, 0, clock))
    freed = dice.sample(range(blocks), blocks * 9 // 10)
    records += [Record(OP_FREE, 0, 0, number, 0) for number in freed]
    records += [Record(OP_TIME, 0, 0, 0, clock + 3_000_000), Record(OP_RSS, 0, 0, 0, 1 << 20)]
    records += [Record(OP_TIME, 0, 0, 0, clock + 6_000_000)]
    return make(records)


@pytest.fixture(scope="module")
def result() -> Replay:
    return replay(peaked(), "never,eager,lazy,threshold", samples=50)


def closes(state: dict[str, Any]) -> None:
    assert state["reserved"] == state["uncommitted"] + state["committed"]
    free = state["free_lfh"] + state["free_list"] + state["free_pages"]
    assert state["committed"] == state["busy"] + free + state["offered"] + state["overhead"]
    assert state["retained"] == state["committed"] - state["busy"]
    if "pinned" in state:
        assert free == state["reclaimable"] + state["pinned"]


def test_every_state_closes(result: Replay) -> None:
    parsed = json.loads(result.to_json())
    assert list(parsed)[:3] == ["recording", "events", "skipped"]
    assert (parsed["recording"], parsed["skipped"]) == ("made", 0)
    assert parsed["events"] == 6000 + 5400
    assert [run["decommit"] for run in parsed["runs"]] == ["never", "eager", "lazy", "threshold"]
    for run in parsed["runs"]:
        for name in ("before", "peak", "end"):
            assert set(BYTES) <= set(run[name])
            closes(run[name])
        assert len(run["timeline"]) >= 50
        for state in run["timeline"]:
            closes(state)
        assert run["page_bound"] == {
            "peak": run["peak"]["page_bound"],
            "end": run["end"]["page_bound"],
        }
        assert run["seconds"] > 0
        assert run["failed"] == 0


def test_the_peak_is_exact_and_before_is_below_a_quarter(result: Replay) -> None:
    for run in result.runs:
        assert run.peak.position == 6000 + 1 + 29  # the last alloc; a clock record follows it
        assert run.peak.stats.busy_blocks == 6000
        assert all(sample.stats.busy <= run.peak.stats.busy for sample in run.timeline)
        assert 0 < run.before.stats.busy * 4 < run.peak.stats.busy
        assert run.before.position < run.peak.position
        later = [
            sample
            for sample in run.timeline
            if run.before.position < sample.position < run.peak.position
        ]
        assert later
        assert all(sample.stats.busy * 4 >= run.peak.stats.busy for sample in later)
        assert run.end.position == 1 + 6000 + 30 + 5400 + 3
        assert run.end.seconds == pytest.approx(9.0, abs=0.01)
        assert run.end.stats.busy_blocks == 600
        assert run.end.recorded_rss == 1 << 20


@pytest.mark.keeps
def test_policies_differ_as_they_should(result: Replay) -> None:
    never, eager, lazy = result["never"], result["eager"], result["lazy"]
    assert never.end.stats.decommit_bytes == 0
    assert never.end.stats.committed >= never.peak.stats.committed
    assert eager.end.stats.retained < never.end.stats.retained / 2
    assert lazy.end.stats.retained < never.end.stats.retained / 2
    assert eager.mean_retained < lazy.mean_retained < never.mean_retained
    for run in (eager, lazy):
        assert run.end.stats.page_bound is not None
        assert run.end.stats.committed >= run.end.stats.page_bound


def test_the_clock_is_the_recordings(result: Replay) -> None:
    seconds = [sample.seconds for sample in result["lazy"].timeline]
    assert seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(9.0, abs=0.01)
    # Evenly in time too: the six idle seconds hold no events, yet have their share of samples.
    idle = [moment for moment in seconds if moment > 3.1]
    assert len(idle) >= 50 * 5.5 / 9


@pytest.mark.keeps
def test_lazy_gives_back_after_its_delay_and_not_before() -> None:
    run = replay(peaked(), "lazy:delay=2", samples=100).runs[0]
    early = [s.stats.decommit_bytes for s in run.timeline if s.seconds < 3]
    late = [s.stats.committed for s in run.timeline if s.seconds > 8]
    just_freed = [s.stats.committed for s in run.timeline if 3.1 < s.seconds < 4.5]
    assert set(early) == {0}
    assert min(just_freed) > 2 * max(late)


def test_replays_repeat(result: Replay) -> None:
    again = replay(peaked(), "eager", samples=50).runs[0]
    first = result["eager"]
    for name in BYTES:
        for moment in ("before", "peak", "end"):
            left = getattr(getattr(first, moment).stats, name)
            assert getattr(getattr(again, moment).stats, name) == left, (name, moment)


def test_at_picks_other_moments() -> None:
    run = replay(peaked(), "lazy", at=[0.5, 4.0, 9.0, 0.0], samples=20).runs[0]
    assert [sample.seconds for sample in run.at] == pytest.approx([0.5, 4.0, 9.0, 0.0], abs=0.11)
    assert run.at[0].stats.busy_blocks < run.at[1].stats.busy_blocks + 2000
    assert run.at[3].position == 0
    assert run.at[2].seconds == pytest.approx(run.end.seconds, abs=0.11)
    with pytest.raises(ValueError, match=r"9\.5 s is outside the recording, which ends at 9\.00 s"):
        replay(peaked(), "lazy", at=[9.5], samples=20)
    for sample in run.at:
        sample.stats.check()
        assert sample.stats.detail
    text = str(Replay("made", 1, 0, {}, 9.0, (run,)))
    titles = [line for line in text.splitlines() if line.startswith("lazy, ")]
    assert len(titles) == 4
    assert not any("peak" in title for title in titles)


def test_where_no_sample_is_low_before_is_the_first() -> None:
    records = [Record(OP_ALLOC, 0, 0, 0, 100_000)]
    records += [Record(OP_REALLOC, 0, 0, 0, 100_000 + i) for i in range(50)]
    run = replay(make(records), "never", samples=5).runs[0]
    assert run.before.position == run.timeline[0].position == 10
    assert run.before.stats.busy * 4 >= run.peak.stats.busy


def test_no_page_bound_is_a_dash_and_null() -> None:
    records = [Record(OP_CALLOC, 0, 0, 0, 5000), Record(OP_FREE, 0, 0, 0, 0)]
    found = replay(make(records), "never,eager")
    parsed = json.loads(found.to_json())
    for run in parsed["runs"]:
        assert run["page_bound"]["end"] == 0
        assert run["page_bound"]["peak"] > 0
        assert run["end"]["committed_per_page_bound"] is None
    line = next(line for line in found.table().splitlines() if "committed / page bound" in line)
    assert line.split()[-2:] == ["-", "-"]
    assert "nan" not in str(found)


@pytest.mark.parametrize(
    "records", [[], [Record(OP_TIME, 0, 0, 0, 5)], [Record(OP_RSS, 0, 0, 0, 5)]]
)
def test_recordings_without_events(records: list[Record]) -> None:
    found = replay(make(records), "never,eager")
    assert found.events == 0
    assert found.runs[0].end.stats.busy == 0
    assert json.loads(found.to_json())["runs"][0]["events_per_second"] is None
    assert str(found)


def test_blocks_that_a_heap_cannot_serve_are_counted() -> None:
    records = [
        Record(OP_ALLOC, 0, 0, 0, 1 << 47),
        Record(OP_ALLOC, 40, 0, 1, 1 << 47),
        Record(OP_REALLOC, 0, 0, 0, 64),
        Record(OP_REALLOC, 0, 0, 1, 1 << 47),
        Record(OP_FREE, 0, 0, 1, 0),
    ]
    run = replay(make(records), "never").runs[0]
    assert run.failed == 3
    assert run.end.stats.busy_blocks == 1


def test_alignment_is_respected() -> None:
    records = [Record(OP_ALLOC, power, 0, power, 100) for power in range(25)]
    run = replay(make(records), "eager").runs[0]
    assert run.failed == 0
    assert run.end.stats.busy_blocks == 25


def test_text_reads_back(result: Replay) -> None:
    log = windbg.parse(str(result))
    assert len(log.heaps) == 12
    assert [table.label for table in log.heaps][:2] == [
        f"never, before the peak, {result['never'].before.seconds:.2f} s",
        f"never, at the peak, {result['never'].peak.seconds:.2f} s",
    ]
    runs = [run for run in result.runs for _ in range(3)]
    samples = [sample for run in result.runs for sample in (run.before, run.peak, run.end)]
    for table, run, sample in zip(log.heaps, runs, samples, strict=True):
        assert table.disagreements() == ()
        assert table.rows[0].committed_kib == sample.stats.segment_committed // 1024, run.decommit


def test_the_table_shows_both_fragmentations(result: Replay) -> None:
    lines = {line[:40].strip(): line[40:].split() for line in result.table().splitlines()}
    external = [run.end.stats.external_fragmentation for run in result.runs]
    assert lines["External fragmentation at end, %"] == [str(value) for value in external]
    virtual = [run.end.stats.virtual_address_fragmentation for run in result.runs]
    assert lines["Virtual address fragmentation at end, %"] == [str(value) for value in virtual]


def test_offers_have_lines_of_their_own(result: Replay) -> None:
    assert "offer" not in result.table()
    found = replay(peaked(), "lazy:how=offer", samples=20)
    end = found.runs[0].end.stats
    assert end.offered > 0
    assert end.page_bound
    assert end.committed > end.page_bound * 2
    lines = {line[:40].strip(): line[40:].split() for line in found.table().splitlines()}
    assert lines["offered at end, MiB"] == [f"{end.offered / (1 << 20):.2f}"]


@pytest.mark.keeps
def test_the_conclusion_is_one_sentence_with_the_right_figures(result: Replay) -> None:
    sentence = result.conclusion()
    assert "\n" not in sentence
    assert sentence.endswith(".")
    kept = result["never"].end.stats.retained
    name = sentence.split()[0]
    assert f"{name} is the best trade: it gave back" in sentence
    given = (kept - result[name].end.stats.retained) / (1 << 20)
    assert f"{given:,.2f} of the {kept / (1 << 20):,.2f} MiB" in sentence


def test_the_best_trade_is_not_the_last_byte_at_any_price(result: Replay) -> None:
    """The figures of the recorded Redis: a half MiB more for 128 % more CPU time is none."""

    def run(name: str, retained: float, cpu: float) -> Run:
        old = result[name]
        size = round(retained * (1 << 20))
        stats = dataclasses.replace(old.end.stats, committed=old.end.stats.busy + size)
        end = dataclasses.replace(old.end, stats=stats)
        return dataclasses.replace(old, end=end, cpu_seconds=cpu)

    never, lazy = run("never", 70.29, 0.106), run("lazy", 14.11, 0.115)
    eager = run("eager", 13.59, 0.241)
    sentence = Replay("redis", 1, 0, {}, 1.0, (never, eager, lazy)).conclusion()
    assert sentence.startswith("lazy is the best trade: it gave back 56.18 of the 70.29 MiB")
    assert "for 8 % more CPU time" in sentence
    assert "; eager gave back 0.52 MiB more at 2.1 times" in sentence or (
        "; eager gave back 0.52 MiB more for 110 % more CPU time" in sentence
    )
    dear = run("lazy", 68.0, 0.300)
    sentence = Replay("redis", 1, 0, {}, 1.0, (never, dear)).conclusion()
    assert sentence.startswith("never, which gave nothing back, is the best trade; lazy gave back")


def test_the_conclusion_without_a_policy_that_gave_more_than_never(result: Replay) -> None:
    alone = Replay("made", 1, 0, {}, 1.0, (result["lazy"],)).conclusion()
    assert alone.startswith("lazy ends with")
    never = dataclasses.replace(result["never"])
    same = Replay("made", 1, 0, {}, 1.0, (result["never"], never)).conclusion()
    assert same.startswith("No policy gave back more than never")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"decommit": "sometimes"}, ValueError, "sometimes"),
        ({"decommit": "eager,"}, ValueError, "empty policy"),
        ({"decommit": []}, ValueError, "no policy"),
        ({"samples": 0}, ValueError, "samples"),
        ({"samples": 2.5}, TypeError, "samples"),
        ({"repeat": -1}, ValueError, "repeat"),
        ({"at": [-1.0]}, ValueError, "at"),
        ({"at": [float("nan")]}, ValueError, "at"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        replay(make([]), **arguments)


def test_policies_in_every_form() -> None:
    forms: list[Any] = [
        "lazy:delay=0.1|2,eager",
        ["lazy:delay=0.1", dmi.Decommit("lazy", delay=2.0), "eager"],
    ]
    for form in forms:
        found = replay(make([Record(OP_ALLOC, 0, 0, 0, 8)]), form)
        assert [run.decommit for run in found.runs] == ["lazy:delay=0.1", "lazy:delay=2", "eager"]
    with pytest.raises(KeyError, match="lazy:delay=2"):
        found["never"]


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[str, int, int]] = []
    trace = peaked(500)
    replay(trace, "never,eager", repeat=2, progress=lambda *step: seen.append(step))
    assert seen[-1][1] == seen[-1][2] == 6 * trace.count
    assert [step[1] for step in seen] == sorted(step[1] for step in seen)


# ---- the command ---------------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dmi", "replay", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_prints_json_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "peaked.dmi"
    save(peaked(1000), path)
    done = command(str(path), "--decommit", "eager,lazy:delay=0.5", "--json", "--samples", "10")
    assert (done.returncode, done.stderr) == (0, "")
    parsed = json.loads(done.stdout)
    assert parsed["recording"] == str(path)
    assert [run["decommit"] for run in parsed["runs"]] == ["eager", "lazy:delay=0.5"]


def test_the_command_tells_heaptrack_from_its_own(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_text("v 10400 3\nI 1000 10\n- dead\n+ 64 0 1000\nc a\n- 1000\n")
    done = command(str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 events" in done.stdout
    assert "1 unknown free" in done.stdout
    titles = [line for line in done.stdout.splitlines() if line.endswith(" s:")]
    assert len(titles) == 4 * 3
    assert done.stdout.rstrip().endswith(".")


def test_the_command_fails_in_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"DMITRACE\1\0")
    good = tmp_path / "good"
    save(make([Record(OP_ALLOC, 0, 0, 0, 8)]), good)
    for arguments, words in (
        ([str(bad)], "header is cut off (at byte 10)"),
        ([str(tmp_path / "none")], "No such file"),
        ([str(good), "--decommit", "nope"], "nope"),
    ):
        done = command(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    for arguments in (["--samples", "0"], ["--at", "x"], ["--at", "-1"], ["--repeat", "1e9"]):
        assert command(str(good), *arguments).returncode == 2
