"""Profiles as other programs read them, as a page, and on the command line."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from profiles import by_chance, page, profile

import dmi
from dmi.cli import main
from dmi.profile import write
from dmi.profile._write import render

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.reads


@pytest.fixture
def values() -> dict[str, Any]:
    made: dict[str, Any] = by_chance(11)
    return made


def test_folded_adds_up(values: dict[str, Any]) -> None:
    lines = render(values, "folded", "busy").decode().splitlines()
    found = {line.rpartition(" ")[0]: int(line.rpartition(" ")[2]) for line in lines}
    stack = "main.py:10 serve;cache.py:57 put;decoder.py:353 raw_decode"
    rows = {";".join(row.stack): row.bytes for row in dmi.blame(values, "stack", "busy").rows}
    assert abs(found[stack] - rows[stack]) <= 1
    assert abs(sum(found.values()) - dmi.blame(values, what="busy").bytes) <= len(lines)


def test_speedscope_has_each_measure(values: dict[str, Any]) -> None:
    found = json.loads(render(values, "speedscope", "retained"))
    assert found["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert [each["name"] for each in found["profiles"]] == [
        "retained", "pinned", "busy", "allocated",
    ]  # fmt: skip
    for each in found["profiles"]:
        assert each["unit"] == "bytes"
        assert sum(each["weights"]) == each["endValue"]
        assert len(each["samples"]) == len(each["weights"])
        assert all(
            0 <= n < len(found["shared"]["frames"]) for stack in each["samples"] for n in stack
        )


# ---- pprof, read by its fields -------------------------------------------------------------------


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def fields(data: bytes) -> list[tuple[int, Any]]:
    found: list[tuple[int, Any]] = []
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        assert key & 7 in (0, 2)
        value, at = varint(data, at)
        if key & 7:
            value, at = data[at : at + value], at + value  # type: ignore[assignment]
            assert len(value) == at - (at - len(value))  # type: ignore[arg-type]
        found.append((key >> 3, value))
    return found


def whole(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = varint(data, at)
        found.append(value)
    return found


def test_pprof_says_the_same(values: dict[str, Any]) -> None:
    top = fields(gzip.decompress(render(values, "pprof", "busy")))
    strings = [value.decode() for number, value in top if number == 6]
    assert strings[0] == ""
    types = [dict(fields(value)) for number, value in top if number == 1]
    assert [strings[each[1]] for each in types] == ["pinned", "retained", "busy", "allocated"]
    assert {strings[each[2]] for each in types} == {"bytes"}
    assert strings[dict(top)[14]] == "busy"
    functions = {each[1]: strings[each[2]] for each in
                 (dict(fields(value)) for number, value in top if number == 5)}  # fmt: skip
    lines: dict[int, list[str]] = {}
    for number, value in top:
        if number == 4:
            parts = fields(value)
            named = [dict(fields(each)) for n, each in parts if n == 4]
            lines[dict(parts)[1]] = [f"{functions[each[1]]}:{each.get(2, 0)}" for each in named]
    sums: dict[str, list[int]] = {}
    for number, value in top:
        if number == 2:
            both = dict(fields(value))
            stack = [line for location in whole(both[1]) for line in lines[location]]
            sums[" < ".join(stack)] = whole(both[2])
    for place, what in enumerate(("pinned", "retained", "busy", "allocated")):
        total = sum(each[place] for each in sums.values())
        assert abs(total - dmi.blame(values, what=what).bytes) <= len(sums)  # type: ignore[arg-type]
    assert sums["raw_decode:353 < put:57 < serve:10"][2] > 0


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go's pprof")
def test_gos_pprof_reads_it(values: dict[str, Any], tmp_path: Path) -> None:
    write(values, tmp_path / "p.pb.gz", "pprof")
    done = subprocess.run(
        ["go", "tool", "pprof", "-raw", str(tmp_path / "p.pb.gz")],
        capture_output=True, text=True, timeout=60,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "pinned/bytes[dflt]" in done.stdout
    assert "/srv/app/cache.py:57" in done.stdout


# ---- the page -----------------------------------------------------------------------------------


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r"const data = (\{.*\});\n", html)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_flame_graph_adds_up_and_asks_for_nothing(values: dict[str, Any]) -> None:
    html = render(values, "flame").decode()
    data = data_of(html)
    assert data["measures"] == ["pinned", "retained", "busy", "allocated"]
    sums = [[0] * 4 for _ in data["nodes"]]
    for row in data["nodes"][1:]:
        sums[row[0]] = [a + b for a, b in zip(sums[row[0]], row[2:], strict=True)]
    assert sums[0] == data["nodes"][0][2:]
    assert all(
        part <= whole
        for row, own in zip(data["nodes"], sums, strict=True)
        for part, whole in zip(own, row[2:], strict=True)
    )
    assert "default-src 'none'" in html
    assert not re.search(r"(src|href)=|https?://|@import|url\(", html)


def test_names_cannot_leave_their_place() -> None:
    evil = "</script><img src=x onerror=alert(1)>\n;\x1b[31m"
    frames = [{"file": "a.py", "function": evil, "line": 1}]
    values = profile([page([[48, 0]], weight=1.0)], frames=frames, stacks=[[0]])
    assert "</script><img" not in render(values, "flame").decode()
    folded = render(values, "folded").decode()
    assert folded.count("\n") == 1
    assert folded.count(";") == 0
    assert "\x1b" not in folded
    assert "\x1b" not in str(dmi.blame(values))


@pytest.mark.long
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_a_browser_draws_it(values: dict[str, Any], tmp_path: Path) -> None:
    from test_report import browsed

    write(values, tmp_path / "f.html", "flame")
    seen = browsed(tmp_path / "f.html", tmp_path)
    assert seen.count('role="treeitem"') > 5
    assert "cache.py:57 put" in seen


# ---- two moments, files, the command ------------------------------------------------------------


def test_two_moments(values: dict[str, Any]) -> None:
    later = by_chance(12) | {"time": 2e9}
    html = render((values, later), "flame", "grew").decode()
    assert data_of(html)["gained"] is True
    with pytest.raises(ValueError, match="diff_base"):
        render((values, later), "pprof", "grew")
    with pytest.raises(ValueError, match="format must be one of flame"):
        render(values, "svg")


def test_a_file_is_new_and_private(values: dict[str, Any], tmp_path: Path) -> None:
    write(values, tmp_path / "f.folded", "folded")
    assert stat.S_IMODE((tmp_path / "f.folded").stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "f.folded")
    with pytest.raises(OSError, match="symbolic link"):
        write(values, tmp_path / "link", "folded")


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = main(["blame", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, later = tmp_path / "p.json", tmp_path / "q.json"
    file.write_text(json.dumps(profile([page([[48, 1]], number=n) for n in range(60)])))
    marks = [page([[48, 1], [512, 3]], number=n) for n in range(60)]
    later.write_text(json.dumps(profile(marks, time=2e9)))
    status, out, _ = run(str(file), capsys=capsys)
    assert status == 0
    assert out.startswith("100 % of what stays although it is free is pinned by cache.py:57 put: ")
    status, out, _ = run(str(file), "--what", "busy", "--by", "size", "--json", capsys=capsys)
    assert json.loads(out)["rows"][0]["name"] == "48 bytes"
    status, out, _ = run(str(file), str(later), capsys=capsys)
    assert out.startswith("100 % of what grew was allocated by app.py:9 run")
    status, out, _ = run(
        str(file), "--format", "flame", "--output", str(tmp_path / "f.html"), capsys=capsys
    )
    assert (status, out) == (0, "")
    assert (tmp_path / "f.html").is_file()
    status, _, err = run(str(tmp_path / "none"), capsys=capsys)
    assert status == 2
    assert "No such file" in err
    status, _, err = run(str(file), "--output", "x", capsys=capsys)
    assert (status, err) == (2, "dmi blame: --output needs --format\n")
    (tmp_path / "s.json").write_text('{"format": "dmi-snapshot", "version": 2, "heaps": []}')
    status, _, err = run(str(tmp_path / "s.json"), capsys=capsys)
    assert status == 2
    assert "taken without a sampler" in err


def test_what_is_written_to_standard_output_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text(json.dumps(by_chance(2)))
    done = subprocess.run(
        [sys.executable, "-m", "dmi", "blame", str(file), "--format", "pprof"],
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert gzip.decompress(done.stdout)
