"""Diagnosis on programs of which it is known what they do: real allocations, labelled beforehand.

    python tests/labelled/diagnosis.py               every scenario, then the confusion matrix
    python tests/labelled/diagnosis.py NAME...       these scenarios, with the report of each
    python tests/labelled/diagnosis.py --markdown    the tables as docs/diagnosis.md has them

Each scenario runs in a process of its own, allocates, takes snapshots before, at and after its peak
(or two), and says which verdict and which causes, the most important first, follow from what it
did.
Exit status: how many verdicts or causes differ, those in KNOWN apart.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dmi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Moments = list[dmi.Snapshot]

MIB = 1 << 20
NONE, FIRST, SECOND, GROWTH = "none", "first-order leak", "second-order leak", "growth"
KINDS = (NONE, FIRST, SECOND, GROWTH)

KNOWN = {
    "glibc thread caches": "mallinfo2 counts what the caches of threads hold as used, so it looks "
    "like blocks that were not freed",
}
"""Scenarios whose label cannot be told from what the system says, and why."""


@dataclass(frozen=True)
class Scenario:
    """What is done, and what it is: the verdict, and the causes in their order."""

    name: str
    kind: str
    causes: tuple[str, ...]
    play: Callable[[], Moments]


SCENARIOS: dict[str, Scenario] = {}


class UnavailableError(Exception):
    """This machine cannot play the scenario."""


def scenario(kind: str, *causes: str) -> Callable[[Callable[[], Moments]], Callable[[], Moments]]:
    def register(play: Callable[[], Moments]) -> Callable[[], Moments]:
        name = play.__name__.replace("_", " ")
        SCENARIOS[name] = Scenario(name, kind, causes, play)
        return play

    return register


# ---- what scenarios are made of ------------------------------------------------------------------


class Blocks:
    """Addresses of blocks, in memory that was there before the first snapshot."""

    def __init__(self, memory: Any, most: int = 300_000) -> None:
        self.memory = memory
        self.addresses = memoryview(mmap.mmap(-1, 8 * most)).cast("Q")
        self.count = 0

    def take(self, total: int, sizes: tuple[int, ...], seed: int = 1) -> None:
        """Blocks of these sizes, in random order, until they hold ``total`` bytes."""
        chance = random.Random(seed)
        while total > 0:
            size = chance.choice(sizes)
            self.addresses[self.count] = self.memory.malloc(size)
            self.count += 1
            total -= size

    def drop(self, keep: Callable[[int], bool] = lambda number: False, first: int = 0) -> None:
        """Free those from ``first`` on, but for those to keep."""
        kept = first
        for number in range(first, self.count):
            if keep(number):
                self.addresses[kept] = self.addresses[number]
                kept += 1
            else:
                self.memory.free(self.addresses[number])
        self.count = kept


def one_in(number: int) -> Callable[[int], bool]:
    return lambda n: n % number == 0


SMALL = (48, 100, 300, 700)
LARGE = (20_000, 70_000, 200_000)
LIVE, PEAK = 4 * MIB, 48 * MIB


def day(
    heap: dmi.Heap,
    sizes: tuple[int, ...] = SMALL,
    *,
    keep: Callable[[int], bool] = lambda number: False,
    after: Callable[[], object] = lambda: None,
    peak: int = PEAK,
    live: int = LIVE,
) -> Moments:
    """A little is live, a peak comes and is freed but for what is kept, and something follows."""
    blocks = Blocks(heap)
    blocks.take(live, sizes)
    moments = [dmi.snapshot(label="before")]
    first = blocks.count
    blocks.take(peak, sizes, 2)
    moments.append(dmi.snapshot(label="peak"))
    blocks.drop(keep, first)
    after()
    moments.append(dmi.snapshot(label="after"))
    return moments


def manual(policy: str, **options: Any) -> dmi.Heap:
    return dmi.Heap(policy, clock="manual", **options)


class Glibc:
    """The malloc of the C library, every page written to."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL("libc.so.6")
        self.libc.malloc.restype = ctypes.c_void_p
        self.libc.malloc.argtypes = [ctypes.c_size_t]
        self.libc.free.restype = None
        self.libc.free.argtypes = [ctypes.c_void_p]
        self.free = self.libc.free

    def malloc(self, size: int) -> int:
        address: int = self.libc.malloc(size)
        ctypes.memset(address, 1, size)
        return address


