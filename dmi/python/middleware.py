"""Each request, task or job on pages of its own: middleware for WSGI, ASGI and celery.

    app = dmi.python.middleware.WSGI(app)            # Flask: app.wsgi_app = WSGI(app.wsgi_app)
    app.add_middleware(dmi.python.middleware.ASGI)   # Starlette, FastAPI
    dmi.python.middleware.celery()                   # once, in the worker's module

name is the context's: a str for all requests together, a function of the WSGI environ, the ASGI
scope or the celery task for one context each (by tenant, by route); None gives each request a heap
of its own, which the next one takes over when it is empty. limit is as for dmi.python.heap(); with
on_limit=None a request beyond it gets MemoryError, and a celery task LimitError: at a MemoryError
celery stops the worker. All of them call install().
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from dmi.python._contexts import LimitError, Usage, heap
from dmi.python._install import install

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping

    OnLimit = Callable[[Usage], object] | None

__all__ = ["ASGI", "WSGI", "celery"]


def _context(name: Any, of: object, limit: int | None, on_limit: OnLimit) -> heap:
    return heap(name(of) if callable(name) else name, limit=limit, on_limit=on_limit)


class WSGI:
    """Run a WSGI application with each request in a context, its streamed answer included."""

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        name: str | Callable[[dict[str, Any]], str | None] | None = "requests",
        *,
        limit: int | None = None,
        on_limit: OnLimit = None,
    ) -> None:
        install()
        self.app = app
        self.name = name
        self.limit = limit
        self.on_limit = on_limit

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        context = _context(self.name, environ, self.limit, self.on_limit)
        with context:
            answer = self.app(environ, start_response)
        if isinstance(answer, (list, tuple)):
            return answer
        return _Streamed(answer, context)


class _Streamed:
    """An answer whose parts are made in the context, one at a time: the server runs in between."""

    def __init__(self, answer: Iterable[bytes], context: heap) -> None:
        self.answer = answer
        self.context = context
        self.parts: Iterator[bytes] | None = None

    def __iter__(self) -> _Streamed:
        return self

    def __next__(self) -> bytes:
        with self.context:
            if self.parts is None:
                self.parts = iter(self.answer)
            return next(self.parts)

    def close(self) -> None:
        """What the server calls at the end, whatever happened."""
        close = getattr(self.answer, "close", None)
        if close is not None:
            with self.context:
                close()


class ASGI:
    """Run an ASGI application with each request or socket in a context."""

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        name: str | Callable[[MutableMapping[str, Any]], str | None] | None = "requests",
        *,
        limit: int | None = None,
        on_limit: OnLimit = None,
    ) -> None:
        install()
        self.app = app
        self.name = name
        self.limit = limit
        self.on_limit = on_limit

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Callable[..., Any], send: Callable[..., Any]
    ) -> None:
        if scope["type"] == "lifespan":
            # What the application keeps for all its life.
            await self.app(scope, receive, send)
            return
        with _context(self.name, scope, self.limit, self.on_limit):
            await self.app(scope, receive, send)


def celery(
    name: str | Callable[[Any], str | None] | None = "tasks",
    *,
    limit: int | None = None,
    on_limit: OnLimit = None,
) -> None:
    """Run each celery task of this process, and of the workers that it forks, in a context.

    A task that passes the limit fails with LimitError. Where it is called at once
    (task_always_eager) it is MemoryError, and so is whatever has another cause.
    """
    from celery import signals

    install()
    running: dict[str, heap] = {}

    def begin(task_id: str, task: Any, **_: object) -> None:
        context = running[task_id] = _context(name, task, limit, on_limit)
        if limit is not None and on_limit is None:
            _name_limit(task, running)
        context.__enter__()

    def end(task_id: str, **_: object) -> None:
        context = running.pop(task_id, None)
        if context is not None:
            context.__exit__(None, None, None)

    signals.task_prerun.connect(begin, weak=False)
    signals.task_postrun.connect(end, weak=False)


def _name_limit(task: Any, running: Mapping[str, heap]) -> None:
    """Have a task that passes its limit fail with LimitError from now on."""
    # A worker looks run up for each call; a task that is called at once has it already.
    if task.request.is_eager or hasattr(task.run, "dmi_limit"):
        return
    inner = task.run

    @functools.wraps(inner)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return inner(*args, **kwargs)
        except MemoryError as error:
            context = running.get(task.request.id)
            why = None if context is None else context.refusal()
            if why is None:
                raise
            raise LimitError(why) from error

    run.dmi_limit = True  # type: ignore[attr-defined]
    task.run = run
