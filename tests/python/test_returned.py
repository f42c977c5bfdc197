"""All that the public API returns can be pickled, copied, and made a dict or a DataFrame of.

What there is to return is read from the annotations, so that nothing new is forgotten.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import json
import os
import pickle
import pkgutil
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import profiles
import pytest

import dmi
import dmi.metrics
import dmi.process
import dmi.python
import dmi.testing
import dmi.windbg
from dmi.diagnose import diagnose, state_of
from dmi.experiment import Comparison, Rival
from dmi.trace import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODULES = (
    "dmi", "dmi.address", "dmi.diagnose", "dmi.experiment", "dmi.metrics", "dmi.process",
    "dmi.profile", "dmi.python", "dmi.report", "dmi.testing", "dmi.top", "dmi.trace", "dmi.windbg",
)  # fmt: skip
SQLITE = f"{dmi.get_examples()}/sqlite-vacuum.dmi.zst"
LOG = """\
  Heap     Flags   Reserv  Commit  Virt   Free  List   UCR  Virt  Lock  Fast
                    (k)     (k)    (k)     (k) length      blocks cont. heap
-----------------------------------------------------------------------------
00280000 00000002    1024    500    600     20     3     1    0      0   LFH
-----------------------------------------------------------------------------
"""

# Not values of a moment but what is asked for them, or goes on living elsewhere.
LIVE = {
    "Heap": "a heap",
    "HeapWalk": "goes on over a heap that lives; ranges() is the value",
    "Process": "a process that is looked at",
    "ForeignHeap": "a heap of such a process",
    "Space": "the memory of such a process",
    "Profiler": "a recording that goes on; profile() is the value",
    "HeapView": "what dmi.windbg asks of a source of heaps",
    "HistogramView": "likewise",
    "RangeView": "likewise",
}
# Parts that are never alone: tested with what they are in.
PARTS = {
    "Cell": "Sweep", "DetailedStats": "HeapStats", "HeapFound": "Found", "Layer": "Layers",
    "LongText": "str, of which it is a kind", "Mapping": "Moment", "Part": "Layers",
    "PolicyFields": "Decommit", "PrintedLine": "Log", "HeapRow": "Log", "Run": "Replay",
    "Row": "Blame", "Usage": "UsageTable", "Observation": "State",
}  # fmt: skip


@pytest.fixture(scope="module")
def used() -> Iterator[dmi.Heap]:
    with dmi.Heap("eager", name="used") as heap:
        kept = [heap.malloc(16 + n) for n in range(500)]
        for address in kept[::3]:
            heap.free(address)
        yield heap


@pytest.fixture(scope="module")
def other() -> Iterator[dmi.Process]:
    command = "kept = [bytes(n) for n in range(3000)]; print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            process = dmi.open_process(child.pid)
        except PermissionError as error:
            child.kill()
            pytest.skip(str(error))
        with process:
            yield process
        child.kill()


@pytest.fixture(scope="module")
def replay() -> Any:
    return dmi.replay(SQLITE, decommit="never,lazy", samples=5, repeat=1)


def watched(heap: dmi.Heap) -> dmi.testing.Found:
    watch = dmi.testing.Watch([heap])
    heap.malloc(5000)
    return watch.found()


OWN: dict[str, Callable[[dmi.Heap], Any]] = {
    "HeapStats": lambda heap: [heap.stats(), heap.stats(detail=True)],
    "TrimReport": lambda heap: heap.trim(),
    "Ranges": lambda heap: heap.ranges(),
    "Range": lambda heap: heap.ranges()[0],
    "Segment": lambda heap: heap.segments(),
    "ThreadUsage": lambda heap: heap.threads(),
    "HistogramRow": lambda heap: heap.histogram(),
    "Pin": lambda heap: heap.pins(),
    "Mark": lambda heap: heap.mark(),
    "Decommit": lambda heap: heap.decommit,
    "Explanation": lambda heap: heap.explain(),
    "Found": lambda heap: [dmi.find(heap.malloc(100)), watched(heap)],
    "AddressSummary": lambda heap: dmi.address_summary(),
    "Layers": lambda heap: dmi.layers(),
    "Snapshot": lambda heap: dmi.snapshot(True),
    "State": lambda heap: state_of(dmi.snapshot()),
    "Verdict": lambda heap: diagnose(dmi.snapshot(), None, dmi.snapshot()),
    "Profile": lambda heap: dmi.Profile.from_dict(profiles.by_chance(1)),
    "Blame": lambda heap: dmi.blame(profiles.by_chance(1)),
    "Trace": lambda heap: load(SQLITE),
    "Record": lambda heap: next(iter(load(SQLITE))),
    "Comparison": lambda heap: Comparison(
        "a", 10, 1.5, 100, (Rival("glibc", None, 4096, 0, 2048.0, 0.1),)
    ),
    "Log": lambda heap: dmi.windbg.parse(LOG),
    "Limits": lambda heap: dmi.testing.Limits.of({"max_retained": "64 KiB"}),
    "Metric": lambda heap: dmi.metrics.OwnHeaps().metrics(),
    "UsageTable": lambda heap: dmi.python.UsageTable(
        [dmi.python.Usage("import", 100, 20, 120, 110, 3, None)]
    ),
    "TypeTable": lambda heap: dmi.python.TypeTable(
        [dmi.python.TypeRow("builtins.dict", 64, 3, 192, 10)]
    ),
    "Holder": lambda heap: dmi.python.Holder("module", "app", "app.CACHE"),
}
OUTSIDE: dict[str, Callable[[dmi.Process], Any]] = {
    "ForeignStats": lambda process: [heap.stats() for heap in process.heaps()],
    "ForeignRow": lambda process: [heap.row() for heap in process.heaps()],
    "ForeignRange": lambda process: list(process.heaps()[0].walk() or ())[:10],
    "ForeignPin": lambda process: process.heaps()[0].pins(),
    "Moment": lambda process: process.moment(),
    "OutsideHeap": lambda process: dmi.address.process_heaps(process.pid),
    "TrimEstimate": lambda process: process.trim(),
    "ThreadCache": lambda process: list(process.thread_caches()),
    "OwnTable": lambda _: tables_here(),
}


def tables_here() -> list[dmi.process.OwnTable]:
    with dmi.open_process(os.getpid()) as process:
        found = list(process.tables())
    assert "page map" in {table.name for table in found}
    return found


@pytest.mark.parametrize("name", OWN)
def test_own(used: dmi.Heap, name: str) -> None:
    check(name, OWN[name](used))


@pytest.mark.parametrize("name", OUTSIDE)
def test_of_another_process(other: dmi.Process, name: str) -> None:
    check(name, OUTSIDE[name](other))


def test_of_replays(replay: Any) -> None:
    check("Replay", replay)
    check("Sweep", dmi.sweep([SQLITE], "never,lazy", samples=5, repeat=1))


def test_a_report(used: dmi.Heap) -> None:
    pytest.importorskip("jinja2")
    found = dmi.report.report(dmi.snapshot())
    for again in copies(found):
        assert again.html == found.html


def test_a_look_of_top() -> None:
    pytest.importorskip("textual")
    from dmi.top import OwnLook

    check("Look", OwnLook().read())


def test_nothing_is_forgotten() -> None:
    known = {*OWN, *OUTSIDE, *LIVE, *PARTS, "Replay", "Sweep", "Report", "Look"}
    found = returned()
    assert set(found) - known == set(), {name: found[name] for name in set(found) - known}


def copies(found: Any) -> tuple[Any, ...]:
    return (pickle.loads(pickle.dumps(found)), copy.deepcopy(found), copy.copy(found))


def check(name: str, found: Any) -> None:
    assert found is not None, name
    values = list(found) if type(found) is list else [found]
    for value in values:
        plain = as_dict(value)
        assert plain is not None, f"{name} is no dict"
        for again in copies(value):
            assert type(again) is type(value), name
            assert as_dict(again) == plain, name
            if "__eq__" in vars(type(value)):
                assert again == value, name
    # A notebook shows it, where it is a table of its own.
    for value in values:
        if (shown := getattr(value, "_repr_html_", None)) is not None:
            html = shown()
            assert html.startswith("<table>"), name
            assert html.count("<tr>") == html.count("</tr>") > 0, name
    try:
        import pandas
    except ImportError:
        return
    for value in values:
        if hasattr(value, "frame"):
            assert isinstance(value.frame(), pandas.DataFrame), name


def as_dict(value: Any) -> Any:
    """As a dict, or as rows of such; None where it cannot be one."""
    if hasattr(value, "as_dict"):
        made = value.as_dict()
        json.dumps(made)
        return made
    if hasattr(value, "_asdict"):
        return value._asdict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, (list, dmi.Ranges)):
        return [as_dict(row) for row in value]
    return None


def returned() -> dict[str, list[str]]:
    """The names of dmi's classes that public functions and methods return, and by which."""
    classes = dict(classes_of_dmi())
    found: dict[str, list[str]] = {}
    left: list[tuple[str, Any]] = []
    for module in map(importlib.import_module, MODULES):
        left += [(f"{module.__name__}.{n}", getattr(module, n)) for n in module.__all__]
    seen: set[int] = set()
    while left:
        where, what = left.pop()
        if id(what) in seen:
            continue
        seen.add(id(what))
        if inspect.isclass(what):
            left += [
                (f"{where}.{name}", each.fget if isinstance(each, property) else each)
                for name, each in inspect.getmembers(what)
                if not name.startswith("_") or name in ("__getitem__", "__iter__")
            ]
            continue
        annotations = getattr(what, "__annotations__", None) or {}
        for word in re.findall(r"[A-Za-z_]\w*", str(annotations.get("return", ""))):
            if word in classes:
                found.setdefault(word, []).append(where)
                left.append((word, classes[word]))
    return found


def classes_of_dmi() -> Iterator[tuple[str, type]]:
    for info in pkgutil.walk_packages(dmi.__path__, "dmi."):
        parts = info.name.split(".")
        if parts[1] in ("cli", "examples", "libdmi", "libdmi_malloc") or parts[-1] in (
            "__main__", "plugin",
        ):  # fmt: skip
            continue
        try:
            module = importlib.import_module(info.name)
        except ImportError:  # of an extra that is not installed
            continue
        for name, each in vars(module).items():
            if inspect.isclass(each) and each.__module__.startswith("dmi."):
                yield name, each
