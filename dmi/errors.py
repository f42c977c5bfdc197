"""The exceptions of dmi.

    DmiError                       whatever dmi itself finds wrong
    |-- HeapError (ValueError)     a pointer, block or heap that may not be used as asked
    |-- SizeError (ValueError, MemoryError)
    |                              a size that no heap of these options can ever serve
    `-- TraceError (ValueError)    a recording that cannot be read

dmi.python has two of its own, InstallError and LimitError (both RuntimeError).

A plain MemoryError says that the system or the heap's max_size has nothing left right now; a
plain ValueError or TypeError names the argument and the accepted values.
"""

from __future__ import annotations


class DmiError(Exception):
    """Base of the exceptions that dmi defines."""


class HeapError(DmiError, ValueError):
    """A pointer that is no busy block of this heap, damage found, or a heap that is gone.

    The refused operation changed nothing. `address` is the pointer in question (None when the
    heap itself is meant) and `fault` one word: "stale heap", "foreign", "other heap",
    "interior", "free", "overflow", "corrupt" or "state".
    """

    def __init__(
        self, message: str = "", *, address: int | None = None, fault: str = "state"
    ) -> None:
        super().__init__(message)
        self.address = address
        self.fault = fault


class SizeError(DmiError, ValueError, MemoryError):
    """A size beyond max_size or beyond any address space: asking again cannot help.

    It is a ValueError, because the argument is at fault, and a MemoryError, because callers that
    handle a failed allocation want to handle this one too.
    """


class TraceError(DmiError, ValueError):
    """A recording that is damaged, of an unknown version, or not a recording at all.

    `offset` is the position of the fault in bytes: in the recording itself, or in the compressed
    file when it is the compression that is broken. None where no position can be named.
    """

    def __init__(self, message: str = "", *, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (at byte {offset:,})")
        self.offset = offset