def on_glibc(sizes: tuple[int, ...], keep: Callable[[int], bool], peak: int = PEAK) -> Moments:
    blocks = Blocks(Glibc())
    moments = [dmi.snapshot(label="before")]
    blocks.take(peak, sizes)
    moments.append(dmi.snapshot(label="peak"))
    blocks.drop(keep)
    moments.append(dmi.snapshot(label="after"))
    return moments


def between(
    memory: Any, large: int, small: int, after: Callable[[], object] = lambda: None
) -> Moments:
    """Large blocks and small ones in turn; the large ones are freed."""
    blocks = Blocks(memory)
    moments = [dmi.snapshot(label="before")]
    for _ in range(PEAK // (large + small)):
        blocks.take(1, (large,))
        blocks.take(1, (small,))
    moments.append(dmi.snapshot(label="peak"))
    blocks.drop(lambda number: number % 2 == 1)
    after()
    moments.append(dmi.snapshot(label="after"))
    return moments


# ---- all comes back ------------------------------------------------------------------------------


@scenario(NONE)
def lazy_after_its_delay() -> Moments:
    heap = manual("lazy:delay=1")
    return day(heap, after=lambda: [heap.advance(1) for _ in range(4)])


@scenario(NONE)
def eager_at_once() -> Moments:
    return day(manual("eager"))


@scenario(NONE)
def decay_after_many_half_lives() -> Moments:
    heap = manual("decay:half_life=1")
    return day(heap, after=lambda: [heap.advance(1) for _ in range(16)])


@scenario(NONE)
def budget_of_a_tenth() -> Moments:
    heap = manual("budget:ratio=0.1")
    return day(heap, after=lambda: [heap.advance(1) for _ in range(4)])


@scenario(NONE)
def threshold_with_large_blocks() -> Moments:
    return day(manual("threshold"), LARGE)


@scenario(NONE)
def never_but_trimmed() -> Moments:
    heap = manual("never")
    return day(heap, after=heap.trim)


@scenario(NONE)
def never_then_lazy() -> Moments:
    heap = manual("never")

    def change() -> None:
        heap.decommit = "lazy:delay=1"
        for _ in range(4):
            heap.advance(1)

    return day(heap, after=change)


@scenario(NONE)
def strict_decommit_beyond_the_limit_of_mappings() -> Moments:
    dmi.lib.dmi_set_map_limit(20)
    heap = manual("lazy:delay=1:how=decommit")
    return day(heap, (5000, 9000), after=lambda: [heap.advance(1) for _ in range(4)])


@scenario(NONE)
def steady_churn() -> Moments:
    heap = manual("lazy:delay=1")
    blocks = Blocks(heap)
    moments = []
    blocks.take(PEAK, SMALL)
    for label in ("morning", "noon", "evening"):
        moments.append(dmi.snapshot(label=label))
        blocks.drop()
        blocks.take(PEAK, SMALL, 3)
        for _ in range(4):
            heap.advance(1)
    return moments


@scenario(NONE)
def a_heap_for_the_peak_alone() -> Moments:
    kept = manual("lazy")
    blocks = Blocks(kept)
    blocks.take(LIVE, SMALL)
    other = Blocks(None)
    moments = [dmi.snapshot(label="before")]
    with manual("never", name="phase") as phase:
        other.memory = phase
        other.take(PEAK, SMALL)
        moments.append(dmi.snapshot(label="peak"))
        phase.destroy(force=True)
    moments.append(dmi.snapshot(label="after"))
    return moments


@scenario(NONE)
def virtual_blocks_that_were_freed() -> Moments:
    heap = manual("lazy:delay=1")
    return day(
        heap, (20 * MIB, 33 * MIB), live=MIB, after=lambda: [heap.advance(1) for _ in range(4)]
    )


@scenario(NONE)
def less_than_anybody_minds() -> Moments:
    heap = manual("lazy:delay=1")
    few = LIVE // 300 + 600 * 1024 // 300
    return day(
        heap, (300,), keep=lambda n: n <= few, after=lambda: [heap.advance(1) for _ in range(4)]
    )


@scenario(NONE)
def threads_that_sleep_after_the_peak() -> Moments:
    heap = dmi.Heap("lazy:delay=0.1")
    stores = [Blocks(heap, 60_000) for _ in range(4)]
    wake, done = threading.Event(), threading.Barrier(5)

    def work(blocks: Blocks) -> None:
        done.wait()
        blocks.take(PEAK // 4, SMALL)
        done.wait()
        blocks.drop(lambda n: n % 2 == 0)  # the other half is freed by another thread
        done.wait()
        wake.wait()

    threads = [threading.Thread(target=work, args=(each,), daemon=True) for each in stores]
    for thread in threads:
        thread.start()
    moments = [dmi.snapshot(label="before")]
    done.wait()
    done.wait()
    moments.append(dmi.snapshot(label="peak"))
    done.wait()
    for each in stores:
        each.drop()
    time.sleep(1.5)
    moments.append(dmi.snapshot(label="after"))
    wake.set()
    return moments


@scenario(NONE)
def mappings_that_were_given_back() -> Moments:
    moments = [dmi.snapshot(label="before")]
    with mmap.mmap(-1, PEAK):
        moments.append(dmi.snapshot(label="peak"))
    moments.append(dmi.snapshot(label="after"))
    return moments


# ---- the program does not free -------------------------------------------------------------------


@scenario(FIRST, "not freed")
def small_blocks_kept() -> Moments:
    heap = manual("lazy:delay=1")
    return day(heap, keep=lambda n: n % 100 < 60, after=lambda: [heap.advance(1) for _ in range(4)])


@scenario(FIRST, "not freed")
def large_blocks_kept() -> Moments:
    return day(manual("eager"), LARGE, keep=one_in(3))


@scenario(FIRST, "not freed")
def virtual_blocks_kept() -> Moments:
    return day(manual("lazy"), (20 * MIB,), live=MIB, peak=3 * PEAK, keep=lambda n: n > 0)


@scenario(FIRST, "not freed")
def kept_under_never() -> Moments:
    return day(manual("never"), keep=lambda n: n % 10 < 8)


@scenario(FIRST, "not freed")
def kept_in_a_hardened_heap() -> Moments:
    return day(manual("eager", hardened=True), keep=lambda n: n % 10 < 7)


@scenario(FIRST, "not freed")
def one_of_two_heaps() -> Moments:
    well, ill = manual("eager", name="well"), manual("eager", name="ill")
    one, other = Blocks(well), Blocks(ill)
    moments = [dmi.snapshot(label="before")]
    one.take(PEAK, SMALL)
    other.take(PEAK // 2, SMALL)
    moments.append(dmi.snapshot(label="peak"))
    one.drop()
    moments.append(dmi.snapshot(label="after"))
    return moments


@scenario(FIRST, "not freed")
def glibc_blocks_kept() -> Moments:
    return on_glibc((100, 700, 3000), keep=lambda n: n % 10 < 7)


@scenario(FIRST, "not freed", "never")
def both_orders_the_first_larger() -> Moments:
    return day(manual("never"), LARGE, keep=lambda n: n % 10 < 6)


# ---- the heap does not give back -----------------------------------------------------------------


@scenario(SECOND, "never")
def never() -> Moments:
    return day(manual("never"))


@scenario(SECOND, "never")
def never_with_virtual_blocks() -> Moments:
    return day(manual("never"), (20 * MIB,), live=MIB)


@scenario(SECOND, "never")
def both_orders_the_second_larger() -> Moments:
    return day(manual("never"), LARGE, keep=one_in(10))


@scenario(SECOND, "never")
def many_heaps_with_a_little_each() -> Moments:
    heaps = [manual("never") for _ in range(40)]
    stores = [Blocks(heap, 10_000) for heap in heaps]
    moments = [dmi.snapshot(label="before")]
    for blocks in stores:
        blocks.take(900 * 1024, (500,))
    moments.append(dmi.snapshot(label="peak"))
    for blocks in stores:
        blocks.drop()
    moments.append(dmi.snapshot(label="after"))
    return moments


@scenario(NONE)
def lazy_before_its_delay() -> Moments:
    return day(manual("lazy:delay=60"))


@scenario(NONE)
def decay_right_after_the_peak() -> Moments:
    heap = manual("decay:half_life=100")
    return day(heap, after=lambda: heap.advance(1))


@scenario(SECOND, "budget")
def a_generous_budget() -> Moments:
    heap = manual("budget:ratio=10")
    return day(heap, after=lambda: [heap.advance(1) for _ in range(4)])


@scenario(SECOND, "threshold")
def blocks_below_the_threshold() -> Moments:
    return day(manual("threshold:block=16M:total=64K"), (70_000, 200_000), keep=one_in(50))


@scenario(SECOND, "threshold")
def a_total_below_the_threshold() -> Moments:
    return day(manual("threshold:block=4K:total=1G"), (70_000, 200_000), keep=one_in(50))


@scenario(SECOND, "pressure")
def a_machine_at_ease() -> Moments:
    try:
        heap = manual("pressure:psi=100:headroom=0")
    except (OSError, ValueError, dmi.DmiError) as error:
        raise UnavailableError(str(error)) from None
    return day(heap, after=lambda: [heap.advance(2) for _ in range(4)])


@scenario(SECOND, "offered")
def offered_to_the_system() -> Moments:
    heap = manual("lazy:delay=1:how=offer")
    return day(heap, after=lambda: [heap.advance(1) for _ in range(4)])


@scenario(SECOND, "refused")
def locked_pages() -> Moments:
    heap = manual("lazy:delay=1")
    libc = ctypes.CDLL(None, use_errno=True)

    def after() -> None:
        for segment in heap.segments():
            if libc.mlock(ctypes.c_void_p(segment.address), ctypes.c_size_t(segment.reserved)):
                raise UnavailableError(os.strerror(ctypes.get_errno()))
        for _ in range(4):
            heap.advance(1)

    return day(heap, after=after)


@scenario(SECOND, "below a page", "scattered address space")
def a_record_of_every_request() -> Moments:
    heap = manual("lazy:delay=1")
    return day(
        heap, (100, 300, 900), live=MIB, keep=lambda n: n % 40 == 0,
        after=lambda: [heap.advance(1) for _ in range(4)],
    )  # fmt: skip


@scenario(SECOND, "below a page")
def small_blocks_pinned_under_eager() -> Moments:
    return day(manual("eager"), (200,), live=MIB, keep=one_in(18))


@scenario(SECOND, "below a page")
def without_the_front_end() -> Moments:
    heap = manual("lazy:delay=1", lfh=False)
    return day(
        heap, (200,), live=MIB, keep=one_in(9), after=lambda: [heap.advance(1) for _ in range(4)]
    )


@scenario(SECOND, "below a page")
def blocks_a_little_larger_than_a_page() -> Moments:
    # Of a free block of 5,000 bytes a page in five is free as a whole, and goes; pieces stay.
    heap = manual("lazy:delay=1", lfh=False)
    return between(heap, 5000, 48, lambda: [heap.advance(1) for _ in range(4)])


@scenario(SECOND, "keeps pages")
def glibc_with_large_holes() -> Moments:
    return on_glibc((1000,), keep=one_in(40))


@scenario(SECOND, "below a page")
def glibc_with_small_holes() -> Moments:
    return between(Glibc(), 1500, 48)


@scenario(SECOND, "thread caches")
def glibc_thread_caches() -> Moments:
    glibc = Glibc()
    gate, end = threading.Barrier(61), threading.Event()
    sizes = range(24, 1032, 16)

    def work() -> None:
        mine = array("Q", bytes(8 * 7 * len(sizes)))
        gate.wait()
        for n in range(len(mine)):
            mine[n] = glibc.malloc(sizes[n // 7])
        gate.wait()
        for address in mine:
            glibc.free(address)
        gate.wait()
        end.wait()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(60)]
    for thread in threads:
        thread.start()
    moments = [dmi.snapshot(label="before")]
    gate.wait()
    gate.wait()
    moments.append(dmi.snapshot(label="peak"))
    gate.wait()
    moments.append(dmi.snapshot(label="after"))
    end.set()
    return moments


# ---- growth, and memory outside ------------------------------------------------------------------


@scenario(GROWTH, "not freed")
def rising_all_day() -> Moments:
    blocks = Blocks(manual("lazy"))
    moments = []
    for number, label in enumerate(("morning", "noon", "evening")):
        blocks.take(PEAK // 2, SMALL, number)
        moments.append(dmi.snapshot(label=label))
    return moments


@scenario(GROWTH, "not freed")
def two_moments_only() -> Moments:
    blocks = Blocks(manual("eager"))
    moments = [dmi.snapshot(label="before")]
    blocks.take(PEAK, SMALL)
    return [*moments, dmi.snapshot(label="after")]


@scenario(GROWTH, "outside")
def mappings_of_its_own() -> Moments:
    held = []
    moments = []
    for label in ("before", "between", "after"):
        moments.append(dmi.snapshot(label=label))
        held.append(mmap.mmap(-1, PEAK // 2))
        held[-1].write(b"x" * (PEAK // 2))  # what nobody writes to costs no memory
    return moments


@scenario(GROWTH, "not freed")
def python_objects() -> Moments:
    held: list[list[bytes]] = []
    moments = []
    for label in ("before", "between", "after"):
        moments.append(dmi.snapshot(label=label))
        held.append([bytes(100 + n % 300) for n in range(60_000)])
    return moments


# ---- programs under the preload library ----------------------------------------------------------

SERVICE = """
import os, signal, sys, time
folder, keep = sys.argv[1], int(sys.argv[2])
def moment(number):
    os.kill(os.getpid(), signal.SIGUSR2)
    while not os.path.exists(f"{folder}/{number}.json"):
        time.sleep(0.01)
live = [bytes(100 + n % 500) for n in range(3000)]
moment(1)
peak = [bytes(100 + n % 900) for n in range(80_000)]
moment(2)
del peak[keep:]
time.sleep(1.5)
moment(3)
"""


def preloaded(keep: int) -> Moments:
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "LD_PRELOAD": dmi.get_preload_path(),
            "DMI_OPTIONS": f"decommit=lazy:delay=0.2,snapshot={folder}/%n.json:at=SIGUSR2",
            "PYTHONMALLOC": "malloc",
        }
        command = [sys.executable, "-c", SERVICE, folder, str(keep)]
        subprocess.run(command, env=environment, check=True)
        return [dmi.Snapshot.load(Path(folder) / f"{n}.json") for n in (1, 2, 3)]


@scenario(NONE)
def a_python_program_that_lets_go() -> Moments:
    return preloaded(0)


@scenario(FIRST, "not freed")
def a_python_program_that_does_not() -> Moments:
    return preloaded(50_000)


# ---- the run -------------------------------------------------------------------------------------


def played(each: Scenario) -> dict[str, Any]:
    """The verdict as a dict, from a process of its own, or why there is none."""
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.alarm(300)
        try:
            # What is loaded and kept with the first snapshot is there before the scenario begins.
            str(dmi.diagnose(*[dmi.snapshot() for _ in range(3)]))
            verdict = dmi.diagnose(*each.play())
            found: dict[str, Any] = {**verdict.as_dict(), "report": str(verdict)}
        except UnavailableError as error:
            found = {"unavailable": str(error)}
        except BaseException:
            found = {"error": traceback.format_exc()}
        with os.fdopen(writer, "w") as out:
            json.dump(found, out)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    result: dict[str, Any] = json.loads(text) if text else {"error": f"ended with {status}"}
    return result


@dataclass(frozen=True)
class Outcome:
    """A scenario, and what was said about it."""

    scenario: Scenario
    found: dict[str, Any]

    @property
    def available(self) -> bool:
        return "unavailable" not in self.found

    @property
    def kind(self) -> str:
        return str(self.found.get("kind", "error"))

    @property
    def causes(self) -> tuple[str, ...]:
        return tuple(cause["kind"] for cause in self.found.get("causes", ()))

    @property
    def right(self) -> bool:
        """The verdict, the first cause, and that the others are named."""
        wanted = self.scenario.causes
        return (
            self.kind == self.scenario.kind
            and self.causes[:1] == wanted[:1]
            and set(wanted) <= set(self.causes)
        )


def matrix(outcomes: Iterable[Outcome]) -> list[list[str]]:
    """Labels down, verdicts across."""
    counts = Counter((each.scenario.kind, each.kind) for each in outcomes if each.available)
    columns = [*KINDS, *({found for _, found in counts} - set(KINDS))]
    rows = [["label \\ verdict", *columns]]
    rows += [[label, *(str(counts[label, found]) for found in columns)] for label in KINDS]
    return rows


def cause_matrix(outcomes: Iterable[Outcome]) -> list[list[str]]:
    """The first cause labelled, how often, and what was found instead."""
    pairs = Counter(
        ((each.scenario.causes or ("-",))[0], (each.causes or ("-",))[0])
        for each in outcomes
        if each.available
    )
    rows = [["first cause by label", "scenarios", "found", "instead"]]
    for label in dict.fromkeys(wanted for wanted, _ in pairs):
        of_label = {found: n for (wanted, found), n in pairs.items() if wanted == label}
        others = ", ".join(f"{found} ({n})" for found, n in of_label.items() if found != label)
        total = sum(of_label.values())
        rows.append([label, str(total), str(of_label.get(label, 0)), others or "-"])
    return rows


def table(rows: list[list[str]], *, markdown: bool) -> str:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    for name in args.names:
        if name not in SCENARIOS:
            parser.error(f"no scenario {name!r}; there are: {', '.join(SCENARIOS)}")
    chosen = [SCENARIOS[name] for name in args.names or SCENARIOS]
    outcomes = [Outcome(each, played(each)) for each in chosen]
    wrong = [o for o in outcomes if o.available and not o.right and o.scenario.name not in KNOWN]
    if args.json:
        print(json.dumps({o.scenario.name: o.found for o in outcomes}, indent=2))
        return len(wrong)
    rows = [["scenario", "label", "verdict", "causes found", "right"]]
    for o in outcomes:
        label = ", ".join((o.scenario.kind, *o.scenario.causes))
        mark = "yes" if o.right else "known" if o.scenario.name in KNOWN else "WRONG"
        if not o.available:
            mark = f"not here: {o.found['unavailable']}"
        rows.append([o.scenario.name, label, o.kind, ", ".join(o.causes) or "-", mark])
    print(table(rows, markdown=args.markdown))
    for rows in (matrix(outcomes), cause_matrix(outcomes)):
        print()
        print(table(rows, markdown=args.markdown))
    right = sum(o.right for o in outcomes)
    print(f"\n{right} of {sum(o.available for o in outcomes)} right.")
    if args.names:
        for o in outcomes:
            print("\n" + o.found.get("report", o.found.get("error", "")))
    else:
        for o in wrong:
            print(f"\n{o.scenario.name}\n{o.found.get('error', '')}", file=sys.stderr)
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
