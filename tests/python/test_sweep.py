"""dmi.sweep and `dmi sweep`: cells in processes of their own, through any executor."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from dmi.cli import main
from dmi.experiment import Cell, Sweep, SweepError, replay, sweep
from dmi.experiment._sweep import DEFAULT_POLICIES, run_cell
from dmi.policy import expand
from dmi.trace import Record, check, pack, save
from dmi.trace.format import OP_ALLOC, OP_FREE, OP_TIME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def recording(path: Path, blocks: int = 400) -> Path:
    """A peak whose blocks are freed but for one in ten, and two idle seconds."""
    records = [Record(OP_ALLOC, 0, 0, number, 3000) for number in range(blocks)]
    records.append(Record(OP_TIME, 0, 0, 0, 1_000_000))
    records += [Record(OP_FREE, 0, 0, number, 0) for number in range(blocks) if number % 10]
    records.append(Record(OP_TIME, 0, 0, 0, 3_000_000))
    save(check(pack(records), objects=blocks), path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("recordings")
    return [recording(folder / "one"), recording(folder / "two", 200)]


class Here:
    """An executor that does the work at once, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.asked.append(args)
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except SweepError as error:
            future.set_exception(error)
        return future


def test_every_recording_meets_every_policy(files: list[Path]) -> None:
    executor = Here()
    steps: list[tuple[str, int, int]] = []
    found = sweep(
        [str(files[0]), files[1].read_bytes()],
        "never,lazy:delay=0.1|1",
        executor=executor,
        samples=5,
        progress=lambda *step: steps.append(step),
    )
    assert len(executor.asked) == 6
    assert [(cell.recording, cell.decommit) for cell in found.cells] == [
        (name, policy)
        for name in (str(files[0]), "recording 2")
        for policy in ("never", "lazy:delay=0.1", "lazy")
    ]
    assert [cell.events for cell in found.cells] == [760] * 3 + [380] * 3
    assert [step[1:] for step in steps] == [(done, 6) for done in range(6)]
    # The same figures as in this process: a cell is a replay and nothing else.
    here = replay(files[0], "lazy:delay=0.1", samples=5).runs[0]
    assert found.cells[1].committed == here.end.stats.committed
    assert found.cells[1].mean_retained == pytest.approx(here.mean_retained)
    parsed = json.loads(found.to_json())
    assert [entry["events"] for entry in parsed["recordings"]] == [760, 380]
    assert parsed["recordings"][1]["runs"][0]["decommit"] == "never"


@pytest.mark.long
def test_executors_of_the_standard_library(files: list[Path]) -> None:
    assert len(sweep(files[0], "eager", samples=3).cells) == 1
    with ProcessPoolExecutor(2) as pool:
        found = sweep(files, "never,eager", executor=pool, samples=3)
    assert len(found.cells) == 4
    never, eager = found.cells[:2]
    assert eager.retained < never.retained


def test_a_cell_that_fails_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"not a recording")
    with pytest.raises(SweepError, match=r"eager on .*bad: dmi replay: .*no recording"):
        sweep(bad, "eager")
    with pytest.raises(SweepError, match="no recording"):
        run_cell(b"not a recording", "eager", 5, 1)
    with pytest.raises(ValueError, match="nope"):
        sweep(bad, "nope")
    with pytest.raises(ValueError, match="no recording"):
        sweep([])


def cell(name: str, cpu: float, retained: float, recording: str = "r") -> Cell:
    end = {"committed": 8192, "retained": 4096}
    run = {"cpu_seconds": cpu, "mean_retained": retained, "end": end, "page_bound": {"end": 4096}}
    return Cell(recording, name, 10, run)


def test_the_front_is_what_nothing_beats() -> None:
    cells = (
        cell("a", 1.0, 50.0),
        cell("b", 2.0, 20.0),
        cell("c", 2.0, 30.0),
        cell("d", 3.0, 20.0),
        cell("e", 4.0, 10.0),
        cell("f", 0.5, 60.0),
        cell("other", 0.1, 0.0, "another"),
    )
    found = Sweep(cells)
    assert [entry.decommit for entry in found.pareto("r")] == ["f", "a", "b", "e"]
    assert [entry.decommit for entry in found.pareto("another")] == ["other"]
    lines = str(found).splitlines()
    marked = [line.split()[0] for line in lines if line.endswith("*")]
    assert marked == ["f", "a", "b", "e", "other"]
    assert "2.000" in str(found)


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = Sweep((cell("never", 1.0, 50.0), cell("lazy", 2.0, 20.0)))
    found.plot(tmp_path / "trade.png")
    assert (tmp_path / "trade.png").read_bytes().startswith(b"\x89PNG")
    found.plot(str(tmp_path / "trade.svg"))
    text = (tmp_path / "trade.svg").read_text()
    assert text.count("<!-- never -->") == 1


