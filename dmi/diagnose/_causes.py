"""Causes and cures in plain words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._observe import Observation

__all__ = ["ADVICE", "Cause", "Cure", "causes", "due_later", "kib"]

_NOTEWORTHY: Final = 0.05
"""Causes that hold less of the leak than this are left out."""
_MOST_TYPES: Final = 4
_LEAST_TYPE: Final = 64 << 10
_VAF_PERCENT: Final = 10
_VAF_RANGES: Final = 32


@dataclass(frozen=True, slots=True)
class Cause:
    """Why: a fixed word in ``kind``, bytes where they are known, and a sentence or two.

    Kinds: not freed, below a page, pinned, never, pressure, delay, budget, threshold, thread
    caches, granularity, offered, refused, overhead, keeps pages, scattered address space,
    outside, virtual blocks, busy unknown, not shown, unknown.
    """

    kind: str
    text: str
    bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"kind": self.kind, "bytes": self.bytes, "text": self.text}


@dataclass(frozen=True, slots=True)
class Cure:
    """What to do, and the bytes that it would give; None where this cannot be told from here."""

    text: str
    gives: int | None = None
    most: bool = False
    """``gives`` is the most that it can be."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"text": self.text, "gives": self.gives, "at_most": self.most}

    def __str__(self) -> str:
        text = self.text.rstrip(".")
        if self.gives is None:
            return text + "."
        return f"{text}. It would give back {'up to ' if self.most else ''}{kib(self.gives)}."


# Reason of a retained byte (the statistics' own word) -> kind, sentence.
_REASONS: Final[dict[str, tuple[str, str]]] = {
    "pinned": (
        "pinned",
        "free bytes share their pages with busy blocks, and a page goes back whole or not at all",
    ),
    "in_flight": (
        "thread caches",
        "a thread that stopped in the middle of an operation may still touch these blocks",
    ),
    "delay": ("delay", "free for less than the policy's delay: due later, not leaked yet"),
    "decay": ("delay", "still under the policy's decay curve: due later, not leaked yet"),
    "budget": ("budget", "within the share of busy that the budget policy keeps"),
    "pressure": ("pressure", "the pressure policy keeps memory while the machine is at ease"),
    "never": ("never", "the policy never gives anything back"),
    "block_threshold": ("threshold", "the free blocks are below the policy's block threshold"),
    "total_threshold": ("threshold", "the free total is below the policy's total threshold"),
    "commit_granularity": (
        "granularity",
        "committed ahead of use, or on a huge page kept whole",
    ),
    "offered": ("offered", "offered to the system, which has not taken it yet"),
    "refused": ("refused", "the system refused to take it: locked pages, or the limit of mappings"),
    "overhead": ("overhead", "tags, tails and gaps of the heap itself"),
}

ADVICE: Final[dict[str, str]] = {
    "not freed": "Find who allocates and does not free: compare the busy blocks of two moments by "
    "size and age, then by call site.",
    "below a page": "Keep what lives long apart from what the peak allocates: a heap for each "
    "phase or kind of work, destroyed at its end, gives back everything at once. Fewer and larger "
    "blocks help as well.",
    "pinned": "Look at the busy blocks that pin the most free bytes and give the long-lived ones a "
    "heap of their own; a heap that is destroyed gives back everything.",
    "never": "Choose a policy that gives back (lazy, decay, eager), or trim the heap after the "
    "peak.",
    "pressure": "Nothing, if the machine has memory to spare: it goes back under pressure. Else "
    "choose lazy or decay, or trim the heap.",
    "delay": "Nothing: look again after two delays, or six half-lives. If it stays, shorten the "
    "delay or trim the heap.",
    "budget": "Lower the ratio of the budget policy.",
    "threshold": "Lower the thresholds of the policy.",
    "thread caches": "Let fewer threads wait: a smaller pool, or one whose idle workers end. "
    "A thread that ends hands on what it had, and one that goes on gives it back. A heap with the "
    "policy eager has no caches of threads at all.",
    "offered": "Nothing: the system takes it when it needs memory. For a lower resident size use "
    "how=discard or how=decommit.",
    "refused": "Unlock the pages, raise vm.max_map_count, or allow more mappings to the heap.",
    "granularity": "Nothing: it is used by the next allocations.",
    "keeps pages": "Make the allocator release (malloc_trim, a heap trim, a lower decommit "
    "threshold), or run the program on a heap that does it by itself.",
    "scattered address space": "Reserve larger segments, or separate short-lived from long-lived "
    "blocks, so that what is given back forms fewer ranges.",
    "outside": "Split the process by layers to see which allocator holds it, and take a snapshot "
    "of that one before and after.",
    "virtual blocks": "List them with `!heap -s ADDRESS` or `!heap -h ADDRESS`, which print the "
    "size of each, and find who allocates blocks of that size.",
    "busy unknown": "Ask the debugger what is busy: `!heap -stat -h ADDRESS` at both moments, or "
    "`!heap -s -h ADDRESS`; busy tells whether the program or the heap holds it.",
    "not shown": "Capture `!heap -s` whole at each moment.",
    "unknown": "Take the snapshots again with details, so that each retained byte has its reason.",
}


