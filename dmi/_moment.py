"""What a snapshot says of the process beside its heaps: memory by usage, whose moment it is, and
the limits that it lives under. Unknown is None, never 0."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dmi._names import note
from dmi.address import NO_DISK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dmi.windbg import Region

__all__ = ["cgroup", "memory_by_usage", "scope"]

_POOL: Final = "/anon_hugepage"
_GUARD_MAX: Final = 1 << 20
_START_TIME: Final = 19
"""The field of /proc/PID/stat, counted behind the name in brackets."""


def memory_by_usage(
    regions: Iterable[Region],
    pid: int | str | None = None,
    tables: Iterable[tuple[int, int]] = (),
) -> tuple[dict[str, int] | None, dict[str, int]]:
    """Memory by usage, of the usages of which all is known (None when of none), and what is
    committed. Writable mappings right behind a guard count as stacks: what is reserved for a thread
    is not used by it. Shared memory, and files that lie in memory, are a usage of their own: of
    process ``pid`` ("self" for this one) what they hold, whoever wrote it, so that a process that
    looks at more of them does not seem to grow; where that is not told, what it has touched.
    ``tables`` are mappings of dmi's own, start and end: they have guards as stacks have."""
    memory: dict[str, int] = {}
    commit: dict[str, int] = {}
    unknown: set[str] = set()
    seen: set[tuple[int, int]] = set()
    guard = -1
    known_tables = sorted(tables)
    for region in regions:
        usage, held = region.usage, region.memory
        if usage == "MappedFile" and region.name.startswith(NO_DISK):
            usage = "Other" if region.name.startswith(_POOL) else "Shared"
            if usage == "Shared" and held is not None and pid is not None:
                held = _allocated(pid, region, held, seen)
        elif usage == "Other" and region.start == guard and region.protect == "PAGE_READWRITE":
            index = bisect_right(known_tables, (region.start, 1 << 64)) - 1
            if index < 0 or region.start >= known_tables[index][1]:
                usage = "Stack"
        if held is None:
            unknown.add(usage)
        else:
            memory[usage] = memory.get(usage, 0) + held
        commit[usage] = commit.get(usage, 0) + region.committed
        bare = region.protect == "PAGE_NOACCESS" and region.size <= _GUARD_MAX
        guard = region.start + region.size if bare else -1
    known = {usage: size for usage, size in memory.items() if usage not in unknown}
    return (known or None), commit


def _allocated(pid: int | str, region: Region, touched: int, seen: set[tuple[int, int]]) -> int:
    """What a piece of shared memory holds, each piece once; what was touched where the kernel does
    not tell, which it tells to root alone."""
    place = Path(f"/proc/{pid}/map_files/{region.start:x}-{region.start + region.size:x}")
    try:
        known = place.stat()
    except OSError:
        return touched
    which = (known.st_dev, known.st_ino)
    if which in seen:
        return 0
    seen.add(which)
    return max(touched, known.st_blocks * 512)


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
