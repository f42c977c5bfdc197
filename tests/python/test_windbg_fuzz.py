"""Hostile WinDbg text: nothing but ParseError comes out, and work stays linear."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmi import windbg

pytestmark = pytest.mark.reads

GOLDEN = Path(__file__).parent.parent / "golden"
TEXTS = [
    (GOLDEN / name).read_text(encoding="utf-8")
    for name in ("heap-summaries.txt", "address-summaries.txt")
]
TEXTS.append(
    windbg.format_address_summary(windbg.parse(TEXTS[1]).addresses[0], "new")
    + windbg.format_heap_summary(windbg.parse(TEXTS[0]).heaps[0].rows, 7)
)
ALPHABET = "0123456789abcdefgKMGTB`'()%:.<>-[]… \t\n\rLHx\u0667\0\uffff"
NUMBERS = st.integers(0, 10**12)
ROWS = st.builds(
    windbg.HeapRow,
    handle=st.integers(0, 2**64 - 1),
    flags=st.integers(0, 2**32 - 1),
    reserved_kib=NUMBERS,
    committed_kib=NUMBERS,
    virtual_kib=NUMBERS,
    free_kib=NUMBERS,
    list_length=NUMBERS,
    uncommitted_ranges=NUMBERS,
    virtual_blocks=NUMBERS,
    lock_contention=st.none() | st.integers(0, 2**64 - 1),
    fast_heap=st.sampled_from(["", "L", "LFH"]),
)
SIZES = st.integers(0, 2**64 - 1)


def mutate(text: str, chance: random.Random) -> str:
    """A few random edits: characters, lines, and pieces of other golden texts."""
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(text) + 1)
        span = chance.choice((0, 1, 1, 2, 8, 80, 400))
        kind = chance.randrange(4)
        if kind == 0:
            text = text[:at] + text[at + span :]
        elif kind == 1:
            text = text[:at] + chance.choice(ALPHABET) * chance.choice((1, 1, 3, 2000)) + text[at:]
        elif kind == 2:
            text = text[:at] + chance.choice(ALPHABET) + text[at + 1 :]
        else:
            other = chance.choice(TEXTS)
            start = chance.randrange(len(other))
            text = text[:at] + other[start : start + 10 * span] + text[at:]
    return text


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TEXTS), st.integers(0, 2**32))
def test_mutated_golden_text(text: str, seed: int) -> None:
    try:
        log = windbg.parse(mutate(text, random.Random(seed)))
    except windbg.ParseError:
        return
    # Whatever was read is usable to the end.
    for table in log.heaps:
        assert windbg.parse(windbg.format_heap_summary(table.rows)).heaps[0].rows == table.rows
        table.disagreements()
    for summary in log.addresses:
        summary.disagreements()
        for style in ("old", "new"):
            windbg.format_address_summary(summary, style)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from(ALPHABET) | st.characters(), max_size=400))
def test_any_text_at_all(text: str) -> None:
    for prefix in ("", *TEXTS):
        try:
            windbg.parse(prefix + text)
        except windbg.ParseError:
            continue


@settings(max_examples=200, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=8), st.none() | SIZES)
def test_heap_rows_survive_a_round_trip(rows: list[windbg.HeapRow], key: int | None) -> None:
    (table,) = windbg.parse(windbg.format_heap_summary(rows, key)).heaps
    assert list(table.rows) == rows
    assert table.lfh_key == key
    assert table.disagreements() == ()


@settings(max_examples=200, deadline=None)
@given(st.lists(SIZES, min_size=4, max_size=4), st.sampled_from(["old", "new"]))
def test_address_summaries_survive_a_round_trip(sizes: list[int], style: str) -> None:
    image, private, reserve, free = (size >> 20 << 12 for size in sizes)
    reserve = min(reserve, image + private)
    busy = image + private
    summary = windbg.AddressSummary(
        usage={"Heap (dmi)": private, "Free": free, "Image": image},
        type={"<free>": free, "MEM_IMAGE": image, "MEM_MAPPED": 0, "MEM_PRIVATE": private},
        state={"MEM_COMMIT": busy - reserve, "MEM_FREE": free, "MEM_RESERVE": reserve},
        total=busy + free,
    )
    assert summary.disagreements() == ()
    text = windbg.format_address_summary(summary, style)  # type: ignore[arg-type]
    (again,) = windbg.parse(text).addresses
    assert again.as_dict() == summary.as_dict()
    assert again.disagreements() == ()


class Counter:
    """Counts the steps of the interpreter inside the reader: a measure that no clock disturbs."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, frame: object, event: str, argument: object) -> Counter:
        self.steps += 1
        return self

    def parse(self, text: str) -> int:
        previous = sys.gettrace()
        sys.settrace(self)
        try:
            windbg.parse(text)
        except windbg.ParseError:
            pass
        finally:
            sys.settrace(previous)
        return self.steps


@pytest.mark.parametrize(
    "piece",
    [
        "----- Usage SUMMARY -----\n0 ( 0) : 00.00% 00.00% : A\n",
        "Heap Flags Reserv Commit Virt Free List UCR Virt Lock Fast\n00310000 2 1 1 1 1 1 1 1 1\n",
        "External fragmentation 50 % (45362 free blocks)\n",
        "title:\n",
        "x" * 3000 + "\n",
        "0:000> *" + " a" * 500 + "\n",
        "\n",
    ],
)
def test_steps_grow_with_the_text(piece: str) -> None:
    small, large = Counter().parse(TEXTS[0] + piece * 40), Counter().parse(TEXTS[0] + piece * 400)
    assert large <= 12 * small
