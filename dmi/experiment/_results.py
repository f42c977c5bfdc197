"""What comes of an experiment: a run of `dmi replay`, a cell of `dmi sweep`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from dmi.experiment._run import Sample
    from dmi.policy import Decommit


@dataclass(frozen=True, slots=True)
class Run:
    """One recording under one policy."""

    decommit: str
    """The policy's text; only what is not a default is named."""
    policy: Decommit = field(repr=False)
    events: int
    """alloc, calloc, realloc and free."""
    seconds: float
    """Wall time of playing in the measured pass, sampling left out."""
    cpu_seconds: float
    """User and system time of playing and of destroying the heap at the end, sampling left out."""
    mean_retained: float
    """Bytes, averaged over the recording's clock."""
    failed: int
    """Allocations that the heap could not serve."""
    before: Sample
    peak: Sample
    end: Sample
    at: tuple[Sample, ...] = ()
    """The moments that were asked for, in that order."""
    timeline: tuple[Sample, ...] = field(default=(), repr=False)
    cpu_noise: float | None = None
    """Seconds between the least and the second least CPU time of the measured passes: how well the
    least is known. None when it was measured once."""

    def arrays(self) -> dict[str, NDArray[numpy.float64]]:
        """The time line as arrays of one length: seconds, position, and bytes by name.

        recorded_rss is NaN where the recording does not say. ImportError without NumPy.
        """
        try:
            import numpy
        except ImportError:
            raise ImportError("arrays need NumPy: pip install 'dmi-heap[numpy]'") from None
        rows = [sample.as_dict() for sample in self.timeline]
        names = rows[0] if rows else {}
        return {
            name: numpy.array([row[name] for row in rows], dtype=numpy.float64) for name in names
        }

    @property
    def events_per_second(self) -> float | None:
        """Of wall time; None for a recording without events."""
        return self.events / self.seconds if self.events and self.seconds else None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON. States are HeapStats.as_dict(); bytes and seconds throughout."""
        states = {"before": self.before, "peak": self.peak, "end": self.end}
        return {
            "decommit": self.decommit,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "cpu_noise": self.cpu_noise,
            "events_per_second": self.events_per_second,
            "failed": self.failed,
            "mean_retained": self.mean_retained,
            **{name: sample.stats.as_dict() for name, sample in states.items()},
            "page_bound": {
                "peak": self.peak.stats.page_bound,
                "end": self.end.stats.page_bound,
            },
            "moments": {
                name: {
                    "seconds": sample.seconds,
                    "position": sample.position,
                    "recorded_rss": sample.recorded_rss,
                }
                for name, sample in states.items()
            },
            "at": [
                {"seconds": sample.seconds, "position": sample.position, **sample.stats.as_dict()}
                for sample in self.at
            ],
            "timeline": [sample.as_dict() for sample in self.timeline],
        }


@dataclass(frozen=True, slots=True)
class Cell:
    """One recording under one policy; `run` is an entry of `runs` in `dmi replay --json`."""

    recording: str
    decommit: str
    events: int
    run: dict[str, Any] = field(repr=False)
    duration: float | None = None
    """Seconds that the recording lasts; None where it has no clock."""

    @property
    def mean_retained(self) -> float:
        """Bytes, averaged over the recording's clock."""
        return float(self.run["mean_retained"])

    @property
    def cpu_seconds(self) -> float:
        """User and system time of the measured pass."""
        return float(self.run["cpu_seconds"])

    def ties(self, other: Cell) -> tuple[bool, bool]:
        """Whether mean retained, and CPU time, are too close to tell apart: 1 % of memory; of
        time 2 %, or what repeats of either cell differed by."""
        memory = abs(self.mean_retained - other.mean_retained)
        time = abs(self.cpu_seconds - other.cpu_seconds)
        noise = max(float(cell.run.get("cpu_noise") or 0.0) for cell in (self, other))
        return (
            memory <= 0.01 * max(self.mean_retained, other.mean_retained),
            time <= max(noise, 0.02 * max(self.cpu_seconds, other.cpu_seconds)),
        )

    def beats(self, other: Cell) -> bool:
        """Whether this one is better in one of the two, and not worse in the other."""
        same_memory, same_time = self.ties(other)
        less_memory = not same_memory and self.mean_retained < other.mean_retained
        less_time = not same_time and self.cpu_seconds < other.cpu_seconds
        return (less_memory and (less_time or same_time)) or (less_time and same_memory)

    @property
    def committed(self) -> int:
        """Bytes, at the end."""
        return int(self.run["end"]["committed"])

    @property
    def retained(self) -> int:
        """Bytes, at the end."""
        return int(self.run["end"]["retained"])

    @property
    def page_bound(self) -> int:
        """Bytes, at the end."""
        return int(self.run["page_bound"]["end"])
