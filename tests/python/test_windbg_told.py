"""What other tools tell of memory, single blocks, and commands that are named."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from dmi import windbg
from dmi.cli import main
from dmi.diagnose import from_log
from dmi.diagnose._files import what_was_read

if TYPE_CHECKING:
    from pathlib import Path

    from dmi.diagnose import Verdict

ASKED = """0:000> !heap -p -a 0x0000018c2a1f5e40
    address 0000018c2a1f5e40 found in
    _HEAP @ 18c29e80000
              HEAP_ENTRY Size Prev Flags            UserPtr UserSize - state
        0000018c2a1f5e10 0005 0000  [00]   0000018c2a1f5e40    00014 - (busy)
        7ffbe5a7bb1b ntdll!RtlpCallInterceptRoutine+0x000000000000003f
        7ff6bd8a1e44 app!operator new+0x0000000000000024
        7ff6bd8a1033 app!Leak+0x0000000000000013

"""
PAGES = """0:001> !heap -p -a 02b3eff0
    address 02b3eff0 found in
    _DPH_HEAP_ROOT @ 1161000
    in free-ed allocation (  DPH_HEAP_BLOCK:         VirtAddr         VirtSize)
                                   1f10b74:          2b3e000             2000
    6d9f90b2 verifier!AVrfDebugPageHeapFree+0x000000c2
    00401099 app!Free+0x00000019
"""
HEADER = """0:000> !heap -i 0000018c29e80740
Detailed information for block entry 0000018c29e80740
Assumed heap       : 0x0000018c29e80000 (Use !heap -i NewHeapHandle to change)
Header content     : 0x4C9F2EB4 0x1000F6C8 (decoded : 0x0B010006 0x10000074)
Block flags        : 0x1 (busy )
Total block size   : 0x6 units (0x60 bytes)
Requested size     : 0x50 bytes (unused 0x10 bytes)
"""
EEHEAP = """0:000> !eeheap -gc
Number of GC Heaps: 1
generation 0 starts at 0x0000023d8a5b1018
GC Allocated Heap Size:    Size: 0x524c328 ({0}) bytes.
GC Committed Heap Size:    Size: 0x54c0000 ({1}) bytes.
"""
DUMPHEAP = """0:000> !dumpheap -stat
Statistics:
              MT    Count    TotalSize Class Name
00007ffb5a0e7c38   120034      8642448 System.String
000001f2e5a3b1c0     1904     22342448      Free
00007ffb5a0f9a50    30001     {0} System.Byte[]
Total 151939 objects
"""
MADDRESS = """0:000> !maddress -summary
 +-------------------------------------------------------------------------+
 | Memory Type         |          Count |         Size |   Size (bytes) |
 +-------------------------------------------------------------------------+
 | GCHeap              |             35 |     184.20mb |    {0} |
 | Image               |            811 |     145.98mb |    153,072,640 |
 +-------------------------------------------------------------------------+
 | [TOTAL]             |            846 |     330.18mb |    {1} |
 +-------------------------------------------------------------------------+
"""
VMMAP = """"Process:","app.exe"
"PID:","4711"

"Type","Size","Committed","Private","Total WS","Private WS","Shareable WS","Shared WS","Locked WS",
"Total","2,201,344","{1}","120,004","90,120","70,004","20,116","18,004","","812","",
"Image","90,120","90,120","4,004","40,004","3,004","37,000","36,000","","500","20,004",
"Heap","980,004","{0}","60,004","50,004","50,000","4","4","","60","16,004",
"Free","135,000,000,000","","","","","","","","60","130,000,000,000",
"""
POOLS = """0: kd> !poolused 2
 Sorting by  NonPaged Pool Consumed
            NonPaged            Paged
 Tag    Allocs     Used    Allocs     Used
 Leak    30012 {0}         0        0\tUNKNOWN pooltag 'Leak', please update pooltag.txt
 Thre      120    48000         0        0\tThread objects , Binary: nt!ps
 TOTAL    90012 {1}     1200  9000000
"""
UMDH = """// Debug library initialized ...
*- - - - - - - - - - Start of data for heap @ 1E0000
    {0} bytes in 0x14 allocations (@ 0x00000428 + 0x00000018) by: BackTrace00053
    ntdll!RtlDebugAllocateHeap+000000FD
    app!Leak+00000012
