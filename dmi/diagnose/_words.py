"""Causes and cures in plain words, and the report."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._judge import Verdict
    from ._observe import Observation, State

__all__ = ["Cause", "advice", "causes", "outside", "process_evidence", "report"]

_NOTEWORTHY: Final = 0.05
"""Causes that hold less of the leak than this are left out."""
_VAF_PERCENT: Final = 10
_VAF_RANGES: Final = 32


@dataclass(frozen=True, slots=True)
class Cause:
    """Why: a fixed word in ``kind``, bytes where they are known, and a sentence or two.

    Kinds: not freed, below a page, pinned, never, pressure, delay, budget, threshold, thread
    caches, granularity, offered, refused, overhead, keeps pages, scattered address space,
    outside, unknown.
    """

    kind: str
    text: str
    bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"kind": self.kind, "bytes": self.bytes, "text": self.text}


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

_ADVICE: Final[dict[str, str]] = {
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
    "thread caches": "Look again when the threads have moved on; memory that stays in the caches "
    "of idle threads needs an allocator that takes it from there.",
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
    second: int,
    page_size: int,
) -> tuple[Cause, ...]:
    """Why a heap got its verdict, the most important first."""
    if kind == "none":
        return ()
    if kind in ("growth", "first-order leak"):
        gained = after.busy - before.busy
        if kind == "growth":
            text = (
                f"{kib(gained)} more is in use, and use has not been seen to fall: a growing load "
                "and a leak look the same until the load is over. Take one more snapshot then."
            )
        elif after.outside:
            text = (
                f"{kib(gained)} of busy blocks stayed after the peak: the program still holds "
                "them, or the caches of its threads do, whose blocks this allocator counts as busy."
            )
        else:
            text = (
                f"{kib(gained)} of busy blocks stayed after the peak: the program still holds "
                "them, no allocator can give them back."
            )
        found = [Cause("not freed", text, gained)]
        if second > _NOTEWORTHY * gained:
            found += _why_retained(before, after, second, page_size)
        return tuple(found)
    return tuple(_why_retained(before, after, second, page_size))


def _why_retained(
    before: Observation, after: Observation, second: int, page_size: int
) -> list[Cause]:
    found = _from_reasons(before, after, second, page_size)
    if not found:
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
        if gained > _NOTEWORTHY * second:
            kind, text = _REASONS.get(name, ("unknown", name))
            if kind == "pinned" and (after.mean_free_block or page_size) < page_size:
                kind, text = "below a page", _below_a_page(after, page_size)
            total, texts = sums.get(kind, (0, []))
            sums[kind] = (total + gained, [*texts, text])
    return [
        Cause(kind, "; ".join(texts), total)
        for kind, (total, texts) in sorted(sums.items(), key=lambda item: -item[1][0])
    ]


def _from_columns(before: Observation, after: Observation, second: int, page_size: int) -> Cause:
    """What the columns suggest where the heap gives no account."""
    policy = (after.decommit or "").partition(":")[0]
    if policy in ("never", "pressure"):
        kind, text = _REASONS[policy]
        return Cause(kind, text, second)
    mean = after.mean_free_block
    pinned = (after.pinned or 0) - (before.pinned or 0)
    if after.pinned is not None and pinned > second // 2 and mean is None:
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


def outside(gain: int, before: Mapping[str, int], after: Mapping[str, int]) -> Cause:
    """Growth that no heap accounts for, with the usage that grew most where that is known."""
    text = f"{kib(gain)} more of the process's memory lies outside the heaps compared here"
    grown = {
        name: size - before.get(name, 0)
        for name, size in after.items()
        if name != "Free" and size > before.get(name, 0)
    }
    if grown and max(grown.values()) > gain // 2:
        name = max(grown, key=lambda key: grown[key])
        text += f"; by address space {name} grew most, by {kib(grown[name])}"
    return Cause("outside", text + ". How much of it is in use is not known from here", gain)


def advice(kind: str, found: Sequence[Cause], *, outside: bool) -> tuple[str, ...]:
    """What to do about each cause, in their order."""
    if kind == "none":
        return ()
    lines = [_ADVICE[cause.kind] for cause in found if cause.kind in _ADVICE]
    if kind == "second-order leak" and not outside and found and found[0].kind == "below a page":
        lines.append(
            "Do not look for a missing free: the blocks were freed. The number to lower is commit."
        )
    return tuple(dict.fromkeys(lines))


def process_evidence(states: Sequence[State], verdict: Verdict) -> tuple[str, ...]:
    """What the process says beside the heap: its commit, its resident size, its heap ranges."""
    lines: list[str] = []
    committed = [state.process_committed for state in states]
    if all(level is not None for level in committed):
        levels = [level or 0 for level in committed]
        gain = levels[-1] - levels[0]
        text = f"Commit of the process: {_steps(levels)}, {kib(gain)} more at the end"
        if verdict.kind == "second-order leak" and gain > 0:
            rest = gain - (verdict.committed[-1] - verdict.committed[0])
            text += (
                f", all but {kib(rest)} of it in this heap" if rest > 0 else ", all in this heap"
            )
        lines.append(text + ".")
    resident = [state.resident for state in states]
    if all(level is not None for level in resident):
        lines.append(f"Resident: {_steps([level or 0 for level in resident])}.")
    heap = [state.usage.get("Heap") for state in states]
    if all(level is not None for level in heap) and len(set(heap)) == 1:
        lines.append(
            f"The address space reserved for heaps is {kib(heap[0] or 0)} throughout: what changed "
            "is how much of it is committed."
        )
    return tuple(lines)


def _steps(levels: Sequence[int | None]) -> str:
    return " -> ".join(_kib_or_dash(level) for level in levels) + " KB"


def _kib_or_dash(size: int | None) -> str:
    return "-" if size is None else f"{size // 1024:,}"


def report(verdict: Verdict) -> str:
    """The verdict as text: one line, a table, causes, advice."""
    lines = [_headline(verdict), ""]
    lines += _table(verdict)
    if verdict.causes:
        lines += ["", "Why"]
        for cause in verdict.causes:
            size = "" if cause.bytes is None else f" ({kib(cause.bytes)})"
            lines += _wrap(f"{cause.kind}{size}: {cause.text.rstrip('.')}.")
    if verdict.evidence:
        lines += ["", "Beside it"]
        for line in verdict.evidence:
            lines += _wrap(line)
    if verdict.advice:
        lines += ["", "What to do"]
        for line in verdict.advice:
            lines += _wrap(line)
    for other in verdict.others:
        lines += ["", f"Also: {_headline(other)}"]
    return "\n".join(lines)


def _headline(verdict: Verdict) -> str:
    if verdict.kind == "none":
        return (
            f"No leak in {verdict.subject}: busy {_steps(verdict.busy)}, commit "
            f"{_steps(verdict.committed)}."
        )
    share = "" if verdict.percent is None else f" (+{verdict.percent:.1f} % over the start)"
    size = f"{kib(verdict.bytes)}{share}"
    if verdict.kind == "second-order leak":
        came = (
            "busy came back"
            if verdict.first_order_bytes <= _NOTEWORTHY * max(1, verdict.second_order_bytes)
            else f"busy grew by only {kib(verdict.first_order_bytes)}"
        )
        text = f"{size} of commit stayed although {came} ({_steps(verdict.busy)})"
    elif verdict.kind == "first-order leak":
        text = f"{size} of busy blocks stayed ({_steps(verdict.busy)})"
    elif verdict.causes and verdict.causes[0].kind == "outside":
        text = f"{size} more committed ({_steps(verdict.committed)})"
    else:
        text = f"{size} more in use ({_steps(verdict.busy)})"
    name = verdict.kind[0].upper() + verdict.kind[1:]
    return f"{name} in {verdict.subject}: {text}."


def _table(verdict: Verdict) -> list[str]:
    head = ("", "busy KB", "commit KB", "free KB", "free blocks", "mean free block")
    rows = [head]
    for n, moment in enumerate(verdict.moments):
        rows.append(
            (
                moment,
                _kib_or_dash(verdict.busy[n]),
                _kib_or_dash(verdict.committed[n]),
                _kib_or_dash(verdict.free[n]),
                _number(verdict.free_blocks[n]),
                _number(verdict.mean_free_block[n]),
            )
        )
    first = max(len(row[0]) for row in rows)
    widths = [max(len(row[n]) for row in rows) for n in range(1, len(head))]
    return [
        ("  " + row[0].ljust(first) + "".join(
            "  " + cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True)
        )).rstrip()
        for row in rows
    ]  # fmt: skip


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, 96, initial_indent="  ", subsequent_indent="    ")