def kib(size: int) -> str:
    """Bytes as whole KB (1,024 bytes), with thousands set apart."""
    return f"{size // 1024:,} KB"


def causes(
    kind: str,
    before: Observation,
    peak: Observation | None,
    after: Observation,
    second: int | None,
    page_size: int,
) -> tuple[Cause, ...]:
    """Why a heap got its verdict, the most important first."""
    if kind == "none":
        return ()
    if kind in ("growth", "first-order leak"):
        if before.busy is None or after.busy is None:
            return (_busy_unknown(before, after),)
        gained = after.busy - before.busy
        if kind == "growth":
            text = (
                f"{kib(gained)} more is in use, and use has not been seen to fall: a growing load "
                "and a leak look the same until the load is over. Take one more snapshot then."
            )
        elif after.outside and after.kind != "pymalloc":
            text = (
                f"{kib(gained)} of busy blocks stayed after the peak: the program still holds "
                "them, or the caches of its threads do, whose blocks this allocator counts as busy."
            )
        else:
            text = (
                f"{kib(gained)} of busy blocks stayed after the peak: the program still holds "
                "them, no allocator can give them back."
            )
        grew = _sizes_that_grew(before, after) + _types_that_grew(before, after)
        found = [Cause("not freed", text + grew, gained)]
        if second is not None and second > _NOTEWORTHY * gained:
            found += _why_retained(before, after, second, page_size)
        return tuple(found)
    return tuple(_why_retained(before, after, second or 0, page_size))


def _busy_unknown(before: Observation, after: Observation) -> Cause:
    gained = None
    if before.committed is not None and after.committed is not None:
        gained = after.committed - before.committed
    what = {"segment": "a segment heap's row", "nt": "the text", "": "the text"}.get(
        after.kind, "what is seen from outside"
    )
    return Cause(
        "busy unknown",
        f"commit grew, and {what} does not tell what of it is busy: the program may hold it, or "
        "the heap may keep it",
        gained,
    )


def _sizes_that_grew(before: Observation, after: Observation) -> str:
    """Which block sizes hold more, where both moments counted them."""
    had, has = _every_size(before), _every_size(after)
    if not had or not has:
        return ""
    grown = sorted(
        (((count - had.get(size, 0)) * size, size, count) for size, count in has.items()),
        reverse=True,
    )
    named = [
        f"blocks of {size:,} bytes by {kib(gain)} ({had.get(size, 0):,} -> {count:,})"
        for gain, size, count in grown[:3]
        if gain >= 1024 and gain * 100 > grown[0][0]
    ]
    return f" What grew most: {', '.join(named)}." if named else ""


def _every_size(heap: Observation) -> Counter[int]:
    """Busy blocks by size, those that are mapped on their own with them; empty: not counted."""
    found = Counter(heap.histogram)
    if found:
        found.update(heap.mapped_histogram or {})
    return found


def _types_that_grew(before: Observation, after: Observation) -> str:
    """Which types of Python's objects hold more, where both moments looked at them."""
    if not before.types or not after.types:
        return ""
    rows = []
    for name, (count, size) in after.types.items():
        had, held = before.types.get(name, (0, 0))
        rows.append((size - held, name, had, count))
    rows.sort(key=lambda row: -row[0])
    rows = [row for row in rows if not row[1].startswith("(")]  # tables and buffers of objects
    named = [
        f"{name} by {kib(gain)} ({had:,} -> {count:,})"
        for gain, name, had, count in rows[:_MOST_TYPES]
        if gain > _LEAST_TYPE
    ]
    return f" By type of Python's objects, from a sample: {', '.join(named)}." if named else ""


