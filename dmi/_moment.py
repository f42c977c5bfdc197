"""What a snapshot says of the process beside its heaps: memory by usage, whose moment it is, and
the limits that it lives under. Unknown is None, never 0."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dmi._names import note
from dmi.address import NO_DISK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dmi.windbg import Region

__all__ = ["cgroup", "memory_by_usage", "scope"]

_GUARD_MAX: Final = 1 << 20
_START_TIME: Final = 19
"""The field of /proc/PID/stat, counted behind the name in brackets."""


def memory_by_usage(regions: Iterable[Region]) -> tuple[dict[str, int] | None, dict[str, int]]:
    """Memory by usage, of the usages of which all is known (None when of none), and what is
    committed. Writable mappings right behind a guard count as stacks: what is reserved for a thread
    is not used by it. Files that lie in memory count as the program's own mappings."""
    memory: dict[str, int] = {}
    commit: dict[str, int] = {}
    unknown: set[str] = set()
    guard = -1
    for region in regions:
        usage = region.usage
        if usage == "MappedFile" and region.name.startswith(NO_DISK):
            usage = "Other"
        elif usage == "Other" and region.start == guard and region.protect == "PAGE_READWRITE":
            usage = "Stack"
        if region.memory is None:
            unknown.add(usage)
        else:
            memory[usage] = memory.get(usage, 0) + region.memory
        commit[usage] = commit.get(usage, 0) + region.committed
        bare = region.protect == "PAGE_NOACCESS" and region.size <= _GUARD_MAX
        guard = region.start + region.size if bare else -1
    known = {usage: size for usage, size in memory.items() if usage not in unknown}
    return (known or None), commit


def scope(pid: int | None = None) -> dict[str, Any]:
    """Which process and which run of it: the start in ticks since the boot, and the boot."""
    root = Path("/proc") / ("self" if pid is None else str(pid))
    found: dict[str, Any] = {"started": None, "boot": None}
    with suppress(OSError, ValueError, IndexError):
        fields = (root / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        found["started"] = int(fields.split()[_START_TIME])
    with suppress(OSError):
        found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return found


def cgroup(pid: int | None = None) -> dict[str, Any] | None:
    """The control group: its path, and what its memory is and may be; None where there is none."""
    root = Path("/proc") / ("self" if pid is None else str(pid))
    with suppress(OSError):
        for line in (root / "cgroup").read_text(errors="replace").splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if number == "0" and not controllers:
                base = Path("/sys/fs/cgroup") / path.lstrip("/")
                note(path)
                return {
                    "path": path,
                    "current": _number(base / "memory.current"),
                    "limit": _number(base / "memory.max"),
                }
    return None


def _number(path: Path) -> int | None:
    """What the file says; None for `max` and where there is no such file."""
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None
