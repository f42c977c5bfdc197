"""What the native modules hand to those above them: plain numbers under names.

What the numbers mean, and how they are shown, is decided above.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "FaultFields",
    "HeapFields",
    "OutsideFields",
    "PinFields",
    "PolicyFields",
    "RangeFields",
    "RegionFields",
    "SegmentFields",
    "TrimFields",
]


class PolicyFields(NamedTuple):
    """A dmi_policy: when, how and combine are numbers of the library's."""

    when: int
    how: int
    delay: float
    half_life: float
    block: int
    total: int
    combine: int
    ratio: float
    psi: float
    headroom: float


class HeapFields(NamedTuple):
    """A dmi_heap_info: what a heap was made with, and its own time."""

    name: str
    flags: int
    max_size: int
    is_default: bool
    time: float
    policy: PolicyFields
    huge_split: float
    guard: int


class TrimFields(NamedTuple):
    """A dmi_trim_report."""

    decommitted: int
    resident_before: int
    resident_after: int
    calls: int


class RangeFields(NamedTuple):
    """A dmi_range."""

    address: int
    size: int
    kind: int
    state: int
    bucket: int
    flags: int
    segment: int


class SegmentFields(NamedTuple):
    """A dmi_segment_info."""

    address: int
    reserved: int
    committed: int
    uncommitted_ranges: int
    is_virtual: bool


class PinFields(NamedTuple):
    """A dmi_pin."""

    address: int
    size: int
    pinned: int


class FaultFields(NamedTuple):
    """A dmi_fault: the word for its kind, where it was found, and what it is."""

    word: str
    address: int
    message: str


class RegionFields(NamedTuple):
    """A dmi_region of a Windows process."""

    address: int
    size: int
    usage: int
    state: int
    type: int
    protect: int
    name: str


class OutsideFields(NamedTuple):
    """A heap of another process, by its descriptors."""

    handle: int
    name: str
    reserved: int
    committed: int
    busy: int
    busy_blocks: int
    segments: list[SegmentFields]