"""


def test_a_block_and_who_allocated_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = windbg.parse(ASKED).asked
    assert (block.address, block.handle) == (0x18C2A1F5E40, 0x18C29E80000)
    assert (block.size, block.state) == (0x14, "busy")
    assert [frame.partition("+")[0] for frame in block.stack][-1] == "app!Leak"
    path = tmp_path / "asked.txt"
    path.write_text(ASKED + PAGES + HEADER)
    assert main(["doctor", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "20 bytes, busy; allocated by app!Leak." in said
    assert "its size is not in the text, free; freed by app!Free." in said
    assert "Block 18c29e80740 of heap 18c29e80000: 80 bytes, busy;" in said
    whats = [table["what"] for table in what_was_read(path)["tables"]]
    assert len(whats) == 3


@pytest.mark.parametrize(
    ("text", "before", "after", "subject", "more", "name"),
    [
        (EEHEAP, (80_000_000, 88_866_816), (230_000_000, 250_000_000), ".NET", 161_133_184, "GC"),
        (DUMPHEAP, (43_201_440,), (143_201_440,), ".NET", 100_000_000, "System.Byte[]"),
        (MADDRESS, ("193,143,296", "346,215,936"), ("393,143,296", "546,215,936"), "!maddress",
         200_000_000, "GCHeap"),
        (VMMAP, ("60,004", "150,124"), ("260,004", "350,124"), "VMMap", 200_000 << 10, "Heap"),
        (POOLS, (120_048_000, 240_048_000), (220_048_000, 340_048_000), "pools", 100_000_000,
         "Leak"),
        (UMDH, ("5320",), ("9005320",), "UMDH", 0x9000000, "BackTrace00053 app!Leak"),
    ],
    ids=["eeheap", "dumpheap", "maddress", "vmmap", "poolused", "umdh"],
)  # fmt: skip
@pytest.mark.parametrize("together", [False, True])
def test_growth_by_what_another_tool_tells(
    text: str, before: tuple[object, ...], after: tuple[object, ...], subject: str, more: int,
    name: str, together: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    texts = [text.format(*before), text.format(*after)]
    if together:
        texts = ["\n".join(texts)]
    paths = [tmp_path / f"m{number}.txt" for number in range(len(texts))]
    for path, each in zip(paths, texts, strict=True):
        path.write_text(each)
    assert main(["doctor", *map(str, paths)]) == 1
    said = capsys.readouterr().out
    assert said.startswith("Growth in ")
    assert subject in said.splitlines()[0]
    assert name in said
    assert f"{more >> 10:,} KB" in said.splitlines()[0]
    # The other way round nothing grew.
    if not together:
        assert main(["doctor", *map(str, reversed(paths))]) == 0
        assert capsys.readouterr().out.startswith("No leak")


def test_different_figures_of_a_tool_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older SOS prints what is allocated, a newer one what is committed as well."""
    before, after = tmp_path / "m0.txt", tmp_path / "m1.txt"
    whole = EEHEAP.format(80_000_000, 250_000_000).splitlines()
    older, committed = (
        "\n".join(line for line in whole if word not in line)
        for word in ("GC Committed", "GC Allocated")
    )
    before.write_text(older)
    after.write_text("\n".join(whole))
    # What both have did not grow.
    assert main(["doctor", str(before), str(after)]) == 0
    assert "250" not in capsys.readouterr().out
    for text, said in (
        (committed, "what is allocated in m0, what is committed in m1, so it was not compared"),
        (TABLE.format(prompt="0:000", key="1", handle="00d40000", commit=9460), "nothing in m1"),
    ):
        after.write_text(text)
        assert main(["doctor", str(before), str(after)]) == 2
        assert said in " ".join(capsys.readouterr().out.split())


SERVER = """0:000> !eeheap -gc
Number of GC Heaps: 2
------------------------------
Heap 0 (0000021D7EE50170)
Allocated Heap Size:       Size: 0x1a63650 (27670096) bytes.
Committed Heap Size:       Size: 0x1f1f000 (32632832) bytes.
------------------------------
Heap 1 (0000021D7EE81170)
Allocated Heap Size:       Size: 0x1a63650 (27670096) bytes.
Committed Heap Size:       Size: 0x1f1f000 (32632832) bytes.
"""


