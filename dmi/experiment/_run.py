"""One recording on one heap: where to stop, what to read there, what it cost.

A recording is played several times under each policy. The first pass scouts: it follows busy from
call to call, so that the peak is the exact one, takes the samples of the timeline, and verifies
that no block lost its contents and that the heap's own numbers close. The others do only what the
recorded program would do and are measured; the first of them stops for the detailed states that
were chosen. Heaps on a manual clock behave the same in all.
"""

from __future__ import annotations

import itertools
import mmap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dmi._cffi import ffi, lib
from dmi.errors import HeapError
from dmi.heap import Heap, heap_row

if TYPE_CHECKING:
    from dmi.policy import Decommit
    from dmi.stats import HeapStats
    from dmi.trace import Trace
    from dmi.walk import Ranges
    from dmi.windbg import HeapRow

_FOR_EVER = (1 << 64) - 1
_US = 1e-6

WATERFALL = (
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
)
"""What a sample of the timeline says in JSON; the states with detail say everything."""

Progress = Callable[[int], None]
"""Called now and then with the number of records played since the last call."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The heap at one moment of a replay."""

    seconds: float
    """On the recording's clock."""
    position: int
    """Records played."""
    handle: int
    stats: HeapStats = field(repr=False)
    recorded_rss: int | None = None
    """Resident bytes of the recorded program at that moment, where the recording says so."""

    @property
    def row(self) -> HeapRow:
        """The columns of `!heap -s`."""
        return heap_row(self.handle, self.stats)

    def as_dict(self) -> dict[str, Any]:
        """For a timeline: moment and waterfall."""
        moment = {"seconds": self.seconds, "position": self.position}
        waterfall = {name: getattr(self.stats, name) for name in WATERFALL}
        return {**moment, **waterfall, "recorded_rss": self.recorded_rss}


@dataclass(frozen=True, slots=True)
class Stop:
    """Where to stop: after so many records, or when the clock would pass so many microseconds."""

    record: int = _FOR_EVER
    us: int = _FOR_EVER


@dataclass(slots=True)
class Scouted:
    """What the first pass found."""

    samples: list[Sample]
    stops: list[Stop]
    """Where each sample was taken."""
    peak_position: int
    peak_busy: int
    failed: int


class Player:
    """A replay under way on a heap, or on the null allocator when there is none.

    Measures the CPU time of its own thread (user and system) and the wall time of playing alone.
    Not thread-safe.
    """

    def __init__(self, trace: Trace, heap: Heap | None, *, scout: bool = False) -> None:
        self.trace = trace
        self.cpu = 0.0
        self.wall = 0.0
        self._records = ffi.from_buffer(trace.records)
        target = ffi.new("dmi_replay_target *")
        target.size = ffi.sizeof("dmi_replay_target")
        target.page_size = mmap.PAGESIZE
        target.heap = ffi.cast("void *", heap.handle) if heap else ffi.NULL
        self.state = ffi.new("dmi_replay_state *")
        self.state.size = ffi.sizeof("dmi_replay_state")
        replay = lib.dmi_replay_open(
            self._records,
            trace.count,
            trace.objects,
            trace.threads,
            target,
            lib.DMI_REPLAY_SCOUT if scout else 0,
        )
        if replay == ffi.NULL:
            raise MemoryError(f"no memory for a table of {trace.objects:,} objects")
        self._replay = ffi.gc(replay, lib.dmi_replay_close)

    def play(self, stop: Stop) -> bool:
        """Go on to that stop; True at the end of the recording."""
        play, handle, state = lib.dmi_replay_play, self._replay, self.state
        wall, cpu = time.perf_counter(), time.thread_time()
        result = play(handle, stop.record, stop.us, state)
        cpu_after, wall_after = time.thread_time(), time.perf_counter()
        self.cpu += cpu_after - cpu
        self.wall += wall_after - wall
        if result < 0:
            raise OSError(ffi.errno, "the heap could not follow the recording's clock")
        return bool(result)


def _sample(player: Player, heap: Heap, *, detail: bool) -> Sample:
    state = player.state
    stats = heap.stats(detail=detail)
    stats.check()
    return Sample(
        seconds=state.clock_us * _US,
        position=state.position,
        handle=heap.handle,
        stats=stats,
        recorded_rss=state.recorded_rss or None,
    )


@dataclass(slots=True)
class _Teardown:
    cpu: float = 0.0
    """Seconds of CPU time that destroying the heap took, once it is destroyed."""


@contextmanager
def _fresh(policy: Decommit) -> Iterator[tuple[Heap, _Teardown]]:
    heap = Heap(decommit=policy, clock="manual", name=f"replay {policy.when}")
    teardown = _Teardown()
    try:
        yield heap, teardown
    finally:
        begin = time.thread_time()
        heap.destroy(force=True)  # the replayer's own blocks are what is left
        teardown.cpu = time.thread_time() - begin


