"""Contexts: what is allocated in a stretch of code lies on pages of its own."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex

from dmi._tables import frame, html_table
from dmi.errors import DmiError
from dmi.heap import Heap, find
from dmi.policy import Decommit
from dmi.python import _checks
from dmi.python._free_lists import clear_free_lists
from dmi.python._install import InstallError, hook, is_installed, process_heap

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    import pandas

    from dmi.python._hook import Scope

MAX_NAME = 47
SPARE = 16
"""Empty heaps of contexts without a name that are kept for the next ones."""

_lock = threading.Lock()
_scopes: dict[str, Scope] = {}
_spare: list[Heap] = []
_leaving: list[Heap] = []
"""Heaps of contexts without a name that nothing can enter any more, some with objects."""


class LimitError(DmiError, RuntimeError):
    """A context passed its limit, where a MemoryError would end more than what passed it: a celery
    worker stops at one, whatever the task."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one context holds at a moment; bytes, and the number of blocks."""

    name: str | None
    busy: int
    retained: int
    committed: int
    page_bound: int
    count: int
    limit: int | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class UsageTable(list[Usage]):
    """One Usage for each context, the process's own heap first; str() is a table."""

    @property
    def old_blocks(self) -> int | None:
        """Blocks that pymalloc still holds from before install(); None where it does not tell."""
        return sys.getallocatedblocks()

    def of(self, name: str) -> Usage:
        """The row of that name. KeyError without one."""
        for row in self:
            if row.name == name:
                return row
        raise KeyError(name)

    def frame(self) -> pandas.DataFrame:
        """A row a context. ImportError without pandas."""
        return frame([row.as_dict() for row in self])

    def _repr_html_(self) -> str:
        names = ("busy", "retained", "committed", "page_bound", "count", "limit")
        return html_table("Contexts", ("", *names), [
            (row.name or "(no name)", *(getattr(row, name) for name in names)) for row in self
        ])  # fmt: skip

    def __str__(self) -> str:
        lines = [
            f"{'context':24} {'busy':>9} {'retained':>9} {'bound':>9} {'blocks':>9} {'limit':>9}"
        ]
        for row in self:
            limit = "-" if row.limit is None else _kib(row.limit)
            lines.append(
                f"{row.name or '(no name)':24} {_kib(row.busy)} {_kib(row.retained)} "
                f"{_kib(row.page_bound)} {row.count:>9} {limit:>9}"
            )
        lines.append("busy, retained, bound (pages that hold a busy byte) and limit in KiB")
        return "\n".join(lines)


def _kib(size: int) -> str:
    return f"{size / 1024:9,.0f}"


class heap:  # noqa: N801 - used like a function: with dmi.python.heap("import")
    """Give what is allocated inside pages of its own.

        with dmi.python.heap("import"):
            rows = load()

    name      contexts of one name share a heap; None: a heap of its own, which is used again once
              it is empty
    limit     bytes that may be busy; None for no limit
    on_limit  called with the Usage, in the main thread, soon after busy has passed the limit, and
              once more only after it had fallen an eighth below; without it MemoryError is raised
              inside, and once more after each further sixteenth of the limit, which is for
              whatever deals with the first
    decommit  the policy of the heap, as for dmi.Heap; None leaves it as it is
    fresh     clear CPython's free lists on the way in and out (clear_free_lists(), some 10 µs), so
              that no object changes sides through them

    It holds in this thread and context only, as a context variable does: an asyncio task or a
    contextvars.copy_context() takes it along, a new thread begins outside. Objects may outlive it.
    What a container needs when it grows in place (a list, a bytearray) comes from the heap of the
    container; all else from the context in which it happens. One object at a time is in use.

    InstallError before install().
    """

    __slots__ = ("_fresh", "_refused", "_scope", "_token")

    def __init__(
        self,
        name: str | None = None,
        *,
        limit: SupportsIndex | None = None,
        on_limit: Callable[[Usage], object] | None = None,
        decommit: str | Decommit | None = None,
        fresh: bool = False,
    ) -> None:
        _check_name(name)
        if not isinstance(fresh, bool):
            raise TypeError(f"fresh must be True or False, not {type(fresh).__name__}")
        bound = _check_limit(limit, on_limit)
        policy = None if decommit is None else Decommit.of(decommit)
        if not is_installed():
            raise InstallError("call dmi.python.install() first; contexts are part of it")
        with _lock:
            _sort_out()
            self._scope = _scope(name)
        if bound or on_limit is not None:
            scope = self._scope
            if on_limit is not None:
                told = on_limit
                scope.on_limit = lambda: told(_usage(scope))
            scope.set_limit(bound, on_limit is None)
        if policy is not None:
            Heap.from_handle(self._scope.handle).decommit = policy
        self._token: Any = None
        self._fresh = fresh
        self._refused = 0

    @property
    def heap(self) -> Heap:
        """The heap that the objects lie on."""
        return Heap.from_handle(self._scope.handle)

    def usage(self) -> Usage:
        """What it holds now."""
        return _usage(self._scope)

    def __enter__(self) -> Self:
        if self._token is not None:
            raise RuntimeError("this dmi.python.heap() is in use already; make another one")
        native = hook()
        try:
            native.follow_contexts(_checks.is_traced())
        except RuntimeError as error:
            raise InstallError(str(error)) from None
        if self._fresh:
            clear_free_lists()
        self._refused = self._scope.refused
        self._token = native.current.set(self._scope)
        native.sync()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        native = hook()
        token, self._token = self._token, None
        if token is None:
            raise RuntimeError("this dmi.python.heap() was not entered")
        try:
            native.current.reset(token)
        finally:
            native.sync()
        if self._fresh:
            clear_free_lists()
        if isinstance(error, MemoryError) and (why := self.refusal()):
            # Contexts of one name may stand in each other.
            with suppress(MemoryError):
                if why not in getattr(error, "__notes__", ()):
                    error.add_note(why)

    def refusal(self) -> str | None:
        """That its limit was passed since it was entered, as a sentence; None if it was not."""
        if self._scope.refused == self._refused:
            return None
        return (
            f"dmi.python.heap({self._scope.name!r}): what is busy passed its limit of "
            f"{self._scope.limit:,} bytes"
        )


