"""The HTML report: what it says, how large it is, and that a browser shows it."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import dmi
from dmi import cli
from dmi.report import report
from dmi.report._map import STATES, map_of_ranges
from dmi.report._svg import ticks

pytest.importorskip("jinja2")
REDIS = Path(__file__).resolve().parents[2] / "examples" / "redis-peak.dmi.zst"
SQLITE = REDIS.with_name("sqlite-vacuum.dmi.zst")
NASTY = "</script><b onx=1>\u2028&"


class Page(HTMLParser):
    """Elements that may not be wrong: ids, links, what is loaded, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in ("src", "href") and not (value or "").startswith(("#", "data:")):
                self.loaded.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def data_of(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def blocks_of(segment: Any) -> list[tuple[int, int]]:
    """The blocks as the page's script reads them: (address, size)."""
    packed, at, end, found = unpacked(segment["blocks"]), 0, int(segment["address"], 16), []

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = packed[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    for _ in range(segment["count"]):
        start = end + number()
        size = number()
        found.append((start, size))
        end = start + size
    assert at == len(packed)
    return found


@pytest.fixture
def moments(heap: dmi.Heap) -> list[dmi.Snapshot]:
    before = dmi.snapshot(label="before")
    blocks = [heap.malloc(100 + n % 400) for n in range(20_000)]
    blocks += [heap.malloc(n) for n in (70_000, 300_000, 20 << 20)]
    peak = dmi.snapshot(label="peak")
    for n, block in enumerate(blocks):
        if n % 10:
            heap.free(block)
    return [before, peak, dmi.snapshot(True, label="after")]


def test_snapshots(moments: list[dmi.Snapshot], heap: dmi.Heap, tmp_path: Path) -> None:
    files = []
    for n, each in enumerate(moments):
        each.save(tmp_path / f"{n}.json")
        files.append(tmp_path / f"{n}.json")
    target = tmp_path / "report.html"
    assert cli.main(["report", *map(str, files), "-o", str(target)]) == 0
    html = target.read_text()
    page = Page(html)
    assert not page.loaded
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)
    for words in ("before", "peak", "after", "page bound", "Fast", "The doctor", "pinned"):
        assert words in page.text
    stats = next(each.stats for each in moments[2].heaps if each.handle == heap.handle)
    assert f"{stats.committed / (1 << 20):,.2f}" in page.text


def test_the_map_is_the_walk(moments: list[dmi.Snapshot], heap: dmi.Heap) -> None:
    last = next(each for each in moments[2].heaps if each.handle == heap.handle)
    data = data_of(report(moments).html)
    drawn = next(each for each in data["maps"] if f"{heap.handle:x}" in each["title"])
    busy = {(each.address, each.size) for each in last.blocks or () if each.state == "busy"}
    found = {block for segment in drawn["segments"] for block in blocks_of(segment)}
    assert found == busy
    page, state_of = drawn["page"], {}
    for segment in drawn["segments"]:
        base = int(segment["address"], 16)
        for n, state in enumerate(unpacked(segment["pages"])):
            state_of[base + n * page] = STATES[state]
    touched: dict[int, int] = {}
    for address, size in busy:
        for start in range(address // page * page, address + size, page):
            here = min(address + size, start + page) - max(address, start)
            touched[start] = touched.get(start, 0) + here
    for start, name in state_of.items():
        assert ("busy" in name) == (start in touched), (hex(start), name)
        if name == "up to a quarter busy":
            assert 4 * touched[start] <= page
    assert sum(state_of[s] == "uncommitted" for s in state_of) * page <= last.stats.uncommitted
    pins = {(int(a, 16), size): kept for a, size, kept in drawn["pins"]}
    true = {(pin.address, pin.size): pin.pinned for pin in heap.pins(2000)}
    assert pins
    for block, kept in pins.items():
        assert true.get(block, kept) >= kept


def test_names_of_others_stay_text(tmp_path: Path) -> None:
    with dmi.Heap(name=NASTY) as heap:
        heap.malloc(100)
        html = report([dmi.snapshot(True, label=NASTY)], title=NASTY).html
    page = Page(html)
    assert "b" not in page.tags
    assert html.count("</script>") == 2
    assert NASTY in page.text
    assert any(NASTY in each["title"] for each in data_of(html)["maps"])


def test_a_moment_without_heaps_has_no_zero(heap: dmi.Heap) -> None:
    heap.malloc(100_000)
    later = dmi.snapshot()
    earlier = dataclasses.replace(later, heaps=(), time=later.time - 1)
    (chart,) = data_of(report([earlier, later]).html)["charts"]
    lines = {line["name"]: line["points"] for line in chart["series"]}
    assert len(lines["busy"]) == len(lines["committed"]) == 1
    assert len(lines["resident, whole process"]) == 2


def test_without_blocks_it_says_so(heap: dmi.Heap) -> None:
    heap.malloc(100_000)
    html = report([dmi.snapshot()]).html
    assert "The blocks were not saved" in html
    assert all(s["blocks"] is None for m in data_of(html)["maps"] for s in m["segments"])


def test_a_recording_and_its_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = report(SQLITE, decommit="never,lazy")
    page = Page(made.html)
    for words in ("Committed memory under each policy", "never", "lazy", "CPU time, s"):
        assert words in page.text
    assert len(data_of(made.html)["maps"]) == 2
    assert cli.main(["replay", str(SQLITE), "--decommit", "never", "--repeat", "1", "--json"]) == 0
    (tmp_path / "replay.json").write_text(capsys.readouterr().out)
    again = Page(report(tmp_path / "replay.json").html)
    assert "Why it is committed at the end" in again.text


def test_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "sweep.html"
    command = ["sweep", str(SQLITE), "--policies", "never,lazy", "--repeat", "1", "--samples", "9"]
    assert cli.main([*command, "--report", str(target)]) == 0
    page = Page(target.read_text())
    assert "The trade-off, sqlite-vacuum.dmi.zst" in page.text
    assert "never" in page.text
    assert "policy" in capsys.readouterr().out
    assert cli.main([*command, "--report", str(tmp_path / "no" / "x.html")]) == 2


def test_a_process() -> None:
    program = "import dmi,sys; h=dmi.Heap(name='seen'); p=[h.malloc(500) for _ in range(9999)]"
    process = subprocess.Popen(
        [sys.executable, "-c", program + "; print(1, flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    try:
        page = Page(report(pid=process.pid).html)
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
    assert "seen" in page.text
    assert "Layers" in page.text


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{}", "neither a snapshot"),
        ("b.json", '{"runs": [{}]}', "not the JSON of a replay"),
        ("c.json", "{" * 99, "JSON"),
        ("d.txt", "what", "d.txt"),
    ],
)
def test_what_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    target = tmp_path / "x.html"
    assert cli.main(["report", str(tmp_path / name), "-o", str(target)]) == 2
    assert said in capsys.readouterr().err
    assert not target.exists()


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "-o", str(tmp_path / "x.html")]) == 2
    assert "name a FILE" in capsys.readouterr().err
    assert cli.main(["report", str(SQLITE), "-o", str(tmp_path / "no" / "x.html")]) == 2
    assert "no" in capsys.readouterr().err
    with pytest.raises(ValueError, match="needs a file or a process"):
        report()


