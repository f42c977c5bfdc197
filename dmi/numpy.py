"""NumPy on dmi's heaps: every array of a stretch of code, or one array at a time.

>>> with dmi.Heap(name="frames") as heap:
...     with dmi.numpy.use(heap):
...         frame = numpy.zeros((1080, 1920))     # its data lies on the heap
...     mask = heap.zeros((1080, 1920), bool)     # so does this, aligned to 64 bytes
...     del frame, mask

Importing this module needs no NumPy; using it does (the extra "numpy").
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, SupportsIndex

if TYPE_CHECKING:
    from types import TracebackType

    import numpy
    import numpy.typing

    from dmi._core import HeapCore

__all__ = ["use"]

_LARGE = 1 << 20
_WITHIN_PAGES = frozenset(1 << n for n in range(13))


class use:  # noqa: N801 - used like a function: with dmi.numpy.use(heap)
    """Give NumPy the heap's memory for the data of new arrays (NEP 49).

    Holds from the start to the end of the with statement, in this thread and context only: NumPy
    keeps its handler in a contextvar, so other threads, and asyncio tasks that began before, go on
    as they were. Threads that shall use the heap enter a use() of their own. A generator that
    yields inside leaves it in force for its caller. Uses end where they began, the last one first;
    RuntimeError otherwise, and nothing is changed.

    An array is resized and freed by the handler that made it, whenever and on whatever thread that
    is; it keeps the heap alive, and the heap refuses destroy() as long as the array lives
    (HeapError). The size that NumPy passes to free is not relied on. One use object at a time is in
    use; it may be used again.
    """

    __slots__ = ("_before", "_entered", "_handler")

    def __init__(self, heap: HeapCore) -> None:
        """HeapError for a heap that was destroyed, TypeError for what is no heap."""
        # Here and not above: NumPy is an extra.
        from dmi import _numpy

        self._handler = _numpy.make_handler(heap)
        self._before: object = None
        self._entered = False

    def __enter__(self) -> None:
        from dmi import _numpy

        if self._entered:
            raise RuntimeError("this dmi.numpy.use() is in use already; make another one")
        self._before = _numpy.set_handler(self._handler)
        self._entered = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        from dmi import _numpy

        if not self._entered or _numpy.get_handler() is not self._handler:
            # Another thread or context, or one that began later is not at its end.
            raise RuntimeError(
                "a dmi.numpy.use() ends where it began, the last one first, and NumPy's handler is"
                " not the one that this use() set"
            )
        before, self._before = self._before, None
        self._entered = False
        _numpy.set_handler(before)


def make(
    heap: HeapCore,
    shape: SupportsIndex | tuple[SupportsIndex, ...],
    dtype: numpy.typing.DTypeLike | None,
    align: SupportsIndex,
    *,
    zero: bool,
) -> numpy.ndarray[Any, numpy.dtype[Any]]:
    """What Heap.empty() and Heap.zeros() return: an array over a Block of its own."""
    import numpy

    kind = numpy.dtype(float if dtype is None else dtype)
    if kind.hasobject:
        raise TypeError(f"dtype must not hold Python objects, which a heap's bytes cannot: {kind}")
    try:
        extents = (
            tuple(operator.index(n) for n in shape)
            if isinstance(shape, tuple | list)
            else (operator.index(shape),)
        )
    except TypeError:
        raise TypeError(f"shape must be an int or a tuple of ints, not {shape!r}") from None
    size = kind.itemsize
    for extent in extents:
        if extent < 0:
            raise ValueError(f"shape must have no negative extent: {extents}")
        size *= extent
    # A large block begins on a page as it is, and may read as zeroes without being written.
    as_it_is = zero and size >= _LARGE and isinstance(align, int) and align in _WITHIN_PAGES
    # A block has at least a byte, an array may have none.
    allocate = heap.calloc if zero else heap.alloc
    block = allocate(max(size, 1), align=None if as_it_is else align)
    if as_it_is and block.address % operator.index(align):
        block.free()
        block = allocate(size, align=align)
    # Of a memoryview ndarray() keeps the object beneath and lets the export go; of an array it
    # keeps the array, and that one, made by frombuffer(), holds the export as long as it lives.
    held = numpy.frombuffer(memoryview(block), numpy.uint8)
    return numpy.ndarray(extents, kind, buffer=held)