def test_the_heaps_of_a_server_are_summed_where_the_sum_is_cut_off() -> None:
    both = {"committed": 65265664, "allocated": 55340192}
    (told,) = windbg.parse(SERVER).told
    assert told.totals == both
    end = "GC Allocated Heap Size:  Size: 0x34c6ca0 (55340192) bytes.\n"
    (told,) = windbg.parse(SERVER + end).told
    assert (told.totals, len(told.rows)) == (both, 2)
    loader = "Total LoaderHeap size:   Size: 0x2a3000 (2764800) bytes.\n"
    (told,) = windbg.parse(SERVER.replace("Number", f"{loader}Number")).told
    assert told.totals == both | {"in loader heaps": 2764800}
    log = windbg.parse(SERVER[: SERVER.index("Heap 1")])
    assert (log.told[0].totals, sorted(log.told[0].rows.values())) == ({}, [27670096, 32632832])
    assert "1 of 2 heaps of .NET are shown" in log.unread[0].why


def test_without_a_total_none_is_made_up() -> None:
    (told,) = windbg.parse("0: kd> !vm\nNonPagedPool Usage:  30000 ( 120000 Kb)\n").told
    assert (told.totals, told.rows) == ({}, {"nonpagedpool usage": 120000 << 10})


@pytest.mark.parametrize("text", [EEHEAP, DUMPHEAP, MADDRESS, VMMAP, POOLS, UMDH])
def test_one_moment_by_another_tool(text: str, tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text(text.format("1000", "2000"))
    (told,) = windbg.parse(path.read_text()).told
    assert told.rows
    assert main(["doctor", str(path)]) == 0


def test_commands_that_are_not_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.txt"
    path.write_text("0:000> !analyze -v\nBUGCHECK\n0:000> !sos.gcroot 1234\nFound 0 roots\n"
                    + ASKED)  # fmt: skip
    assert main(["doctor", "--what-was-read", str(path)]) == 0
    said = capsys.readouterr().out
    assert "`!analyze -v`: its output is not read" in said
    assert "`!sos.gcroot 1234` (what holds an object of .NET) is not read" in said


@pytest.mark.parametrize(
    ("text", "values", "row", "damaged"),
    [
        (DUMPHEAP, ("143201440",), "30001     143201440", "30001     1432#1440"),
        (DUMPHEAP, ("143201440",), "00007ffb5a0f9a50    30001     143201440 System.Byte[]\n", ""),
        (MADDRESS, ("393,143,296", "546,215,936"), "546,215,936", "546,2#5"),
        (
            VMMAP,
            ("260,004", "350,124"),
            '"260,004","60,004","50,004","50,000","4","4","","60","16,004",',
            "",
        ),
        (POOLS, ("220048000", "340048000"), "340048000     1200  9000000", "3400@8000 1200"),
        (EEHEAP, ("230000000", "250000000"), "0x54c0000 (250000000)", "0x54c0000 (2500#"),
    ],
    ids=["dumpheap", "dumpheap-gone", "maddress", "vmmap", "poolused", "eeheap"],
)
def test_a_row_that_cannot_be_read_is_named(
    text: str, values: tuple[object, ...], row: str, damaged: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before, after = tmp_path / "m0.txt", tmp_path / "m1.txt"
    before.write_text(text.format(*(["1000"] * len(values))))
    whole = text.format(*values)
    assert row in whole
    after.write_text(whole.replace(row, damaged))
    status = main(["doctor", str(before), str(after)])
    said = capsys.readouterr().out
    assert "not read: line" in said
    assert status in (1, 2)


TABLE = """{prompt}> !heap -s
LFH Key                   : {key}
  Heap     Flags   Reserv  Commit  Virt   Free  List   UCR  Virt  Lock  Fast
                    (k)     (k)    (k)     (k) length      blocks cont. heap
-----------------------------------------------------------------------------
{handle} 00000002   {commit}   {commit}  {commit}    300   120     5    0      4   LFH
-----------------------------------------------------------------------------
"""


def _both_views(commit: int) -> str:
    wide = TABLE.format(prompt="0:000", key="0x9e7a7a4a1d3d0b5c", handle="0000000000b60000",
                        commit=9460)  # fmt: skip
    return wide + TABLE.format(prompt="0:000:x86", key="0x1a2b3c4d", handle="00d40000",
                               commit=commit)  # fmt: skip


def test_both_loaders_of_a_program_of_32_bits_are_one_moment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.txt"
    path.write_text(_both_views(50_000))
    assert len(what_was_read(path)["moments"]) == 1
    path.write_text(_both_views(50_000) + _both_views(90_000))
    assert main(["doctor", str(path)]) == 1
    assert capsys.readouterr().out.startswith("Growth in heap 00d40000: 40,000 KB")


@pytest.mark.parametrize("header", ["", "Content-Disposition: attachment;\n filename=log.txt\n"])
def test_mails_in_base64_are_read(header: str) -> None:
    body = base64.encodebytes(_both_views(50_000).encode()).decode()
    text = f"Subject: x\nContent-Transfer-Encoding: base64\n{header}\n{body}"
    log = windbg.parse(windbg.decode(text.encode()))
    assert [len(table.rows) for table in log.heaps] == [1, 1]
    # What only looks like it stays as it is.
    assert windbg.decode(text.replace("=", "*").encode())


def test_segment_heaps_in_capitals() -> None:
    text = """                              GLOBAL     HEAP RESERVED  COMMITTED
    HEAP ADDRESS  SIGNATURE    FLAGS     LIST    BYTES      BYTES
                                        INDEX      (K)        (K)
     18223470000   DDEEDDEE     1000        3  2683012    2020796
"""
    (fact,) = windbg.parse(text).facts
    assert (fact.source, fact.committed) == ("segment", 2020796 << 10)


def test_shares_of_blocks_are_no_shares_of_bytes() -> None:
    text = """0:000> !heap -stat -h 0 -grp B
 heap @ 0000018c29e80000
group-by: BLOCKCOUNT max-display: 20
    size     #blocks     total     ( %) (percent of totalblocks)
    50 7d0 - 27100  (45.00)
    200 3e8 - 7d000  (22.50)
"""
    (table,) = windbg.parse(text).sizes
    assert [row.percent for row in table.rows] == [None, None]
    assert table.busy is None


OLD_EEHEAP = """0:003> !eeheap -gc
Number of GC Heaps: 1
generation 0 starts at 0x013e35ec
segment   begin allocated     size
013e0000 013e1000 013e35f8 0x000025f8(9720)
Total Size 0x{0:x}({0})
------------------------------
GC Heap Size 0x{0:x}({0})
"""
NX = """0: kd> !vm
NonPagedPoolNx Usage:       {0} (     {1} Kb)
Committed pages:           602230 (    {2} Kb)
"""


def read(text: str) -> Verdict:
    return from_log(windbg.parse(text))


class TestFormsOfOtherVersions:
    def test_an_older_sos_prints_its_sum_without_a_colon(self) -> None:
        texts = [OLD_EEHEAP.format(size << 20) for size in (40, 90, 90)]
        verdict = read("\n".join(texts))
        assert (verdict.kind, verdict.bytes) == ("growth", 50 << 20)
        assert verdict.cures[1].gives == 50 << 20
        assert "cannot be told from this text" in str(verdict.cures[2])

    def test_what_the_collector_keeps_is_a_figure(self) -> None:
        verdict = read("\n".join(EEHEAP.format(a, c) for a, c in (
            (40 << 20, 60 << 20), (90 << 20, 130 << 20), (90 << 20, 130 << 20)
        )))  # fmt: skip
        assert verdict.cures[2].gives == 40 << 20
        assert verdict.cures[2].most

    def test_rows_without_their_header_and_a_part_are_told_apart(self) -> None:
        text = (
            "!dumpheap -stat\n00007ffb54fcb718    95968    788403295 System.Byte[]\n"
            "0000015d85c015d0   191280    361304416      Free\n"
            "!dumpheap -stat -type Order\n00007ffb550b9b58    95959      6141376 Shop.Order\n"
        )
        log = windbg.parse(text)
        assert [told.source for told in log.told] == ["!dumpheap", "!dumpheap, a part"]
        assert log.told[0].totals == {"total": 788403295 + 361304416}
        assert log.told[1].totals == {}
        assert log.unread == ()

    def test_a_part_is_not_compared(self) -> None:
        part = "!dumpheap -stat -min 0x100\n00007ffb550b9b58    95959      {0} Shop.Order\n"
        whole = "!dumpheap -stat\n00007ffb550b9b58    95959      {0} Shop.Order\n"
        text = whole.format(50 << 20) + part.format(9) + whole.format(51 << 20)
        assert read(text + part.format(300 << 20)).kind == "none"

    def test_free_objects_have_their_cure(self) -> None:
        texts = [
            f"!dumpheap -stat\n00007ffb550b9b58    95959      {size << 20} Shop.Order\n"
            f"0000015d85c015d0   191280    {size << 20}      Free\n"
            for size in (30, 90)
        ]
        verdict = read("".join(texts))
        assert verdict.kind == "growth"
        assert verdict.cures[-1].gives == 90 << 20

    def test_leaks_of_several_heaps_are_of_none_of_them(self) -> None:
        rows = "".join(
            f"00{n}e1b8  00{n}e1c0  00{n}40000  00000000        90        18  busy extra\n"
            for n in (245, 246)
        )
        head = "0:004> !heap -l\nEntry User Heap Segment Size PrevSize Flags\n\n"
        text = f"{head}{rows}2 leaks detected.\n"
        (listed,) = windbg.parse(text).blocks
        assert (listed.blocks, listed.handle, listed.stated) == (2, None, 2)

    def test_a_remark_behind_a_row_of_stat(self) -> None:
        text = (
            "0:000> !heap -stat -h 0\n heap @ 00670000\ngroup-by: TOTSIZE max-display: 20\n"
            "    size     #blocks     total     ( %) (percent of total busy bytes)\n"
            "    400 9c7 - 271c00  (97.63) <--- these\n    494 10 - 4940  (0.71)\n"
        )
        log = windbg.parse(text)
        assert [row.size for row in log.sizes[0].rows] == [0x400, 0x494]
        assert log.unread == ()

    def test_tables_in_one_line(self) -> None:
        rows = " ".join(
            f"0{n}5d0000 00001002   31700  {commit}  31592  11919   241     9    0      0   LFH"
            for n, commit in ((1, 14244), (2, 8000), (3, 4000))
        )
        text = (
            "0:000> !heap -s\nHeap Flags Reserv Commit Virt Free List UCR Virt Lock Fast\n" + rows
        )
        assert [row.committed_kib for row in windbg.parse(text).heaps[0].rows] == [
            14244, 8000, 4000
        ]  # fmt: skip

    def test_the_pool_without_execution_counts(self) -> None:
        (told,) = windbg.parse(NX.format(201455, 805820, 2408920)).told
        assert told.rows["nonpagedpoolnx usage"] == 805820 << 10

    @pytest.mark.parametrize(
        "text", ["0:000> !he\nap -s\n", "0:000> k\n", "0:000> .loadby sos clr\n"]
    )
    def test_commands_alone_are_no_moment(
        self, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "log.txt").write_text(text, encoding="utf-8")
        assert main(["doctor", str(tmp_path / "log.txt")]) == 2
        assert "no !heap -s table" in capsys.readouterr().err

    def test_a_comparison_in_which_less_is_allocated_says_so(self) -> None:
        text = (
            "+  131072 ( 262144 - 131072)      4 allocs\tBackTraceF9A156DA\n"
            "+       2 (      4 -      2)\tBackTraceF9A156DA\tallocations\n\n"
            "Total decrease == 487210 requested +   1654 overhead = 488864\n"
        )
        said = read(text).headline
        assert "487,210 bytes less" in said
        assert "BackTraceF9A156DA gained most, 131,072 bytes" in said

    def test_lines_of_dotnet_dump_are_no_titles(self) -> None:
        text = (
            "> eeheap -gc\nNumber of GC Heaps: 1\nSmall object heap\ngeneration 0:\n"
            "GC Committed Heap Size:    Size: 0x2f5000 (3,100,672) bytes.\n"
            "> dumpheap -stat\nStatistics:\n          MT  Count   TotalSize Class Name\n"
            "000108a0a5e8 77,854 223,182,288 System.Byte[]\n"
        )
        log = windbg.parse(text)
        assert [(told.source, told.label) for told in log.told] == [
            ("!eeheap", ""), ("!dumpheap", "")
        ]  # fmt: skip
