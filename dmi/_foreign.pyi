from collections.abc import Iterable, Sequence
from typing import Any, Final, Self

from typing_extensions import disjoint_base

STATES: Final[tuple[str, ...]]

def linked(data: bytes, address: int, least: int, holes: int) -> list[tuple[int, int, int]]: ...
def linked_pages(data: bytes, address: int, least: int) -> list[tuple[int, int, int]]: ...
def resident(reader: Any, ranges: Iterable[tuple[int, int]]) -> int | None: ...
def pools(
    reader: Any, arenas: Iterable[tuple[int, int, int]], pool: int
) -> tuple[dict[str, Any], list[tuple[int, int, int, int]]]: ...

@disjoint_base
class Bytes:
    def __new__(cls, thing: Any) -> Self: ...

@disjoint_base
class Eye:
    skipped: int
    def __new__(cls, reader: Any, absent_too: bool = False) -> Self: ...

@disjoint_base
class FastList:
    count: int
    def __new__(cls, addresses: Iterable[int]) -> Self: ...

@disjoint_base
class GlibcCount:
    errors: list[tuple[int, int, int]]
    def __new__(
        cls,
        reader: Any,
        main: bool,
        fast: Iterable[int],
        cache_chunk: int,
        retries: int = 2,
        absent_too: bool = False,
        huge: Iterable[tuple[int, int]] = (),
    ) -> Self: ...
    def add(self, start: int, end: int, top: int, key: int) -> None: ...
    def result(self) -> dict[str, Any]: ...

@disjoint_base
class GlibcWalk:
    def __new__(
        cls,
        reader: Any,
        start: int,
        end: int,
        top: int,
        main: bool,
        key: int,
        fast: Iterable[int],
        retries: int = 2,
        absent_too: bool = False,
    ) -> Self: ...
    def take(self, most: int) -> Sequence[tuple[int, int, int]]: ...
