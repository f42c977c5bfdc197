"""What a person at a prompt or in a notebook gets: short words, tables, copies, arrays."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import dmi

if TYPE_CHECKING:
    from collections.abc import Callable

SQLITE = Path(__file__).resolve().parents[2] / "examples" / "sqlite-vacuum.dmi.zst"

MADE: dict[str, Callable[[dmi.Heap], Any]] = {
    "stats": lambda heap: heap.stats(),
    "detail": lambda heap: heap.stats(detail=True),
    "ranges": lambda heap: heap.ranges(),
    "found": lambda heap: dmi.find(heap.malloc(100)),
    "snapshot": lambda heap: dmi.snapshot(True).as_dict(),
    "segments": lambda heap: heap.segments(),
    "histogram": lambda heap: heap.histogram(),
    "pins": lambda heap: heap.pins(),
    "policy": lambda heap: heap.decommit,
    "explanation": lambda heap: heap.explain(),
    "layers": lambda heap: dmi.layers(),
    "address": lambda heap: dmi.address_summary(),
}


@pytest.fixture
def used(heap: dmi.Heap) -> dmi.Heap:
    for n in range(500):
        heap.malloc(16 + n)
    return heap


@pytest.mark.parametrize("name", MADE)
def test_what_is_returned_can_be_kept(used: dmi.Heap, name: str) -> None:
    found = MADE[name](used)
    for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found), copy.copy(found)):
        assert again == found


def test_a_found_block_names_its_heap_where_it_lives() -> None:
    with dmi.Heap() as heap:
        found = dmi.find(heap.malloc(100))
        assert found is not None
        kept = pickle.dumps(found)
        assert pickle.loads(kept).heap.handle == heap.handle
    assert pickle.loads(kept).heap is None
    assert pickle.loads(kept).address == found.address


def test_walks_marks_and_snapshots_too(used: dmi.Heap) -> None:
    ranges, mark, snapshot = used.ranges(), used.mark(), dmi.snapshot(True)
    assert list(pickle.loads(pickle.dumps(ranges))) == list(ranges)
    assert used.blocks_since(pickle.loads(pickle.dumps(mark))) == []
    again = copy.deepcopy(snapshot)
    assert again.as_dict() == snapshot.as_dict()
    assert [list(each.blocks or ()) for each in again.heaps] == [
        list(each.blocks or ()) for each in snapshot.heaps
    ]


def test_prompts_stay_short(used: dmi.Heap) -> None:
    made = (dmi.snapshot(True), used.ranges(), used.walk(), used, used.explain(), dmi.layers())
    for found in (*made, dmi.address_summary()):
        assert len(repr(found)) < 200
    assert "process" in repr(dmi.snapshot(label="noon"))
    assert "'noon'" in repr(dmi.snapshot(label="noon"))


def test_detail_is_known_to_types(used: dmi.Heap) -> None:
    detail = used.stats(detail=True)
    assert isinstance(detail, dmi.DetailedStats)
    assert detail.page_bound + 1 > 1  # no None for a type checker either
    assert not isinstance(used.stats(), dmi.DetailedStats)
    again = dmi.HeapStats.from_json(detail.to_json())
    assert isinstance(again, dmi.DetailedStats)
    assert again == detail


def test_tables_of_a_notebook() -> None:
    with dmi.Heap(name="<b>&") as heap:
        heap.malloc(5000)
        for made in (heap.stats(detail=True), dmi.snapshot()):
            html = made._repr_html_()
            assert html.startswith("<table>")
            assert html.count("<tr>") == html.count("</tr>") > 1
        assert "<b>&" not in dmi.snapshot()._repr_html_()
        assert "page_bound" in heap.stats()._repr_html_()
        assert ">-<" in heap.stats()._repr_html_(), "what is not known is no 0"


def test_names_in_the_summary() -> None:
    with dmi.Heap("eager", name="mine") as heap:
        text = heap.summary(names=True)
        assert text.startswith(heap.summary())
        assert f"{heap.handle:x}  mine  eager" in text
        assert "mine" in dmi.summary(names=True)
        assert "mine" not in dmi.summary()


@pytest.fixture(scope="module")
def replay() -> Any:
    return dmi.replay(SQLITE, decommit="never,lazy", samples=20, repeat=1)


def test_time_lines_as_arrays(replay: Any) -> None:
    arrays = replay["lazy"].arrays()
    timeline = replay["lazy"].timeline
    assert {len(each) for each in arrays.values()} == {len(timeline)}
    assert list(arrays["committed"]) == [each.stats.committed for each in timeline]
    assert (arrays["reserved"] == arrays["uncommitted"] + arrays["committed"]).all()
    assert replay._repr_html_().count("<tr>") == 3
    assert len(repr(replay)) < 200


def test_frames(replay: Any, used: dmi.Heap) -> None:
    pandas = pytest.importorskip("pandas")
    frame = replay.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert set(frame["decommit"]) == {"never", "lazy"}
    ranges = used.ranges()
    frame = ranges.frame()
    assert len(frame) == len(ranges)
    assert int(frame["size"].sum()) == used.stats().reserved
    assert set(frame["state"]) == {each.state for each in ranges}
    row: Any = dmi.snapshot().frame().set_index("handle").loc[used.handle]
    assert row["busy"] == used.stats().busy


def test_sweeps(replay: Any) -> None:
    pytest.importorskip("pandas")
    sweep = dmi.sweep([SQLITE], "never,lazy", samples=10, repeat=1)
    frame = sweep.frame()
    assert len(frame) == 2
    assert frame["pareto"].any()
    assert sweep._repr_html_().count("<tr>") == 3
