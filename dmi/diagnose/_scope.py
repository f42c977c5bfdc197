"""What a moment is a moment of: which process, which run of it; and whether two are of the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Scope", "difference"]

_SMALL = 4 << 30
_CLOCK_SLACK = 5.0
"""Seconds by which two ways to work out when a process started may differ."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A process and its run, as far as a source tells. None: it does not."""

    pid: int | None = None
    started: float | None = None
    """When the process started: seconds since 1970 of a debugger, or ticks since the boot."""
    boot: str | None = None
    lfh_key: int | None = None
    """Drawn by each process of Windows anew when it starts."""
    address_space: int | None = None
    """Bytes that the process could address at most."""
    program: str | None = None
    handles: frozenset[int] = frozenset()
    """The heaps that a debugger showed. Two moments of a process have some in common."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "pid": self.pid,
            "started": self.started,
            "boot": self.boot,
            "lfh_key": self.lfh_key,
            "program": self.program,
        }


def difference(one: Scope, other: Scope) -> str | None:
    """Why the two cannot be of one run of one process; None when nothing speaks against it."""
    if one.lfh_key is not None and other.lfh_key is not None and one.lfh_key != other.lfh_key:
        return (
            f"the LFH keys differ (0x{one.lfh_key:x} and 0x{other.lfh_key:x}), and each process "
            "draws its own"
        )
    if one.boot and other.boot and one.boot != other.boot:
        return "the machine was started again in between"
    if one.pid is not None and other.pid is not None and one.pid != other.pid:
        return f"they are of process {one.pid} and of process {other.pid}"
    if (
        one.started is not None
        and other.started is not None
        and abs(one.started - other.started) > _CLOCK_SLACK
    ):
        return "the process was started again in between"
    if (
        one.address_space is not None
        and other.address_space is not None
        # A summary of which rows were cut sums to less: only 32 bits and 64 are told apart.
        and (one.address_space > _SMALL) != (other.address_space > _SMALL)
    ):
        return (
            f"one could address {one.address_space >> 10:,} KB and the other "
            f"{other.address_space >> 10:,} KB"
        )
    same_key = one.lfh_key is not None and one.lfh_key == other.lfh_key
    if one.handles and other.handles and not same_key and not one.handles & other.handles:
        return "they have no heap in common"
    return None


def merged(one: Scope, other: Scope) -> Scope:
    """What both say together of one moment."""

    def first(name: str) -> Any:
        value = getattr(one, name)
        return getattr(other, name) if value is None else value

    return Scope(
        first("pid"), first("started"), first("boot"), first("lfh_key"), first("address_space"),
        first("program"), one.handles | other.handles,
    )  # fmt: skip