def scout(trace: Trace, policy: Decommit, samples: int, progress: Progress) -> Scouted:
    """The first pass. About `samples` samples even in time, and as many even in records.

    HeapError when a block lost its contents or the heap's numbers are wrong.
    """
    records = [trace.count * i // samples for i in range(1, samples + 1)]
    micros = [round(trace.duration / _US * i / samples) for i in range(1, samples)]
    if not trace.duration:
        micros = []
    found = Scouted([], [], 0, 0, 0)
    with _fresh(policy) as (heap, _):
        player = Player(trace, heap, scout=True)
        state = player.state
        while records:
            stop = Stop(records[0], micros[0] if micros else _FOR_EVER)
            before = state.position
            player.play(stop)
            if state.position >= records[0]:
                taken = Stop(record=records[0])
                while records and records[0] <= state.position:
                    records.pop(0)
            else:
                taken = Stop(us=micros.pop(0))
            progress(state.position - before)
            sample = _sample(player, heap, detail=False)
            if sample.stats.busy != state.busy:
                raise HeapError(
                    f"the heap says that {sample.stats.busy} bytes are busy, its blocks sum to "
                    f"{state.busy} after {state.position} records under {policy}",
                    fault="corrupt",
                )
            if state.damaged:
                raise HeapError(
                    f"{state.damaged} blocks lost their contents within the first "
                    f"{state.position} records under {policy}",
                    fault="corrupt",
                )
            found.samples.append(sample)
            found.stops.append(taken)
        found.peak_position = state.peak_position
        found.peak_busy = state.peak_busy
        found.failed = state.failed
    return found


def before_peak(found: Scouted) -> Stop:
    """Where `before` is: the last sample ahead of the peak with busy below a quarter of the peak's.

    The first sample where there is none.
    """
    before = found.stops[0]
    for sample, stop in zip(found.samples, found.stops, strict=True):
        if sample.position >= found.peak_position:
            break
        if sample.stats.busy * 4 < found.peak_busy:
            before = stop
    return before


def mean_retained(samples: Sequence[Sample]) -> float:
    """Retained bytes, averaged over the recording's clock; over its records where it has none."""
    first, last = samples[0], samples[-1]
    timed = last.seconds > first.seconds
    total = weight = 0.0
    for left, right in itertools.pairwise(samples):
        width = right.seconds - left.seconds if timed else right.position - left.position
        total += width * (left.stats.retained + right.stats.retained) / 2
        weight += width
    return total / weight if weight else float(first.stats.retained)


@dataclass(slots=True)
class Measured:
    """What the second pass found: a state for each stop, and what playing cost."""

    states: dict[Stop, Sample]
    end: Sample
    cpu: float
    """Seconds of CPU time for playing and for destroying the heap: what a policy does not give back
    on the way is given back there, as it is at the end of any process."""
    wall: float
    """Seconds that playing took."""


def measure(trace: Trace, policy: Decommit, stops: Sequence[Stop], progress: Progress) -> Measured:
    """The second pass: stop for detailed states at `stops` and at the end."""
    records = sorted({stop.record for stop in stops} - {_FOR_EVER})
    micros = sorted({stop.us for stop in stops} - {_FOR_EVER})
    piece = max(1, trace.count // 20)  # for the progress bar; a stop costs well under a microsecond
    states: dict[Stop, Sample] = {}
    with _fresh(policy) as (heap, teardown):
        player = Player(trace, heap)
        state = player.state
        ended = False
        while not ended or records:
            before = state.position
            target = min(records[0] if records else trace.count, before + piece)
            ended = player.play(Stop(target, micros[0] if micros else _FOR_EVER))
            progress(state.position - before)
            if records and state.position == records[0]:
                states[Stop(record=records.pop(0))] = _sample(player, heap, detail=True)
            elif state.position < target:
                states[Stop(us=micros.pop(0))] = _sample(player, heap, detail=True)
        end = _sample(player, heap, detail=True)
        states.update({Stop(us=late): end for late in micros})
    return Measured(states, end, player.cpu + teardown.cpu, player.wall)


def ranges_at_end(trace: Trace, policy: Decommit) -> Ranges:
    """Every range of the heap when the recording has been played under a policy."""
    with _fresh(policy) as (heap, _):
        Player(trace, heap).play(Stop())
        return heap.ranges()


def cost(trace: Trace, policy: Decommit, progress: Progress) -> tuple[float, float]:
    """Play once more without a stop: CPU and wall seconds, see Measured."""
    with _fresh(policy) as (heap, teardown):
        player = Player(trace, heap)
        player.play(Stop())
        progress(trace.count)
    return player.cpu + teardown.cpu, player.wall
