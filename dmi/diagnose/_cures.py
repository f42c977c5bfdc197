"""What to do about a finding, and what it would give where that can be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ._arenas import is_of_threads
from ._causes import ADVICE, Cause, Cure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._observe import Observation

__all__ = ["cures"]

_LIMIT: Final = (
    "If it is a cache, give it a limit (an LRU cache its maxsize, a pool or a queue its length): "
    "then what is above the limit goes"
)
_THRESHOLD: Final = 64 << 10
"""Of malloc's blocks, from this size on, each would be mapped on its own."""
_NOTEWORTHY_HUGE: Final = 1 << 20
_FEW_ARENAS: Final = 2
_NOTEWORTHY_TOP: Final = 1 << 20
_NOTEWORTHY_SHARE: Final = 0.05


def cures(
    kind: str,
    found: Sequence[Cause],
    after: Observation | None,
    peak: Observation | None = None,
    beside: Sequence[Observation] = (),
) -> tuple[Cure, ...]:
    """What to do about each cause, in their order, and what it would give. peak: the heap at its
    busiest; beside: all heaps of the last moment."""
    if kind == "none":
        return ()
    outside = after is not None and after.outside
    allocator = after.kind if after is not None else ""
    lines: list[Cure] = []
    if kind == "second-order leak" and after is not None:
        lines += _by_allocator(allocator, after, peak, beside)
    own = {"pymalloc": ADVICE, "glibc": ADVICE, "nt": {"keeps pages": ""}}.get(allocator, {})
    lines += [_cure(cause, after) for cause in found if cause.kind in ADVICE.keys() - own.keys()]
    for cause in found:
        if cause.kind == "not freed":
            if allocator in ("glibc", "pymalloc"):
                lines.append(Cure(ADVICE["not freed"]))
            lines.append(Cure(_LIMIT, cause.bytes, most=True))
    if kind == "second-order leak" and not outside and found and found[0].kind == "below a page":
        lines.append(
            Cure(
                "Do not look for a missing free: the blocks were freed. The number to lower is "
                "commit."
            )
        )
    return tuple({cure.text: cure for cure in reversed(lines)}.values())[::-1]


def _cure(cause: Cause, after: Observation | None) -> Cure:
    text = ADVICE[cause.kind]
    if after is None or cause.kind not in ("never", "pressure", "budget", "threshold"):
        return Cure(text)
    if after.reclaimable is not None:
        return Cure(text, after.reclaimable)
    return Cure(text, cause.bytes, most=True)


def _by_allocator(
    allocator: str,
    after: Observation,
    peak: Observation | None,
    beside: Sequence[Observation],
) -> list[Cure]:
    if allocator == "nt":
        return [
            Cure(
                "An NT heap gives back only free blocks above its thresholds. HeapDestroy gives "
                "back everything of a heap: give the peak a heap of its own. HeapCompact and "
                "HeapSetInformation(HeapOptimizeResources) give back what is cached; what they "
                "would give cannot be told from here"
            )
        ]
    if allocator == "pymalloc":
        text = (
            "pymalloc gives an arena back only when nothing in it lives. Run the program "
            "on dmi with its objects: `PYTHONMALLOC=malloc dmi run -- PROGRAM`, or dmi as "
            "Python's allocator"
        )
        return [Cure(text, after.retained, most=True), *_huge_pages(after)]
    if allocator == "glibc":
        return [*_of_glibc(after), *_of_settings(after, peak, beside), *_huge_pages(after)]
    return _huge_pages(after)


def _of_glibc(after: Observation) -> list[Cure]:
    """A trim, and another allocator, the one that gives more first."""
    kept, trim, exact = after.retained, after.trim, after.trim is not None
    if trim is None and after.free is not None and after.list_length is not None:
        # Of each free block up to a page at its ends has to stay.
        trim = max(0, after.free - after.list_length * 4096)
    trimmed = Cure(
        "Call malloc_trim(0) after the peak, which walks every free page", trim, most=not exact
    )
    moved = Cure(
        "Run the program on dmi, which gives free pages back by itself: `dmi run -- PROGRAM`",
        kept,
        most=True,
    )
    if trim is not None and kept and trim < kept // 10:
        return [moved, trimmed]
    return [trimmed, moved]


def _of_settings(
    after: Observation, peak: Observation | None, beside: Sequence[Observation]
) -> list[Cure]:
    """Fewer arenas, and a lower threshold from which on malloc maps a block on its own."""
    lines = []
    arenas = [heap for heap in beside if is_of_threads(heap)]
    count = sum(heap.parts for heap in arenas)
    kept = sum(heap.retained or 0 for heap in arenas)
    text = "MALLOC_ARENA_MAX=1 or 2 keeps threads from spreading over arenas"
    if count > _FEW_ARENAS and kept > _NOTEWORTHY_SHARE * (after.retained or 0):
        said = f"{text}: {count} of threads keep what is free apart"
        lines.append(Cure(said, kept, most=True))
    elif not any("arena" in heap.name for heap in beside):
        lines.append(Cure(f"{text}; what it gives cannot be told from here"))
    large = _large_blocks_freed(after, peak)
    if after.trim_top is not None and after.trim_top > _NOTEWORTHY_TOP:
        said = (
            "MALLOC_TRIM_THRESHOLD_=131072 gives the end of the heap back whenever that much of it "
            "is free, and keeps malloc from raising the threshold by itself"
        )
        lines.append(Cure(said, after.trim_top, most=True))
    text = (
        "MALLOC_MMAP_THRESHOLD_=65536 maps blocks of 64 KiB and more on their own, so that they go "
        "back when they are freed"
    )
    if large is None:
        lines.append(Cure(f"{text}; what it gives cannot be told from here"))
    elif large:
        lines.append(Cure(text, min(large, after.retained or large), most=True))
    return lines


def _large_blocks_freed(after: Observation, peak: Observation | None) -> int | None:
    """Bytes of the large blocks in the arena that were busy at the peak and are not now; None where
    the blocks of both were not counted."""
    if peak is None or not peak.histogram or not after.histogram:
        return None
    return sum(
        (count - after.histogram.get(size, 0)) * size
        for size, count in peak.histogram.items()
        if size >= _THRESHOLD and count > after.histogram.get(size, 0)
    )


def _huge_pages(after: Observation) -> list[Cure]:
    """Huge pages are filled whole by the kernel, and keep what is free on them."""
    size = after.on_huge_pages
    if size is None or size < _NOTEWORTHY_HUGE:
        return []
    text = (
        "Turn huge pages off for the program (`echo madvise > "
        "/sys/kernel/mm/transparent_hugepage/enabled`, GLIBC_TUNABLES=glibc.malloc.hugetlb=0, or "
        "prctl(PR_SET_THP_DISABLE)): so much of what is free lies on huge pages, which come whole "
        "and stay whole"
    )
    return [Cure(text, size, most=True)]
