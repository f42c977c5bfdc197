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
from typing import Any, Final

from dmi.windbg import (
    FREE_USAGE,
    AddressSummary,
    AskedBlock,
    BlockList,
    HeapFacts,
    HeapRow,
    HeapTable,
    Notice,
    SizeTable,
    Told,
    TraceTable,
)

from ._scope import Scope

__all__ = ["Observation", "State", "known_sum", "observation_of_facts", "state_of"]


WALKED: Final = frozenset({"", "dmi", "glibc", "pymalloc", "nt", "segment"})
"""Kinds of heaps whose blocks are known, where they could be read. Of the others only the memory
is."""

COLLECTED: Final = frozenset({
    "Go", "V8", "JVM", ".NET", "Erlang", "Boehm GC", "GHC", "SBCL", "Ruby", "PyPy", "OCaml",
    "Julia", "Racket", "JavaScriptCore", "LuaJIT",
})  # fmt: skip
"""Kinds whose garbage waits until a collector runs."""


NURSERIES: Final[Mapping[str, int]] = {"V8": 32 << 20, "Go": 32 << 20, "SBCL": 54 << 20}
"""What such a collector lets wait whatever the program holds: two halves of 16 MiB of V8, pages of
Go that its scavenger has not come to, and of SBCL what it allocates between two collections."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One heap at one moment. Sizes in bytes; None where the source does not say, never 0."""

    key: str
    name: str
    busy: int | None
    committed: int | None
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
    metadata: int | None = None
    kind: str = ""
    """dmi, nt, segment, glibc, pymalloc, ...; empty where the source does not say."""
    resident: int | None = None
    reserved: int | None = None
    virtual_blocks: int | None = None
    """Blocks mapped on their own, where they do not count as committed."""
    virtual_bytes: int | None = None
    """What they hold, where the source tells more than their number."""
    bits: int | None = None
    mapped: int | None = None
    """What of committed and busy is mapped on its own, beside the allocator's own ranges."""
    trim: int | None = None
    """What malloc_trim(0) would give back, where it was worked out page by page."""
    histogram: Mapping[int, int] = field(default_factory=dict)
    """Busy blocks: size -> count; empty where they were not counted."""
    mapped_histogram: Mapping[int, int] | None = None
    """The blocks that are mapped on their own: size -> count; None: not known."""
    types: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Blocks and bytes by the type of Python's objects, from a sample; empty: not known."""
    survived: int | None = None
    """Of a JVM: what was left outside its eden by the last collection."""
    collections: int | None = None
    eden: int | None = None
    """The most that it takes."""
    trim_top: int | None = None
    """What of it lies at the end of the main arena, which a threshold gives back."""
    on_huge_pages: int | None = None
    """Free bytes, in whole pages, that lie on huge pages."""
    parts: int = 1
    """How many arenas are told together here."""
    threads: Mapping[str, int] = field(default_factory=dict)
    """Bytes in flight or in caches by thread, where the source tells."""

    @property
    def is_walked(self) -> bool:
        """Whether its blocks are known, so that it is a heap of its own and no mere memory."""
        return self.kind in WALKED or self.busy is not None

    @property
    def is_collected(self) -> bool:
        """Whether its garbage may wait for a collector."""
        return not COLLECTED.isdisjoint(self.kind.split(" or "))

    def held_since(self, before: Observation) -> int | None:
        """What it holds more than before, as collections between the two tell; None: not known, or
        more than the eden explains."""
        if self.survived is None or before.survived is None or self.eden is None:
            return None
        if self.committed is None or before.committed is None:
            return None
        if self.collections is None or before.collections is None:
            return None
        if self.collections <= before.collections:
            return None
        held = self.survived - before.survived
        grown = self.committed - before.committed
        return held if grown - max(0, held) <= self.eden else None

    @property
    def nursery(self) -> int:
        """The most that its young objects take before they are collected; 0: not known."""
        return max((NURSERIES.get(kind, 0) for kind in self.kind.split(" or ")), default=0)

    @property
    def retained(self) -> int | None:
        """Committed - busy."""
        if self.committed is None or self.busy is None:
            return None
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
        if not self.virtual or commit is None:
            return None
        return 100 * max(0, self.virtual - commit) // self.virtual


