"""Forms of debugger output that public logs have and that were dropped, misread or said too
much of: each is read, or its line is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dmi import windbg
from dmi.cli import main
from dmi.diagnose import from_log
from dmi.diagnose._files import what_was_read
from dmi.windbg._frames import of_allocator

if TYPE_CHECKING:
    from dmi.diagnose import Verdict

SINGLE = Path(__file__).parent.parent / "golden" / "windbg" / "single"

pytestmark = pytest.mark.reads

ENTRIES = """0:000> !heap -flt s 3e8024
    _HEAP @ 33c0000
      HEAP_ENTRY Size Prev Flags    UserPtr UserSize - state
        035cb018 {0} 0000  [{1}]   035cb020    3e8024 - (busy VirtualAlloc)
"""
STAT = """0:000> !heap -stat -h 150000
 heap @ 00150000
group-by: TOTSIZE max-display: 20
    size     #blocks     total     ( %) (percent of total busy bytes)
    {rows}
"""


def sample(name: str) -> str:
    (path,) = SINGLE.glob(f"{name}-*")
    return path.read_text(encoding="utf-8")


def verdict(text: str) -> Verdict:
    return from_log(windbg.parse(text))


@pytest.mark.parametrize("size", ["0041", "7d200", "84006d", "00084006"])
@pytest.mark.parametrize("flags", ["00", "0b", "101"])
def test_entries_of_any_width(size: str, flags: str) -> None:
    (listed,) = windbg.parse(ENTRIES.format(size, flags)).blocks
    assert (listed.command, listed.blocks, listed.bytes) == ("flt", 1, 0x3E8024)


def test_an_entry_that_is_not_read_is_named() -> None:
    (line,) = windbg.parse(ENTRIES.format("xyz 7d200", "00"), partial=True).unread
    assert line.line == 4


def test_a_search_and_what_it_recognised() -> None:
    (found,) = windbg.parse(sample("69")).blocks
    assert (found.command, found.blocks, found.handle, found.bytes) == ("found", 2, 0x90000, 0x170)
    assert found.holds == (("ole32!CALLFRAME_CACHE<INTERFACE_HELPER_CLSID>::`vftable'", 2),)


def test_blocks_of_the_low_fragmentation_heap() -> None:
    (listed,) = windbg.parse(sample("63")).blocks
    # Four of the segment, one of the front end; free ones do not count.
    assert listed.blocks == 5
    assert listed.bytes == 0x740 + 0x40 + 0x20 + 0x30 + 0x40


def test_totals_of_old_debuggers_count_virtual_blocks() -> None:
    facts = {each.handle: each for each in windbg.parse(sample("60")).facts}
    assert facts[0x360000].committed == 0xC1000
    assert (facts[0x360000].virtual_blocks, facts[0x360000].virtual_bytes) == (0x65, 0x6570000)
    fewer = sample("60").replace("00000065", "00000005").replace("06570000", "00570000")
    log = windbg.parse(fewer + "\n0:000> g\n" + sample("60"))
    assert from_log(log).bytes == 0x6570000 - 0x570000


def test_sizes_of_two_moments_are_compared_without_a_table_of_heaps() -> None:
    grown = verdict(sample("56"))
    assert (grown.kind, grown.how) == ("growth", "derived")
    assert abs((grown.bytes or 0) - 40_000_000) < 100_000
    assert any("40,000,000 bytes" in cause.text for cause in grown.causes)
    backwards = sample("56").split("kd> ")
    shrunk = verdict("kd> " + backwards[2] + "kd> " + backwards[1])
    assert shrunk.kind == "none"


def test_the_size_that_grew_is_named_not_the_one_that_holds_most() -> None:
    table = """0:000> !heap -s
  Heap     Flags   Reserv  Commit  Virt   Free  List   UCR  Virt  Lock  Fast
                    (k)     (k)    (k)     (k) length      blocks cont. heap
