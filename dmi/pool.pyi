from typing import Self, overload

from typing_extensions import disjoint_base

from dmi._core import HeapCore
from dmi.heap import Heap

__all__ = [
    "Address",
    "Default_Free",
    "Default_Malloc",
    "Pool",
    "PyFree",
    "PyMalloc",
    "WARN_ZERO_ALLOC",
]

WARN_ZERO_ALLOC: bool
Default_Malloc: PyMalloc
Default_Free: PyFree

@disjoint_base
class PyMalloc: ...

@disjoint_base
class PyFree: ...

@disjoint_base
class Source:
    @property
    def addresses(self) -> dict[int, int]: ...
    @property
    def heap(self) -> Heap | None: ...
    @property
    def pymalloc(self) -> PyMalloc | None: ...
    @property
    def pyfree(self) -> PyFree | None: ...

@disjoint_base
class Pool:
    @overload
    def __new__(cls, heap: HeapCore | None = None) -> Self: ...
    @overload
    def __new__(cls, heap: PyMalloc, pyfree: PyFree) -> Self: ...
    @overload
    def __new__(cls, *, pymalloc: PyMalloc, pyfree: PyFree) -> Self: ...
    @property
    def size(self) -> int: ...
    @property
    def addresses(self) -> dict[int, int]: ...
    @property
    def refs(self) -> list[object]: ...
    @property
    def heap(self) -> Heap | None: ...
    @property
    def pymalloc(self) -> PyMalloc | None: ...
    @property
    def pyfree(self) -> PyFree | None: ...
    def own_pyref(self, py_ref: object) -> None: ...

@disjoint_base
class Address:
    @overload
    def __new__(cls, number: int, elem_size: int, heap: HeapCore | None = None) -> Self: ...
    @overload
    def __new__(cls, number: int, elem_size: int, heap: PyMalloc, pyfree: PyFree) -> Self: ...
    @overload
    def __new__(
        cls, number: int, elem_size: int, *, pymalloc: PyMalloc, pyfree: PyFree
    ) -> Self: ...
    @property
    def addr(self) -> int: ...
    @property
    def heap(self) -> Heap | None: ...
    @property
    def pymalloc(self) -> PyMalloc | None: ...
    @property
    def pyfree(self) -> PyFree | None: ...