def test_the_command(files: list[Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dmi", "sweep", *map(str, files)]
    command += ["--policies", "never,eager", "--samples", "3", "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    # Of what takes longer than a second, each step is a line.
    assert all(
        re.fullmatch(r" *\d+ % .*, (never|eager)", line) for line in done.stderr.splitlines()
    )
    assert sum(line.startswith(("never ", "eager ")) for line in done.stdout.splitlines()) == 4
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    parsed = json.loads(done.stdout)
    assert [entry["recording"] for entry in parsed["recordings"]] == list(map(str, files))
    command[4:6] = [str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("dmi sweep: ")
    assert "none" in done.stderr


def test_the_working_directory_is_no_place_for_modules(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell runs as this process does, whatever lies about."""
    (tmp_path / "dmi").mkdir()
    (tmp_path / "dmi" / "__init__.py").write_text("raise SystemExit('hijacked')")
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep + ".")
    for first in ("", str(tmp_path), "."):
        with monkeypatch.context() as patch:
            patch.syspath_prepend(first)
            assert len(sweep(files[0], "eager", samples=3, repeat=1).cells) == 1


def test_what_cannot_be_told_apart_is_a_tie() -> None:
    def noisy(name: str, cpu: float, retained: float, noise: float | None) -> Cell:
        made = cell(name, cpu, retained)
        made.run["cpu_noise"] = noise
        return made

    found = Sweep(
        (
            noisy("never", 1.00, 100.0, 0.01),
            noisy("lazy", 1.10, 20.0, 0.08),
            noisy("lazy:delay=2", 1.04, 20.1, 0.01),
            noisy("eager", 2.00, 19.9, None),
        )
    )
    assert [each.decommit for each in found.pareto("r")] == ["never", "lazy:delay=2", "lazy"]
    assert [each.decommit for each in found.tied("r")] == ["lazy:delay=2", "lazy"]
    marks = [line.split()[-1] for line in str(found).splitlines()[3:7]]
    assert marks == ["*", "=", "=", "2.000"]
    assert "a tie within noise" in str(found)
    assert found.as_dict()["recordings"][0]["tied"] == ["lazy:delay=2", "lazy"]


def test_a_recording_that_a_delay_outlasts_is_said_to(files: list[Path]) -> None:
    found = sweep(files[0], "never,lazy:delay=0.1|10,decay:half_life=5", samples=3, repeat=1)
    words = str(found).splitlines()[-1]
    assert words.startswith(
        "The recording lasts 3.0 s, no longer than the delay of lazy:delay=10, "
    )
    assert "decay:half_life=5" in words
    assert "delay=0.1" not in words.replace("delay=10", "")
    assert "no longer than the delay of lazy:delay=9" in str(replay(files[0], "lazy:delay=9"))
    assert "The recording lasts" not in str(replay(files[0], "lazy:delay=0.1"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("picture", "ends in one of"),
        ("picture.jpgg", "ends in one of"),
        ("missing/picture.png", "there is no directory"),
        ("folder.png", "a directory"),
        ("link.svg", "a symbolic link"),
    ],
)
def test_a_plot_that_cannot_be_is_refused_before_the_work(
    tmp_path: Path, name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.svg").symlink_to("elsewhere")
    # The recording is not even looked at.
    command = ["sweep", str(tmp_path / "none"), "--plot", str(tmp_path / name)]
    assert main(command) == 2
    assert words in capsys.readouterr().err


def test_without_matplotlib_a_plot_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    assert main(["sweep", str(tmp_path / "none"), "--plot", str(tmp_path / "a.png")]) == 2
    assert "dmi-heap[plot]" in capsys.readouterr().err


def test_a_plot_that_fails_does_not_cost_the_table(
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device", "a.png")

    monkeypatch.setattr(Sweep, "plot", fails)
    command = ["sweep", str(files[0]), "--policies", "eager", "--samples", "3"]
    assert main([*command, "--plot", str(tmp_path / "a.png")]) == 2
    shown = capsys.readouterr()
    assert "eager" in shown.out
    assert shown.err.splitlines()[-1] == "dmi sweep: a.png: No space left on device"


def test_the_default_policies_can_be_read() -> None:
    texts = [str(policy) for policy in expand(DEFAULT_POLICIES)]
    assert len(texts) == 10
    assert texts[:2] == ["never", "eager"]


@pytest.mark.long
@pytest.mark.filterwarnings("default")
def test_a_dask_cluster_of_two_workers(files: list[Path]) -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = sweep(
            [str(files[0]), files[1].read_bytes()],
            "never,eager,lazy",
            executor=client.get_executor(),
            samples=3,
        )
    assert len(found.cells) == 6
    assert all(entry.committed > 0 for entry in found.cells)
