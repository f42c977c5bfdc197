"""WinDbg text: the golden tables are read, and every figure is recomputed to the letter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dmi import windbg

pytestmark = pytest.mark.reads

GOLDEN = Path(__file__).parent.parent / "golden"
HEAPS = (GOLDEN / "heap-summaries.txt").read_text(encoding="utf-8")
ADDRESSES = (GOLDEN / "address-summaries.txt").read_text(encoding="utf-8")
LABELS = ["Before peak hours", "During peak hours", "After peak hours"]
HEADER = (
    "  Heap     Flags   Reserv  Commit  Virt   Free  List   UCR  Virt  Lock  Fast \n"
    "                    (k)     (k)    (k)     (k) length      blocks cont. heap \n"
)
# Layout of a 64-bit debugger; the figures are this test's own.
HEAP_64 = """\
0:000> !heap -s
NtGlobalFlag enables following debugging aids for new heaps:
    stack back traces
LFH Key                   : 0x00007f1122334455
Termination on corruption : ENABLED
          Heap     Flags   Reserv  Commit  Virt   Free  List   UCR  Virt  Lock  Fast 
                            (k)     (k)    (k)     (k) length      blocks cont. heap 
-------------------------------------------------------------------------------------
Virtual block: 0000000001420000 - 0000000001420000 (size 0000000000000000)
000001a2b3c40000 08000002   81316  61368  81116  29349   713    42    1     1f   LFH
    External fragmentation  47 % (713 free blocks)
    Virtual address fragmentation  24 % (42 uncommited ranges)
000001a2b3000000 08008000      64      4     64      2     1     1    0    N/A      
000001a2b4000000 08001002      60      8     60      5     1     1    0      0
-------------------------------------------------------------------------------------
0:000> dd 000001a2
000001a2  00000000 00000000 00000000 00000000
"""  # noqa: W291
NEW_ADDRESS = """\
0:000> !address -summary

--- Usage Summary ---------------- RgnCount ----------- Total Size -------- %ofBusy %ofTotal
Free                                     58        0`85c87000 (   2.090 GB)           52.26%
<unknown>                                56        0`7866f000 (   1.881 GB)  98.52%   47.03%
Image                                   116        0`016de000 (  22.867 MB)   1.17%    0.56%
Stack32                                   9        0`00600000 (   6.000 MB)   0.31%    0.15%

--- Type Summary (for busy) ------ RgnCount ----------- Total Size -------- %ofBusy %ofTotal
MEM_PRIVATE                              65        0`78c6f000 (   1.887 GB)  98.83%   47.18%
MEM_IMAGE                               116        0`016de000 (  22.867 MB)   1.17%    0.56%

