from typing import Self

from typing_extensions import disjoint_base

from dmi._core import HeapCore

__all__ = ["Pool"]

@disjoint_base
class Pool:
    def __new__(cls, heap: HeapCore | None = None) -> Self: ...
    @property
    def size(self) -> int: ...
    @property
    def addresses(self) -> dict[int, int]: ...
    @property
    def refs(self) -> list[object]: ...
    @property
    def heap(self) -> HeapCore | None: ...
