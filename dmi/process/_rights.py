"""Why the memory of a process may not be read, which right would give it, and what can be told
without.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dmi._cgroup import cgroup_of
from dmi.walk import Segment

from ._heaps import ForeignRow, ForeignStats

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dmi.address import AddressSummary

    from ._heaps import ForeignPin, ForeignRange

__all__ = [
    "ShapeHeap",
    "is_narrow",
    "run_of",
    "refused",
    "shape_heaps",
    "status",
    "without_rights",
]

_CAP_SYS_PTRACE: Final = 19
_YAMA: Final = Path("/proc/sys/kernel/yama/ptrace_scope")
_KUBERNETES: Final = (
    "in Kubernetes: kubectl debug -it POD --image=IMAGE --target=CONTAINER --profile=general -- "
    "dmi ... --pid 1"
)
_WAYS: Final = (
    "as root: sudo dmi ...",
    "in Docker: docker run -it --pid=container:NAME --cap-add=SYS_PTRACE IMAGE dmi ... --pid 1",
    _KUBERNETES,
)


def _fields(pid: int | str) -> dict[str, list[str]]:
    """The words of each line of its status, all of one moment; none for a process that is gone."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").split("\n")
        return {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    return {}


def _field(pid: int | str, name: str) -> list[str]:
    return _fields(pid).get(name, [])


def has_ptrace() -> bool:
    """Whether this process has the capability to look into others."""
    found = _field("self", "CapEff")
    return bool(found) and bool(int(found[0], 16) >> _CAP_SYS_PTRACE & 1)


def _missing_right(pid: int) -> list[str]:
    """Why, in one line; then a line for each way to the right."""
    owner, yama = _field(pid, "Uid"), ""
    with suppress(OSError):
        yama = _YAMA.read_text().strip()
    if not _field(pid, "VmSize"):
        return ["it has no memory of its own: a kernel thread, or a process that has ended"]
    if yama == "3":
        # Not even the capability helps.
        why = "kernel.yama.ptrace_scope is 3, which forbids it to everybody until the next boot"
        return [f"its memory may not be read: {why}"]
    if has_ptrace():
        why = "something else forbids it, as another user namespace or a security module"
    elif owner and str(os.geteuid()) not in owner[:3]:
        why = f"it belongs to user {owner[1]}; that needs the capability SYS_PTRACE"
    elif yama not in ("", "0"):
        who = (
            ""
            if yama == "2"
            else "a process that started it, one that it allows (PR_SET_PTRACER), or "
        )
        why = f"kernel.yama.ptrace_scope is {yama}: that needs {who}the capability SYS_PTRACE"
    else:
        why = (
            "it has capabilities that this process has not, or is marked as not dumpable; that "
            "needs the capability SYS_PTRACE"
        )
    return [f"its memory may not be read: {why}", *_WAYS]


def status(pid: int) -> dict[str, int]:
    """What everybody may know at one moment: resident bytes by kind, and what is in swap."""
    names = ("VmSize", "VmRSS", "RssAnon", "RssFile", "RssShmem", "VmSwap", "VmData", "VmHWM")
    fields = _fields(pid)
    return {
        name: int(found[0]) * 1024
        for name in names
        if (found := fields.get(name)) and found[0].isdigit()
    }


def without_rights(pid: int) -> list[str]:
    """Why its memory may not be read, the ways to the right, and what everybody may know: sizes,
    and what its cgroup holds."""
    lines = [*_missing_right(pid), _known_to_all(pid), _known_of_cgroup(pid)]
    return [line for line in lines if line]


def refused(pid: int) -> str:
    """The same in one text, where not even its mappings may be read."""
    return f"process {pid}: " + "; ".join(without_rights(pid))


def _known_of_cgroup(pid: int) -> str:
    found = cgroup_of(pid)
    if found is None or found.current is None:
        return ""
    limit = "no limit" if found.limit is None else f"of {found.limit >> 10:,} KB"
    return f"its cgroup holds {found.current >> 10:,} KB ({limit}), files included"


def _known_to_all(pid: int) -> str:
    """Sizes that everybody may know, in words."""
    sizes = ", ".join(f"{name} {size >> 10:,} KB" for name, size in status(pid).items())
    return f"what everybody may know of it: {sizes}" if sizes else ""


def is_narrow(pid: int) -> bool:
    """Whether it is a 32-bit program."""
    with suppress(OSError), Path(f"/proc/{pid}/exe").open("rb") as file:
        return file.read(5) == b"\x7fELF\x01"
    return False


def run_of(pid: int) -> tuple[str, ...]:
    """Which run of which program it is: another one after it has called exec."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        # When it started; where its code begins and ends, and its stack (1 without the right).
        return tuple(fields[n].decode("ascii", "replace") for n in (19, 23, 24, 25))
    return ()


class ShapeHeap:
    """Heaps told by the shape and the names of their mappings alone: what they hold, not what is
    used."""

    def __init__(
        self,
        kind: str,
        regions: Sequence[tuple[int, int, int, int | None]],
        less: int = 0,
        name: str = "by its mappings alone",
        memory: int | None = None,
    ) -> None:
        self.kind = kind
        self.name = name
        self._regions = regions
        # Bytes of them that another heap has, nobody knows where.
        self._less = less
        # Resident and swapped, without what was freed lazily; None: unknown.
        self._memory = memory

    @property
    def handle(self) -> int:
        """Its first address."""
        return self._regions[0][0]

    def stats(self) -> ForeignStats:
        """What its mappings say."""
        residents = [resident for *_, resident in self._regions if resident is not None]
        return ForeignStats(
            kind=self.kind,
            reserved=sum(size for _, size, _, _ in self._regions),
            committed=max(0, sum(each[2] for each in self._regions) - self._less),
            resident=max(0, sum(residents) - self._less)
            if len(residents) == len(self._regions)
            else None,
            details=None if self._memory is None else {"memory": max(0, self._memory - self._less)},
        )

    def row(self) -> ForeignRow:
        """The columns of `!heap -s` that are known."""
        stats = self.stats()
        return ForeignRow(
            self.kind, self.handle, reserved=stats.reserved, committed=stats.committed
        )

    def segments(self) -> list[Segment]:
        """Its mappings."""
        return [
            Segment(start, size, committed, 0, False) for start, size, committed, _ in self._regions
        ]

    def walk(self) -> Iterator[ForeignRange] | None:
        """Unknown."""
        return None

    def histogram(self) -> None:
        """Unknown."""
        return

    def pins(self, top: int = 10) -> Sequence[ForeignPin] | None:
        """Unknown."""
        return None


_SHAPES: Final = {"HeapBrk": "brk heap", "HeapGlibcArena": "glibc", "HeapDmi": "dmi"}


def shape_heaps(summary: AddressSummary) -> list[ShapeHeap]:
    """What the mappings alone tell of heaps, a heap for each usage."""
    heaps: list[ShapeHeap] = []
    for usage, kind in _SHAPES.items():
        found = [
            (region.start, region.size, region.committed, region.resident)
            for region in summary.regions
            if region.usage == usage
        ]
        if found:
            heaps.append(ShapeHeap(kind, found))
    return heaps
