"""The snapshot of a process that is looked at from outside, or of a core file."""

from __future__ import annotations

import mmap
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dmi._layers import physical_memory
from dmi._moment import cgroup, memory_by_usage, scope
from dmi._snapshot import Snapshot, committed_sizes

if TYPE_CHECKING:
    from . import Process
    from ._heaps import ForeignHeap

__all__ = ["snapshot_of"]


def snapshot_of(source: Process, *, label: str = "") -> Snapshot:
    """The heaps of another process or of a core file, of every kind that is known, and its address
    space. What cannot be read is None. Raises what ``dmi.open_process`` raises."""
    summary = source.address_summary()
    outside = [_foreign(each) for each in source.heaps()]
    source.resume()
    memory, commit = memory_by_usage(summary.regions, source.pid if source.live else None)
    physical: dict[str, int] = {}
    if source.live:
        with suppress(OSError):
            physical = physical_memory(source.pid)
    process: dict[str, int | None] = {
        **committed_sizes(summary),
        "resident": physical.get("Rss"),
        "swapped": physical.get("Swap"),
        "lazily_freed": physical.get("LazyFree"),
        "metadata": None,
    }
    return Snapshot(
        label, time.time() if source.live else 0.0, source.pid, mmap.PAGESIZE, (), tuple(outside),
        summary.as_dict(), process, source.program, memory, commit,
        scope(source.pid) if source.live else None, cgroup(source.pid) if source.live else None,
    )  # fmt: skip


def _foreign(each: ForeignHeap) -> dict[str, Any]:
    """A heap that was looked at from outside. Blocks mapped on their own count with it."""
    stats = each.stats()
    mapped = stats.mapped or 0

    def whole(size: int | None) -> int | None:
        return None if size is None else size + mapped

    return {
        "name": f"{stats.kind} {each.name}".strip(),
        "kind": stats.kind,
        "handle": each.handle,
        "busy": whole(stats.busy),
        "committed": whole(stats.committed),
        "free": stats.free,
        "list_length": stats.free_blocks,
        "mapped": stats.mapped,
        "resident": whole(stats.resident),
        "trim": stats.trim,
        "pinned": stats.pinned,
    }