-----------------------------------------------------------------------------
00150000 00000002   65536  {0}  65536    100     9     1    0      0   LFH
-----------------------------------------------------------------------------
"""
    before = STAT.format(rows="100000 a - a00000  (90.00)\n    30 100 - 3000  (0.11)")
    after = STAT.format(rows="100000 a - a00000  (60.00)\n    30 20000 - 600000  (36.00)")
    grown = verdict(table.format(12000) + before + "0:000> g\n" + table.format(18000) + after)
    assert any(c.kind == "sizes" and "(0x30)" in c.text for c in grown.causes)


def test_shares_with_a_percent_sign() -> None:
    (table,) = windbg.parse(sample("55")).sizes
    assert [(row.size, row.count) for row in table.rows] == [
        (0x28, 0x1A00), (0x50, 0x800), (0xB8, 0x320),
    ]  # fmt: skip
    broken = windbg.parse(sample("55").replace("40800", "40800 oops"), partial=True)
    assert [each.line for each in broken.unread] == [4]


def test_a_possible_damage_is_not_called_certain() -> None:
    assert "may be damaged" in verdict(sample("57")).headline
    certain = verdict("0:000> !heap -s\nHEAP ERROR DETECTED\nError type: HEAP_FAILURE_X\n")
    assert "is damaged" in certain.headline


def test_a_page_heap_written_with_dashes() -> None:
    (block,) = windbg.parse(sample("59")).asked
    assert (block.size, block.state) == (0x60, "busy")


def test_frames_without_addresses() -> None:
    (block,) = windbg.parse(sample("68")).asked
    assert [frame.partition("+")[0] for frame in block.stack] == [
        "ntdll!RtlDebugAllocateHeap", "ole32!CFileMoniker::Create",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("frame", "own"),
    [
        ("ntdll!RtlAllocateHeap+0x1b2", True),
        ("app!_nh_malloc_dbg+0x23", True),
        ("app!operator new+0xe", True),
        ("KERNELBASE!LocalAlloc+0x6d", True),
        ("app!_free_base+0x27 [free_base.cpp @ 105]", True),
        ("app!FreeImage_HasPixels+0x15", False),
        ("app!Free+0x19", False),
        ("app!malloc_pool::grow+0x3", False),
        ("mso!Ordinal149+0x78e0", False),
    ],
)
def test_frames_of_the_allocator(frame: str, own: bool) -> None:
    assert of_allocator(frame) is own


def test_what_the_debugger_could_not_do_is_said() -> None:
    log = windbg.parse(sample("61"))
    assert any("invalid option flag" in notice.text for notice in log.notices)


def test_alarms_of_the_kernel_are_a_finding() -> None:
    assert "351175 kernel stack PTE allocations have failed" in verdict(sample("64")).headline


def test_processes_that_the_kernel_lists() -> None:
    (told,) = windbg.parse(sample("65")).told
    assert told.rows["process notepad.exe (0368)"] == 49_380 << 10
    assert told.totals == {"committed": 183_528 << 10}


def test_what_a_server_wrote_as_json(tmp_path: Path) -> None:
    one = tmp_path / "answer.json"
    one.write_text(sample("67"))
    assert what_was_read(one)["tables"][0]["rows"] == 2
    many = tmp_path / "answers.jsonl"
    many.write_text(sample("67") * 2)
    assert what_was_read(many)["tables"][0]["rows"] == 2
    nested = tmp_path / "nested.json"
    text = json.loads(sample("67"))["output"]
    nested.write_text(json.dumps({"result": {"content": [{"type": "text", "text": text}]}}))
    assert what_was_read(nested)["tables"][0]["rows"] == 2


def test_json_that_is_neither_is_still_an_error(tmp_path: Path) -> None:
    for text in ('{"name": "x"}', '{"format": "dmi-snapshot", "heaps": [', "{"):
        path = tmp_path / "other.json"
        path.write_text(text)
        assert main(["doctor", str(path)]) == 2


def test_what_only_one_screen_shows_was_not_compared() -> None:
    found = verdict(sample("75"))
    assert found.kind == "unknown"
    text = sample("75")
    same = text[: text.rindex(" Abc")] + text[text.index(" CM ") : text.index("\n\n Tag")]
    assert verdict(same).kind == "none"


def test_tables_in_one_line() -> None:
    assert windbg.parse(sample("72")).blocks[0].blocks == 4
    assert len(windbg.parse(sample("73")).sizes[0].rows) == 7


def test_words_of_memory_are_no_rows_of_heaps() -> None:
    log = windbg.parse(
        "0:000> dw 00ab2936\n00ab2936  004e 006f 0074 0065 0070 0061 0064 0000\n"
        "0:000> !heap -s\nNo heaps to display.\n"
    )
    assert not log.unread


def test_regions_that_name_their_heap_are_added_up_by_heap() -> None:
    log = windbg.parse(sample("78"))
    assert {each.source for each in log.facts} == {"regions"}
    grown = from_log(log)
    assert (grown.subject, grown.bytes) == ("heap 26c5d2a0000", 0x0C000000 - 0x04000000)
    # The process grew by the same bytes: they are one finding.
    assert not grown.others


def test_dots_of_a_heap_that_is_looked_at() -> None:
    (table,) = windbg.parse(sample("80")).heaps
    assert [row.handle for row in table.rows] == [0x3F0000, 0x10000]


def test_generations_of_dotnet() -> None:
    (told,) = windbg.parse(sample("81")).told
    assert told.rows["Gen2"] == 812_345_678
    assert told.rows["free in Gen2"] == 402_345_678
    assert told.totals == {"total": 3_456_784 + 1_234_568 + 812_345_678 + 92_345_678 + 8_184}
    (server,) = windbg.parse(sample("82")).told
    # Of each heap once: the row Total is the sum of those above it.
    assert server.rows["Gen2"] == 104_857_600
    assert server.rows["free in LOH"] == 131_072
    grown = verdict(sample("81") + sample("81").replace("812,345,678", "1,812,345,678"))
    assert (grown.kind, grown.bytes) == ("growth", 1_000_000_000)


def test_sizes_that_fell_are_no_leak_of_that_heap() -> None:
    found = verdict(sample("79"))
    assert (found.kind, found.subject) == ("none", "heap 00150000")


def test_a_heap_whose_sizes_one_moment_does_not_show_is_not_called_quiet() -> None:
    two = STAT + STAT.replace("150000", "250000")
    before = two.format(rows="30 100 - 3000  (90.00)")
    after = STAT.format(rows="30 100 - 3000  (90.00)")
    found = verdict(before + "0:000> g\n" + after)
    assert found.kind == "unknown"
    assert any("00250000" in line for line in found.missing)
    assert verdict(before + "0:000> g\n" + before).kind == "none"