@dataclass(frozen=True, slots=True)
class State:
    """Everything known about one moment."""

    heaps: Mapping[str, Observation]
    label: str = ""
    process_committed: int | None = None
    resident: int | None = None
    huge: int | None = None
    """What of the process's memory lies on huge pages."""
    heaps_committed: int | None = None
    """What of process_committed lies in the heaps' ranges: more than they have committed where they
    gave back pages without the charge for them."""
    metadata: int | None = None
    """What the allocator keeps beside its heaps."""
    usage: Mapping[str, int] = field(default_factory=dict)
    """Address space by usage, bytes: never memory."""
    memory: Mapping[str, int] = field(default_factory=dict)
    """Memory by usage: resident and swapped, without what was freed lazily and without clean pages
    of files. Empty where the source does not say."""
    commit: Mapping[str, int] = field(default_factory=dict)
    """Committed bytes by usage. Empty where the source does not say."""
    lists_all: bool = True
    """The source names every heap it could see, so that one that is missing did not exist."""
    scope: Scope = field(default_factory=Scope)
    time: float | None = None
    largest_free: int | None = None
    """The largest free range of the address space."""
    sizes: tuple[SizeTable, ...] = ()
    blocks: tuple[BlockList, ...] = ()
    traces: tuple[TraceTable, ...] = ()
    asked: tuple[AskedBlock, ...] = ()
    """Single blocks that the debugger was asked for."""
    told: tuple[Told, ...] = ()
    """What other tools tell by name."""
    notices: tuple[Notice, ...] = ()
    unread: tuple[str, ...] = ()
    """Lines that held figures of this moment and were not read."""
    kinds: frozenset[str] = frozenset()
    """What it was read from: heaps, segments, detail, address, sizes, blocks, traces, asked,
    told, snapshot."""
    source: str = ""
    line: int = 0
    disagreements: tuple[str, ...] = ()
    prompt: str = ""
    """Of the debugger, in front of the commands that showed it."""
    profile: Any = None
    """Which code holds what, as a dmi.Profile, where a sampler ran."""

    @property
    def own_memory(self) -> int | None:
        """All of its memory that it shares with nobody; None where the source does not say."""
        if not self.memory:
            return None
        return sum(size for usage, size in self.memory.items() if usage != "Shared")

    @property
    def outside_heaps(self) -> int | None:
        """Committed bytes of the process that no heap known here, nor what it keeps about itself,
        accounts for; None where any of these is not known."""
        if self.process_committed is None:
            return None
        every = list(self.heaps.values())
        kept = (self.metadata or 0) + sum(heap.metadata or 0 for heap in every)
        counted = [h for h in every if h.outside] if self.heaps_committed is not None else every
        held = known_sum(heap.committed for heap in counted)
        if held is None:
            return None
        return self.process_committed - (self.heaps_committed or 0) - held - kept

    def total(self) -> Observation:
        """All heaps together."""
        every = self.heaps.values()
        return Observation(
            "*",
            "all heaps together",
            known_sum(heap.busy for heap in every),
            known_sum(heap.committed for heap in every),
            free=known_sum(heap.free for heap in every),
            list_length=known_sum(heap.list_length for heap in every),
            reasons=_sum(heap.reasons for heap in every),
        )


def known_sum(parts: Iterable[int | None]) -> int | None:
    """The sum; None when a part is not known."""
    total = 0
    for part in parts:
        if part is None:
            return None
        total += part
    return total


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
        return _state_of_table(source, label)
    if isinstance(source, AddressSummary):
        state = State(
            {}, label or source.label, lists_all=False, kinds=frozenset({"address"}),
            line=source.line, disagreements=source.disagreements(),
            scope=Scope(address_space=source.total if not source.regions else None),
        )  # fmt: skip
        if FREE_USAGE in source.largest:
            state = replace(state, largest_free=source.largest[FREE_USAGE][1])
        return _with_address(state, source.as_dict())
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
            huge=_optional(process, "huge"),
            heaps_committed=_optional(process, "heaps"),
            metadata=_optional(process, "metadata"),
        )
    return _with_scope(state, values)


def _with_scope(state: State, values: Mapping[str, Any]) -> State:
    """Where a snapshot says whose it is, when, and what of the memory is for what."""
    scope = values.get("scope")
    scope = scope if isinstance(scope, Mapping) else {}
    started = _optional(scope, "started")
    boot, program, time = scope.get("boot"), values.get("program"), values.get("time")
    return replace(
        state,
        scope=Scope(
            pid=_optional(values, "pid") or None,
            started=None if started is None else float(started),
            boot=boot if isinstance(boot, str) and boot else None,
            program=program if isinstance(program, str) and program else None,
        ),
        time=float(time) if isinstance(time, int | float) and 0 < time < 1e15 else None,
        memory=_named_sizes(values.get("memory")),
        commit=_named_sizes(values.get("commit")),
        kinds=frozenset({"snapshot"}),
        profile=_profile(values.get("profile")),
    )  # fmt: skip


def _profile(given: Any) -> Any:
    if given is None:
        return None
    from dmi.profile import Profile  # few snapshots carry one

    return given if isinstance(given, Profile) else Profile.from_dict(given)


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


def _state_of_table(table: HeapTable, label: str) -> State:
    return State(
        _by_key(_row(row, table.bits) for row in table.rows),
        label or table.label,
        lists_all=False,
        scope=Scope(lfh_key=table.lfh_key, handles=frozenset(row.handle for row in table.rows)),
        kinds=frozenset({"heaps"}),
        line=table.line,
        disagreements=table.disagreements(),
    )


