"""The numbers: names, units, waterfall, derived figures, walk, explanation."""

from __future__ import annotations

import dataclasses
import json
import mmap
import random
import re
from pathlib import Path
from typing import Any

import pytest

import dmi

HEADER = Path(dmi.get_include()) / "dmi" / "stats.h"
BYTE_KEYS = {
    "reserved",
    "uncommitted",
    "committed",
    "busy",
    "free_lfh",
    "free_list",
    "free_pages",
    "offered",
    "overhead",
    "retained",
    "reclaimable",
    "pinned",
    "page_bound",
}


def table(name: str) -> list[tuple[str, ...]]:
    """The rows of an X-macro of the header, read by other means than the compiler's."""
    text = HEADER.read_text()
    body = re.search(rf"#define {name}\(X\)(.*?[^\\])\n", text, re.DOTALL)
    assert body is not None
    rows = []
    for entry in re.split(r"\bX\(", body[1].replace("\\\n", ""))[1:]:
        names, _, _ = entry.partition('"')
        doc = "".join(re.findall(r'"([^"]*)"', entry))
        rows.append((*[part.strip() for part in names.split(",") if part.strip()], doc))
    return rows


def test_the_class_follows_the_header() -> None:
    counters = table("DMI_STATS")
    declared = [field.name for field in dataclasses.fields(dmi.HeapStats)]
    assert declared == [row[0] for row in counters] + ["reasons", "ages"]
    units = {"B": "bytes", "n": "count", "b": "0 or 1", "x": "flag bits"}
    for name, unit, doc in counters:
        assert dmi.HeapStats.describe(name) == (units[unit], doc)
    with dmi.Heap() as heap:
        reasons, ages = heap.stats(detail=True).reasons, heap.stats(detail=True).ages
        assert reasons is not None
        assert ages is not None
        assert list(reasons) == [row[0] for row in table("DMI_REASONS")]
        assert list(ages) == [row[0] for row in table("DMI_AGES")]
        assert dmi.HeapStats.describe("older") == ("bytes", "256 s or more")
    with pytest.raises(KeyError):
        dmi.HeapStats.describe("speed")


def churn(heap: dmi.Heap, seed: int = 1) -> list[int]:
    """Leave a heap with holes of all sizes; returns the live addresses."""
    rng = random.Random(seed)
    live: list[int] = []
    for _ in range(4000):
        live.append(heap.malloc(int(2 ** rng.uniform(3, 16))))
        if len(live) > 300:
            heap.free(live.pop(rng.randrange(len(live))))
    rng.shuffle(live)
    for address in live[40:]:
        heap.free(address)
    return live[:40]


@pytest.fixture(params=["never", "eager", "lazy", "threshold"])
def churned(request: pytest.FixtureRequest) -> Any:
    with dmi.Heap(request.param, clock="manual", name="churned") as heap:
        live = churn(heap)
        yield heap
        for address in live:
            heap.free(address)
        heap.validate()
        heap.stats(detail=True).check()
        assert heap.stats().busy == 0


def test_detail_is_none_until_asked_for(churned: dmi.Heap) -> None:
    cheap = churned.stats()
    assert not cheap.detail
    assert (cheap.reclaimable, cheap.pinned, cheap.page_bound, cheap.resident) == (None,) * 4
    assert cheap.reasons is None
    assert cheap.committed_per_page_bound is None
    cheap.check()
    full = churned.stats(detail=True)
    assert full.detail
    full.check()
    assert full.resident is not None
    assert 0 < full.resident <= full.reserved
    assert full.page_bound is not None
    assert full.page_bound % mmap.PAGESIZE == 0
    assert full.page_bound <= full.committed
    for name in BYTE_KEYS - {"reclaimable", "pinned", "page_bound"}:
        assert getattr(full, name) == getattr(cheap, name)


def test_as_dict_has_the_byte_keys_and_json_comes_back(churned: dmi.Heap) -> None:
    for detail in (False, True):
        stats = churned.stats(detail)
        values = stats.as_dict()
        assert set(values) >= BYTE_KEYS
        assert values["retained"] == values["committed"] - values["busy"] == stats.retained
        assert json.loads(stats.to_json()) == values
        again = dmi.HeapStats.from_json(stats.to_json(indent=2))
        assert again == stats
        again.check()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "{}", '{"reserved": 1}', '{"reserved": "x", "committed": 1}', "nonsense"],
)
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        dmi.HeapStats.from_json(text)


