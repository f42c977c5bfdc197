"""From files and logs to moments: what belongs together, in which order, and of which process.

A log is read from the top: a table of a kind that the moment has already, another title, a new dump
or a program that went on begins the next one. Moments of several files that lack what another has,
heaps here and the address space there, are joined where title, time, prompt or file name say so.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dmi.windbg import (
    AddressSummary,
    AskedBlock,
    BlockList,
    HeapFacts,
    HeapTable,
    Log,
    SizeTable,
    Told,
    TraceTable,
)

from ._observe import Observation, State, observation_of_facts, state_of
from ._scope import Scope, difference, merged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["UnclearError", "in_order", "join", "joined", "of_one_process", "states_of_log"]

Piece = (
    HeapTable | AddressSummary | HeapFacts | SizeTable | BlockList | TraceTable | AskedBlock | Told
)

_FIGURES: Final = frozenset({"heaps", "segments", "detail", "address", "snapshot"})
_MOST_ENDS: Final = 3


class UnclearError(ValueError):
    """The files may belong together in more than one way."""


@dataclass(slots=True)
class _Group:
    """The pieces of one moment."""

    title: str = ""
    pieces: list[Piece] = field(default_factory=list)
    listed: int = 0
    """The line of the last row of a table of segment heaps."""
    time: float | None = None
    uptime: float | None = None
    system: str = ""
    prompt: str = ""
    key: int | None = None
    """The LFH key of the process that the text is of."""
    views: set[tuple[str, str]] = field(default_factory=set)
    """Kinds, and as which processor the debugger showed them."""

    def kinds(self) -> set[str]:
        return {_kind(piece) for piece in self.pieces}

    def handles(self, kind: str) -> set[int | None]:
        return {p.handle for p in self.pieces if not isinstance(
            p, HeapTable | AddressSummary | TraceTable | Told) and _kind(p) == kind}  # fmt: skip


def _kind(piece: Piece) -> str:
    if isinstance(piece, HeapTable):
        return "heaps"
    if isinstance(piece, AddressSummary):
        return "address"
    if isinstance(piece, HeapFacts):
        return {"segment": "segments", "listing": "listing"}.get(piece.source, "detail")
    if isinstance(piece, SizeTable):
        return "sizes"
    if isinstance(piece, AskedBlock):
        return "asked"
    if isinstance(piece, Told):
        return f"told by {piece.source}"
    return "blocks" if isinstance(piece, BlockList) else "traces"


# ---- one log -------------------------------------------------------------------------------------


def states_of_log(log: Log, source: str = "") -> list[State]:
    """The moments of a log, in the order of its text."""
    groups = _by_number(log) or _by_text(log)
    groups = _same_titles(groups)
    states = [_state(group, source) for group in groups if group.pieces]
    if not states:
        states = [State({}, lists_all=False, source=source)] if _says(log) else []
    return _with_lines(states, log)


def _says(log: Log) -> bool:
    """Something beside figures that a report has to tell."""
    return bool(log.unread) or any(notice.kind != "command" for notice in log.notices)


def _pieces(log: Log) -> list[Piece]:
    every: list[Piece] = [
        *log.heaps,
        *log.addresses,
        *log.facts,
        *log.sizes,
        *log.blocks,
        *log.traces,
        *log.asked,
        *log.told,
    ]
    return sorted(every, key=lambda piece: piece.line)


def _by_number(log: Log) -> list[_Group]:
    """As many summaries as tables, all of one kind before all of the other and without titles: the
    first belongs to the first."""
    heaps, addresses = log.heaps, log.addresses
    if len(heaps) != len(addresses) or len(heaps) < 2 or log.facts:
        return []
    apart = addresses[-1].line < heaps[0].line or heaps[-1].line < addresses[0].line
    titles = {table.label for table in heaps} & {summary.label for summary in addresses}
    if not apart or titles - {""}:
        return []
    groups = [
        _Group(heap.label or address.label, [heap, address])
        for heap, address in zip(heaps, addresses, strict=True)
    ]
    groups[-1].pieces += [*log.sizes, *log.blocks, *log.traces, *log.asked, *log.told]
    return groups


def _by_text(log: Log) -> list[_Group]:
    groups = [_Group()]
    marks = list(log.marks)
    time = uptime = None
    system = prompt = ""
    key: int | None = None
    for piece in _pieces(log):
        fresh = False
        while marks and marks[0].line <= piece.line:
            mark = marks.pop(0)
            if mark.kind == "time":
                time, uptime, fresh = mark.number, None, True
            elif mark.kind == "uptime":
                uptime = mark.number
            elif mark.kind == "prompt":
                prompt = mark.value
            elif mark.kind == "key":
                key = int(mark.value, 16)
            elif mark.kind == "system":
                fresh = fresh or mark.value != system
                system = mark.value
            elif mark.kind in ("run", "dump"):
                fresh = True
                if mark.kind == "dump":
                    time = uptime = key = None
        group = groups[-1]
        view = _view(prompt)
        if group.pieces and (_begins(group, piece, view) or (fresh and group.kinds() & _FIGURES)):
            group = _Group()
            groups.append(group)
        title = piece.label if isinstance(piece, HeapTable | AddressSummary | Told) else ""
        group.title = group.title or title
        group.time, group.uptime = time, uptime
        group.system, group.prompt = system, group.prompt or prompt
        # Of a program of 32 bits both of its loaders draw a key: the first one counts.
        group.key = key if group.key is None or not _other_view(group, view) else group.key
        group.pieces.append(piece)
        group.views.add((_kind(piece), view))
        if isinstance(piece, HeapFacts):
            group.listed = piece.line
    return groups


def _view(prompt: str) -> str:
    """Of a program of 32 bits on 64 the debugger shows the heaps of either: `0:000:x86>`."""
    return prompt.rpartition(":")[2].lower() if re.search(r":[xX]86$", prompt) else ""


def _other_view(group: _Group, view: str) -> bool:
    return any(each != view for _, each in group.views)


def _begins(group: _Group, piece: Piece, view: str) -> bool:
    """The piece cannot be of the same moment: the moment has one like it, or another title."""
    kind = _kind(piece)
    if isinstance(piece, HeapTable | AddressSummary):
        if piece.label and group.title and piece.label != group.title:
            return True
        if isinstance(piece, HeapTable):
            return (kind, view) in group.views
        return kind in group.kinds()
    if isinstance(piece, Told):
        return kind in group.kinds()
    if kind in ("segments", "detail", "sizes"):
        assert isinstance(piece, HeapFacts | SizeTable)
        return piece.handle in group.handles(kind)
    return False


def _same_titles(groups: list[_Group]) -> list[_Group]:
    """Groups of one title that lack what the other has are one moment."""
    out: list[_Group] = []
    for group in groups:
        twin = next(
            (
                other
                for other in out
                if group.title
                and other.title == group.title
                and not (group.kinds() & other.kinds() & _FIGURES)
            ),
            None,
        )
        if twin is None:
            out.append(group)
        else:
            twin.pieces += group.pieces
    return out


def _state(group: _Group, source: str) -> State:
    heaps: dict[str, Observation] = {}
    state = State(
        {}, group.title, lists_all=False, source=source, time=group.time, prompt=group.prompt
    )
    started = None
    if group.time is not None and group.uptime is not None:
        started = group.time - group.uptime
    scope = Scope(started=started, lfh_key=group.key)
    kinds = {_kind(piece) for piece in group.pieces} - {"listing"}
    shown: set[int] = set()
    for piece in group.pieces:
        if isinstance(piece, HeapTable | AddressSummary):
            part = state_of(piece)
            scope = merged(scope, part.scope)
            if isinstance(piece, HeapTable):
                heaps.update(part.heaps)
            else:
                state = replace(
                    state, process_committed=part.process_committed, usage=part.usage,
                    largest_free=part.largest_free,
                )  # fmt: skip
            state = replace(state, disagreements=state.disagreements + part.disagreements)
        elif isinstance(piece, HeapFacts):
            found = observation_of_facts(piece)
            # A row of the table tells more than the segments of the same heap.
            known = heaps.get(found.key)
            if known is None or (known.committed is None and found.committed is not None):
                heaps[found.key] = found
            if piece.source == "segment":
                shown.add(piece.handle)
    return replace(
        state,
        heaps=heaps,
        scope=replace(scope, handles=scope.handles | shown),
        kinds=frozenset(kinds),
        sizes=tuple(piece for piece in group.pieces if isinstance(piece, SizeTable)),
        blocks=tuple(piece for piece in group.pieces if isinstance(piece, BlockList)),
        traces=tuple(piece for piece in group.pieces if isinstance(piece, TraceTable)),
        asked=tuple(piece for piece in group.pieces if isinstance(piece, AskedBlock)),
        told=tuple(piece for piece in group.pieces if isinstance(piece, Told)),
        line=group.pieces[0].line,
    )


def _with_lines(states: list[State], log: Log) -> list[State]:
    """Lines not read and notices, each with the last moment that begins before it."""
    out = list(states)
    if not out:
        # Only commands whose output is not read, which say nothing of memory.
        return []
    for each in log.unread:
        n = max((i for i, s in enumerate(states) if s.line <= each.line), default=0)
        out[n] = replace(out[n], unread=(*out[n].unread, str(each)))
    for notice in log.notices:
        # A banner stands above its table.
        n = next((i for i, s in enumerate(states) if s.line >= notice.line), len(states) - 1)
        if notice.kind != "setting":
            n = max((i for i, s in enumerate(states) if s.line <= notice.line), default=0)
        out[n] = replace(out[n], notices=(*out[n].notices, notice))
    return out


# ---- several files -------------------------------------------------------------------------------


def join(one: State, other: State) -> State:
    """Two parts of one moment as one. Raises UnclearError when both hold the same kind."""
    both = one.kinds & other.kinds & (_FIGURES - {"detail"})
    if both:
        raise UnclearError(
            f"{one.source} and {other.source} both hold {', '.join(sorted(both))}: they are no "
            "parts of one moment"
        )
    if why := difference(one.scope, other.scope):
        raise UnclearError(f"{one.source} and {other.source} are no parts of one moment: {why}")
    committed = one.process_committed
    return replace(
        one,
        heaps={**other.heaps, **one.heaps},
        label=one.label or other.label,
        process_committed=other.process_committed if committed is None else committed,
        resident=one.resident if one.resident is not None else other.resident,
        usage=one.usage or other.usage,
        memory=one.memory or other.memory,
        scope=merged(one.scope, other.scope),
        time=one.time if one.time is not None else other.time,
        largest_free=one.largest_free if one.largest_free is not None else other.largest_free,
        sizes=one.sizes + other.sizes,
        blocks=one.blocks + other.blocks,
        traces=one.traces + other.traces,
        asked=one.asked + other.asked,
        told=one.told + other.told,
        notices=one.notices + other.notices,
        unread=one.unread + other.unread,
        kinds=one.kinds | other.kinds,
        source=f"{one.source} + {other.source}",
        disagreements=one.disagreements + other.disagreements,
    )


def joined(files: Sequence[tuple[str, list[State]]]) -> tuple[list[State], list[str]]:
    """The moments of files, those of one moment put together, and what to say about it.

    Raises UnclearError where heaps and address spaces lie in different files and nothing says which
    belong to each other.
    """
    single = [(name, states[0]) for name, states in files if len(states) == 1]
    halves = [(name, state) for name, state in single if len(_sides(state)) == 1]
    sides = Counter(side for _, state in halves for side in _sides(state))
    every = [state for _, states in files for state in states]
    if len(sides) < 2:
        return every, []
    pairs: list[tuple[int, int]] = []
    for keys in _keys(halves):
        by_key: dict[str, list[int]] = {}
        for n, key in enumerate(keys):
            if key is not None:
                by_key.setdefault(key, []).append(n)
        found = [tuple(ns) for ns in by_key.values()]
        if all(len(ns) <= 2 for ns in found) and any(len(ns) == 2 for ns in found):
            proper = [ns for ns in found if len(ns) == 2]
            if all(_sides(halves[a][1]) != _sides(halves[b][1]) for a, b in proper):
                pairs = [(ns[0], ns[1]) for ns in proper]
                break
    if not pairs:
        names = {side: [n for n, s in halves if side in _sides(s)] for side in sides}
        heap, address = names["heaps"][0], names["address"][0]
        raise UnclearError(
            f"{', '.join(names['heaps'])} hold heaps and {', '.join(names['address'])} the address "
            "space, and neither key, title, prompt nor name says which are of one moment. Write "
            f"those of one moment with a plus sign: {heap}+{address}"
        )
    notes = []
    partner: dict[int, int] = dict(pairs)
    gone = {id(halves[b][1]) for _, b in pairs}
    out = []
    index = {id(state): n for n, (_, state) in enumerate(halves)}
    for state in every:
        if id(state) in gone:
            continue
        half = index.get(id(state))
        if half is not None and half in partner:
            n = half
            other = halves[partner[n]][1]
            whole = join(state, other)
            label = state.label
            if not label or label == Path(state.source).stem:
                label = common_name(halves[n][0], halves[partner[n]][0])
            out.append(replace(whole, label=label))
            notes.append(f"{halves[n][0]} and {halves[partner[n]][0]} were taken as one moment.")
        else:
            out.append(state)
    return out, notes


def _sides(state: State) -> frozenset[str]:
    """Heaps or address space, or both."""
    sides = set()
    if state.kinds & {"heaps", "segments", "detail"}:
        sides.add("heaps")
    if "address" in state.kinds:
        sides.add("address")
    return frozenset(sides)


def _keys(halves: Sequence[tuple[str, State]]) -> Iterable[list[str | None]]:
    """What may say that two files are of one moment, the surest first: for each file its word."""
    yield [f"{state.label}" if state.label else None for _, state in halves]
    yield [f"{state.time}" if state.time is not None else None for _, state in halves]
    yield [f"{s.scope.lfh_key}" if s.scope.lfh_key is not None else None for _, s in halves]
    yield [bare_name(name) for name, _ in halves]
    yield [state.prompt or None for _, state in halves]


_KIND_WORDS: Final = re.compile(
    r"heaps?|address(?:es)?|addr|vmsummary|summary|segments?|usage|vmmap|\bva\b|stats?",
    re.IGNORECASE,
)


def bare_name(name: str) -> str:
    """A file's name without what says which kind of table it holds."""
    stem = re.sub(r".*[/\\]", "", name)
    stem = re.sub(r"\.(?:txt|log|out|md|html?|json)$", "", stem, flags=re.IGNORECASE)
    return re.sub(r"[\W_]+", "-", _KIND_WORDS.sub("", stem)).strip("-").lower()


