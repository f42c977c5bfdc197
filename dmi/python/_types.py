"""What Python's heaps hold, by type; and who refers to an object."""

from __future__ import annotations

import gc
import operator
import re
import sys
from dataclasses import asdict, dataclass, replace
from types import (
    AsyncGeneratorType,
    CellType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    ModuleType,
)
from typing import TYPE_CHECKING, Any

from dmi._tables import frame, html_table
from dmi.heap import find
from dmi.python import _checks, _contexts
from dmi.python._install import hook, process_heap

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas

NO_OBJECT = "(no object)"
"""Blocks that are no object for certain: tables of dicts and lists, buffers, extensions' memory."""
_SHOWN = 20
"""Rows that are shown; all are in the table."""
LEVELS = 12
"""How far holders() goes up."""
WIDTH = 200
"""How many objects of one level holders() follows."""
UNTRACKED = 5
"""For how many objects that no tracked one refers to holders() looks through the heaps."""


@dataclass(frozen=True, slots=True)
class TypeRow:
    """The busy blocks of one type and block size, or of one type (size None)."""

    type: str
    size: int | None
    count: int
    busy: int
    pinned: int
    """Free bytes on the pages of these blocks, shared among the blocks of each page."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class TypeTable(list[TypeRow]):
    """Rows by type and size, those with most bytes first; str() shows the first twenty."""

    def types(self) -> TypeTable:
        """One row for each type."""
        sums: dict[str, TypeRow] = {}
        for row in self:
            had = sums.get(row.type, TypeRow(row.type, None, 0, 0, 0))
            sums[row.type] = replace(
                had,
                count=had.count + row.count,
                busy=had.busy + row.busy,
                pinned=had.pinned + row.pinned,
            )
        return TypeTable(sorted(sums.values(), key=lambda row: -row.busy))

    def frame(self) -> pandas.DataFrame:
        """A row a type and size. ImportError without pandas."""
        return frame([row.as_dict() for row in self])

    def _repr_html_(self) -> str:
        names = ("size", "count", "busy", "pinned")
        shown = self[:_SHOWN]
        title = "By type" if len(shown) == len(self) else f"By type, {_SHOWN} of {len(self):,} rows"
        return html_table(title, ("", *names), [
            (row.type, *(getattr(row, name) for name in names)) for row in shown
        ])  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{'busy, KiB':>10} {'pinned':>10} {'count':>10} {'size':>8}  type"]
        lines += [
            f"{row.busy / 1024:10,.0f} {row.pinned / 1024:10,.0f} {row.count:10,} "
            f"{'-' if row.size is None else row.size:>8}  {row.type}"
            for row in self[:_SHOWN]
        ]
        if len(self) > _SHOWN:
            lines.append(f"{len(self) - _SHOWN:,} more rows")
        return "\n".join(lines)


def by_type(context: str | None = None) -> TypeTable:
    """The busy blocks of Python's heaps by type and size; of one context, or of all.

    A block is taken for an object only where its type pointer is a type of this interpreter, its
    reference count is one, the collector's header is there exactly if the type has one, and the
    size that the object says fits the block. All others are "(no object)". The GIL is held
    meanwhile; blocks that threads without it free, and unmap, at that moment are no objects.
    """
    debug = _is_debug()
    from dmi.python import _objects

    sums: dict[tuple[str, int], list[float]] = {}
    for handle in _handles(context):
        for kind, size, count, busy, pinned in _objects.census(handle, debug):
            name = NO_OBJECT if kind is None else f"{kind.__module__}.{kind.__qualname__}"
            row = sums.setdefault((name, size), [0, 0, 0.0])
            row[0] += count
            row[1] += busy
            row[2] += pinned
    return TypeTable(
        sorted(
            (
                TypeRow(name, size, int(row[0]), int(row[1]), round(row[2]))
                for (name, size), row in sums.items()
            ),
            key=lambda row: -row.busy,
        )
    )


@dataclass(frozen=True, slots=True)
class Holder:
    """Who keeps an object: a root, and the way from it down to the object."""

    kind: str
    """module, class, frame, or unknown: what is above was not found."""
    root: str
    path: str
    """As in Python, from the root: app.CACHE['k'][3]."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.kind} {self.root}: {self.path}"


