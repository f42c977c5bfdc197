"""A recording on other allocators, and its picture."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

import dmi
from dmi.cli import main
from dmi.experiment import against, library_of, replay
from dmi.policy import expand
from dmi.trace import Record, check, pack, save
from dmi.trace.format import OP_ALLOC, OP_CALLOC, OP_FREE, OP_REALLOC, OP_TIME

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no LD_PRELOAD")

BLOCKS = 4000


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A peak of 24 MiB that is freed but for one block in twenty, and a second of rest."""
    path = tmp_path_factory.mktemp("against") / "peak.dmi"
    records = [Record(OP_ALLOC, 0, 0, number, 3000) for number in range(BLOCKS)]
    records += [Record(OP_REALLOC, 0, 0, number, 6000) for number in range(BLOCKS)]
    records += [Record(OP_TIME, 0, 0, 0, 300_000)]
    records += [Record(OP_FREE, 0, 0, number, 0) for number in range(BLOCKS) if number % 20]
    records += [Record(OP_CALLOC, 6, 0, 1, 100), Record(OP_TIME, 0, 0, 0, 1_300_000)]
    save(check(pack(records), objects=BLOCKS), path)
    return path


@pytest.mark.long
def test_each_allocator_serves_what_is_measured_on_it(recording: Path) -> None:
    names = ["glibc", dmi.get_preload_path()]
    names += [name for name in ("jemalloc", "mimalloc") if installed(name)]
    found = against(recording, names, expand("never,lazy:delay=0.2"))
    rivals = {rival.name: rival for rival in found.rivals}
    assert len(rivals) == len(names) + 2
    busy = BLOCKS * 6000
    for rival in rivals.values():
        assert rival.resident_peak > 0.9 * busy
        assert rival.resident_end <= rival.resident_peak
        assert 0 < rival.mean_resident <= rival.resident_peak
        assert rival.cpu_seconds > 0
    assert rivals["glibc"].library is None
    assert rivals["dmi lazy:delay=0.2"].resident_end < 0.5 * busy
    assert rivals["dmi never"].resident_end > 0.9 * busy
    lines = str(found).splitlines()
    assert sum(line.split("  ")[0] in rivals for line in lines) == len(rivals)
    assert json.loads(found.to_json())["rivals"][0]["name"] == "dmi never"


def installed(name: str) -> bool:
    try:
        return library_of(name) is not None
    except ValueError:
        return False


def test_what_is_not_there_is_named(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="no allocator 'nomalloc'; known are glibc, jemalloc"):
        library_of("nomalloc")
    with pytest.raises(ValueError, match="there is no library"):
        library_of(str(tmp_path / "libnone.so"))
    (tmp_path / "libnone.so").write_text("no library")
    command = ["replay", str(recording), "--decommit", "lazy", "--against"]
    assert main([*command, str(tmp_path / "libnone.so")]) == 2
    assert "libnone.so: " in capsys.readouterr().err
    assert main([*command, "glibc,nomalloc"]) == 2
    assert "nomalloc" in capsys.readouterr().err
    assert main([*command, "glibc", "--at", "1"]) == 2
    assert "--at does not go with --against" in capsys.readouterr().err


def test_the_command_compares(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["replay", str(recording), "--decommit", "lazy", "--against", "glibc", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert [rival["name"] for rival in found["rivals"]] == ["dmi lazy", "glibc"]


@pytest.mark.keeps
def test_a_replay_is_drawn(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "picture.svg"
    command = ["replay", str(recording), "--decommit", "never,eager", "--samples", "20"]
    assert main([*command, "--repeat", "1", "--plot", str(path)]) == 0
    assert "best trade" in capsys.readouterr().out
    text = path.read_text()
    for words in ("never", "eager", "busy", "page bound at the end"):
        assert f"<!-- {words} -->" in text
    result = replay(recording, "never", samples=20, repeat=1)
    result.plot(tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert main([*command, "--plot", str(tmp_path / "none" / "a.png")]) == 2
    assert "there is no directory" in capsys.readouterr().err