--- State Summary ---------------- RgnCount ----------- Total Size -------- %ofBusy %ofTotal
MEM_FREE                                 58        0`85c87000 (   2.090 GB)           52.26%
MEM_COMMIT                              160        0`7a34c000 (   1.909 GB) 100.00%   47.74%
MEM_RESERVE                              21        0`00001000 (   4.000 kB)   0.00%    0.00%

--- Protect Summary (for commit) - RgnCount ----------- Total Size -------- %ofBusy %ofTotal
PAGE_READWRITE                          100        0`78c6e000 (   1.887 GB)  98.83%   47.18%
PAGE_EXECUTE_READ                        60        0`016de000 (  22.867 MB)   1.17%    0.56%

--- Largest Region by Usage ----------- Base Address -------- Region Size ----------
Free                                      0`7f000000        0`40000000 (   1.000 GB)
<unknown>                                 0`10000000        0`30000000 ( 768.000 MB)
"""


def squeeze(line: str) -> str:
    return re.sub(r"\s+", " ", line.strip())


class TestGoldenHeaps:
    log = windbg.parse(HEAPS)

    def test_columns(self) -> None:
        assert [table.label for table in self.log.heaps] == LABELS
        assert {table.lfh_key for table in self.log.heaps} == {0x07262959}
        before, during, after = (table.rows[0] for table in self.log.heaps)
        assert before == windbg.HeapRow(
            0x310000, 0x1002, 1255320, 512712, 1177236, 260583, 45362, 41898, 2, 0x3751A5, "L"
        )
        assert [r.committed_kib for r in (before, during, after)] == [512712, 961480, 1022648]
        assert [r.busy_kib for r in (before, during, after)] == [252129, 856102, 249966]
        assert [r.mean_free_block for r in (before, during, after)] == [5882, None, 2988]

    def test_every_derived_line_is_recomputed_to_the_letter(self) -> None:
        printed = [
            squeeze(line) for line in HEAPS.splitlines() if re.search("fragmentation|content", line)
        ]
        assert len(printed) == 8
        assert [str(d) for table in self.log.heaps for d in table.derived()] == printed
        for table in self.log.heaps:
            assert table.derived() == table.printed
            assert table.disagreements() == ()

    def test_percentages(self) -> None:
        rows = [table.rows[0] for table in self.log.heaps]
        assert [row.external_fragmentation for row in rows] == [50, 10, 75]
        assert [row.virtual_address_fragmentation for row in rows] == [56, 23, 16]
        assert rows[0].lock_contention == 3625381

    def test_cut_offs_are_parameters(self) -> None:
        row = self.log.heaps[1].rows[0]
        everything = windbg.CutOffs(-1, -1, -1, -1)
        assert [line.kind for line in row.derived(everything)] == [
            "external", "virtual", "contention",
        ]  # fmt: skip
        assert row.derived(windbg.CutOffs(percent_over=23, lock_contention_over=4534419)) == ()

    def test_a_wrong_derived_line_is_reported(self) -> None:
        table = windbg.parse(HEAPS.replace("50 %", "51 %")).heaps[0]
        assert any("50 %" in text for text in table.disagreements())
        assert any("51 %" in text for text in table.disagreements())

    def test_written_text_is_the_same_text(self) -> None:
        for table in self.log.heaps:
            text = windbg.format_heap_summary(table.rows, table.lfh_key)
            again = windbg.parse(text).heaps[0]
            assert (again.rows, again.printed, again.lfh_key) == (
                table.rows, table.printed, table.lfh_key,
            )  # fmt: skip
            ours = {squeeze(line) for line in text.splitlines()}
            golden = HEAPS.split("peak hours:")[LABELS.index(table.label) + 1].splitlines()
            theirs = {squeeze(line) for line in golden if line[:1] not in "[0DA"}
            assert theirs - ours == set()


class TestGoldenAddresses:
    log = windbg.parse(ADDRESSES)

    def test_totals_and_identities(self) -> None:
        assert [summary.label for summary in self.log.addresses] == LABELS
        assert [s.total for s in self.log.addresses] == [0x7FFF0000] * 3
        assert [s.busy for s in self.log.addresses] == [0x600DF000, 0x602E1000, 0x602E1000]
        for summary in self.log.addresses:
            assert summary.disagreements() == ()
            for table in (summary.usage, summary.type, summary.state):
                assert sum(table.values()) == summary.total
            state, kind = summary.state, summary.type
            assert state["MEM_COMMIT"] + state["MEM_RESERVE"] == summary.busy
            assert kind["MEM_IMAGE"] + kind["MEM_MAPPED"] + kind["MEM_PRIVATE"] == summary.busy
            assert summary.busy == summary.total - summary.usage["Free"]

    def test_every_percentage_is_recomputed(self) -> None:
        shown = re.findall(r"[0-9]+\.[0-9]{2}%", ADDRESSES)
        assert len(shown) == 3 * (10 * 2 + 4 + 3)
        ours = "".join(windbg.format_address_summary(s) for s in self.log.addresses)
        assert re.findall(r"[0-9]+\.[0-9]{2}%", ours) == shown

    def test_the_table_without_its_free_label(self) -> None:
        assert re.search(r"24\.86% :$", ADDRESSES, re.MULTILINE)
        assert self.log.addresses[1].type["<free>"] == 0x1FD0F000
        assert list(self.log.addresses[1].type) == list(self.log.addresses[0].type)

    def test_the_label_on_the_next_line(self) -> None:
        broken = re.sub(r"% : (?=RegionUsage|MEM|<free>)", "% :\n", ADDRESSES)
        assert windbg.parse(broken) == self.log

    def test_written_text_is_the_same_text(self) -> None:
        for summary in self.log.addresses:
            text = windbg.format_address_summary(summary)
            lines = {squeeze(line).replace("% :<", "% : <") for line in text.splitlines()}
            section = ADDRESSES.split("peak hours:")[LABELS.index(summary.label) + 1]
            for line in section.splitlines():
                if line and not line.startswith(("TotSize", "During", "After")):
                    assert squeeze(line) in lines or line.endswith("24.86% :")

    def test_a_wrong_percentage_is_reported(self) -> None:
        summary = windbg.parse(ADDRESSES.replace("82.24%", "82.25%")).addresses[0]
        assert summary.disagreements() == ("usage Heap: printed 82.25 %, is 82.24 %",)
        summary = windbg.parse(ADDRESSES.replace("25e50000", "25e51000")).addresses[0]
        assert any("MEM_COMMIT + MEM_RESERVE" in text for text in summary.disagreements())

    def test_newer_style_of_the_same_summary(self) -> None:
        for summary in self.log.addresses:
            again = windbg.parse(windbg.format_address_summary(summary, "new")).addresses[0]
            assert again.as_dict() == summary.as_dict()
            assert again.disagreements() == ()


class TestOtherDialects:
    def test_64_bit_heaps(self) -> None:
        (table,) = windbg.parse(HEAP_64).heaps
        assert table.lfh_key == 0x7F1122334455
        assert [row.handle for row in table.rows] == [
            0x1A2B3C40000, 0x1A2B3000000, 0x1A2B4000000,
        ]  # fmt: skip
        assert [row.lock_contention for row in table.rows] == [0x1F, None, 0]
        assert [row.fast_heap for row in table.rows] == ["LFH", "", ""]
        assert table.disagreements() == ()
        text = windbg.format_heap_summary(table.rows)
        assert windbg.parse(text).heaps[0].rows == table.rows
        ours, theirs = text.splitlines(), HEAP_64.splitlines()
        for line in [*theirs[5:8], theirs[9], theirs[12].rstrip(), theirs[13]]:
            assert line in ours  # the very columns of the debugger

    def test_newer_address_summary(self) -> None:
        (summary,) = windbg.parse(NEW_ADDRESS).addresses
        assert summary.usage["<unknown>"] == 0x7866F000
        assert summary.counts["usage"]["Free"] == 58
        assert summary.type["<free>"] == summary.free == 0x85C87000
        assert summary.protect["PAGE_EXECUTE_READ"] == 0x16DE000
        assert summary.largest["Free"] == (0x7F000000, 0x40000000)
        assert summary.disagreements() == ()
        text = windbg.format_address_summary(summary, "new")
        assert text.strip() == NEW_ADDRESS.partition("\n")[2].strip()
        assert windbg.parse(text).addresses[0] == summary

    def test_64_bit_sizes(self) -> None:
        text = (
            "--- State Summary ---------------- RgnCount ----------- Total Size -------- %ofBusy\n"
            "MEM_FREE      9     7fff'12345000 ( 127.996 TB)  100.00%\n"
            "MEM_COMMIT    9        0`00001000 (   4.000 kB) 100.00%   0.00%\n"
        )
        (summary,) = windbg.parse(text).addresses
        assert summary.free == 0x7FFF12345000
        assert summary.committed == 4096

    def test_a_name_that_a_browser_took_for_a_tag(self) -> None:
        text = NEW_ADDRESS.replace("<unknown>", " " * 9)
        (summary,) = windbg.parse(text).addresses
        assert summary.usage["<unknown>"] == 0x7866F000
        assert summary.largest["<unknown>"] == (0x10000000, 0x30000000)
        assert summary.disagreements() == ()

    def test_everything_in_one_log(self) -> None:
        prose = "A paragraph about nothing, long enough that nobody takes it for a title: " * 4
        text = "\n".join([prose, ADDRESSES, prose, HEAPS, prose, HEAP_64, NEW_ADDRESS, prose])
        log = windbg.parse(text)
        assert log.heaps[:3] == windbg.parse(HEAPS).heaps
        assert log.addresses[:3] == windbg.parse(ADDRESSES).addresses
        assert (len(log.heaps), len(log.addresses)) == (4, 4)
        assert windbg.parse(text.replace("\n", "\r\n")) == log
        again = windbg.parse(windbg.format_log(log))
        assert again == log

    @pytest.mark.parametrize("title", ["0:000> * Noon", "0:000> .echo Noon", "Noon:", "**Noon:**"])
    def test_titles(self, title: str) -> None:
        table = HEADER + "00310000 00001002 128 64 128 8 4 1 0 0"
        assert windbg.parse(f"{title}\n0:000> !heap -s\n{table}").heaps[0].label == "Noon"

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_files(self, encoding: str, tmp_path: Path) -> None:
        file = tmp_path / "log.txt"
        file.write_bytes(HEAPS.encode(encoding))
        assert windbg.read(file) == windbg.parse(HEAPS)