def holders(where: object, *, most: int = 10) -> list[Holder]:
    """Who refers to an object, or to what lies at an address, up to a module, class or frame.

    where  an address (an int: a block of by_type(), of Heap.walk() or of Heap.pins()), or any
           other object itself
    most   how many ways are told, the shortest first

    A block that is no object, a list's table for example, is kept by the objects whose fields point
    to it. Looks through every object once for each step up, with the GIL held. HeapError is not
    raised: an address of no busy block of a Python heap gives ValueError.
    """
    from dmi.python import _objects

    debug = _is_debug()
    if isinstance(where, int) and not isinstance(where, bool):
        address = operator.index(where)
        found = find(address)
        if found is None or found.state != "busy":
            raise ValueError(f"{address:#x} is no busy block of a dmi heap")
        if found.heap.handle not in _handles(None):
            raise ValueError(f"{address:#x} lies in {found.heap!r}, which holds no Python objects")
        targets = _objects.object_at(found.address, found.size, debug)
        if not targets:
            owners = _objects.owners(found.address, found.size, _handles(None), debug)
            starts: list[tuple[object, str]] = [(each, " (its buffer)") for each in owners]
            owners.clear()  # or it would be one that refers to them
            return _ways(starts, most, debug)
    else:
        targets = [where]
        del where
    return _ways([(targets.pop(), "")], most, debug)


def _ways(starts: list[tuple[object, str]], most: int, debug: bool) -> list[Holder]:
    """Breadth first from the objects up to the roots; one look at all objects for each level."""
    result: list[Holder] = []
    level = starts
    seen = {id(each) for each, _path in level}
    # Everything of ours that refers to what is looked at.
    ours = {id(level), id(result), id(seen)}
    untracked = UNTRACKED
    for _ in range(LEVELS):
        paths: dict[int, str] = {}
        things: list[object] = []
        ours |= {id(level), id(paths), id(things)} | {id(pair) for pair in level}
        held: set[int] = set()
        for thing, path in level[:WIDTH]:
            if root := _root(thing):
                result.append(Holder(*root, path=root[1] + path))
                continue
            if running := _running(thing, path, ours):
                held.add(id(thing))
                result += running
            things.append(thing)
            paths[id(thing)] = path
        if not things or len(result) >= most:
            break
        # From 3.13 on the arguments of the call are among what it finds.
        mark = object()
        referrers = [
            each
            for each in gc.get_referrers(*things, mark)
            if not (isinstance(each, tuple) and each and each[-1] is mark)
        ]
        ours.add(id(referrers))
        above: list[tuple[object, str]] = []
        ours.add(id(above))
        for each in referrers:
            if id(each) in ours or _is_our_frame(each):
                continue
            for thing in gc.get_referents(each):
                if id(thing) in paths:
                    held.add(id(thing))
                    if id(each) not in seen:
                        seen.add(id(each))
                        above.append((each, _joined(each, thing, paths[id(thing)])))
        for thing in things:
            if id(thing) in held:
                continue
            found = _untracked(thing, debug) if untracked > 0 else []
            untracked -= 1
            above += [(each, _joined(each, thing, paths[id(thing)])) for each in found]
            # A cell that no closure has is one of our own running functions'.
            if not found and not isinstance(thing, CellType):
                result.append(Holder("unknown", _name(thing), paths[id(thing)] or _name(thing)))
        level = above
        del referrers, above, things, thing
    return result[:most]


def _is_our_frame(thing: object) -> bool:
    return isinstance(thing, FrameType) and thing.f_globals is globals()


def _running(thing: object, path: str, ours: set[int]) -> list[Holder]:
    """The running frames, of all threads, that have it in a variable: the collector sees none.

    Up to 3.12 the look at a frame's variables leaves a dict of them with the frame.
    """
    found: list[Holder] = []
    for newest in sys._current_frames().values():
        at: FrameType | None = newest
        while at is not None:
            values = {} if at.f_globals is globals() else at.f_locals
            if values is not at.f_globals:
                ours.add(id(values))
                for name, value in values.items():
                    if value is thing:
                        root = _frame_name(at)
                        found.append(Holder("frame", root, f"{at.f_code.co_qualname}.{name}{path}"))
            at = at.f_back
    return found


