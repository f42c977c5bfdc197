"""Eight threads make a peak, nine in ten of their blocks are freed, and all fall asleep.

Half of what a thread allocated is freed by another. Nobody calls the heap after that: what the
sleepers cached, and what was freed of theirs from outside, must come back all the same.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from pathlib import Path

import pytest

import dmi
from benchmarks.peers import build, measure
from benchmarks.peers.allocators import Allocator

THREADS = 8
BOUND = 1.05
PATIENCE = 30.0  # seconds until giving up; with defaults it takes 8 on an idle machine

Blocks = list[int]


class Sleepers:
    """The threads, and what each allocated."""

    def __init__(self, heap: dmi.Heap, blocks_each: int) -> None:
        self.heap, self.blocks_each = heap, blocks_each
        self.of: list[Blocks] = [[] for _ in range(THREADS)]
        self.step = threading.Barrier(THREADS)
        self.asleep = threading.Barrier(THREADS + 1)
        self.morning = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(n,)) for n in range(THREADS)]

    def work(self, number: int) -> None:
        """Allocate, free every second doomed block of one's own, then the rest of a neighbour's."""
        rng = random.Random(number)
        malloc, free = self.heap.malloc, self.heap.free
        mine = self.of[number]
        for _ in range(self.blocks_each):
            mine.append(malloc(min(max(8, round(rng.lognormvariate(6.55, 1.1))), 131072)))
        rng.shuffle(mine)
        survivors = self.blocks_each // 10
        middle = survivors + (self.blocks_each - survivors) // 2
        for block in mine[middle:]:
            free(block)
        self.step.wait()
        for block in self.of[(number + 1) % THREADS][survivors:middle]:
            free(block)
        self.step.wait()
        del mine[survivors:]
        self.asleep.wait()
        self.morning.wait()

    def __enter__(self) -> Sleepers:
        for thread in self.threads:
            thread.start()
        self.asleep.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.morning.set()
        for thread in self.threads:
            thread.join()


def settle(heap: dmi.Heap, wait: float) -> dmi.HeapStats:
    """Let the policy have its time, and more while committed still moves on a busy machine.

    Statistics without detail take no thread and give nothing back, so that they do not help.
    """
    deadline = time.monotonic() + PATIENCE
    time.sleep(wait)
    while True:
        before = heap.stats().committed
        time.sleep(0.5)
        if heap.stats().committed == before or time.monotonic() > deadline:
            break
    stats = heap.stats(detail=True)
    stats.check()
    return stats


@pytest.mark.timeout(120)
@pytest.mark.alone
@pytest.mark.parametrize(
    ("policy", "wait", "blocks"),
    [
        ("lazy:delay=0.2", 1.0, 12_000),
        pytest.param("lazy", 4.0, 40_000, marks=pytest.mark.long),
        pytest.param("decay", 7.0, 40_000, marks=pytest.mark.long),
        pytest.param("eager", 0.0, 40_000, marks=pytest.mark.long),
    ],
)
def test_what_sleepers_keep_is_near_the_page_bound(policy: str, wait: float, blocks: int) -> None:
    with dmi.Heap(policy, name="sleepers") as heap, Sleepers(heap, blocks):
        peak = heap.stats().commit_bytes
        stats = settle(heap, wait)
        assert stats.page_bound is not None
        assert stats.resident is not None
        assert stats.reasons is not None
        assert stats.page_bound >= 16 << 20
        assert peak > 2 * stats.page_bound
        # A sleeper may be in the middle of handing out the first block of one bucket, nobody knows
        # of which, so that each of its current runs keeps the pages of one block. That is a fixed
        # price for a thread, which a peak of a hundred megabytes hides and one of thirty does not.
        flight = stats.reasons["in_flight"]
        assert flight <= THREADS * 512 * 1024
        spared = flight if blocks < 40_000 else 0
        kept = (stats.committed + stats.metadata_committed - spared) / stats.page_bound
        resident = (stats.resident - spared) / stats.page_bound
        print(f"{policy}: committed and metadata {kept:.3f}, resident {resident:.3f} of the bound")
        assert kept <= BOUND
        assert resident <= BOUND


@pytest.mark.long
@pytest.mark.keeps
@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD and /proc are Linux")
@pytest.mark.parametrize("policy", ["lazy", "decay", "eager"])
def test_a_program_whose_threads_sleep_is_near_its_page_bound(
    policy: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """All anonymous memory of the process counts here, dmi's metadata and the stacks too."""
    folder = tmp_path_factory.mktemp("sleepers")
    build.build(folder, ["sleepers"])
    allocator = Allocator(
        "dmi", Path(dmi.get_preload_path()), {"DMI_OPTIONS": f"decommit={policy}"}
    )
    kept = measure._run_peak(folder, allocator, "sleepers", 8)
    assert kept[0].page_bound > 100 << 20
    print(f"{policy}: {' '.join(f'{second.ratio:.3f}' for second in kept)}")
    assert kept[-1].ratio <= BOUND


def test_what_is_in_flight_is_told_thread_by_thread() -> None:
    sizes = range(16, 1024, 16)
    with dmi.Heap("lazy:delay=0.1", name="pools") as heap:
        asleep, morning = threading.Barrier(4), threading.Event()

        def work() -> None:
            blocks = [heap.malloc(size) for size in sizes for _ in range(300)]
            for block in blocks:
                heap.free(block)
            asleep.wait()
            morning.wait()

        pool = [threading.Thread(target=work, name=f"worker {n}") for n in range(3)]
        for thread in pool:
            thread.start()
        asleep.wait()
        time.sleep(1)
        try:
            found = {usage.name: usage for usage in heap.threads()}
            told = heap.stats(detail=True).reasons["in_flight"]
            snapshot = dmi.snapshot()
        finally:
            morning.set()
            for thread in pool:
                thread.join()
        workers = [found[f"worker {n}"] for n in range(3)]
        assert [usage.thread for usage in workers] == [thread.native_id for thread in pool]
        assert sum(usage.in_flight for usage in found.values()) == told
        assert all(usage.in_flight > 0 for usage in workers)
        (mine,) = (each for each in snapshot.heaps if each.handle == heap.handle)
        assert mine.threads is not None
        assert {name.partition(" (")[0] for name in mine.threads} >= {"worker 0", "worker 1"}
        text = str(dmi.diagnose(dmi.snapshot(), snapshot))
        assert text
