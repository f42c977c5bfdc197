"""What lies in physical memory, mapping by mapping, each byte once.

Heaps nest: Python's arenas can lie in blocks that malloc mapped. A leaf is the outermost holder of
a part of a mapping, so that leaves add up to what the system counts; what nests in them stands
beside, in the layers above.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["HEAP", "Leaf", "folded", "leaf_lines", "short"]

HEAP: Final = "heap"
_SHOWN: Final = 24
"""Leaves that have a line of their own."""
_PLURAL: Final = {
    HEAP: "heaps",
    "file": "files",
    "stack": "stacks",
    "shared memory": "pieces of shared memory",
    "kernel": "pages of the kernel",
    "anonymous": "kinds of anonymous memory",
    "rest": "ranges",
}


@dataclass(frozen=True, slots=True)
class Leaf:
    """What one holder has in memory. Bytes; None: unknown, as in a core file.

    what      heap, file, stack, shared memory, kernel, anonymous (mappings with a name of their
              own), rest
    name      whose
    allocator the kind of heap, empty for all else
    size      address space, without what nobody can read
    resident  in physical memory
    swapped   in swap
    clean     of resident: what the kernel can drop, for a file has it
    lazy      of resident: freed lazily
    huge      of resident: on huge pages
    mappings  mappings, or parts of such
    """

    what: str
    name: str
    size: int
    resident: int | None
    swapped: int | None
    clean: int | None = None
    lazy: int | None = None
    huge: int | None = None
    mappings: int = 1
    allocator: str = ""

    @property
    def holds(self) -> int | None:
        """Resident and swapped."""
        return None if self.resident is None else self.resident + (self.swapped or 0)

    @property
    def dirty(self) -> int | None:
        """What the kernel cannot drop."""
        if self.resident is None or self.clean is None:
            return None
        return self.resident - self.clean

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "holds": self.holds, "dirty": self.dirty}


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _joined(leaves: Sequence[Leaf], name: str) -> Leaf:
    def total(field: str) -> int | None:
        return _sum(getattr(leaf, field) for leaf in leaves)

    return Leaf(
        leaves[0].what, name, sum(leaf.size for leaf in leaves),
        total("resident"), total("swapped"), total("clean"), total("lazy"), total("huge"),
        sum(leaf.mappings for leaf in leaves), leaves[0].allocator,
    )  # fmt: skip


def folded(leaves: Iterable[Leaf], most: int) -> list[Leaf]:
    """Those that hold most first; what comes behind ``most`` of them as one leaf for each kind."""
    ordered = sorted(leaves, key=_weight)
    shown, rest = ordered[:most], ordered[most:]
    for what in dict.fromkeys(leaf.what for leaf in rest):
        of_kind = [leaf for leaf in rest if leaf.what == what]
        count = len(of_kind)
        shown.append(
            _joined(of_kind, f"{count} more {_PLURAL.get(what, what)}") if count > 1 else of_kind[0]
        )
    return shown


def _weight(leaf: Leaf) -> tuple[int, int, str]:
    return (-(leaf.holds or 0), -leaf.size if leaf.holds is None else 0, leaf.name)


def leaf_lines(leaves: Sequence[Leaf]) -> Iterator[str]:
    """A table for people, in KB; the last line is the sum of all."""
    if not leaves:
        return
    known = leaves[0].resident is not None
    heads = ("Resident", "Swapped", "Clean") if known else ("Size", "", "")
    title = "     each byte once (KB)"
    yield f"{title:<44}{heads[0]:>16}{heads[1]:>14}{heads[2]:>14}".rstrip()
    for leaf in folded(leaves, _SHOWN):
        yield _line(f"       {leaf.name}", leaf, known)
    yield _line("     sum", _joined(leaves, "sum"), known)


def short(name: str, most: int) -> str:
    """A name that fits into so many columns: its end tells more than its beginning."""
    if len(name) <= most:
        return name
    indent = len(name) - len(name.lstrip())
    return name[:indent] + ".." + name[len(name) - (most - indent - 2) :]


def _line(name: str, leaf: Leaf, known: bool) -> str:
    sizes = (leaf.resident, leaf.swapped, leaf.clean) if known else (leaf.size,)
    cells = ["-" if size is None else f"{size // 1024:,}" for size in sizes]
    return (
        f"{short(name, 46):<46}{cells[0]:>14}" + "".join(f"{cell:>14}" for cell in cells[1:])
    ).rstrip()