def _row(row: HeapRow, bits: int | None = None) -> Observation:
    # More free than committed is a row that was cut or changed: what is busy is not known then.
    busy = row.busy if row.busy_kib >= 0 else None
    return Observation(
        f"{row.handle:08x}", f"heap {row.handle:08x}", busy, row.committed, row.handle,
        row.free_kib * 1024, row.list_length, row.virtual_kib * 1024, row.committed,
        row.uncommitted_ranges, kind="nt", reserved=row.reserved_kib * 1024,
        virtual_blocks=row.virtual_blocks, bits=bits or (64 if row.handle >> 32 else None),
    )  # fmt: skip


def observation_of_facts(facts: HeapFacts) -> Observation:
    """What the text says of one heap outside a table of NT heaps."""
    kind = "segment" if facts.source == "segment" else "nt"
    title = f"{'segment ' if kind == 'segment' else ''}heap {facts.handle:08x}"
    return Observation(
        f"{facts.handle:08x}", title, facts.busy, facts.committed, facts.handle, facts.free,
        facts.list_length, facts.virtual, facts.committed, facts.uncommitted_ranges, kind=kind,
        reserved=facts.reserved, virtual_blocks=facts.virtual_blocks,
        virtual_bytes=facts.virtual_bytes, bits=64 if facts.handle >> 32 else None,
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
    kind = entry.get("kind")
    kind = kind if isinstance(kind, str) else ""
    title = f"heap {handle:08x}" if handle is not None else (name or fallback)
    if name and outside:
        title = name
    elif name and handle is not None:
        title += f" ({name})"
    busy, committed = _figure(numbers, "busy"), _figure(numbers, "committed")
    if committed is None and busy is None:
        raise ValueError("a heap needs busy or committed in bytes, and both are null")
    key = name if handle is None else f"{handle:08x}"
    if outside and name and kind not in WALKED and busy is None:
        # Told by its mappings: the first of them is another at another moment.
        key = name
    free = _optional(numbers, "free")
    if free is None:
        parts = [_optional(numbers, k) for k in ("free_lfh", "free_list", "free_pages", "offered")]
        free = known_sum(parts)
    resident = _optional(numbers, "memory")
    if resident is None:
        resident = _optional(numbers, "resident")
    if outside and resident is not None and committed is not None:
        # What a trim took stays writable: only what is in memory counts.
        committed = min(committed, max(resident, busy or 0))
        if free is not None and busy is not None:
            free = min(free, committed - busy)
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
        _optional(numbers, "metadata_committed"),
        kind,
        _optional(numbers, "resident"),
        mapped=_optional(numbers, "mapped"),
        trim=_optional(numbers, "trim"),
        trim_top=_optional(entry, "trim_top"),
        survived=_optional(entry, "survived"),
        collections=_optional(entry, "collections"),
        eden=_optional(entry, "eden"),
        histogram=_histogram(entry.get("histogram")),
        mapped_histogram=None
        if entry.get("mapped_histogram") is None
        else _histogram(entry["mapped_histogram"]),
        types=_types(entry.get("types")),
        on_huge_pages=_optional(entry, "free_on_huge_pages"),
        threads=_named_sizes(entry.get("threads")),
    )  # fmt: skip


def _histogram(given: Any) -> dict[int, int]:
    """Size -> count, of [size, count] pairs."""
    if not isinstance(given, list | tuple):
        return {}
    return {
        pair[0]: pair[1]
        for pair in given
        if isinstance(pair, list | tuple) and len(pair) >= 2 and all(map(_is_size, pair[:2]))
    }


def _types(given: Any) -> dict[str, tuple[int, int]]:
    """Type -> blocks and bytes."""
    if not isinstance(given, Mapping):
        return {}
    return {
        str(name): (pair[0], pair[1])
        for name, pair in given.items()
        if isinstance(pair, list | tuple) and len(pair) == 2 and all(map(_is_size, pair))
    }


def _named_sizes(given: Any) -> dict[str, int]:
    if not isinstance(given, Mapping):
        return {}
    return {str(name): size for name, size in given.items() if _is_size(size)}


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


def _figure(numbers: Mapping[str, Any], name: str) -> int | None:
    """A figure that must be there; None where the source says that it does not know."""
    value = numbers.get(name, "nothing")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"a heap needs {name} in bytes, not {value!r}")
    return value


def _with_address(state: State, address: Mapping[str, Any]) -> State:
    table, usage = address.get("state"), address.get("usage")
    committed = _optional(table, "MEM_COMMIT") if isinstance(table, Mapping) else None
    names = {k: v for k, v in usage.items() if _is_size(v)} if isinstance(usage, Mapping) else {}
    return replace(state, process_committed=committed, usage=names)
