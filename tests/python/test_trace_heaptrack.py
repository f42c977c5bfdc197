"""The heaptrack importer: what the lines mean, which pairs are reallocs, what cannot be read."""

from __future__ import annotations

import gzip
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmi.errors import TraceError
from dmi.trace import Trace, load
from dmi.trace.format import OP_ALLOC, OP_FREE, OP_RSS, OP_TIME
from dmi.trace.heaptrack import read

pytestmark = pytest.mark.reads

HEAD = "v 10400 3\nx 9 /bin/true\nX true --all\nI 1000 5e2990\nm 1 -\n"
SITES = "t aaaa 0\nt bbbb 0\nt cccc 1\n"


def text(*lines: str, head: str = HEAD + SITES) -> bytes:
    return (head + "".join(line + "\n" for line in lines)).encode()


def ops(trace: Trace) -> list[tuple[int, int, int]]:
    return [(record.op, record.object, record.size) for record in trace]


def test_lines_become_records() -> None:
    trace = load(
        text("+ 64 1 7f0000001000", "c a", "R 3", "+ 10 2 7f0000002000", "c 1f4", "- 7f0000001000")
    )
    assert ops(trace) == [
        (OP_ALLOC, 0, 100),
        (OP_TIME, 0, 10_000),
        (OP_RSS, 0, 3 * 4096),
        (OP_ALLOC, 1, 16),
        (OP_TIME, 0, 500_000),
        (OP_FREE, 0, 0),
    ]
    assert trace.page_size == 4096
    assert trace.duration == pytest.approx(0.5)
    assert trace.notes == {}


def test_numbers_are_used_again_lowest_first() -> None:
    lines = [f"+ 10 1 {1000 + 16 * i:x}" for i in range(4)]
    lines += [f"- {1000 + 16 * i:x}" for i in (2, 0)]
    lines += ["c 1", "+ 20 1 9000", "c 2", "+ 30 1 a000", "c 3", "+ 40 1 b000"]
    trace = load(text(*lines))
    later = [record for record in trace if record.op == OP_ALLOC and record.size > 16]
    assert [record.object for record in later] == [0, 2, 4]
    assert trace.objects == 5


def test_a_site_where_every_block_follows_a_free_calls_realloc() -> None:
    lines = ["+ 8 2 1000"]  # malloc
    for i in range(8):  # realloc, in place now and then
        new = 0x1000 + 0x1000 * (i // 2)
        old = 0x1000 + 0x1000 * ((i - 1) // 2 if i else 0)
        lines += [f"- {old:x}", "t dddd 2", f"+ {16 * (i + 2):x} 1 {new:x}"]
    trace = load(text(*lines))
    assert (trace.allocations, trace.reallocs, trace.frees) == (1, 8, 0)
    assert trace.objects == 1
    assert [record.size for record in trace] == [8, 32, 48, 64, 80, 96, 112, 128, 144]


def test_a_site_where_blocks_happen_to_follow_frees_calls_malloc() -> None:
    lines = []
    for i in range(10):
        lines += [f"+ 20 1 {0x1000 + i * 64:x}"]
    for i in range(10):  # free and malloc of the same size at the same place, again and again
        lines += [f"- {0x1000 + i * 64:x}", f"+ 20 1 {0x1000 + i * 64:x}"]
    trace = load(text(*lines))
    assert (trace.allocations, trace.reallocs, trace.frees) == (20, 0, 10)


def test_clock_lines_separate_a_free_from_what_follows() -> None:
    lines = ["+ 8 2 1000"]
    for i in range(6):
        lines += [f"- {0x1000 * (i + 1):x}", f"c {i + 1:x}", f"+ 10 1 {0x1000 * (i + 2):x}"]
    trace = load(text(*lines))
    assert (trace.reallocs, trace.frees) == (0, 6)


def test_what_cannot_be_paired_is_skipped_and_counted() -> None:
    trace = load(
        text("- dead0", "+ 8 1 1000", "- dead0", "+ 8 1 2000", "+ 9 1 1000", "- 1000", "- 1000")
    )
    assert trace.notes == {"unknown free": 3, "lost free": 1}
    assert trace.skipped == 4
    assert ops(trace) == [
        (OP_ALLOC, 0, 8),
        (OP_ALLOC, 1, 8),
        (OP_FREE, 0, 0),
        (OP_ALLOC, 0, 9),
        (OP_FREE, 0, 0),
    ]


def test_a_killed_program_leaves_half_a_line() -> None:
    trace = load(text("+ 8 1 1000") + b"+ 10 1 20")
    assert trace.events == 1
    assert trace.notes == {"cut line": 1}


def test_a_clock_that_was_set_back_stands_still() -> None:
    trace = load(text("c 10", "c 8", "c 10", "c 11"))
    assert [record.size for record in trace] == [16_000, 17_000]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("+ 8 1", "heaptrack -r"),
        ("+ 8 1 1000 5", "heaptrack -r"),
        ("+ x 1 1000", "heaptrack -r"),
        ("+ 8  1 1000", "heaptrack -r"),
        ("+ 8 1 10000000000000000", "heaptrack -r"),
        ("+ 8 1 0", "address 0"),
        ("+ 8 4 1000", "trace"),
        ("+ ffffffffffffffff 1 1000", "larger than any"),
        ("- ", "`- POINTER`"),
        ("- 1 2", "`- POINTER`"),
        ("c -1", "`c MILLISECONDS`"),
        ("c ffffffffffffffff", "`c MILLISECONDS`"),
        ("R zz", "`R PAGES`"),
        ("R ffffffffffffff", "`R PAGES`"),
        ("I 1001 5", "`I PAGESIZE PAGES`"),
        ("I 0 5", "`I PAGESIZE PAGES`"),
        ("t aaaa 4", "`t ADDRESS PARENT`"),
        ("a 10 1", "interpreted"),
        ("+ 8 1 " + "0" * 5000, "heaptrack -r"),
    ],
)
def test_a_bad_line_is_named_with_its_offset(line: str, words: str) -> None:
    good = text("+ 8 1 1000", "- 1000")
    with pytest.raises(TraceError) as caught:
        load(good + line.encode() + b"\n+ 8 1 2000\n")
    assert caught.value.offset == len(good)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "head", ["v \n", "v x\n", "v 10400 4\n", "v 10400 3 1\n", "v " + "1" * 999]
)
def test_a_bad_first_line_is_named(head: str) -> None:
    with pytest.raises(TraceError) as caught:
        load(head.encode())
    assert caught.value.offset == 0