class TestErrors:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("00310000 00001002 1255320 512712", "10 or 11 columns, not 4"),
            ("00310000 0000100g 1 2 3 4 5 6 7 8 L", "Flags is not hexadecimal"),
            ("00310000 00001002 1 -2 3 4 5 6 7 8 L", "Commit is not a number"),
            ("00310000 00001002 1 2 3 4 5 6 7 8h L", "Lock cont. is not hexadecimal"),
            ("00310000 00001002 1 2 3 4 5 6 7 8 L9", "Fast heap is not a word"),
            ("00310000 00001002 1 2 3 4 5 6 \u0667 8 L", "Virt blocks is not a number"),
            ("00310000 00001002 1 2 3 4 5 6 7 8 L" + " " * 2000 + "x", "more than 1024"),
        ],
    )
    def test_a_row_that_cannot_be_read(self, row: str, message: str) -> None:
        with pytest.raises(windbg.ParseError, match=message) as caught:
            windbg.parse(f"\n{HEADER}{row}\n")
        assert caught.value.line == 4
        assert isinstance(caught.value, ValueError)

    @pytest.mark.parametrize(
        ("golden", "replacement"),
        [
            ("( 118068) : 05.63% 07.50%", "( 118068) : 05.63 07.50%"),
            ("4352000 ( 68936) : 03.29% :", "4352000 ( 68936 : 03.29% :"),
            ("RegionUsageHeap", "RegionUsageTeb"),
        ],
    )
    def test_an_address_row_that_cannot_be_read(self, golden: str, replacement: str) -> None:
        assert golden in ADDRESSES
        log = windbg.parse(ADDRESSES.replace(golden, replacement))
        lines = ADDRESSES.splitlines()
        damaged = [n for n, line in enumerate(lines, 1) if golden in line]
        assert [each.line for each in log.unread] == damaged
        assert len(log.addresses) == 3

    @pytest.mark.parametrize("text", ["", "\n\n", "nothing here", HEADER, "0:000> !heap -s\n"])
    def test_nothing_to_read(self, text: str) -> None:
        with pytest.raises(windbg.ParseError, match="no !heap -s table") as caught:
            windbg.parse(text)
        assert caught.value.line == 0

    def test_caps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(windbg._parse, "MAX_ROWS", 10)
        rows = "00310000 00001002 1 2 3 4 5 6 7 8 L\n"
        assert len(windbg.parse(HEADER + rows * 10).heaps[0].rows) == 10
        with pytest.raises(windbg.ParseError, match="more than 10 rows"):
            windbg.parse(HEADER + rows * 11)
        monkeypatch.setattr(windbg._parse, "MAX_TABLES", 2)
        with pytest.raises(windbg.ParseError, match="more than 2 tables"):
            windbg.parse((HEADER + rows) * 3)

    def test_wrong_arguments(self) -> None:
        with pytest.raises(TypeError, match="text must be str"):
            windbg.parse(b"")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="style must be"):
            windbg.format_address_summary(windbg.parse(ADDRESSES).addresses[0], "mid")  # type: ignore[arg-type]
