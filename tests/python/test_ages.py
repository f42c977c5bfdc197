"""For how long free pages have been free, and the ledger of what was given back and taken again."""

from __future__ import annotations

import json
import mmap
import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

import dmi
from dmi.stats import AGES

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = mmap.PAGESIZE
BOUNDS = {
    "under_250ms": 0.25,
    "under_1s": 1,
    "under_4s": 4,
    "under_16s": 16,
    "under_64s": 64,
    "under_256s": 256,
}


def bucket(age: float) -> str:
    return next((name for name, bound in BOUNDS.items() if age < bound), "older")


def ages(heap: dmi.Heap) -> dict[str, int]:
    """The buckets that hold anything; they sum to reclaimable."""
    stats = heap.stats(detail=True)
    stats.check()
    assert stats.ages is not None
    assert tuple(stats.ages) == AGES
    assert sum(stats.ages.values()) == stats.reclaimable
    return {name: size for name, size in stats.ages.items() if size}


def test_the_buckets_follow_one_another() -> None:
    assert ("unseen", *BOUNDS, "older") == AGES


@pytest.mark.keeps
def test_a_freed_run_has_the_age_of_its_free() -> None:
    with dmi.Heap("never", clock="manual") as heap:
        blocks = [heap.malloc(512 * 1024) for _ in range(6)]
        heap.advance(1000)
        assert ages(heap) == {}
        heap.free(blocks[0])
        heap.advance(0.5)
        heap.free(blocks[2])
        heap.advance(5)
        heap.free(blocks[4])
        assert ages(heap) == {"under_16s": 1 << 20, "under_250ms": 512 * 1024}
        heap.advance(70)
        assert ages(heap) == {"under_256s": (1 << 20) + (512 << 10)}
        # What was seen before it became part of a larger run keeps its age.
        heap.free(blocks[3])
        assert ages(heap) == {"under_256s": (1 << 20) + (512 << 10), "under_250ms": 512 * 1024}
        # Handed out and freed again it is young.
        again = heap.malloc(512 * 1024)
        heap.advance(300)
        heap.free(again)
        assert ages(heap)["under_250ms"] == 512 * 1024


@pytest.mark.keeps
@pytest.mark.parametrize("policy", ["never", "threshold:total=1G", "budget:ratio=1000", "pressure"])
def test_a_virtual_block_that_is_kept_has_the_age_of_its_free(policy: str) -> None:
    try:
        heap = dmi.Heap(policy, clock="manual")
    except OSError as error:
        pytest.skip(str(error))
    with heap:
        heap.malloc(1 << 20)
        block = heap.malloc(40 << 20)
        heap.advance(7)
        heap.free(block)
        heap.advance(20)
        if policy != "pressure" or heap.stats().free_pages:
            assert ages(heap)["under_64s"] == 40 << 20