def test_run_and_report(tmp_path: Path) -> None:
    target = tmp_path / "run.html"
    command = [sys.executable, "-m", "dmi", "run", "--report", str(target), "--", sys.executable]
    program = "import time; x = [bytes(200) for _ in range(90_000)]; time.sleep(2)"
    done = subprocess.run(
        [*command, "-c", program + "; raise SystemExit(3)"], capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr
    html = target.read_text()
    assert "Memory while it ran" in html
    assert "ended with status 3" in html
    lines = {line["name"]: line["points"] for line in data_of(html)["charts"][0]["series"]}
    assert max(y for _, y in lines["busy"]) > 90_000 * 200
    assert data_of(html)["maps"]
    killed = subprocess.run(
        [*command, "-c", "import os; os.kill(os.getpid(), 9)"], capture_output=True, text=True
    )
    assert killed.returncode == 137
    assert "it was killed" in target.read_text()


def test_ticks() -> None:
    assert ticks(0) == [0.0, 1.0]
    for most in (0.3, 7, 90, 1234.5):
        marks = ticks(most)
        assert marks[0] == 0
        assert marks[-1] >= most
        assert 2 <= len(marks) <= 8


@pytest.mark.long
def test_a_million_blocks_and_the_redis_demo_stay_small(tmp_path: Path) -> None:
    assert len(report(REDIS).html.encode()) <= 2 << 20
    with dmi.Heap("never") as heap:
        blocks = [heap.malloc(24 + n % 200) for n in range(1_000_000)]
        for block in blocks[::7]:
            heap.free(block)
        drawn = map_of_ranges("a million", heap.ranges(), 4096)
        assert sum(each.count for each in drawn.segments) == len(blocks) - len(blocks[::7])
        made = report([dmi.snapshot(True)])
    made.save(tmp_path / "million.html")
    assert (tmp_path / "million.html").stat().st_size <= 8 << 20
    if shutil.which("chromium"):
        assert "owner not recorded" in browsed(tmp_path / "million.html", tmp_path)


@pytest.mark.keeps
@pytest.mark.plain
def test_free_blocks_do_not_count_against_those_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    others = sum(heap.stats(detail=True).busy_blocks for heap in dmi.heaps())
    monkeypatch.setattr("dmi.report._map.MAX_BLOCKS", 1000 + others)
    with dmi.Heap("never", name="halved") as heap:
        blocks = [heap.malloc(64) for _ in range(1800)]
        for block in blocks[::2]:
            heap.free(block)
        listed = data_of(report([dmi.snapshot(True)]).html)["maps"]
        blocks = [heap.malloc(64) for _ in range(1800)]
        left_out = data_of(report([dmi.snapshot(True)]).html)["maps"]
    before, after = ([m for m in maps if "halved" in m["title"]] for maps in (listed, left_out))
    assert [part["blocks"] is None for each in before for part in each["segments"]] == [False]
    assert [part["blocks"] is None for each in after for part in each["segments"]] == [True]


CHROMIUM = (
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=5000",
)  # fmt: skip


def browsed(file: Path, folder: Path) -> str:
    """The page as the browser has it when its scripts have run."""
    command = [*CHROMIUM, f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.long
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_a_browser_shows_it(moments: list[dmi.Snapshot], tmp_path: Path) -> None:
    report(moments).save(tmp_path / "r.html")
    seen = browsed(tmp_path / "r.html", tmp_path)
    assert 'data-ready="1"' in seen
    assert re.search(r"Page 1 of [\d]+ at [0-9a-f]+", seen)
    assert seen.count("<option") > 1


CHILD = """
import sys
kept = [bytes(600) for _ in range(40_000)]
del kept[1::2]
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_process_of_any_kind_has_a_map_and_a_doctor() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env={"PYTHONMALLOC": "malloc"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        html = report(pid=child.pid).html
        child.communicate()
    page = Page(html)
    assert "What the doctor says: One moment: glibc main arena keeps" in page.text
    assert "glibc main arena" in page.text
    assert "Commit" in page.text.split("!heap -s")[-1]
    (drawn,) = [each for each in data_of(html)["maps"] if "main arena" in each["title"]]
    blocks = sum(each.get("count") or 0 for each in drawn["segments"])
    assert blocks > 20_000
    # Every other block went, so most pages hold some that is busy and some that is free.
    states = b"".join(zlib.decompress(base64.b64decode(s["pages"])) for s in drawn["segments"])
    assert sum(3 <= state <= 6 for state in states) > len(states) // 2


@pytest.mark.parametrize("count", [1, 4])
def test_any_number_of_moments(heap: dmi.Heap, count: int) -> None:
    moments = []
    for _ in range(count):
        heap.malloc(100_000)
        moments.append(dmi.snapshot())
    assert "What the doctor says" in Page(report(moments).html).text
