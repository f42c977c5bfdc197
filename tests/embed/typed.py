"""Names every public name of dmi as a user would, for a type checker: nothing here is run."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path

import numpy as np

import dmi
from dmi.pool import Address, Default_Free, Default_Malloc, Pool


class Cache(dmi.Heap):
    """A heap of a user's own class."""

    hits: int = 0


def heaps() -> list[str]:
    policy = dmi.Decommit(when="decay", half_life=2.0)
    with Cache(policy, name="x", max_size=1 << 30, clock="manual", hardened=True) as heap:
        heap.hits += 1
        block: dmi.Block = heap.alloc(100)
        with heap.calloc(10, align=4096) as other:
            memoryview(other)[:3] = b"abc"
            number: int = len(other) + other.size + other.usable_size + other.address
        names = [block.heap.name, bytes(block).decode(), str(number)]
        address: int = heap.realloc(heap.malloc(10), 100)
        found: dmi.Found | None = dmi.find(address)
        if found is not None:
            names.append(found.heap.name)
        try:
            heap.free(address)
        except dmi.HeapError as error:
            names.append(f"{error.fault} {error.address}")
        except (dmi.SizeError, dmi.DmiError):
            pass
        heap.decommit = "eager"
        heap.decommit = policy
        now: dmi.Decommit = heap.decommit
        heap.advance(1.0)
        names += [now.when, *(str(each) for each in dmi.expand("lazy:delay=1|2"))]
        names += [*heap.holders(), heap.summary(), str(heap.trim().confirmed)]
        pool = Pool(heap)
        if pool.heap is not None:
            names.append(pool.heap.name)
        one = Address(1, 8, heap=heap)
        names += [str(one.addr + Address(1, 8, Default_Malloc, Default_Free).addr)]
    return names + [each.name for each in (*dmi.heaps(), dmi.default_heap())]


def looking(heap: dmi.Heap) -> int:
    stats: dmi.HeapStats = heap.stats(detail=True)
    total: int = sum((stats.reasons or {}).values()) + dmi.metadata_committed()
    again: dmi.HeapStats = dmi.HeapStats.from_json(stats.to_json(indent=2))
    walk: dmi.HeapWalk = heap.walk()
    total += sum(each.size for each in walk if each.state == "busy")
    ranges: dmi.Ranges = heap.ranges()
    mark: dmi.Mark = heap.mark()
    new: list[dmi.Range] = heap.blocks_since(mark)
    segments: list[dmi.Segment] = heap.segments()
    rows: list[dmi.HistogramRow] = heap.histogram()
    pins: list[dmi.Pin] = heap.pins(top=3)
    report: dmi.TrimReport = heap.trim()
    explained: dmi.Explanation = heap.explain()
    print(explained, report, again.retained, len(ranges))
    heap.validate()
    total += sum(each.pinned for each in pins) + sum(each.reserved for each in segments)
    return total + sum(each.count for each in rows) + sum(each.size for each in new)


def arrays(heap: dmi.Heap) -> float:
    with dmi.numpy.use(heap):
        made = np.zeros((3, 4), dtype=np.float32)
    made[0, 0] = heap.empty((3, 4), "f8", align=64)[0, 0] + heap.zeros(5)[0]
    table = heap.walk_array()
    return float(made.sum()) + float(table[table["state"] == 1]["size"].sum())


def process(files: list[str | Path]) -> None:
    before: dmi.Snapshot = dmi.snapshot(blocks=False)
    before.save(Path("a.json"))
    layers: dmi.Layers = dmi.layers(pid=None)
    print(layers, dmi.address_summary(pid=None), dmi.diagnose(before, before, before))
    with dmi.profile(one_in=64, cost=None) as sampler:
        held: dmi.Profiler = sampler
    rate: int = held.one_in
    print(rate)
    blamed: dmi.Blame = dmi.blame(dmi.Profile.load(files[0]), by="stack", what="busy")
    print([(row.name, row.bytes, row.error) for row in blamed.named])
    try:
        print(dmi.replay(files[0], decommit="lazy"))
    except dmi.TraceError as error:
        print(error.offset)
    with dmi.open_process(1) as other, dmi.open_core(files[0]) as dump:
        looked: list[dmi.Process] = [other, dump]
        print([each.pid for each in looked])
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        print(dmi.sweep(files, "never,lazy", executor=pool))
    print(dmi.summary(), dmi.windbg, dmi.address, dmi.trace, dmi.lib.dmi_malloc(3) == dmi.ffi.NULL)
    print(dmi.metrics, dmi.report, dmi.testing, dmi.top)


def places() -> list[str]:
    found = [dmi.get_include(), dmi.get_library_path(), dmi.get_preload_path(), dmi.__version__]
    return [*found, dmi.get_examples(), *dmi.get_library_dirs()]


def objects(heap: dmi.Heap) -> int:
    dmi.python.install(heap)
    detail: dmi.DetailedStats = heap.stats(detail=True)
    usages: list[dmi.ThreadUsage] = heap.threads()
    return detail.page_bound + sum(each.in_flight or 0 for each in usages)
