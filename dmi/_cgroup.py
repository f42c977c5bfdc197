"""The memory cgroup of a process: what it uses, what it may use, and what the use is made of.

A process that is killed for memory is killed by this account, not by its resident size. Version 2
as in the kernel's Documentation/admin-guide/cgroup-v2.rst, version 1 as in cgroup-v1/memory.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Cgroup", "cgroup_of"]

_NO_LIMIT: Final = 1 << 62
"""Version 1 writes a number of this size, rounded to pages, where there is no limit."""
_MAX_FILE: Final = 1 << 20

# What of memory.stat makes up each part. Of version 1 the hierarchical figures are taken.
_PARTS_V2: Final = {
    "anonymous": ("anon",),
    "file": ("file",),
    "shared": ("shmem",),
    "slab": ("slab",),
    "sockets": ("sock",),
    "inactive_file": ("inactive_file",),
}
_PARTS_V1: Final = {
    "anonymous": ("total_rss",),
    "file": ("total_cache",),
    "shared": ("total_shmem",),
    "inactive_file": ("total_inactive_file",),
}


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Bytes; None where the kernel does not say.

    path     the cgroup, as /proc/PID/cgroup names it
    current  what is charged to it
    limit    the smallest limit of it and its ancestors; None where there is none
    limited  whether a limit was found; False also where limits cannot be read
    parts    what current is made of: anonymous, file (shared memory included), shared, slab,
             sockets; and inactive_file, the part of file that the kernel drops first
    """

    path: str
    current: int | None
    limit: int | None
    parts: Mapping[str, int | None]

    @property
    def limited(self) -> bool:
        """Whether a limit was found."""
        return self.limit is not None

    @property
    def pressing(self) -> int | None:
        """current less inactive file pages: what cannot be dropped at once."""
        inactive = self.parts.get("inactive_file")
        if self.current is None or inactive is None:
            return self.current
        return max(0, self.current - inactive)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": self.path,
            "current": self.current,
            "limit": self.limit,
            "parts": dict(self.parts),
        }


def cgroup_of(pid: int | None = None, root: Path = Path("/")) -> Cgroup | None:
    """The memory cgroup of ``pid``, by default of this process.

    None where there is none, where it is the root of the machine without figures of its own, or
    where it may not be read.
    """
    proc = root / "proc" / ("self" if pid is None else str(pid))
    lines = _text(proc / "cgroup").splitlines()
    unified, legacy = "", ""
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            unified = path
        elif "memory" in controllers.split(","):
            legacy = path
    base = root / "sys/fs/cgroup"
    if legacy:
        return _read(base / "memory", legacy, "memory.usage_in_bytes", "memory.limit_in_bytes")
    if unified:
        mount = base / "unified" if (base / "unified").is_dir() else base
        return _read(mount, unified, "memory.current", "memory.max")
    return None


def _read(mount: Path, path: str, current: str, limit: str) -> Cgroup | None:
    folder = _folder(mount, path)
    used = _number(folder / current)
    stat = dict(_pairs(_text(folder / "memory.stat")))
    if used is None and not stat:
        return None
    table = _PARTS_V1 if limit == "memory.limit_in_bytes" else _PARTS_V2
    parts = {
        name: sum(stat[key] for key in keys) if all(key in stat for key in keys) else None
        for name, keys in table.items()
    }
    limits = []
    for each in (folder, *folder.parents):
        for name in (limit, "memory.high") if limit == "memory.max" else (limit,):
            value = _number(each / name)
            if value is not None and value < _NO_LIMIT:
                limits.append(value)
        if each == mount:
            break
    return Cgroup(path, used, min(limits, default=None), parts)


def _folder(mount: Path, path: str) -> Path:
    """In a container the file names the path as the host sees it; then the mount itself is it."""
    inside = [part for part in path.split("/") if part not in ("", ".", "..")]
    folder = mount.joinpath(*inside)
    return folder if folder.is_dir() else mount


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE).decode("ascii", "replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _pairs(text: str) -> Iterator[tuple[str, int]]:
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.isascii() and value.isdigit() and len(value) < 20:
            yield name, int(value)