def _frame_name(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_qualname} ({code.co_filename}:{frame.f_lineno})"


def _untracked(thing: object, debug: bool) -> list[object]:
    """Referrers that the collector does not track: their fields hold the address."""
    from dmi.python import _objects

    native = _objects.owners(id(thing), 1, _handles(None), debug)
    return [each for each in native if not gc.is_tracked(each) and each is not thing]


_SUSPENDED = (
    (GeneratorType, "gi_frame"),
    (CoroutineType, "cr_frame"),
    (AsyncGeneratorType, "ag_frame"),
)


def _root(thing: object) -> tuple[str, str] | None:
    if isinstance(thing, ModuleType):
        return "module", thing.__name__
    if isinstance(thing, type):
        return "class", f"{thing.__module__}.{thing.__qualname__}"
    frame = thing if isinstance(thing, FrameType) else None
    for kind, name in _SUSPENDED:
        if isinstance(thing, kind):
            frame = getattr(thing, name)
    if frame is not None:
        return "frame", _frame_name(frame)
    if isinstance(thing, dict) and thing.get("__name__") and "__loader__" in thing:
        # A module's own names, of which the module need not be alive.
        return "module", str(thing["__name__"])
    return None


def _name(thing: object) -> str:
    kind = type(thing)
    return f"<{kind.__module__}.{kind.__qualname__} at {id(thing):#x}>"


_KEY = re.compile(r"\['([^\W\d]\w*)'\]")


def _joined(holder: object, thing: object, path: str) -> str:
    """The path from the holder on."""
    own = getattr(holder, "__dict__", None)
    if isinstance(thing, dict) and (
        own is thing
        or (isinstance(holder, type) and any(each is thing for each in gc.get_referents(holder)))
    ):
        # Names in the holder's own dict are its attributes.
        return _KEY.sub(r".\1", path, count=1) if _KEY.match(path) else path
    return _step(holder, thing) + path


def _step(holder: object, thing: object) -> str:
    """How the holder refers to the thing, as one would write it."""
    if isinstance(holder, ModuleType | type | FrameType):
        names: Iterable[tuple[object, object]] = (
            holder.f_locals.items() if isinstance(holder, FrameType) else vars(holder).items()
        )
        return next((f".{name}" for name, value in names if value is thing), ".?")
    if isinstance(holder, dict):
        for key, value in list(holder.items()):
            if value is thing:
                module = isinstance(key, str) and "__loader__" in holder
                return f".{key}" if module else f"[{_short(key)}]"
        return ".keys()"
    if isinstance(holder, list | tuple):
        # By index: enumerate() keeps its last pair, and that would be one more holder.
        for n in range(len(holder)):
            if holder[n] is thing:
                return f"[{n}]"
        return "[?]"
    if isinstance(holder, FunctionType):
        return ".__closure__" if thing is holder.__closure__ else ".<function>"
    values = getattr(holder, "__dict__", None)
    if isinstance(values, dict):
        for key, value in list(values.items()):
            if value is thing:
                return f".{key}"
    for name in getattr(type(holder), "__slots__", ()) or ():
        if isinstance(name, str) and getattr(holder, name, None) is thing:
            return f".{name}"
    return f".<{type(holder).__qualname__}>"


def _short(key: object) -> str:
    if isinstance(key, str | bytes | int | float | None | bool):
        text = repr(key)
        return text if len(text) <= 40 else text[:37] + "..."
    return f"<{type(key).__qualname__}>"


def _is_debug() -> bool:
    """Whether the debug hooks are around each block."""
    native = hook()
    if not native.installed():
        process_heap()  # which says what to do
    return bool(native.look("obj", _checks.is_traced())[1])


def _handles(context: str | None) -> list[int]:
    if context is None:
        return [process_heap().handle, *(heap.handle for heap in _contexts.heaps())]
    if context == "outside":
        return [process_heap().handle]
    for heap in _contexts.heaps():
        if heap.name == context:
            return [heap.handle]
    raise KeyError(context)