def _why_retained(
    before: Observation, after: Observation, second: int, page_size: int
) -> list[Cause]:
    found = _from_reasons(before, after, second, page_size)
    if not found and not (after.reasons.keys() and due_later(before, after) >= second):
        found = [_from_columns(before, after, second, page_size)]
    fragmentation, ranges = after.virtual_address_fragmentation, after.uncommitted_ranges
    if fragmentation is not None and fragmentation > _VAF_PERCENT and (ranges or 0) > _VAF_RANGES:
        found.append(
            Cause(
                "scattered address space",
                f"{fragmentation} % of the heap's address range is uncommitted, in {ranges:,} "
                "separate ranges: what was given back lies scattered between pages that stayed.",
            )
        )
    return found


def _from_reasons(
    before: Observation, after: Observation, second: int, page_size: int
) -> list[Cause]:
    """The heap's own account of its retained bytes: what each reason gained since the start."""
    sums: dict[str, tuple[int, list[str]]] = {}
    for name, size in after.reasons.items():
        gained = size - before.reasons.get(name, 0)
        if gained > _NOTEWORTHY * second and name not in _DUE:
            kind, text = _REASONS.get(name, ("unknown", name))
            if kind == "pinned" and (after.mean_free_block or page_size) < page_size:
                kind, text = "below a page", _below_a_page(after, page_size)
            total, texts = sums.get(kind, (0, []))
            sums[kind] = (total + gained, [*texts, text])
    if "thread caches" in sums and after.threads:
        total, texts = sums["thread caches"]
        sums["thread caches"] = (total, [*texts, _by_thread(after.threads)])
    return [
        Cause(kind, "; ".join(texts), total)
        for kind, (total, texts) in sorted(sums.items(), key=lambda item: -item[1][0])
    ]


def _by_thread(threads: Mapping[str, int]) -> str:
    """Which threads keep most in flight."""
    top = sorted(threads.items(), key=lambda item: -item[1])
    named = ", ".join(f"{name} {kib(size)}" for name, size in top[:5])
    rest = f" and {len(top) - 5} more" if len(top) > 5 else ""
    return f"by thread: {named}{rest}"


_DUE: Final = frozenset({"delay", "decay"})


def due_later(before: Observation, after: Observation) -> int:
    """Bytes that are free and that the heap's own account says will go back by themselves."""
    return max(0, sum(after.reasons.get(n, 0) - before.reasons.get(n, 0) for n in _DUE))


def _from_columns(before: Observation, after: Observation, second: int, page_size: int) -> Cause:
    """What the columns suggest where the heap gives no account."""
    if after.kind == "pymalloc":
        text = (
            "an arena of pymalloc goes back as a whole or not at all, and a single live object in "
            "it keeps it: what lives now lies scattered over the arenas of the peak"
        )
        return Cause("pinned", text, second)
    policy = (after.decommit or "").partition(":")[0]
    if policy in ("never", "pressure"):
        kind, text = _REASONS[policy]
        return Cause(kind, text, second)
    mean = after.mean_free_block
    pinned = None
    if after.pinned is not None and before.pinned is not None:
        pinned = after.pinned - before.pinned
    if pinned is not None and pinned > second // 2 and mean is None:
        return Cause(*_REASONS["pinned"], pinned)
    if mean is not None and mean < page_size:
        return Cause("below a page", _below_a_page(after, page_size, before), second)
    if policy in ("lazy", "decay"):
        return Cause(*_REASONS["delay"], second)
    if mean is not None:
        text = (
            f"the mean free block has {mean:,} bytes, at least a page: pages could be given back, "
            "but the heap keeps them, by its thresholds or because it never releases"
        )
        if after.kind == "glibc":
            text = (
                f"the mean free block has {mean:,} bytes, at least a page, and malloc keeps such "
                "pages: by itself it gives back only the end of an arena, when that is larger than "
                "its threshold, and nothing that lies below a busy block"
            )
        return Cause("keeps pages", text, second)
    return Cause("unknown", "the snapshots say how much is kept, but not in what pieces", second)


def _below_a_page(after: Observation, page_size: int, before: Observation | None = None) -> str:
    mean = after.mean_free_block or 0
    text = f"the mean free block has {mean:,} bytes, less than a page of {page_size:,}"
    earlier = before.mean_free_block if before else None
    if earlier is not None and earlier > mean:
        fell = f"the mean free block fell from {earlier:,} to {mean:,} bytes"
        text = f"{fell}, below a page ({page_size:,})"
    return (
        f"{text}. Memory is decommitted by the page, and only a page without a single busy byte "
        "can go. A free block smaller than a page nearly always has busy neighbours on the pages "
        "it touches, so its pages have to stay, however much is free in total"
    )