def common_name(one: str, other: str) -> str:
    """A title for the moment that two files are of."""
    return bare_name(one) or bare_name(other)


# ---- order ---------------------------------------------------------------------------------------

_ORDER_WORDS: Final[tuple[tuple[re.Pattern[str], int], ...]] = tuple(
    (re.compile(rf"(?<![a-z])(?:{words})(?![a-z])", re.IGNORECASE), rank)
    for words, rank in (
        ("before|pre|start|begin|beginning|baseline|initial|first|early|idle|fresh|startup", 0),
        ("during|peak|mid|middle|load|loaded|busy|between|while|noon", 1),
        ("after|post|end|final|last|late|later|done|finished", 2),
    )
)


def _rank(state: State) -> int | None:
    """Where the title of a moment puts it in time."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_\d]+", " ", state.label or state.source)
    # Of `before peak` the first word counts.
    found = [(m.start(), rank) for pattern, rank in _ORDER_WORDS if (m := pattern.search(text))]
    return min(found)[1] if found else None


def in_order(states: Sequence[State]) -> tuple[list[State], list[str]]:
    """The moments in the order of time: as given, unless their time stamps say otherwise, or, where
    they have none, every title says before, during or after."""
    times = [state.time for state in states]
    if all(time is not None for time in times):
        ordered = sorted(states, key=lambda state: state.time or 0.0)
        why = "their time stamps"
    else:
        ranks = [_rank(state) for state in states]
        known = [rank for rank in ranks if rank is not None]
        if len(known) < len(ranks) or len(set(known)) < len(known):
            return list(states), []
        ordered = [
            state for _, state in sorted(zip(known, states, strict=True), key=lambda p: p[0])
        ]
        why = "their titles"
    if all(a is b for a, b in zip(ordered, states, strict=True)):
        return ordered, []
    return ordered, [f"The moments were put in the order of {why}, which is not the order given."]


# ---- one process ---------------------------------------------------------------------------------


def of_one_process(states: Sequence[State]) -> tuple[list[State], list[str]]:
    """Of a text with moments of several processes those of the one that has most, where that is
    clear; what was set aside is said."""
    groups: list[list[State]] = []
    for state in states:
        home = next((g for g in groups if difference(g[-1].scope, state.scope) is None), None)
        if home is None:
            groups.append([state])
        else:
            home.append(state)
    if len(groups) < 2:
        return list(states), []
    largest = max(groups, key=len)
    if len(largest) < 2 or sum(len(group) == len(largest) for group in groups) > 1:
        return list(states), []
    aside = [state for group in groups if group is not largest for state in group]
    notes = []
    for state in aside:
        where = f"line {state.line}" + (f" of {state.source}" if state.source else "")
        why = difference(state.scope, largest[0].scope) or "it is of another process"
        notes.append(f"The moment at {where} was set aside: {why}.")
    return largest, notes
