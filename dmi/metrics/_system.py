"""What the system says of a process: physical memory and its cgroup."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from dmi._cgroup import cgroup_of
from dmi._layers import physical_memory
from dmi._status import resident_and_swapped
from dmi.metrics._sample import metric

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dmi.metrics._sample import Metric

__all__ = ["rollup", "system_metrics"]

_PHYSICAL = (
    ("Rss", "resident", "bytes in physical memory"),
    ("Pss", "proportional", "the same, shared pages divided among those who share them"),
    ("Swap", "swapped", "bytes in swap"),
    ("LazyFree", "lazily_freed", "resident bytes that the system takes when it needs them"),
)


def rollup(pid: int | None) -> dict[str, int]:
    """What the kernel has to walk page tables for; empty where it does not tell."""
    try:
        return physical_memory(pid)
    except OSError:
        return {}


def system_metrics(pid: int | None, walked: Mapping[str, int]) -> list[Metric]:
    """Of process ``pid``, by default this one. Empty where the system does not tell.

    walked  what rollup() said when it was asked last
    """
    found: list[Metric | None] = []
    physical = dict(walked)
    with suppress(OSError):
        physical.update(resident_and_swapped(pid))
    found += [
        metric(f"dmi.process.{name}", "gauge", "By", text, [({}, physical.get(key))])
        for key, name, text in _PHYSICAL
    ]
    group = cgroup_of(pid)
    if group is not None:
        found += [
            metric("dmi.cgroup.current", "gauge", "By", "memory charged to the cgroup",
                   [({}, group.current)]),
            metric("dmi.cgroup.limit", "gauge", "By", "smallest limit of it and its ancestors",
                   [({}, group.limit)]),
            metric("dmi.cgroup.part", "gauge", "By",
                   "what is charged, by kind; inactive_file is part of file",
                   [({"part": name}, value) for name, value in group.parts.items()]),
        ]  # fmt: skip
    return [each for each in found if each is not None]
