"""Random runs against a model: after every step contents, alignment, overlap and every number."""

from __future__ import annotations

import ctypes
import mmap
import random
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import dmi

KIB = 1024

sizes = st.one_of(
    st.integers(1, 300),
    st.sampled_from([1, 8, 16, 17, 24, 32, 48, 64, 100, 128, 256, 1000, 1024, 4000, 4096, 4097]),
    st.integers(1, 40 * KIB),
    st.integers(1, 3000 * KIB),
)
small_sizes = st.one_of(st.integers(1, 200), st.integers(1, 5000))
policies = st.sampled_from(["never", "eager", "lazy:delay=0.5", "lazy:delay=2", "threshold"])
seeds = st.integers(0, 1 << 30)

# A block's contents are a piece of these, and its seed says where the piece begins: random bytes
# made anew for each block would take most of the time.
_CONTENTS = random.Random(1).randbytes(3200 * KIB)
_PLACES = 200 * KIB


def contents(seed: int, size: int) -> bytes:
    begin = seed * 7919 % _PLACES
    return _CONTENTS[begin : begin + size]


class Model(RuleBasedStateMachine):
    """A heap, and what must be in it: address -> (size asked for, alignment, seed of contents)."""

    options: ClassVar[dict[str, Any]] = {}
    how: ClassVar[str] = "discard"
    guard: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.heap: dmi.Heap
        self.live: dict[int, tuple[int, int, int]] = {}
        self.usable: dict[int, int] = {}

    @initialize(policy=policies)
    def start(self, policy: str) -> None:
        self.heap = dmi.Heap(f"{policy}:how={self.how}", clock="manual", **self.options)

    def teardown(self) -> None:
        if hasattr(self, "heap"):
            # Aligned blocks come through cffi, which the heap counts as other code.
            self.heap.destroy(force=True)

    # ---- what is done --------------------------------------------------------------------------

    def keep(self, address: int, size: int, align: int, seed: int) -> None:
        assert address % align == 0
        assert address not in self.live
        self.live[address] = (size, align, seed)
        ctypes.memmove(address, contents(seed, size), size)

    def verify(self, address: int, upto: int | None = None) -> None:
        size, _, seed = self.live[address]
        count = size if upto is None else min(size, upto)
        assert ctypes.string_at(address, count) == contents(seed, count)

    def pick(self, seed: int) -> int:
        return sorted(self.live)[seed % len(self.live)]

    @rule(size=sizes, seed=seeds)
    def malloc(self, size: int, seed: int) -> None:
        self.keep(self.heap.malloc(size), size, 16, seed)

    @rule(size=small_sizes, count=st.integers(2, 120), seed=seeds)
    def malloc_many(self, size: int, count: int, seed: int) -> None:
        for number in range(count):
            self.keep(self.heap.malloc(size), size, 16, seed + number)

    @rule(size=sizes, exponent=st.integers(0, 17), seed=seeds)
    def aligned(self, size: int, exponent: int, seed: int) -> None:
        lib, ffi = dmi.lib, dmi.ffi
        block = lib.dmi_heap_aligned_alloc(
            ffi.cast("void *", self.heap.handle), 1 << exponent, size
        )
        address = int(ffi.cast("uintptr_t", block))
        assert address
        self.keep(address, size, max(16, 1 << exponent), seed)

    @rule(size=sizes, seed=seeds)
    def calloc(self, size: int, seed: int) -> None:
        lib, ffi = dmi.lib, dmi.ffi
        block = lib.dmi_heap_calloc(ffi.cast("void *", self.heap.handle), 1, size)
        address = int(ffi.cast("uintptr_t", block))
        assert ctypes.string_at(address, size) == bytes(size)
        self.keep(address, size, 16, seed)

    @precondition(lambda self: self.live)
    @rule(size=sizes, which=seeds, seed=seeds)
    def realloc(self, size: int, which: int, seed: int) -> None:
        address = self.pick(which)
        entry = self.live[address]
        moved = self.heap.realloc(address, size)
        del self.live[address]
        assert moved not in self.live
        self.live[moved] = entry
        self.verify(moved, upto=size)
        del self.live[moved]
        self.keep(moved, size, 16, seed)

    @precondition(lambda self: self.live)
    @rule(which=seeds)
    def free(self, which: int) -> None:
        address = self.pick(which)
        self.verify(address)
        self.heap.free(address)
        del self.live[address]

    @precondition(lambda self: self.live)
    @rule(which=seeds, share=st.floats(0.1, 1.0), stretch=st.booleans())
    def free_many(self, which: int, share: float, stretch: bool) -> None:
        addresses = sorted(self.live)
        count = max(1, int(share * len(addresses)))
        if stretch:
            begin = which % len(addresses)
            chosen = addresses[begin : begin + count]
        else:
            chosen = random.Random(which).sample(addresses, count)
        for address in chosen:
            self.verify(address)
            self.heap.free(address)
            del self.live[address]

    @precondition(lambda self: self.live)
    @rule(which=seeds, offset=st.integers(1, 1 << 20))
    def wrong_free(self, which: int, offset: int) -> None:
        address = self.pick(which)
        offset = 1 + offset % self.live[address][0]
        if address + offset in self.live:
            return
        with pytest.raises(dmi.HeapError):
            self.heap.free(address + offset)

    @rule()
    def trim(self) -> None:
        before = self.heap.stats().committed
        report = self.heap.trim()
        assert before - self.heap.stats().committed == report.decommitted

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.6, 1.1, 5.0, 100.0]))
    def advance(self, seconds: float) -> None:
        self.heap.advance(seconds)

    @rule(policy=policies)
    def change_policy(self, policy: str) -> None:
        self.heap.decommit = dmi.Decommit.parse(f"{policy}:how={self.how}")

    @rule(policy=policies, how=st.sampled_from(["discard", "decommit"]))
    def change_how(self, policy: str, how: str) -> None:
        self.heap.decommit = dmi.Decommit.parse(f"{policy}:how={how}")

    # ---- what must hold ------------------------------------------------------------------------

    @invariant()
    def all_agrees(self) -> None:
        if not hasattr(self, "heap"):
            return
        self.numbers_agree()
        self.walk_agrees()

    def numbers_agree(self) -> None:
        stats = self.heap.stats(detail=True)
        stats.check()
        usable = {address: self.heap.usable_size(address) for address in self.live}
        assert all(usable[address] >= entry[0] for address, entry in self.live.items())
        assert stats.busy_blocks == len(self.live)
        assert stats.busy == sum(usable.values())
        end = 0
        for address in sorted(usable):
            assert address >= end, "blocks overlap"
            end = address + usable[address]
        page_size = mmap.PAGESIZE
        if stats.page_bound is not None:
            pages: set[int] = set()
            guarded: set[int] = set()
            for address, size in usable.items():
                first, end = address // page_size, address + size - 1
                pages.update(range(first, end // page_size + 1))
                guarded.update(range(first, (end + self.guard) // page_size + 1))
            # A guard's page cannot go either, so it may count.
            assert len(pages) <= stats.page_bound / page_size <= len(guarded)
            assert stats.page_bound <= stats.committed
        self.usable = usable
        cheap = self.heap.stats()
        assert (cheap.committed, cheap.busy) == (stats.committed, stats.busy)

    def walk_agrees(self) -> None:
        walk = list(self.heap.walk())
        stats = self.heap.stats()
        assert sum(found.size for found in walk) == stats.reserved
        busy = {found.address: found.size for found in walk if found.state == "busy"}
        assert busy == self.usable
        totals = dict.fromkeys(("busy", "free", "uncommitted", "offered", "overhead"), 0)
        end = segment = 0
        for found in walk:
            totals[found.state] += found.size
            assert end <= found.address or segment != found.segment
            end, segment = found.address + found.size, found.segment
        assert totals == {
            "busy": stats.busy,
            "free": stats.free_lfh + stats.free_list + stats.free_pages,
            "uncommitted": stats.uncommitted,
            "offered": stats.offered,
            "overhead": stats.overhead,
        }
        self.heap.validate()


class Discard(Model):
    """The default on Linux."""


class Strict(Model):
    """Where every uncommitted page is inaccessible: a stray touch of one crashes the test."""

    how = "decommit"


class NoFrontEnd(Model):
    """All that is not large goes through the free lists."""

    options: ClassVar = {"lfh": False}


class NoFrontEndStrict(Model):
    """Tags beside inaccessible pages."""

    options: ClassVar = {"lfh": False}
    how = "decommit"


class Hardened(Model):
    """Guards behind every block."""

    options: ClassVar = {"hardened": True}
    guard = 16


class HugePages(Model):
    """Pages of 2 MiB that go together, or one by one once a quarter of them is free."""

    options: ClassVar = {"huge_pages": True}


class HugePagesSplitEarly(Model):
    """Every unit that has a free page is split, and joined when it is full again."""

    options: ClassVar = {"huge_pages": True, "huge_split": 0.001}


class Watched(Model):
    """Every page that is carved is watched, by a sampler that looks now and then."""

    options: ClassVar = {"name": "watched"}

    profiler: dmi.Profiler
    steps = 0

    @initialize(seed=seeds)
    def sample(self, seed: int) -> None:
        self.profiler = dmi.profile(1, cost=None, seed=seed + 1).start()

    def teardown(self) -> None:
        if hasattr(self, "profiler"):
            self.profiler.stop()
        super().teardown()

    @invariant()
    def every_block_of_a_watched_page_is_live(self) -> None:
        self.steps += 1
        if self.steps % 10 or not hasattr(self, "profiler") or not hasattr(self, "heap"):
            return
        data = self.profiler.data()
        found = {at for m in data["marks"] if m["heap"] == "watched" for at, *_ in m["blocks"]}
        assert found <= set(self.live)


class WatchedStrict(Watched):
    how = "decommit"


MACHINES = [
    *(HugePages, HugePagesSplitEarly, Discard, Strict, NoFrontEnd, NoFrontEndStrict, Hardened),
    # Every page that is carved, of all heaps: where Python's own are among them, a test has no end.
    *(pytest.param(each, marks=pytest.mark.plain) for each in (Watched, WatchedStrict)),
]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.__name__)
def test_model(machine: type[Model]) -> None:
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=50, deadline=None)
    )


@pytest.mark.parametrize(
    "examples",
    [pytest.param(80, marks=pytest.mark.long), pytest.param(1000, marks=pytest.mark.nightly)],
)
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.__name__)
def test_model_at_length(machine: type[Model], examples: int) -> None:
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=80, deadline=None)
    )
