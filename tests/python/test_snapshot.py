"""Snapshots: what they say, how they are kept, and `!heap` asked of them."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

import dmi
from dmi import windbg
from dmi.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def fill(heap: dmi.Heap, seed: int = 1) -> list[int]:
    """Blocks of every kind, every third of them freed again; returns those that are busy."""
    rng = random.Random(seed)
    made = [heap.malloc(rng.choice((24, 100, 100, 100, 700, 5000, 70_000))) for _ in range(2000)]
    made.append(heap.malloc(64 << 20))
    for address in made[::3]:
        heap.free(address)
    return [address for number, address in enumerate(made) if number % 3]


def of(snapshot: dmi.Snapshot, heap: dmi.Heap) -> windbg.HeapView:
    return next(each for each in snapshot.heaps if each.handle == heap.handle)


def test_a_snapshot_says_what_the_heap_says(heap: dmi.Heap) -> None:
    fill(heap)
    found = of(dmi.snapshot(blocks=True), heap)
    stats = heap.stats(detail=True)
    # Each of the two is a look, which makes what it finds free older for the next.
    later = {"resident": found.stats.resident, "ages": found.stats.as_dict()["ages"]}
    assert found.stats.as_dict() == {**stats.as_dict(), **later}
    assert list(found.segments or ()) == heap.segments()
    assert list(found.histogram or ()) == heap.histogram()
    assert found.blocks is not None
    assert list(found.blocks) == list(heap.walk())
    assert windbg.heap(dmi.snapshot(), "-s").count("\n") == dmi.summary().count("\n")


def test_saved_and_loaded_it_is_the_same(heap: dmi.Heap, tmp_path: Path) -> None:
    fill(heap)
    path = tmp_path / "a.json"
    taken = dmi.snapshot(blocks=True, label="after the peak")
    taken.save(path)
    again = dmi.Snapshot.load(path)
    assert again.as_dict() == taken.as_dict()
    for one, other in zip(taken.heaps, again.heaps, strict=True):
        assert list(one.blocks or ()) == list(other.blocks or ())
    beside = tmp_path / "a.json.blocks"
    ranges = sum(len(each.blocks or ()) for each in taken.heaps)
    assert beside.stat().st_size < 40 * ranges / 4
    beside.unlink()
    assert of(dmi.Snapshot.load(path), heap).blocks is None


def test_without_blocks_nothing_lies_beside_it(heap: dmi.Heap, tmp_path: Path) -> None:
    fill(heap)
    dmi.snapshot().save(tmp_path / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ValueError, match="has no blocks of heap"):
        windbg.heap(dmi.Snapshot.load(tmp_path / "a.json"), "-flt s 10")


@pytest.mark.keeps
def test_the_doctor_reads_snapshots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(tmp_path / f"{name}.json") for name in ("before", "peak", "after")]
    with dmi.Heap("never", name="hoard") as heap:
        keep = [heap.malloc(3000) for _ in range(1000)]
        dmi.snapshot().save(names[0])
        peak = [heap.malloc(3000) for _ in range(30_000)]
        dmi.snapshot().save(names[1])
        for address in peak:
            heap.free(address)
        dmi.snapshot().save(names[2])
        assert len(keep) == 1000
        assert main(["doctor", "--json", *names]) == 1
        verdict = json.loads(capsys.readouterr().out)
        assert "second-order" in verdict["kind"]
        assert "hoard" in json.dumps(verdict)


def test_what_was_not_listed_is_unknown_not_empty(heap: dmi.Heap, tmp_path: Path) -> None:
    """A program without memory for the lists writes null in their place."""
    kept = fill(heap)
    taken = dmi.snapshot()
    document = taken.as_dict()
    (entry,) = (each for each in document["heaps"] if each["handle"] == heap.handle)
    entry["segments"] = entry["histogram"] = None
    path = tmp_path / "short.json"
    path.write_text(json.dumps(document))
    found = dmi.Snapshot.load(path)
    assert found.as_dict() == document
    name = f"{heap.handle:x}"
    assert "unknown" in windbg.heap(found, f"-stat -h {name}")
    (data,) = windbg.heap_data(found, f"-stat -h {name}")
    assert data["histogram"] is None
    for before, after in ((found, taken), (taken, found)):
        (grown,) = windbg.grown(before, after, name)
        assert grown["gained"] is grown["sizes"] is None
        assert "not counted" in windbg.grown_text([grown])
    assert kept


def test_statistics_count_every_busy_block(heap: dmi.Heap) -> None:
    fill(heap)
    (found,) = (
        entry
        for entry in windbg.heap_data(dmi.snapshot(), "-stat")
        if entry["handle"] == heap.handle
    )
    expected = Counter(r.size for r in heap.walk() if r.state == "busy")
    assert {row["size"]: row["count"] for row in found["histogram"]} == expected
    assert sum(row["total"] for row in found["histogram"]) == heap.stats().busy
    assert sum(row["percent"] for row in found["histogram"]) == pytest.approx(100)
    totals = [row["total"] for row in found["histogram"]]
    assert totals == sorted(totals, reverse=True)
    text = windbg.heap(dmi.snapshot(), f"-stat -h {heap.handle:x}")
    largest = found["histogram"][0]
    assert f"{largest['size']:x}" in text.splitlines()[3].split()


def test_filters_find_the_blocks_of_those_sizes(heap: dmi.Heap) -> None:
    fill(heap)
    taken = dmi.snapshot(blocks=True)
    size = heap.usable_size(heap.malloc(100))
    exact = [b for b in windbg.heap_data(taken, f"-flt s {size:x}") if b["handle"] == heap.handle]
    assert {b["size"] for b in exact} == {size}
    assert {b["state"] for b in exact} == {"busy", "free"}
    some = windbg.heap_data(taken, "-flt r 0n4000 0n80000")
    walked = [r for r in of(taken, heap).blocks or () if 4000 <= r.size <= 80_000]
    blocks = [r for r in walked if r.state in ("busy", "free", "offered")]
    assert [b["address"] for b in some if b["handle"] == heap.handle] == [r.address for r in blocks]
    with pytest.raises(ValueError, match="LOW up to HIGH"):
        windbg.heap(taken, "-flt r 20 10")


def test_a_live_heap_is_no_snapshot(heap: dmi.Heap) -> None:
    for ask in (windbg.heap, windbg.heap_data):
        with pytest.raises(TypeError, match=r"source must be a snapshot.*not Heap"):
            ask(heap, "-s")  # type: ignore[arg-type]


def test_an_address_is_found_inside_its_block(heap: dmi.Heap) -> None:
    busy = fill(heap)
    taken = dmi.snapshot(blocks=True)
    for address in busy[::97]:
        (found,) = windbg.heap_data(taken, f"-x {address + 5:x}")
        assert (found["address"], found["offset"], found["state"]) == (address, 5, "busy")
        assert found["size"] == heap.usable_size(address)
        assert f"{address:016x}" in windbg.heap(taken, f"-x 0n{address}")
    with pytest.raises(ValueError, match="no heap of the snapshot holds"):
        windbg.heap(taken, "-x 10")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1f0", 496), ("0x1F0", 496), ("0n496", 496), ("00007fff`00000010", 0x7FFF00000010)],
)
def test_numbers_are_read_as_the_debugger_does(text: str, value: int) -> None:
    assert windbg.number(text) == value


@pytest.mark.parametrize(
    "text", ["", "`", "0x", "0n", "-1", "xyz", "0n1f", "1" * 18, "0n" + "9" * 20]
)
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a number|64 bits"):
        windbg.number(text)


@pytest.mark.parametrize("command", ["-q", "-flt", "-flt s", "-flt r 1", "-x", "-s 1", "-h 1 2"])
def test_other_commands_are_refused(command: str) -> None:
    with pytest.raises(ValueError, match=r"-"):
        windbg.heap(dmi.snapshot(), command)


@pytest.mark.plain
def test_on_the_command_line(
    heap: dmi.Heap, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = fill(heap)[0]
    path = str(tmp_path / "a.json")
    taken = dmi.snapshot(blocks=True)
    taken.save(path)
    size = f"0n{heap.usable_size(address)}"
    for option in (
        ["-s"], ["-v"], ["-h"], ["-h", f"{heap.handle:x}"], ["-stat"], ["-flt", "s", size],
        ["-flt", "r", "1", size], ["-x", f"{address:x}"],
    ):  # fmt: skip
        assert main(["heap", path, *option]) == 0
        assert capsys.readouterr().out == windbg.heap(taken, option)
        assert main(["heap", path, *option, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == windbg.heap_data(taken, option)
        assert main(["heap", *option, path]) == 0  # the file may stand last
        assert capsys.readouterr().out == windbg.heap(taken, option)
    assert main(["heap", path]) == 0
    assert capsys.readouterr().out == windbg.heap(taken, "-s")
    assert main(["heap", path, "-x", "1"]) == 2
    assert main(["heap"]) == 2
    assert main(["heap", str(tmp_path / "none")]) == 2
    capsys.readouterr()


def test_each_column_of_the_table_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["heap", "--columns"]) == 0
    text = capsys.readouterr().out
    for name in ("Reserv", "Commit", "Virt", "Free", "List length", "UCR blocks", "Lock cont."):
        assert name in text
    assert "floor(100 * Free / Commit)" in text
    assert main(["heap", "--columns", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == windbg.COLUMNS


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, taken out, doubled, or numbers replaced by odd ones."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out))
        match rng.randrange(4):
            case 0:
                out[at] = rng.randrange(256)
            case 1:
                del out[at : at + rng.randint(1, 40)]
            case 2:
                out[at:at] = out[at : at + rng.randint(1, 40)]
            case _:
                odd = (b"-1", b"1e999", b"null", b"[]", b'"x"', b"9" * 30, b"true", b"NaN", b"{}")
                out[at : at + rng.randint(0, 3)] = rng.choice(odd)
        if not out:
            break
    return bytes(out)


@pytest.mark.plain
def test_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    with dmi.Heap() as heap:
        fill(heap)
        dmi.snapshot(blocks=True).save(tmp_path / "good.json")
    texts = (tmp_path / "good.json").read_bytes()
    blocks = (tmp_path / "good.json.blocks").read_bytes()
    rng = random.Random(5)
    path, beside = tmp_path / "bad.json", tmp_path / "bad.json.blocks"
    messages: list[str] = []
    for number in range(1500):
        path.write_bytes(mutated(texts, rng) if number % 3 else texts)
        beside.write_bytes(blocks if number % 3 else mutated(blocks, rng))
        try:
            found = dmi.Snapshot.load(path)
        except ValueError as error:
            messages.append(str(error))
            continue
        for each in found.heaps:
            for block in each.blocks or ():
                assert block.size >= 0
    assert len(messages) > 500
    assert all("bad.json: not a snapshot of dmi: " in message for message in messages)


def test_a_file_that_promises_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    with dmi.Heap() as heap:
        fill(heap)
        dmi.snapshot(blocks=True).save(tmp_path / "a.json")
    values = json.loads((tmp_path / "a.json").read_text())
    values["heaps"][0]["blocks"] = 1 << 28
    (tmp_path / "a.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="shorter than its"):
        dmi.Snapshot.load(tmp_path / "a.json")


def test_which_sizes_grew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(tmp_path / f"{name}.json") for name in ("before", "after")]
    with dmi.Heap("never", name="hoard") as heap:
        first = [heap.malloc(200) for _ in range(100)]
        dmi.snapshot().save(names[0])
        more = [heap.malloc(3000) for _ in range(20_000)]
        for address in first[:50]:
            heap.free(address)
        dmi.snapshot().save(names[1])
        assert len(more) == 20_000
        assert main(["heap", *names, "-stat", f"{heap.handle:x}", "--json"]) in (None, 0)
        (found,) = json.loads(capsys.readouterr().out)["heaps"]
        top, *_, bottom = found["sizes"]
        # The first of a size come from the back end, and are a little larger.
        assert top["before"] == 0
        assert 19_950 < top["after"] <= 20_000
        assert bottom["gained"] < 0
        assert found["gained"] == sum(row["gained"] for row in found["sizes"])
        assert main(["heap", *names, "-stat"]) in (None, 0)
        assert "(hoard): +" in capsys.readouterr().out
        assert main(["heap", *names]) == 2
        verdict = dmi.diagnose(*(dmi.Snapshot.load(name) for name in names))
        assert verdict.kind == "growth"
        assert "What grew most: blocks of 3,0" in verdict.causes[0].text