def test_check_finds_a_missing_byte(churned: dmi.Heap) -> None:
    stats = churned.stats(detail=True)
    assert stats.pinned is not None
    assert stats.reasons is not None
    for change in (
        {"reserved": stats.reserved + 1},
        {"busy": stats.busy - 1},
        {"overhead": stats.overhead + 16},
        {"pinned": stats.pinned + 1},
        {"reasons": {**stats.reasons, "pinned": stats.reasons["pinned"] + 1}},
    ):
        with pytest.raises(dmi.HeapError, match="waterfall"):
            dataclasses.replace(stats, **change).check()


def test_derived_figures_follow_their_formulas(churned: dmi.Heap) -> None:
    stats = churned.stats(detail=True)
    free = stats.free_lfh + stats.free_list + stats.free_pages + stats.offered
    assert stats.free == free
    assert stats.external_fragmentation == 100 * free // stats.segment_committed
    assert stats.mean_free_block == (free // stats.list_length if stats.list_length else None)
    assert stats.page_bound
    assert stats.committed_per_page_bound == stats.committed / stats.page_bound
    row = churned.row()
    assert row.committed_kib == stats.segment_committed // 1024
    assert row.handle == churned.handle


def test_numbers_are_immutable(churned: dmi.Heap) -> None:
    stats = churned.stats(detail=True)
    with pytest.raises(AttributeError):
        stats.busy = 0  # type: ignore[misc]
    assert stats.reasons is not None
    with pytest.raises(TypeError):
        stats.reasons["pinned"] = 0  # type: ignore[index]


def test_walk_tiles_the_reservation(churned: dmi.Heap) -> None:
    walk = churned.ranges()
    stats = churned.stats()
    assert len(walk) == len(list(walk))
    assert walk[0] == next(iter(walk))
    assert walk[-1] == list(walk)[-1]
    assert walk[2:5] == list(walk)[2:5]
    with pytest.raises(IndexError):
        walk[len(walk)]
    assert sum(found.size for found in walk) == stats.reserved
    assert sum(f.size for f in walk.select(state="busy")) == stats.busy
    assert sum(f.size for f in walk.select(state="uncommitted")) == stats.uncommitted
    assert all(f.size >= 5000 for f in walk.select(at_least=5000))
    assert all(f.kind == "lfh" and f.bucket >= f.size for f in walk.select(kind="lfh"))
    with pytest.raises(ValueError, match="state"):
        list(walk.select(state="asleep"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind"):
        list(walk.select(kind="good"))  # type: ignore[arg-type]
    for found in walk.select(state="busy"):
        place = dmi.find(found.address + found.size // 2)
        assert place is not None
        assert (place.address, place.size, place.state) == (found.address, found.size, "busy")


def test_segments_sum_to_the_counters(churned: dmi.Heap) -> None:
    big = churned.malloc(40 << 20)
    segments = churned.segments()
    stats = churned.stats()
    assert sum(segment.reserved for segment in segments) == stats.reserved
    assert sum(segment.committed for segment in segments) == stats.committed
    plain = [segment for segment in segments if not segment.virtual]
    assert len(plain) == stats.segments
    assert sum(segment.reserved for segment in plain) == stats.segment_reserved
    assert sum(segment.uncommitted_ranges for segment in plain) == stats.uncommitted_ranges
    assert stats.virtual_blocks == 1
    churned.free(big)


@pytest.mark.keeps
def test_a_freed_virtual_block_that_is_kept_is_a_segment() -> None:
    with dmi.Heap("never", name="keeps") as heap:
        blocks = [heap.malloc(100), heap.malloc(40 << 20), heap.malloc(50 << 20)]
        heap.free(blocks[2])
        stats, row = heap.stats(detail=True), heap.row()
        assert stats.free_pages >= 50 << 20
        assert stats.virtual_blocks == 1
        assert stats.virtual_committed < 41 << 20
        assert stats.committed == stats.segment_committed + stats.virtual_committed
        assert stats.reserved == stats.segment_reserved + stats.virtual_committed
        assert row.free_kib <= row.committed_kib <= row.virtual_kib <= row.reserved_kib
        assert 80 <= (stats.external_fragmentation or 0) <= 100
        assert row.busy >= 0
        plain = [segment for segment in heap.segments() if not segment.virtual]
        assert len(plain) == stats.segments
        assert sum(segment.committed for segment in plain) == stats.segment_committed
        assert sum(segment.reserved for segment in plain) == stats.segment_reserved
        assert sum(segment.uncommitted_ranges for segment in plain) == stats.uncommitted_ranges
        heap.trim()
        assert heap.stats().segment_committed < 10 << 20


def test_histogram_counts_busy_blocks(heap: dmi.Heap) -> None:
    addresses = [heap.malloc(64) for _ in range(50)] + [heap.malloc(5000) for _ in range(3)]
    rows = heap.histogram()
    assert sum(row.total for row in rows) == heap.stats().busy
    assert sum(row.count for row in rows) == 53
    assert sum(row.percent for row in rows) == pytest.approx(100)
    assert rows == sorted(rows, key=lambda row: -row.total)
    for address in addresses:
        heap.free(address)
    assert heap.histogram() == []


def test_explain_names_every_number_and_every_reason(churned: dmi.Heap) -> None:
    explanation = churned.explain()
    text = str(explanation)
    stats = churned.stats(detail=True)
    named = {figure.name: figure for figure in explanation.figures}
    for name, value in stats.as_dict().items():
        if name not in ("reasons", "ages", "resident"):
            assert named[name].value == value, name
            assert name in text
    assert sum(int(reason.value or 0) for reason in explanation.reasons) == stats.retained
    assert churned.name in text
    assert json.loads(json.dumps(explanation.as_dict()))["decommit"] == str(churned.decommit)


def test_the_reason_is_the_policy() -> None:
    expected = {"never": "never", "lazy:delay=60": "delay"}
    for policy, reason in expected.items():
        with dmi.Heap(policy, clock="manual") as heap:
            for address in [heap.malloc(20_000) for _ in range(100)]:
                heap.free(address)
            reasons = heap.stats(detail=True).reasons
            assert reasons is not None
            assert max(reasons, key=lambda name: reasons[name]) == reason


def test_counters_of_calls_go_up() -> None:
    with dmi.Heap("eager", clock="manual") as heap:
        for _ in range(3):
            for address in [heap.malloc(20_000) for _ in range(100)]:
                heap.free(address)
        stats = heap.stats()
        assert stats.commit_calls > 0
        assert stats.commit_bytes >= stats.committed
        assert stats.decommit_calls > 0
        assert stats.decommit_bytes > 0
        assert stats.recommit_bytes <= stats.decommit_bytes
        assert stats.commit_bytes + stats.recommit_bytes - stats.decommit_bytes == stats.committed


def test_metadata_of_the_process_is_counted() -> None:
    assert dmi.metadata_committed() > 0


@pytest.mark.parametrize("first", ["never", "eager", "lazy"])
@pytest.mark.parametrize("detail", [False, True])
def test_a_quarantine_is_let_out_before_pages_are_counted(first: str, detail: bool) -> None:
    """What is let out meanwhile may take pages along that were counted before."""
    for size in (300, 1569, 5000):
        with dmi.Heap(first, hardened=True, clock="manual") as heap:
            blocks = [heap.malloc(size) for _ in range(34)]
            heap.decommit = dmi.Decommit.parse("threshold")
            for address in blocks:
                heap.free(address)
            counted = heap.stats(detail=detail).committed
            assert heap.stats(detail=not detail).committed == counted
            assert counted - heap.trim().decommitted == heap.stats().committed


def test_trim_tells_of_what_frees_gave_back_while_it_let_them_out() -> None:
    """Frees that wait in a quarantine of a thread give pages back by themselves under a policy
    that acts at a free. Found by the random model."""
    lib, ffi = dmi.lib, dmi.ffi
    # Where a hardened heap puts a block is random, and only some places bring it about.
    for _ in range(30):
        heap = dmi.Heap("never", hardened=True, clock="manual")
        handle = ffi.cast("void *", heap.handle)
        block = lib.dmi_heap_calloc(handle, 1, 1)
        heap.decommit = dmi.Decommit.parse("threshold:how=discard")
        lib.dmi_heap_free(handle, block)
        lib.dmi_heap_realloc(handle, lib.dmi_heap_aligned_alloc(handle, 16384, 1), 9)
        before = heap.stats().committed
        assert before - heap.trim().decommitted == heap.stats().committed
        heap.destroy(force=True)
