"""The verdict: the golden log, every kind and every cause, and every form of input."""

from __future__ import annotations

import argparse
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmi import windbg
from dmi.cli import address as address_command
from dmi.cli import doctor as doctor_command
from dmi.diagnose import Thresholds, Verdict, diagnose, from_files, from_log, from_replay

pytestmark = pytest.mark.reads

GOLDEN = Path(__file__).parent.parent / "golden"
HEAPS = (GOLDEN / "heap-summaries.txt").read_text(encoding="utf-8")
ADDRESSES = (GOLDEN / "address-summaries.txt").read_text(encoding="utf-8")
MIB = 1 << 20
KIB = 1 << 10


def stats(busy: int, committed: int, **more: Any) -> dict[str, Any]:
    return {"busy": busy * MIB, "committed": committed * MIB, **more}


class TestGoldenLog:
    verdict = from_log(windbg.parse(ADDRESSES + HEAPS))

    def test_what_and_where(self) -> None:
        verdict = self.verdict
        assert verdict.kind == "second-order leak"
        assert verdict.leak
        assert (verdict.subject, verdict.handle) == ("heap 00310000", 0x310000)
        assert verdict.bytes == verdict.second_order_bytes == 509_936 * KIB
        assert verdict.first_order_bytes == 0
        assert verdict.percent == pytest.approx(100 * 509_936 / 512_712)
        assert verdict.others == ()

    def test_the_three_moments(self) -> None:
        verdict = self.verdict
        assert verdict.moments == ("Before peak hours", "During peak hours", "After peak hours")
        assert verdict.busy == (252_129 * KIB, 856_102 * KIB, 249_966 * KIB)
        assert verdict.committed == (512_712 * KIB, 961_480 * KIB, 1_022_648 * KIB)
        assert verdict.mean_free_block == (5882, None, 2988)
        assert verdict.free_blocks == (45_362, 0, 264_787)

    def test_why(self) -> None:
        first, second = self.verdict.causes
        assert first.kind == "below a page"
        assert first.bytes == 509_936 * KIB
        for words in ("5,882 to 2,988 bytes", "4,096", "without a single busy byte"):
            assert words in first.text
        assert second.kind == "scattered address space"
        assert "17,512" in second.text
        assert "16 %" in second.text

    def test_the_process_agrees(self) -> None:
        commit, reserved = self.verdict.evidence
        assert "620,864 -> 1,069,664 -> 1,130,868 KB" in commit
        assert "510,004 KB more" in commit
        assert "all but 68 KB of it in this heap" in commit
        assert "1,294,220 KB throughout" in reserved

    def test_the_report(self) -> None:
        text = " ".join(str(self.verdict).split())
        for words in (
            "Second-order leak in heap 00310000: 509,936 KB (+99.5 % over the start) of commit",
            "busy came back (252,129 -> 856,102 -> 249,966 KB)",
            "Before peak hours 252,129 512,712 260,583 45,362 5,882",
            "After peak hours 249,966 1,022,648 772,682 264,787 2,988",
            "fell from 5,882 to 2,988 bytes",
            "What to do",
        ):
            assert words in text
        assert all(len(line) <= 100 for line in str(self.verdict).splitlines()[2:])

    def test_as_json(self) -> None:
        again = json.loads(json.dumps(self.verdict.as_dict()))
        assert again["kind"] == "second-order leak"
        assert again["bytes"] == 509_936 * KIB
        assert again["causes"][0]["kind"] == "below a page"
        assert again["moments"][2] == "After peak hours"

    def test_heaps_alone_rows_alone_and_three_files(self, tmp_path: Path) -> None:
        log = windbg.parse(HEAPS)
        assert from_log(log).bytes == self.verdict.bytes
        rows = [table.rows[0] for table in log.heaps]
        assert diagnose(*rows).bytes == self.verdict.bytes
        assert diagnose(*log.heaps).causes == self.verdict.causes
        names = []
        for name, row in zip(("one", "two", "three"), rows, strict=True):
            names.append(tmp_path / f"{name}.txt")
            names[-1].write_text(windbg.format_heap_summary([row]), encoding="utf-8")
        verdict = from_files(names)
        assert verdict.moments == ("one", "two", "three")
        assert verdict.bytes == self.verdict.bytes
        assert verdict.handle == 0x310000

    def test_summaries_of_addresses_alone(self) -> None:
        verdict = from_log(windbg.parse(ADDRESSES))
        assert verdict.kind == "growth"
        assert verdict.subject == "the process"
        assert verdict.bytes == 510_004 * KIB
        assert verdict.busy == (None, None, None)