def test_pieces_of_any_size_read_the_same() -> None:
    random.seed(7)
    lines: list[str] = []
    live: list[int] = []
    for i in range(3000):
        if live and random.random() < 0.45:
            lines.append(f"- {live.pop(random.randrange(len(live))):x}")
        else:
            live.append(0x7F0000000000 + 16 * i)
            lines.append(f"+ {random.randrange(1, 5000):x} {random.randrange(4):x} {live[-1]:x}")
        if i % 100 == 0:
            lines += [f"c {i + 1:x}", "m 24 " + "long" * 100]
    data = text(*lines)
    whole = load(data)
    assert whole.allocations - whole.frees == len(live)
    assert whole.reallocs + whole.frees == sum(line.startswith("-") for line in lines)
    for size in (1, 2, 3, 7, 64, 1000, 4096):
        parts = (data[at : at + size] for at in range(0, len(data), size))
        assert bytes(read(parts).records) == bytes(whole.records)
    assert bytes(load(gzip.compress(data)).records) == bytes(whole.records)
    assert bytes(load(data.replace(b"\n", b"\r\n")).records) == bytes(whole.records)


def test_live_pointers_survive_a_growing_table() -> None:
    pointers = [0x10000 + 4096 * i for i in range(20_000)]
    order = pointers[:]
    random.Random(3).shuffle(order)
    lines = [f"+ {i % 64 + 1:x} 1 {pointer:x}" for i, pointer in enumerate(pointers)]
    lines += ["c 1"] + [f"- {pointer:x}" for pointer in order]
    trace = load(text(*lines))
    assert (trace.allocations, trace.frees, trace.live_bytes) == (20_000, 20_000, 0)
    assert trace.notes == {}
    freed = [record.object for record in trace if record.op == OP_FREE]
    assert freed == [(pointer - 0x10000) // 4096 for pointer in order]


line_soup = st.lists(
    st.one_of(
        st.builds(
            "+ {:x} {:x} {:x}".format, st.integers(0, 99), st.integers(0, 3), st.integers(1, 9)
        ),
        st.builds("- {:x}".format, st.integers(0, 9)),
        st.builds("t {:x} {:x}".format, st.integers(0, 3), st.integers(0, 3)),
        st.builds("c {:x}".format, st.integers(0, 50)),
        st.builds("R {:x}".format, st.integers(0, 50)),
    ),
    max_size=60,
)


@given(line_soup)
def test_any_order_of_lines_gives_a_sound_recording(lines: list[str]) -> None:
    trace = load(text(*lines))
    blocks = sum(line.startswith("+") for line in lines)
    frees = sum(line.startswith("-") for line in lines)
    assert trace.allocations + trace.reallocs == blocks
    lost = trace.notes.get("lost free", 0)
    assert trace.frees + trace.reallocs == frees - trace.notes.get("unknown free", 0) + lost


@given(st.binary(max_size=400))
def test_random_bytes_after_a_good_head(data: bytes) -> None:
    offset: int | None = len(text())
    try:
        load(text() + data)
    except TraceError as error:
        offset = error.offset
    assert offset is not None
    assert len(text()) <= offset <= len(text()) + len(data)
