"""jemalloc in a process, without symbols: which memory is its.

jemalloc 5 looks up the owner of an address in a tree of two levels. The root is a table of 2^18
words in the program's data: one for each GiB, which leads to a table of 2^18 words in its turn, one
for each page. So a root is known by where its few words stand: word n must lead to a table that
knows pages of the n-th GiB. What of it is used its own structs would tell; they are not read.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ._glibc_find import Space
    from ._heaps import Memory

__all__ = ["Tree", "trees"]

_WORDS: Final = 1 << 18
_TABLE: Final = 8 * _WORDS
_GIB: Final = 30
_PAGE: Final = 12
_POINTER: Final = (1 << 48) - 1 & ~0x3F
_STRUCTS: Final = 21
"""Memory for structs is taken by 2 MiB."""
_LOOKS: Final = 4096
_ALL_LOOKS: Final = 1 << 19
"""Pages that are looked up in one range, and in all."""
_CACHED: Final = 1024
"""Pages of tables that are kept: 4 MiB."""
_MOST_ROOTS: Final = 1 << 12
_MOST_DATA: Final = 1 << 16
"""Pages of the data of one file that are looked through."""
_MOST_PAIRS: Final = 1 << 19
"""Places at which a root is tried: words that may lead to tables, for each GiB that they may be
of."""
_LEAST_GIBS: Final = 64
_KNOWS: Final = 1 << 12
_ZEROS: Final = bytes(4096)


class Tree:
    """One jemalloc: its root, the file whose data it stands in, and its tables by GiB."""

    def __init__(self, memory: Memory, space: Space, file: str, leaves: dict[int, int]) -> None:
        self._memory = memory
        self._space = space
        self.file = file
        self.leaves = leaves
        self._pages: dict[int, bytes | None] = {}
        self._structs: set[int] = set()
        self._looks = _ALL_LOOKS

    def word(self, address: int) -> int:
        """What the tree leads to for the page at the address: its extent's struct, or 0."""
        leaf = self.leaves.get(address >> _GIB)
        if leaf is None:
            return 0
        at = leaf + 8 * (address >> _PAGE & _WORDS - 1)
        page = at & -4096
        if page not in self._pages:
            if len(self._pages) >= _CACHED:
                self._pages.clear()
            self._pages[page] = _there(self._memory, page, 4096)
        data = self._pages[page]
        if data is None:
            return 0
        found = int.from_bytes(data[at - page : at - page + 8], "little") & _POINTER
        return found if found and self._space.writable(found) else 0

    def proves(self, address: int) -> bool:
        """Whether the struct that the tree leads to says that the extent holds the page."""
        struct_at = self.word(address)
        raw = _there(self._memory, struct_at, 24) if struct_at else None
        if raw is None:
            return False
        start = int.from_bytes(raw[8:16], "little") & -4096
        size = int.from_bytes(raw[16:24], "little") & -4096
        return 0 <= address - start < size < 1 << 47

    def owns(self, address: int) -> bool:
        """Whether the page at the address is the first, the last or a small one of its extents."""
        found = self.word(address)
        if found:
            self._structs.add(found >> _STRUCTS)
        return bool(found)

    def spans(self, free: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """What of the ranges is its: from the first page to the last that it knows of each range,
        and the ranges that its tables stand in."""
        ranges = list(free)
        starts = [start for start, _ in ranges]
        found: list[tuple[int, int]] = []
        for leaf in self.leaves.values():
            index = bisect_right(starts, leaf) - 1
            if index >= 0 and leaf < ranges[index][1]:
                found.append(ranges[index])
        own = set(found)
        for start, end in ranges:
            if (start, end) in own:
                continue
            first = next(self._known(range(start, end, 4096)), None)
            if first is not None:
                last = next(self._known(range(end - 4096, start - 1, -4096)), first)
                found.append((first, last + 4096))
        # The structs of extents lie in memory that the tree does not know.
        have = set(found)
        for start, end in ranges:
            low, high = start >> _STRUCTS, end - 1 >> _STRUCTS
            if (start, end) not in have and any(low <= each <= high for each in self._structs):
                found.append((start, end))
        return found

    def _known(self, pages: Iterable[int]) -> Iterator[int]:
        looks = min(_LOOKS, self._looks)
        skip = -1
        for address in pages:
            if address >> 21 == skip:
                continue
            if self.owns(address):
                yield address
            elif self._empty(address):
                # 512 pages stand in one page of a table: it knows none of them.
                skip = address >> 21
            looks -= 1
            self._looks -= 1
            if looks <= 0:
                return

    def _empty(self, address: int) -> bool:
        leaf = self.leaves.get(address >> _GIB)
        if leaf is None:
            return True
        data = self._pages.get(leaf + 8 * (address >> _PAGE & _WORDS - 1) & -4096)
        # A table may begin within a page; then two share it, which costs looks and nothing else.
        return leaf % 4096 == 0 and (data is None or not any(data))


def _there(memory: Memory, address: int, size: int) -> bytes | None:
    """Bytes of a page, if it is in memory."""
    marks = memory.pagemap(address, 1)
    if marks is not None and not marks[7] & 0x80:
        return None
    return memory.read(address, size)


def trees(
    memory: Memory,
    space: Space,
    free: Sequence[tuple[int, int]],
    images: Iterable[tuple[int, int, str]],
) -> list[Tree]:
    """Every jemalloc that has memory. free: private memory that no other heap has; images: the data
    of programs and libraries, with the zero-filled part, and their files."""
    found: list[Tree] = []
    for start, end, file in images:
        if end - start < _TABLE:
            continue
        words, others = _words(memory, space, start, end)
        gibs = _gibs(free, max(_LEAST_GIBS, _MOST_PAIRS // max(1, len(words))))
        root = _root(memory, space, words, others, gibs, (start, end), free)
        if root is not None:
            found.append(Tree(memory, space, file, root))
    return found


def _gibs(free: Iterable[tuple[int, int]], most: int) -> set[int]:
    """The GiB that the ranges lie in, so many at most, those of small ranges first: what takes
    more than jemalloc asks for at once is somebody's reservation."""
    found: set[int] = set()
    for start, end in sorted(free, key=lambda each: each[1] - each[0]):
        last = min(end - 1 >> _GIB, _WORDS - 1)
        for number in range(start >> _GIB, last + 1):
            if len(found) >= most:
                return found
            found.add(number)
    return found


def _words(
    memory: Memory, space: Space, start: int, end: int
) -> tuple[dict[int, int], dict[int, int]]:
    """Where words stand that lead to writable memory of no file with room for a table; and how many
    others there are in each page that are not 0."""
    found: dict[int, int] = {}
    others: dict[int, int] = {}
    looks = _MOST_DATA
    at = memory.next_there(start)
    while at < end and looks:
        looks -= 1
        data = _there(memory, at, min(4096, end - at))
        strange = 0
        # Most of it is zeros, and most pages hold nothing else.
        words = array("Q", data[: len(data) & ~7] if data and not _ZEROS.startswith(data) else b"")
        for number, word in enumerate(words):
            if not word:
                continue
            here = space.at(word) if word > 1 << 20 and not (word >> 48 or word % 64) else None
            fits = here is not None and here.perms[1] == "w" and not here.has_file
            if fits and len(found) < _MOST_ROOTS and word + _TABLE <= space.stretch(word)[1]:
                found[at + 8 * number] = word
            else:
                strange += 1
        if strange:
            others[at >> _PAGE] = strange
        at = max(at + 4096, memory.next_there(at + 4096) & -4096)
    return found, others


def _root(
    memory: Memory,
    space: Space,
    words: dict[int, int],
    others: dict[int, int],
    gibs: set[int],
    data: tuple[int, int],
    free: Sequence[tuple[int, int]],
) -> dict[int, int] | None:
    """The tables of the root that the words are of, by GiB: that which knows of most."""
    best: dict[int, int] = {}
    roots: dict[int, int] = {}
    pages = sorted(others)
    upto = [0, *accumulate(others[page] for page in pages)]
    for where in words:
        for number in gibs:
            root = where - 8 * number
            if data[0] <= root and root + _TABLE <= data[1]:
                roots[root] = roots.get(root, 0) + 1
    ranges = sorted(free)
    for root, _ in sorted(roots.items(), key=lambda each: -each[1])[:64]:
        leaves = {
            (where - root) // 8: leaf
            for where, leaf in words.items()
            if root <= where < root + _TABLE and (where - root) // 8 in gibs
        }
        # Nothing else stands in a root; its first and last page may be others' too.
        first, last = -(-root >> _PAGE), root + _TABLE >> _PAGE
        strange = upto[bisect_left(pages, last)] - upto[bisect_left(pages, first)]
        if strange * 4 > len(leaves):
            continue
        tree = Tree(memory, space, "", leaves)
        known = {number: leaf for number, leaf in leaves.items() if _knows(tree, number, ranges)}
        if len(known) > len(best):
            best = known
    return best or None


def _knows(tree: Tree, number: int, free: Sequence[tuple[int, int]]) -> bool:
    """Whether the table of that GiB knows a page of private memory that lies there; free is
    sorted."""
    first = max(0, bisect_right(free, (number << _GIB, 0)) - 1)
    for start, end in free[first : first + _KNOWS]:
        low, high = max(start, number << _GIB), min(end, number + 1 << _GIB)
        middle = low + high >> 1
        if high > low and any(tree.proves(at & -4096) for at in (low, high - 4096, middle)):
            return True
    return False