# Name, moments, kind, MiB, first cause: labelled by how each was made up.
SCENARIOS: list[tuple[str, list[dict[str, Any]], str, int, str]] = [
    ("idle", [stats(50, 60), stats(50, 60), stats(50, 60)], "none", 0, ""),
    ("all comes back", [stats(50, 60), stats(500, 520), stats(50, 62)], "none", 0, ""),
    ("within the tolerance", [stats(50, 60), stats(500, 520), stats(60, 80)], "none", 0, ""),
    ("nothing frees", [stats(50, 60), stats(500, 520), stats(500, 520)],
     "first-order leak", 450, "not freed"),
    ("half is freed", [stats(50, 60), stats(500, 520), stats(250, 270)],
     "first-order leak", 200, "not freed"),
    ("still rising", [stats(50, 60), stats(200, 220), stats(400, 420)], "growth", 350, "not freed"),
    ("two moments, risen", [stats(50, 60), stats(400, 420)], "growth", 350, "not freed"),
    ("two moments, kept", [stats(50, 60), stats(50, 400)], "second-order leak", 340, "unknown"),
    ("kept for no known reason", [stats(50, 60), stats(500, 520), stats(50, 520)],
     "second-order leak", 460, "unknown"),
    ("small blocks", [stats(50, 60), stats(500, 520),
                      stats(50, 520, free=470 * MIB, list_length=470 * 1024)],
     "second-order leak", 460, "below a page"),
    ("large blocks", [stats(50, 60), stats(500, 520),
                      stats(50, 520, free=470 * MIB, list_length=470)],
     "second-order leak", 460, "keeps pages"),
    ("reason never", [stats(50, 60), stats(500, 520),
                      stats(50, 520, reasons={"never": 460 * MIB, "overhead": MIB})],
     "second-order leak", 460, "never"),
    ("reason pinned", [stats(50, 60), stats(500, 520),
                       stats(50, 520, reasons={"pinned": 400 * MIB, "delay": 60 * MIB})],
     "second-order leak", 400, "pinned"),
    ("pinned by small blocks", [stats(50, 60), stats(500, 520),
                                stats(50, 520, free=460 * MIB, list_length=460 * 1024,
                                      reasons={"pinned": 460 * MIB})],
     "second-order leak", 460, "below a page"),
    ("reason delay", [stats(50, 60), stats(500, 520),
                      stats(50, 520, reasons={"pinned": 40 * MIB, "delay": 420 * MIB})],
     "second-order leak", 40, "pinned"),
    ("reason decay", [stats(50, 60), stats(500, 520),
                      stats(50, 520, reasons={"decay": 460 * MIB})],
     "none", 0, ""),
    ("reason pressure", [stats(50, 60), stats(500, 520),
                         stats(50, 520, reasons={"pressure": 460 * MIB})],
     "second-order leak", 460, "pressure"),
    ("reason in flight", [stats(50, 60), stats(500, 520),
                          stats(50, 520, reasons={"in_flight": 460 * MIB})],
     "second-order leak", 460, "thread caches"),
    ("reason thresholds", [stats(50, 60), stats(500, 520),
                           stats(50, 520, reasons={"block_threshold": 200 * MIB,
                                                   "total_threshold": 60 * MIB,
                                                   "budget": 200 * MIB})],
     "second-order leak", 460, "threshold"),
    ("reason offered", [stats(50, 60), stats(500, 520),
                        stats(50, 520, reasons={"offered": 460 * MIB})],
     "second-order leak", 460, "offered"),
    ("reason refused", [stats(50, 60), stats(500, 520),
                        stats(50, 520, reasons={"refused": 460 * MIB})],
     "second-order leak", 460, "refused"),
    ("reason there before as well", [stats(50, 500, reasons={"never": 450 * MIB}),
                                     stats(900, 960),
                                     stats(50, 960, reasons={"never": 450 * MIB,
                                                             "budget": 460 * MIB})],
     "second-order leak", 460, "budget"),
    ("both orders, second larger", [stats(50, 60), stats(500, 520), stats(100, 520)],
     "second-order leak", 410, "unknown"),
    ("both orders, first larger", [stats(50, 60), stats(500, 520), stats(400, 520)],
     "first-order leak", 350, "not freed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("moments", "kind", "size", "cause"), [s[1:] for s in SCENARIOS], ids=[s[0] for s in SCENARIOS]
)
def test_scenarios(moments: list[dict[str, Any]], kind: str, size: int, cause: str) -> None:
    verdict = diagnose(*moments)
    assert verdict.kind == kind
    assert verdict.bytes == size * MIB
    assert (verdict.causes[0].kind if verdict.causes else "") == cause
    assert bool(verdict.causes) == bool(verdict.advice) == (kind != "none")
    assert len(str(verdict).splitlines()) >= 3
    json.dumps(verdict.as_dict())


def test_causes_of_one_kind_are_summed_and_ordered() -> None:
    reasons = {
        "block_threshold": 100 * MIB,
        "total_threshold": 100 * MIB,
        "pinned": 150 * MIB,
        "overhead": MIB,
    }
    verdict = diagnose(stats(50, 60), stats(500, 520), stats(50, 520, reasons=reasons))
    assert [(c.kind, c.bytes) for c in verdict.causes] == [
        ("threshold", 200 * MIB), ("pinned", 150 * MIB),
    ]  # fmt: skip


def test_due_later_is_no_leak() -> None:
    reasons = {"delay": 300 * MIB, "decay": 155 * MIB}
    verdict = diagnose(stats(50, 60), stats(500, 520), stats(50, 520, reasons=reasons))
    assert (verdict.kind, verdict.finding) == ("none", False)
    assert "465,920 KB that heap keeps are free and due later" in verdict.evidence[0]


class TestManyHeaps:
    @staticmethod
    def snapshot(*heaps: tuple[str, int, int], **more: Any) -> dict[str, Any]:
        return {"heaps": [{"name": n, "stats": stats(b, c)} for n, b, c in heaps], **more}

    def test_the_worst_first(self) -> None:
        verdict = diagnose(
            self.snapshot(("a", 10, 12), ("b", 10, 12), ("c", 10, 12)),
            self.snapshot(("a", 200, 210), ("b", 500, 510), ("c", 200, 210)),
            self.snapshot(("a", 200, 210), ("b", 10, 510), ("c", 10, 12)),
        )
        assert (verdict.kind, verdict.subject) == ("second-order leak", "b")
        assert [(o.kind, o.subject) for o in verdict.others] == [("first-order leak", "a")]
        assert "Also: First-order leak in a" in str(verdict)

    def test_a_heap_that_is_new_and_one_that_is_gone(self) -> None:
        verdict = diagnose(self.snapshot(("old", 10, 900)), self.snapshot(("new", 10, 500)))
        assert verdict.subject == "new"
        assert verdict.bytes == 490 * MIB
        assert verdict.percent is None
        assert verdict.others == ()

    def test_many_small_leaks_are_one(self) -> None:
        many = [f"h{n}" for n in range(100)]
        verdict = diagnose(
            {"heaps": [{"name": n, "busy": 1 << 16, "committed": 1 << 17} for n in many]},
            {"heaps": [{"name": n, "busy": 1 << 16, "committed": 1 << 20} for n in many]},
        )
        assert verdict.subject == "all heaps together"
        assert verdict.bytes == 100 * ((1 << 20) - (1 << 17))

    def test_policy_names_are_enough(self) -> None:
        def heap(busy: int, committed: int) -> dict[str, Any]:
            return {"heaps": [{"name": "h", "decommit": "never", "stats": stats(busy, committed)}]}

        verdict = diagnose(heap(10, 12), heap(500, 510), heap(10, 510))
        assert verdict.causes[0].kind == "never"

    def test_memory_outside(self) -> None:
        def process(commit: int) -> dict[str, Any]:
            return self.snapshot(
                ("h", 10, 12),
                address={"state": {"MEM_COMMIT": commit * MIB}, "usage": {"Other": commit * MIB}},
            )

        verdict = diagnose(process(100), process(300), process(800))
        assert (verdict.kind, verdict.subject) == ("growth", "memory outside the heaps")
        assert verdict.bytes == 700 * MIB
        assert verdict.causes[0].kind == "outside"
        assert "Other grew most" in verdict.causes[0].text

    def test_resident_size_where_commit_is_not_known(self) -> None:
        first = self.snapshot(("h", 10, 12), process={"resident": 100 * MIB})
        last = self.snapshot(("h", 10, 12), process={"resident": 500 * MIB})
        assert diagnose(first, last).causes[0].kind == "outside"
        assert any("Resident: 102,400 -> 512,000 KB" in e for e in diagnose(first, last).evidence)

    def test_another_allocator_is_judged_like_a_heap(self) -> None:
        def state(busy: int, committed: int) -> dict[str, Any]:
            return self.snapshot(
                ("h", 10, 12), outside=[{"name": "glibc", **stats(busy, committed)}]
            )

        verdict = diagnose(state(10, 20), state(500, 520), state(10, 520))
        assert (verdict.kind, verdict.subject) == ("second-order leak", "glibc")


class TestInputs:
    def test_attributes(self) -> None:
        @dataclass
        class Numbers:
            busy: int
            committed: int

        assert diagnose(Numbers(0, 0), Numbers(0, 90 * MIB)).bytes == 90 * MIB

    def test_two_or_three_moments(self) -> None:
        a, b = stats(1, 1), stats(50, 50)
        assert diagnose(a, b).moments == ("before", "after")
        assert diagnose(a, b, a).moments == ("before", "peak", "after")
        assert diagnose(before=a, after=b).moments == ("before", "after")
        with pytest.raises(TypeError, match="before and after"):
            diagnose(a)

    @pytest.mark.parametrize(
        ("state", "error", "message"),
        [
            (5, TypeError, "not int"),
            ({}, ValueError, "needs busy"),
            ({"busy": 1.5, "committed": 2}, ValueError, "needs busy"),
            ({"busy": 1}, ValueError, "needs committed"),
            ({"heaps": 7}, ValueError, "list or a mapping"),
            ({"heaps": ["x"]}, ValueError, "needs busy"),
        ],
    )
    def test_what_is_no_state(self, state: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            diagnose(state, state)

    @pytest.mark.parametrize("size", [0, -4096, 3000])
    def test_page_size(self, size: int) -> None:
        with pytest.raises(ValueError, match="power of two"):
            diagnose(stats(1, 1), stats(1, 1), page_size=size)

    def test_a_smaller_page_changes_the_cause(self) -> None:
        log = windbg.parse(HEAPS)
        assert from_log(log, page_size=1024).causes[0].kind == "keeps pages"

    def test_thresholds(self) -> None:
        moments = stats(100, 110), stats(500, 510), stats(100, 130)
        assert diagnose(*moments).kind == "none"
        fine = Thresholds(share=0.01)
        assert diagnose(*moments, thresholds=fine).kind == "second-order leak"

    def test_one_moment_has_a_report_and_no_leak(self) -> None:
        verdict = from_log(windbg.Log(windbg.parse(HEAPS).heaps[:1]))
        assert (verdict.kind, verdict.leak, verdict.finding) == ("one moment", False, True)
        assert verdict.bytes == 260_583 * KIB
        assert "heap 00310000 keeps 260,583 KB free, 50 %" in str(verdict)
        with pytest.raises(ValueError, match="no figures"):
            from_log(windbg.Log())

    def test_many_moments_keep_the_busiest(self) -> None:
        tables = windbg.parse(HEAPS).heaps
        log = windbg.Log((tables[0], tables[0], tables[1], tables[0], tables[2]))
        assert from_log(log).busy == from_log(windbg.Log(tables)).busy

    def test_the_module_can_be_called(self) -> None:
        module: Any = importlib.import_module("dmi.diagnose")
        assert module(stats(1, 1), stats(1, 90)).kind == "second-order leak"
        assert isinstance(module.from_log(windbg.parse(HEAPS)), Verdict)

    def test_a_replay(self) -> None:
        def policy(name: str, kept: int) -> dict[str, Any]:
            return {"decommit": name, "before": stats(10, 12), "peak": stats(90, 95),
                    "end": stats(10, kept)}  # fmt: skip

        verdicts = from_replay({"runs": [policy("never", 95), policy("eager", 12)]})
        assert {name: v.kind for name, v in verdicts.items()} == {
            "never": "second-order leak", "eager": "none",
        }  # fmt: skip
        assert verdicts["never"].causes[0].kind == "never"
        with pytest.raises(ValueError, match="lacks before, peak, end"):
            from_replay({"runs": [{"decommit": "never"}]})


SIZES = st.integers(0, 1 << 50)
MOMENT = st.fixed_dictionaries(
    {"busy": SIZES, "committed": SIZES},
    optional={
        "free": SIZES,
        "list_length": SIZES,
        "segment_virtual": SIZES,
        "uncommitted_ranges": SIZES,
        "pinned": SIZES,
        "reasons": st.dictionaries(st.sampled_from(["pinned", "never", "delay", "?"]), SIZES),
    },
)


@settings(max_examples=200, deadline=None)
@given(st.lists(MOMENT, min_size=2, max_size=3))
def test_any_numbers_get_a_verdict(moments: list[dict[str, Any]]) -> None:
    verdict = diagnose(*moments)
    first = max(0, moments[-1]["busy"] - moments[0]["busy"])
    assert verdict.first_order_bytes == first
    gained = moments[-1]["committed"] - moments[0]["committed"]
    assert verdict.second_order_bytes == max(0, gained - first)
    due = [m.get("reasons", {}).get("delay", 0) for m in (moments[0], moments[-1])]
    kept = max(0, verdict.second_order_bytes - max(0, due[1] - due[0]))
    assert verdict.bytes in (0, first, kept)
    assert str(verdict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["heaps", "busy", "committed", "stats", "address", "process", "label",
                         "state", "usage", "reasons", "name", "handle", "outside", "free"]),
        inner, max_size=6,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(JSON, min_size=2, max_size=3))
def test_hostile_snapshots(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    folder = tmp_path_factory.getbasetemp()
    names = []
    for number, value in enumerate(values):
        names.append(folder / f"hostile-{number}.json")
        names[-1].write_text(json.dumps(value), encoding="utf-8")
    try:
        verdict = from_files(names)
    except ValueError:
        return
    assert str(verdict)


class TestCommands:
    @staticmethod
    def run(module: Any, *words: str) -> int:
        parser = argparse.ArgumentParser(add_help=False)
        module.configure(parser)
        return int(module.run(parser.parse_args(words)))

    def test_doctor(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        log = tmp_path / "log.txt"
        log.write_text(ADDRESSES + HEAPS, encoding="utf-8")
        assert self.run(doctor_command, str(log)) == 1
        text = capsys.readouterr().out
        assert text.startswith("Second-order leak in heap 00310000: 509,936 KB")
        assert self.run(doctor_command, "--json", str(log)) == 1
        assert json.loads(capsys.readouterr().out)["bytes"] == 509_936 * KIB
        assert self.run(doctor_command, "--page-size", "1024", str(log)) == 1
        assert "keeps pages" in capsys.readouterr().out

    def test_doctor_with_snapshots(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        files = []
        for name, numbers in (("a", stats(1, 2)), ("b", stats(1, 90))):
            files.append(str(tmp_path / f"{name}.json"))
            Path(files[-1]).write_text(json.dumps(numbers), encoding="utf-8")
        assert self.run(doctor_command, *files) == 1
        assert "Second-order leak in heap: 90,112 KB" in capsys.readouterr().out
        assert self.run(doctor_command, files[0]) == 0
        assert capsys.readouterr().out.startswith("One moment: the largest heap is heap")

    def test_doctor_on_a_replay(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        run = {"decommit": "never", "before": stats(1, 2), "peak": stats(80, 90),
               "end": stats(1, 90)}  # fmt: skip
        file = tmp_path / "replay.json"
        file.write_text(json.dumps({"recording": "x", "runs": [run]}), encoding="utf-8")
        assert self.run(doctor_command, str(file)) == 1
        assert capsys.readouterr().out.startswith("never\nSecond-order leak")
        assert self.run(doctor_command, str(file), "--json") == 1
        assert json.loads(capsys.readouterr().out)["never"]["kind"] == "second-order leak"

    def test_doctor_names_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "prose.txt"
        file.write_text("no tables here", encoding="utf-8")
        with pytest.raises(ValueError, match=r"prose\.txt: no !heap -s table"):
            self.run(doctor_command, str(file))

    def test_address(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(address_command, "-summary", "--json") == 0
        values = json.loads(capsys.readouterr().out)
        for table in ("usage", "type", "state"):
            assert sum(values[table].values()) == values["total"]
        for style in ("old", "new"):
            assert self.run(address_command, "--summary", "--style", style) == 0
            (summary,) = windbg.parse(capsys.readouterr().out).addresses
            assert summary.disagreements() == ()
        assert self.run(address_command, "--json") == 0
        values = json.loads(capsys.readouterr().out)
        busy = sum(region["size"] for region in values["regions"])
        assert busy == values["busy"]
        assert self.run(address_command) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split()[:3] == ["BaseAddress", "EndAddress", "RegionSize"]
        assert any(line.endswith("Stack [stack]") for line in lines)


def test_a_limit_for_a_cache_is_among_the_cures_of_what_stays() -> None:
    moments = [{"busy": busy, "committed": busy} for busy in (1 << 20, 90 << 20, 60 << 20)]
    verdict = diagnose(*moments)
    assert verdict.kind == "first-order leak"
    (limit,) = [cure for cure in verdict.cures if "a cache" in cure.text]
    assert (limit.gives, limit.most) == (59 << 20, True)
    assert "up to 60,416 KB" in str(limit)
    released = diagnose(moments[0], moments[1], moments[0])
    assert not [cure for cure in released.cures if "a cache" in cure.text]


def test_blocks_that_are_mapped_on_their_own_are_among_the_sizes_that_grew() -> None:
    def moment(alone: list[list[int]]) -> dict[str, object]:
        busy = 5 << 20 if not alone else (5 << 20) + alone[0][0] * alone[0][1]
        heap = {
            "name": "glibc main arena", "kind": "glibc", "handle": 4096, "busy": busy,
            "committed": busy, "free": 0, "histogram": [[224, 10 + len(alone)]],
            "mapped_histogram": alone,
        }  # fmt: skip
        return {"heaps": [], "outside": [heap]}

    verdict = diagnose(moment([]), moment([[48_001_024, 1]]))
    assert verdict.kind == "growth"
    assert "What grew most: blocks of 48,001,024 bytes by 46,876 KB (0 -> 1)." in (
        verdict.causes[0].text
    )
