"""What malloc_trim would give back of a process that runs on glibc, what pins the rest, and how.

glibc gives back by itself only the end of the brk heap. malloc_trim(0) walks all arenas: it frees
the whole pages inside chunks that lie in bins, and the top of the main arena. It does not touch
the tops of threads' arenas nor the caches of threads.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._heaps import ForeignHeap

__all__ = ["RISK", "TrimEstimate", "estimate_trim"]

RISK: Final = (
    "gdb stops the process for as long as this takes, and where the thread that it calls from "
    "stands inside malloc the process locks up: try it on one that can be restarted"
)


@dataclass(frozen=True, slots=True)
class TrimEstimate:
    """Bytes.

    gives           resident pages that malloc_trim(0) would free
    inside          of them inside free chunks; the rest is the top of the main arena
    free            all that glibc has free
    pinned          free bytes on pages that one busy block alone keeps
    thread_tops     tops of threads' arenas, which it does not touch
    tcache          chunks in threads' caches, which it does not touch
    exact           False where residence is unknown: then gives is an upper bound
    command         what does it; empty for a core file
    """

    gives: int
    inside: int
    free: int
    pinned: int
    thread_tops: int
    tcache: int
    exact: bool
    command: str = ""

    @property
    def stays(self) -> int:
        """Free bytes that would stay."""
        return max(0, self.free - self.gives)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "stays": self.stays, "risk": RISK if self.command else None}

    def lines(self) -> Iterator[str]:
        """For people."""
        bound = "" if self.exact else "at most "
        yield (
            f"malloc_trim would give back {bound}{self.gives // 1024:,} KB of the "
            f"{self.free // 1024:,} KB that glibc has free; {self.stays // 1024:,} KB would stay:"
        )
        shared = max(0, self.stays - self.thread_tops - self.tcache)
        for size, what in (
            (shared, "on pages that busy blocks share, or not in memory"),
            (self.thread_tops, "tops of threads' arenas, which it does not touch"),
            (self.tcache, "in threads' caches, which it does not touch"),
        ):
            if size:
                yield f"    {size // 1024:>12,} KB  {what}"
        if self.pinned:
            yield (
                f"    {self.pinned // 1024:>12,} KB of it on pages that one busy block alone keeps"
            )
        if self.command and self.gives:
            yield f"    {self.command}"
            yield f"    ({RISK})"


def estimate_trim(heaps: Iterable[ForeignHeap], pid: int = 0) -> TrimEstimate | None:
    """The estimate for all arenas together; None where there is no glibc. pid: 0 for a core
    file.
    """
    gives = inside = free = pinned = tops = tcache = 0
    exact, seen = True, False
    for heap in heaps:
        if heap.kind != "glibc":
            continue
        seen = True
        stats = heap.stats()
        details = stats.details or {}
        gives += stats.trim or 0
        inside += details.get("trim_inside") or 0
        free += stats.free or 0
        pinned += stats.pinned or 0
        tcache += details.get("tcache") or 0
        if not details.get("main"):
            tops += details.get("top") or 0
        exact &= stats.resident is not None
    if not seen:
        return None
    command = ""
    if pid:
        command = f"gdb -p {pid} -batch -ex 'call ((int (*)(unsigned long)) malloc_trim)(0)'"
    return TrimEstimate(gives, inside, free, pinned, tops, tcache, exact, command)