def usage() -> UsageTable:
    """What each context holds: see Usage. The first row is what lies outside of contexts."""
    outside = process_heap()
    table = UsageTable([_row("outside", outside, None)])
    with _lock:
        _sort_out()
        scopes = list(_scopes.values())
        left = list(_leaving)
    table += [_usage(scope) for scope in scopes]
    table += [_row(None, each, None) for each in left]
    return table


def heaps() -> list[Heap]:
    """The heaps of all contexts."""
    with _lock:
        _sort_out()
        return [Heap.from_handle(scope.handle) for scope in _scopes.values()] + _leaving


def context_of(thing: object) -> str | None:
    """The name of the context that an object was made in; None when it lies on no heap of dmi."""
    found = find(id(thing))
    if found is None:
        return None
    return "outside" if found.heap.handle == process_heap().handle else found.heap.name


def current() -> str | None:
    """The name of the context that this code is in; None outside, and in one without a name."""
    scope: Scope | None = hook().current.get(None)
    return None if scope is None else scope.name


# ---- scopes --------------------------------------------------------------------------------------


def _scope(name: str | None) -> Scope:
    native = hook()
    if name is not None and name in _scopes:
        return _scopes[name]
    if name is None and _spare:
        handle = _spare.pop().handle
    else:
        handle = native.make_heap((name or "context").encode())
    scope: Scope = native.Scope(name, handle)
    if name is not None:
        _scopes[name] = scope
    return scope


def _sort_out() -> None:
    """Keep the empty ones of the heaps that nothing can enter any more."""
    native = hook()
    _leaving.extend(Heap.from_handle(handle) for handle in native.left_heaps())
    for each in _leaving[:]:
        if each.stats().busy_blocks:
            continue
        _leaving.remove(each)
        # raw is used without the GIL: another thread may be inside.
        if len(_spare) < SPARE or "raw" in native.installed():
            _spare.append(each)
        else:
            native.destroy(each.handle)


def _usage(scope: Scope) -> Usage:
    return _row(scope.name, Heap.from_handle(scope.handle), scope.limit or None)


def _row(name: str | None, which: Heap, limit: int | None) -> Usage:
    stats = which.stats(detail=True)
    return Usage(
        name,
        stats.busy,
        stats.retained,
        stats.committed,
        stats.page_bound or 0,
        stats.busy_blocks,
        limit,
    )


def _check_name(name: str | None) -> None:
    if name is None:
        return
    if not isinstance(name, str):
        raise TypeError(f"name must be a str or None, not {type(name).__name__}")
    if not name or "\0" in name or len(name.encode()) > MAX_NAME:
        raise ValueError(f"name must be 1 to {MAX_NAME} bytes of UTF-8 without NUL, not {name!r}")
    if name == "outside":
        raise ValueError("name must not be 'outside', which is what lies in no context")


def _check_limit(limit: SupportsIndex | None, on_limit: Any) -> int:
    if on_limit is not None and not callable(on_limit):
        raise TypeError(f"on_limit must be callable, not {type(on_limit).__name__}")
    if limit is None:
        if on_limit is not None:
            raise ValueError("on_limit needs a limit")
        return 0
    if isinstance(limit, bool) or not hasattr(limit, "__index__"):
        raise TypeError(f"limit must be an int (bytes) or None, not {type(limit).__name__}")
    bound = limit.__index__()
    if not 0 < bound < 1 << 47:
        raise ValueError(f"limit must be between 1 and 2**47 - 1 bytes, not {bound}")
    return bound
