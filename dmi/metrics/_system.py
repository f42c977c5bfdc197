"""What the system says of a process: physical memory and its cgroup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmi._cgroup import cgroup_of
from dmi._layers import physical_memory
from dmi.metrics._sample import metric

if TYPE_CHECKING:
    from dmi.metrics._sample import Metric

__all__ = ["system_metrics"]

_PHYSICAL = (
    ("Rss", "resident", "bytes in physical memory"),
    ("Pss", "proportional", "the same, shared pages divided among those who share them"),
    ("Swap", "swapped", "bytes in swap"),
    ("LazyFree", "lazily_freed", "resident bytes that the system takes when it needs them"),
)


def system_metrics(pid: int | None) -> list[Metric]:
    """Of process ``pid``, by default this one. Empty where the system does not tell."""
    found: list[Metric | None] = []
    try:
        physical = physical_memory(pid)
    except ProcessLookupError:
        physical = {}
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
