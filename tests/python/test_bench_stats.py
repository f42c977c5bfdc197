"""The ratios, intervals and verdicts of benchmarks/peers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

np = pytest.importorskip("numpy")

from benchmarks.peers import __main__ as command  # noqa: E402
from benchmarks.peers import report, stats  # noqa: E402
from benchmarks.peers.allocators import Allocator  # noqa: E402
from benchmarks.peers.measure import Kept, Sample  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.reads


def samples(seconds: list[float], rss: int = 1000) -> list[Sample]:
    return [Sample(wall=s, user=s / 2, system=s / 4, peak_rss=rss) for s in seconds]


TWO = {
    "a": {"us": samples([1.0, 2.0, 3.0]), "them": samples([2.0, 4.0, 6.0], 2000)},
    "b": {"us": samples([8.0, 8.0, 8.0]), "them": samples([1.0, 1.0, 1.0], 500)},
}


def test_ratio_pairs_the_rounds() -> None:
    # The rounds differ by three times, their ratios not at all.
    found = stats.ratio(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_interval_holds_the_median_and_narrows() -> None:
    rng = np.random.default_rng(3)
    few = stats.ratio(rng.normal(2.0, 0.1, 5), np.ones(5))
    many = stats.ratio(rng.normal(2.0, 0.1, 200), np.ones(200))
    for found in (few, many):
        assert found.low <= found.value <= found.high
    assert many.high - many.low < few.high - few.low
    assert many.low < 2.0 < many.high


def test_geometric_mean() -> None:
    means = stats.mean_ratios(TWO, "wall", "them", ["us", "them", "absent"])
    assert means["us"].value == pytest.approx((0.5 * 8.0) ** 0.5)
    assert means["them"].value == 1.0
    assert "absent" not in means
    assert stats.mean_ratios(TWO, "cpu", "them", ["us"])["us"].value == pytest.approx(2.0)


def test_who_failed_a_workload_has_no_mean() -> None:
    partial = {"a": TWO["a"], "b": {"them": TWO["b"]["them"]}}
    assert stats.mean_ratios(partial, "wall", "them", ["us"]) == {}
    assert "failed" in report.ratio_table(partial, "wall", "them", ["us", "them"])


def test_verdicts() -> None:
    found = {v.what: v for v in stats.judge(TWO, "us", ["them"], "them")}
    assert found["time, a, to the fastest (them)"].met
    assert not found["time, b, to the fastest (them)"].met
    assert not found["time, mean, to them"].met
    memory = found["peak RSS, mean, to the leanest (them)"]
    assert memory.ratio.value == pytest.approx(1.0)
    assert memory.met


def test_noise_alone_misses_no_bound() -> None:
    ratio = stats.Ratio(1.2, 0.9, 1.5)
    assert stats.Verdict("noisy", ratio, 0.97).met
    assert not stats.Verdict("slow", stats.Ratio(1.2, 1.1, 1.5), 0.97).met


def test_the_leanest_peer_is_found() -> None:
    runs = {
        "a": {"us": samples([1.0], 100), "fat": samples([1.0], 400), "lean": samples([1.0], 80)}
    }
    memory = stats.judge(runs, "us", ["fat", "lean"], "fat")[-1]
    assert memory.what == "peak RSS, mean, to the leanest (lean)"
    assert memory.ratio.value == pytest.approx(1.25)
    assert not memory.met


def test_overview_has_a_row_for_each() -> None:
    ours = [Allocator("us", None), Allocator("them", None), Allocator("broken", None)]
    counts = {"us": {"pair64": 40.0, "pair1024": 50.0, "fifo": 41.0, "random": 38.25}}
    kept = {"r": {"them": [Kept(0, 900, 100, 0), Kept(1, 250, 100, 0)]}}
    lines = report.overview_table(ours, "them", TWO, counts, kept).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["us", "them", "broken"]
    us, them, broken = (line.split() for line in lines[2:])
    assert us[1] == "2.00"
    assert us[-3:] == ["41.0", "38.2", "-"]
    assert them[-1] == "2.50"
    assert broken[1:] == ["-"] * 7


def test_json_and_plot(tmp_path: Path) -> None:
    ours = [Allocator("us", tmp_path / "us.so", {"A": "1"}), Allocator("them", None)]
    verdicts = stats.judge(TWO, "us", ["them"], "them")
    document = json.loads(json.dumps(report.as_json(ours, "them", TWO, {}, {}, verdicts, ["x"])))
    assert document["allocators"]["us"]["options"] == {"A": "1"}
    assert document["ratios"]["wall"]["a"]["us"]["value"] == 0.5
    assert document["samples"]["a"]["us"][2]["wall"] == 3.0
    assert document["failures"] == ["x"]
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "ratios.svg", TWO, "them", ["us", "them"])
    assert (tmp_path / "ratios.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    "arguments",
    ["--only nobody", "--base nobody", "--parts all", "--workloads none", "--rounds 0", "--lib x"],
)
def test_bad_arguments(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments.split()) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.long
def test_quick_run_of_one_workload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = f"--only glibc --workloads cfrac --parts time --rounds 1 --json {tmp_path}/x.json"
    assert command.main(arguments.split()) == 0
    assert "geometric mean" in capsys.readouterr().out
    document = json.loads((tmp_path / "x.json").read_text())
    assert len(document["samples"]["cfrac"]["glibc again"]) == 1
