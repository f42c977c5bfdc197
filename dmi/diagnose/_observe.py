"""What a verdict is built from: heaps and the process, each at one moment, from whatever form.

A state may be given as statistics (anything with ``busy`` and ``committed`` in bytes, as attributes
or keys), a row or a table of `!heap -s`, a summary of `!address`, or a snapshot: a mapping with

    heaps    a list of statistics, or of {"handle", "name", "decommit", "stats": {...}}
    outside  a list of {"name", "busy", "committed"}: allocators that are not dmi (optional)
    address  AddressSummary.as_dict() (optional)
    process  {"committed", "resident", "heaps", "metadata"} in bytes (optional); heaps is what of
             committed lies in the ranges of the heaps, as the system counts it, metadata what the
             allocator keeps for all of them
    label    a title (optional)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dmi.windbg import AddressSummary, HeapRow, HeapTable, Log

__all__ = ["Observation", "State", "state_of", "states_of_log"]


@dataclass(frozen=True, slots=True)
class Observation:
    """One heap at one moment. Sizes in bytes; None where the source does not say."""

    key: str
    name: str
    busy: int
    committed: int
    handle: int | None = None
    free: int | None = None
    list_length: int | None = None
    virtual: int | None = None
    segment_committed: int | None = None
    uncommitted_ranges: int | None = None
    reclaimable: int | None = None
    pinned: int | None = None
    decommit: str | None = None
    reasons: Mapping[str, int] = field(default_factory=dict)
    outside: bool = False
    metadata: int = 0

    @property
    def retained(self) -> int:
        """Committed - busy."""
        return self.committed - self.busy

    @property
    def mean_free_block(self) -> int | None:
        """Bytes, rounded down; None without a list of free blocks."""
        if not self.list_length or self.free is None:
            return None
        return self.free // self.list_length

    @property
    def virtual_address_fragmentation(self) -> int | None:
        """floor(100 * (Virt - Commit) / Virt), at least 0."""
        commit = self.committed if self.segment_committed is None else self.segment_committed
        if not self.virtual:
            return None
        return 100 * max(0, self.virtual - commit) // self.virtual


@dataclass(frozen=True, slots=True)
class State:
    """Everything known about one moment."""

    heaps: Mapping[str, Observation]
    label: str = ""
    process_committed: int | None = None
    resident: int | None = None
    heaps_committed: int | None = None
    """What of process_committed lies in the heaps' ranges: more than they have committed where they
    gave back pages without the charge for them."""
    metadata: int = 0
    """What the allocator keeps beside its heaps."""
    usage: Mapping[str, int] = field(default_factory=dict)
    """Address space by usage, bytes."""

    @property
    def outside_heaps(self) -> int | None:
        """Committed bytes of the process that no heap known here, nor what it keeps about itself,
        accounts for."""
        if self.process_committed is None:
            return None
        metadata = self.metadata + sum(heap.metadata for heap in self.heaps.values())
        if self.heaps_committed is None:
            return self.process_committed - self.total().committed - metadata
        others = sum(heap.committed for heap in self.heaps.values() if heap.outside)
        return self.process_committed - self.heaps_committed - others - metadata

    def total(self) -> Observation:
        """All heaps together."""
        every = self.heaps.values()
        return Observation(
            "*",
            "all heaps together",
            sum(heap.busy for heap in every),
            sum(heap.committed for heap in every),
            free=sum(heap.free or 0 for heap in every),
            list_length=sum(heap.list_length or 0 for heap in every),
            reasons=_sum(heap.reasons for heap in every),
        )


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    out: dict[str, int] = {}
    for part in parts:
        for name, number in part.items():
            out[name] = out.get(name, 0) + number
    return out


def state_of(source: Any, label: str = "") -> State:
    """One state from any of the forms above. TypeError or ValueError says what is missing."""
    if isinstance(source, State):
        return source
    if isinstance(source, HeapRow):
        return _single(_row(source), label)
    if isinstance(source, HeapTable):
        return State(_by_key(map(_row, source.rows)), label or source.label)
    if isinstance(source, AddressSummary):
        return _with_address(State({}, label or source.label), source.as_dict())
    if isinstance(source, Mapping):
        values: Mapping[str, Any] = source
    elif callable(getattr(source, "as_dict", None)):
        values = source.as_dict()
    elif hasattr(source, "busy") and hasattr(source, "committed"):
        values = _Attributes(source)
    else:
        raise TypeError(
            "a state must be statistics, a snapshot, or a row, table or summary of WinDbg text, "
            f"not {type(source).__name__}"
        )
    return _state_of_mapping(values, label)


class _Attributes(Mapping[str, Any]):
    """The attributes of an object, read as a mapping."""

    def __init__(self, source: object) -> None:
        self._source = source

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self._source, key)
        except AttributeError:
            raise KeyError(key) from None

    def __iter__(self) -> Any:
        return iter(dir(self._source))

    def __len__(self) -> int:
        return len(dir(self._source))


def _state_of_mapping(values: Mapping[str, Any], label: str) -> State:
    title = values.get("label")
    label = label or (title if isinstance(title, str) else "")
    if "heaps" not in values and "outside" not in values and "address" not in values:
        return _single(_heap(values, "heap", outside=False), label)
    heaps = [
        _heap(entry, f"heap #{number}", outside=outside)
        for part, outside in (("heaps", False), ("outside", True))
        for number, entry in enumerate(_entries(values.get(part)))
    ]
    state = State(_by_key(heaps), label)
    address = values.get("address")
    if isinstance(address, Mapping):
        state = _with_address(state, address)
    process = values.get("process")
    if isinstance(process, Mapping):
        committed = _optional(process, "committed")
        state = replace(
            state,
            process_committed=state.process_committed if committed is None else committed,
            resident=_optional(process, "resident"),
            heaps_committed=_optional(process, "heaps"),
            metadata=_optional(process, "metadata") or 0,
        )
    return state


def _entries(part: Any) -> list[Any]:
    if part is None:
        return []
    if isinstance(part, Mapping):
        return [{"name": name, **entry} for name, entry in part.items()]
    if isinstance(part, list | tuple):
        return list(part)
    raise ValueError(f"heaps must be a list or a mapping, not {type(part).__name__}")


def _single(heap: Observation, label: str) -> State:
    # One heap against one heap: a handle may differ between two runs and must not separate them.
    return State({"heap": replace(heap, key="heap")}, label)


def _by_key(heaps: Iterable[Observation]) -> dict[str, Observation]:
    out: dict[str, Observation] = {}
    for heap in heaps:
        key, number = heap.key, 2
        while key in out:
            key, number = f"{heap.key} ({number})", number + 1
        out[key] = replace(heap, key=key)
    return out


def _row(row: HeapRow) -> Observation:
    return Observation(
        f"{row.handle:08x}", f"heap {row.handle:08x}", row.busy, row.committed, row.handle,
        row.free_kib * 1024, row.list_length, row.virtual_kib * 1024, row.committed,
        row.uncommitted_ranges,
    )  # fmt: skip


def _heap(entry: Any, fallback: str, *, outside: bool) -> Observation:
    if isinstance(entry, HeapRow):
        return _row(entry)
    if not isinstance(entry, Mapping):
        convert = getattr(entry, "as_dict", None)
        entry = convert() if callable(convert) else _Attributes(entry)
    stats = entry.get("stats")
    numbers: Mapping[str, Any] = entry if stats is None else stats
    if not isinstance(numbers, Mapping):
        numbers = _Attributes(numbers)
    handle = _optional(entry, "handle")
    given = entry.get("name")
    name = given if isinstance(given, str) and given else ""
    key = name if handle is None else f"{handle:08x}"
    title = f"heap {handle:08x}" if handle is not None else (name or fallback)
    if name and handle is not None:
        title += f" ({name})"
    busy, committed = _required(numbers, "busy"), _required(numbers, "committed")
    free = _optional(numbers, "free")
    if free is None:
        parts = [_optional(numbers, k) for k in ("free_lfh", "free_list", "free_pages", "offered")]
        free = sum(part or 0 for part in parts) if any(p is not None for p in parts) else None
    virtual = _optional(numbers, "segment_virtual")
    decommit = entry.get("decommit")
    return Observation(
        key or fallback, title, busy, committed, handle, free,
        _optional(numbers, "list_length"),
        _optional(numbers, "virtual") if virtual is None else virtual,
        _optional(numbers, "segment_committed"),
        _optional(numbers, "uncommitted_ranges"),
        _optional(numbers, "reclaimable"),
        _optional(numbers, "pinned"),
        None if decommit is None else str(decommit),
        _reasons(numbers),
        outside,
        _optional(numbers, "metadata_committed") or 0,
    )  # fmt: skip


def _reasons(numbers: Mapping[str, Any]) -> dict[str, int]:
    given = numbers.get("reasons")
    if not isinstance(given, Mapping):
        return {}
    return {str(name): number for name, number in given.items() if _is_size(number)}


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _optional(numbers: Mapping[str, Any], name: str) -> int | None:
    value = numbers.get(name)
    return value if _is_size(value) else None


def _required(numbers: Mapping[str, Any], name: str) -> int:
    value = numbers.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"a heap needs {name} in bytes, not {value!r}")
    return value


def _with_address(state: State, address: Mapping[str, Any]) -> State:
    table, usage = address.get("state"), address.get("usage")
    committed = _optional(table, "MEM_COMMIT") if isinstance(table, Mapping) else None
    names = {k: v for k, v in usage.items() if _is_size(v)} if isinstance(usage, Mapping) else {}
    return replace(state, process_committed=committed, usage=names)


def states_of_log(log: Log) -> list[State]:
    """The moments of a log: its heap tables, each with the address summary of the same title, or
    of the same number where the titles do not pair; or the summaries alone."""
    if not log.heaps:
        return [state_of(summary) for summary in log.addresses]
    titles = [table.label for table in log.heaps]
    by_title = {summary.label: summary for summary in log.addresses}
    named = len(set(titles)) == len(titles) and all(title in by_title for title in titles)
    states = []
    for number, table in enumerate(log.heaps):
        state = state_of(table)
        if named:
            state = _with_address(state, by_title[table.label].as_dict())
        elif len(log.addresses) == len(log.heaps):
            state = _with_address(state, log.addresses[number].as_dict())
        states.append(state)
    return states
