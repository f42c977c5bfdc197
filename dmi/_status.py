"""What a process holds in memory, from the kernel's counters: cheap at any size.

smaps_rollup says more (proportional and lazily freed memory), but the kernel walks the page tables
for it, which takes milliseconds for each gigabyte.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["resident_and_swapped"]

_NAMES = {"VmRSS:": "Rss", "VmSwap:": "Swap"}


def resident_and_swapped(pid: int | None = None) -> dict[str, int]:
    """Rss and Swap of process ``pid``, by default this one, in bytes, as /proc/PID/status has them.

    ProcessLookupError for a process that is not there, or has no memory (a zombie).
    """
    path = Path("/proc") / ("self" if pid is None else str(pid)) / "status"
    found: dict[str, int] = {}
    try:
        for line in path.read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) == 3 and words[0] in _NAMES and words[1].isdigit():
                found[_NAMES[words[0]]] = int(words[1]) * 1024
    except FileNotFoundError:
        pass
    if not found:
        raise ProcessLookupError(f"no process {pid}, or it has no memory")
    return found
