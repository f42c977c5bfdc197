"""The memory cgroup of a process: what it uses, what it may use, and what the use is made of.

A process that is killed for memory is killed by this account, not by its resident size. Version 2
as in the kernel's Documentation/admin-guide/cgroup-v2.rst, version 1 as in cgroup-v1/memory.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dmi._names import note

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
    "kernel": ("kernel",),
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
    parts    what current is made of: anonymous, file (shared memory included), shared, kernel
             (slab included), slab, sockets; and inactive_file, the part of file that the kernel
             drops first
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

    def lines(self) -> Iterator[str]:
        """For people, in KB."""
        name = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in self.path)
        title = f"Cgroup {name if len(name) <= 38 else '..' + name[-36:]}"
        yield f"{title:<46}{'Current':>14}{'Limit':>14}{'Left':>14}"
        left = None
        if self.current is not None and self.limit is not None:
            left = max(0, self.limit - self.current)
        limit = "none found" if self.limit is None else _kib(self.limit)
        yield f"{'   charged (KB)':<46}{_kib(self.current):>14}{limit:>14}{_kib(left):>14}"
        for name, title in _TITLES:
            yield f"     {title:<41}{_kib(self.parts.get(name)):>14}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": self.path,
            "current": self.current,
            "limit": self.limit,
            "parts": dict(self.parts),
        }


_TITLES: Final = (
    ("anonymous", "anonymous"),
    ("file", "file pages"),
    ("shared", "  of it shared memory"),
    ("inactive_file", "  of it dropped first"),
    ("kernel", "kernel"),
    ("slab", "  of it objects (slab)"),
    ("sockets", "sockets"),
)


def _kib(size: int | None) -> str:
    return "-" if size is None else f"{size // 1024:,}"


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
    note(unified, legacy)
    for base in (root / "sys/fs/cgroup", proc / "root/sys/fs/cgroup"):
        if legacy:
            mount, path, names = base / "memory", legacy, _NAMES_V1
        elif unified:
            mount = base / "unified" if _is_folder(base / "unified") else base
            path, names = unified, _NAMES_V2
        else:
            return None
        folder = _folder(mount, path, pid)
        if folder is not None:
            return _read(mount, folder, path, *names)
    return None


_NAMES_V1: Final = ("memory.usage_in_bytes", "memory.limit_in_bytes")
_NAMES_V2: Final = ("memory.current", "memory.max")


def _read(mount: Path, folder: Path, path: str, current: str, limit: str) -> Cgroup | None:
    used = _number(folder / current)
    stat = dict(_pairs(_text(folder / "memory.stat")))
    if used is None and not stat:
        return None
    table = _PARTS_V1 if limit == "memory.limit_in_bytes" else _PARTS_V2
    parts = {
        name: sum(stat[key] for key in keys) if all(key in stat for key in keys) else None
        for name, keys in table.items()
    }
    if table is _PARTS_V1:
        # Version 1 counts the kernel's memory in files of its own, and does not tell slab apart.
        parts["kernel"] = _number(folder / "memory.kmem.usage_in_bytes")
        parts["sockets"] = _number(folder / "memory.kmem.tcp.usage_in_bytes")
        parts["slab"] = None
    limits = []
    for each in (folder, *folder.parents):
        for name in (limit, "memory.high") if limit == "memory.max" else (limit,):
            value = _number(each / name)
            if value is not None and value < _NO_LIMIT:
                limits.append(value)
        if each == mount:
            break
    return Cgroup(path, used, min(limits, default=None), parts)


def _folder(mount: Path, path: str, pid: int | None) -> Path | None:
    """Where the files of the cgroup are. In a container the path is named as the host sees it, or
    from the reader's own place upwards (``/../x``); then the mount itself is the cgroup of who has
    it mounted: this process, or the one whose root it is, if it is listed there."""
    steps = [part for part in path.split("/") if part not in ("", ".")]
    folder = mount.joinpath(*steps)
    if ".." not in steps and _is_folder(folder):
        return folder
    if not _is_folder(mount):
        return None
    if pid is None or str(pid) in _text(mount / "cgroup.procs").split():
        return mount
    return None


def _is_folder(path: Path) -> bool:
    """No where it may not be asked: the root of another process needs a right."""
    try:
        return path.is_dir()
    except OSError:
        return False


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