@pytest.mark.parametrize("lfh", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_pages_inside_subsegments_and_regions_are_as_old_as_looks_know(
    lfh: bool, seed: int
) -> None:
    """Against a model of the rule itself, page by page, from walks."""
    rng = random.Random(seed)
    with dmi.Heap("never", lfh=lfh, clock="manual") as heap:
        blocks: list[int | None] = [heap.malloc(5000) for _ in range(600)]
        since: dict[int, float] = {}
        now = 0.0
        for _ in range(60):
            step = rng.choice((0.0, 0.125, 0.3125, 1.5, 6.0, 30.0, 100.0))  # whole sixteenths
            heap.advance(step)
            now += step
            for index in rng.sample(range(600), rng.choice((5, 60))):
                block = blocks[index]
                # Every third stays, so that no run becomes free as a whole: it has four at least.
                if index % 3 == 0:
                    continue
                if block is None:
                    blocks[index] = heap.malloc(5000)
                else:
                    heap.free(block)
                    blocks[index] = None
            found = free_pages(heap)
            expected: Counter[str] = Counter()
            for page, size in found.items():
                expected[bucket(now - since[page]) if page in since else "unseen"] += size
            since = {page: since.get(page, now) for page in found}
            assert ages(heap) == dict(expected)


def free_pages(heap: dmi.Heap) -> dict[int, int]:
    """Free bytes of every page of subsegments and regions that could go, by page."""
    free: Counter[int] = Counter()
    pinned: set[int] = set()
    previous = None
    for found in heap.walk():
        if found.kind == "virtual" or found.state == "uncommitted":
            previous = None
            continue
        pages = range(found.address // PAGE, (found.end - 1) // PAGE + 1)
        if found.state == "free":
            for page in pages:
                low, high = max(found.address, page * PAGE), min(found.end, (page + 1) * PAGE)
                free[page] += high - low
            if found.kind == "list":
                # Its tag and its links stay.
                pinned.update(range((found.address - 8) // PAGE, (found.address + 15) // PAGE + 1))
        elif found.state == "busy" or (found.kind == "list" and previous is not None):
            pinned.update(pages)
        previous = found
    return {page: size for page, size in free.items() if page not in pinned}


@pytest.mark.keeps
@pytest.mark.parametrize("policy", ["budget:ratio=1000", "decay:half_life=1000", "lazy:delay=15"])
def test_passes_are_looks(policy: str) -> None:
    """Nobody asks for statistics before the end."""
    with dmi.Heap(policy, clock="manual") as heap:
        blocks = [heap.malloc(600) for _ in range(20_000)]
        for index, block in enumerate(blocks):
            if index % 1000:
                heap.free(block)
        heap.advance(14)
        early = ages(heap)
        assert set(early) <= {"unseen", "under_16s"}
        heap.advance(1500)
        late = ages(heap)
        if policy.startswith("lazy"):
            assert sum(late.values()) < 100 * PAGE, "all of it went"
        else:
            assert set(late) <= {"older"}
            assert late["older"] > 3 << 20


@pytest.mark.parametrize(
    "policy", ["never", "eager", "lazy", "decay", "threshold", "budget:ratio=9"]
)
@pytest.mark.parametrize("how", ["discard", "decommit", "offer"])
def test_every_policy_has_ages_that_sum(policy: str, how: str) -> None:
    rng = random.Random(5)
    with dmi.Heap(f"{policy}:how={how}", clock="manual") as heap:
        live: list[int] = []
        for _ in range(30):
            live += [heap.malloc(rng.choice((40, 900, 5000, 60_000))) for _ in range(100)]
            rng.shuffle(live)
            for _ in range(len(live) // 2):
                heap.free(live.pop())
            heap.advance(rng.choice((0, 0.2, 0.7, 3)))
            if rng.random() < 0.5:
                assert "older" not in ages(heap)
        ages(heap)


@pytest.mark.keeps
def test_ages_are_explained_and_survive_json() -> None:
    with dmi.Heap("never", clock="manual") as heap:
        heap.free(heap.malloc(1 << 20))
        heap.advance(2)
        stats = heap.stats(detail=True)
        assert stats.ages is not None
        assert stats.ages["under_4s"] == 1 << 20
        again = dmi.HeapStats.from_json(stats.to_json())
        assert again == stats
        assert json.loads(stats.to_json())["ages"]["under_4s"] == 1 << 20
        assert heap.stats().ages is None
        explained = heap.explain()
        assert {row["name"]: row["value"] for row in explained.as_dict()["ages"]} == stats.ages
        text = str(explained)
        assert "for how long, at least, 1,048,576 reclaimable bytes have been free" in text
        assert "1 s or more, less than 4 s" in text
        broken: Mapping[str, int] = {**stats.ages, "older": 1}
        with pytest.raises(dmi.HeapError, match="reclaimable is"):
            dmi.HeapStats.from_dict({**stats.as_dict(), "ages": broken}).check()


# ---- the ledger ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["discard", "decommit"])
def test_what_comes_back_within_a_second_is_churn(how: str) -> None:
    size = 1 << 20
    with dmi.Heap(f"eager:how={how}", clock="manual") as heap:
        block = heap.malloc(size)
        first = heap.stats()
        assert (first.decommit_bytes, first.recommit_bytes) == (0, 0)
        heap.free(block)
        gone = heap.stats()
        assert gone.decommit_bytes == size
        assert gone.decommit_calls >= 1
        heap.advance(0.5)
        block = heap.malloc(size)
        soon = heap.stats()
        assert (soon.recommit_bytes, soon.recommit_churn_bytes) == (size, size)
        assert soon.recommit_calls >= 1
        heap.free(block)
        heap.advance(1.5)
        heap.free(heap.malloc(size))
        late = heap.stats()
        assert (late.recommit_bytes, late.recommit_churn_bytes) == (2 * size, size)
        assert late.decommit_bytes == 3 * size
        assert late.commit_bytes == first.commit_bytes


@pytest.mark.parametrize("policy", ["eager", "threshold"])
def test_churn_goes_by_the_clock_of_that_moment(policy: str) -> None:
    """Policies without passes read the clock too: what comes back later is no churn."""
    with dmi.Heap(policy) as heap:
        heap.free(heap.malloc(1 << 20))
        time.sleep(1.3)
        heap.malloc(1 << 20)
        stats = heap.stats()
        assert stats.recommit_bytes == 1 << 20
        assert stats.recommit_churn_bytes == 0


def test_offered_is_counted_apart() -> None:
    size = 1 << 20
    with dmi.Heap("eager:how=offer", clock="manual") as heap:
        block = heap.malloc(size)
        heap.free(block)
        stats = heap.stats(detail=True)
        assert (stats.offer_bytes, stats.offered, stats.decommit_bytes) == (size, size, 0)
        assert stats.offer_calls == 1
        assert stats.reasons is not None
        assert stats.reasons["offered"] == size
        assert sum(stats.ages.values() if stats.ages else ()) == 0, "what is offered has no age"
        heap.malloc(size)
        after = heap.stats()
        assert (after.unoffer_bytes, after.offered) == (size, 0)
