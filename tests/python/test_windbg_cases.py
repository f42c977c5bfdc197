"""WinDbg text as people posted it: each file has its line in the golden table, and the figures that
are known to be right are asked for one by one."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dmi import windbg
from dmi.cli import main
from dmi.diagnose import DifferentProcessError, UnclearError, from_files, from_log
from dmi.diagnose._files import what_was_read

pytestmark = pytest.mark.reads

CASES = Path(__file__).resolve().parent.parent / "golden" / "windbg"
KIB = 1024


def _golden() -> Any:
    spec = importlib.util.spec_from_file_location("golden", CASES / "golden.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GOLDEN = _golden()
ROWS = (CASES / "verdicts.md").read_text(encoding="utf-8").splitlines()[2:]


def several(*names: str) -> list[Path]:
    return [CASES / "several" / f"{name}.txt" for name in names]


def single(start: str) -> Path:
    (path,) = (CASES / "single").glob(f"{start}-*.txt")
    return path


@pytest.mark.parametrize(
    ("number", "name", "files"),
    [(n, *case) for n, case in enumerate(GOLDEN.cases())],
    ids=[name for name, _ in GOLDEN.cases()],
)
def test_golden_table(number: int, name: str, files: list[str]) -> None:
    assert GOLDEN.row(name, files) == ROWS[number]


def test_the_table_has_every_file() -> None:
    named = {file for _, files in GOLDEN.cases() for file in files}
    there = {f"{path.parent.name}/{path.name}" for path in CASES.glob("*/*.txt")}
    assert named == there
    assert len(ROWS) == len(GOLDEN.cases())


class TestSeveral:
    def test_the_article_in_six_files_in_any_order(self) -> None:
        names = ("X-heap-before", "X-addr-before", "X-heap-during", "X-addr-during",
                 "X-heap-after", "X-addr-after")  # fmt: skip
        for order in itertools.islice(itertools.permutations(names), 0, None, 29):
            verdict = from_files(several(*order))
            assert verdict.kind == "second-order leak"
            assert (verdict.bytes, verdict.handle) == (509_936 * KIB, 0x310000)
            assert verdict.busy == (252_129 * KIB, 856_102 * KIB, 249_966 * KIB)
            assert "all but 68 KB of it in this heap" in verdict.evidence[0]

    def test_a_plus_sign_joins(self) -> None:
        pairs = [f"{CASES}/several/X-heap-{m}.txt+{CASES}/several/X-addr-{m}.txt"
                 for m in ("before", "during", "after")]  # fmt: skip
        assert from_files(pairs).bytes == 509_936 * KIB
        with pytest.raises(ValueError, match="both hold heaps"):
            from_files([pairs[0].replace("addr", "heap")])

    def test_open_which_files_belong_together(self, tmp_path: Path) -> None:
        names = []
        for number, name in enumerate(("heap-before", "addr-before", "heap-after", "addr-after")):
            path = tmp_path / f"{'qxzw'[number]}.txt"
            path.write_bytes((CASES / "several" / f"X-{name}.txt").read_bytes())
            names.append(path)
        with pytest.raises(UnclearError, match=r"plus sign: .*\+"):
            from_files(names)

    @pytest.mark.parametrize("word", ["prompt", "key"])
    def test_a_prompt_or_a_key_joins(self, tmp_path: Path, word: str) -> None:
        files = []
        for number, name in enumerate(("heap-before", "addr-before", "addr-after", "heap-after")):
            text = (CASES / "several" / f"X-{name}.txt").read_text("utf-8", "replace")
            thread = 4 if "before" in name else 7
            body = "\n".join(
                line
                for line in text.splitlines()
                if not re.match(r"\d+:\d+>|LFH Key|.*\.echo", line)
            )
            first = (
                f"0:{thread:03}> !{name.split('-')[0]}"
                if word == "prompt"
                else f"LFH Key : 0x{thread}abc"
            )
            path = tmp_path / f"{'qxzw'[number]}.txt"
            path.write_text(f"{first}\n{body}\n")
            files.append(path)
        before = from_files([files[1], files[0]])
        assert before.kind == "one moment"
        if word == "prompt":  # keys differ: two processes
            verdict = from_files([files[0], files[1], files[3], files[2]])
            assert len(verdict.moments) == 2
            assert len([note for note in verdict.notes if "taken as one moment" in note]) == 2

    def test_a_segment_heap(self) -> None:
        verdict = from_files(several("A-before", "A-after"))
        assert (verdict.kind, verdict.bytes) == ("growth", 1_984_796 * KIB)
        assert verdict.busy == (None, None)
        assert verdict.causes[0].kind == "busy unknown"

    def test_two_processes(self, capsys: pytest.CaptureFixture[str]) -> None:
        files = [str(path) for path in several("D-run1", "D-run2")]
        with pytest.raises(DifferentProcessError, match="LFH keys differ"):
            from_files(files)
        assert main(["doctor", *files]) == 2
        assert "--across" in capsys.readouterr().err
        assert main(["doctor", "--across", *files]) == 0
        assert "not of one process" in capsys.readouterr().out

    def test_the_same_moment_twice(self) -> None:
        verdict = from_files(several("K-twice"))
        assert verdict.kind == "one moment"
        assert "same moment 2 times" in verdict.notes[0]

    def test_titles_that_were_echoed(self) -> None:
        assert from_files(several("E-echo-win10")).moments == ("Before peak", "After peak")

    def test_half_of_a_moment(self) -> None:
        verdict = from_files(several("Y-1heap-2addr"))
        assert (verdict.kind, verdict.bytes) == ("growth", 510_004 * KIB)
        assert any("no `!heap -s` table" in line for line in verdict.missing)
        verdict = from_files(several("Y-2heap-1addr"))
        assert (verdict.kind, verdict.bytes) == ("second-order leak", 509_936 * KIB)
        assert any("no `!address -summary`" in line for line in verdict.missing)

    def test_a_row_that_cannot_be_read(self) -> None:
        verdict = from_files(several("Z2-before", "Z3-after-errorline"))
        assert verdict.kind == "unknown"
        assert any("line 6" in line for line in verdict.missing)
        assert any("heap 00310000 (512,712 KB" in line for line in verdict.missing)
        assert "No leak" not in str(verdict)


class TestSingle:
    def test_virtual_blocks_lie_outside_commit(self) -> None:
        verdict = from_files([single("03")])
        assert (verdict.kind, verdict.handle) == ("growth", 0x33F0000)
        assert "(11 -> 43)" in verdict.causes[0].text
        assert (verdict.bytes, verdict.how) == (32 * 508 * KIB, "at least")
        assert any("set aside" in note for note in verdict.notes)

    def test_bad_is_no_number(self) -> None:
        (table,) = windbg.read(single("01")).heaps
        assert [r.lock_contention for r in table.rows[7:12]] == [None] * 5
        assert len(table.rows) == 13

    def test_which_size_grew(self) -> None:
        verdict = from_files([single("34")])
        assert verdict.bytes == 5_812 * KIB
        assert "97.61 %" in verdict.causes[1].text
        assert "400 bytes" in verdict.causes[1].text

    def test_umdh(self) -> None:
        verdict = from_files([single("31")])
        assert (verdict.kind, verdict.bytes) == ("growth", 0x5320)
        assert "MyApp!LeakyFunc" in str(verdict)

    def test_no_false_disagreement(self) -> None:
        for path in (*CASES.glob("single/*.txt"), *CASES.glob("several/*.txt")):
            log = windbg.parse(windbg.decode(path.read_bytes()), partial=True)
            assert [t.disagreements() for t in log.heaps if t.disagreements()] == [], path.name
            if path.name.startswith(("43", "14")):  # made up, and rows left out
                continue
            assert [a.disagreements() for a in log.addresses if a.disagreements()] == [], path.name

    def test_true_disagreements_are_shown(self) -> None:
        text = single("22").read_text(encoding="utf-8")
        table = windbg.parse(text.replace("58 % (42", "61 % (42")).heaps[0]
        assert len(table.disagreements()) == 2
        (summary,) = windbg.read(single("43")).addresses
        assert any("MEM_COMMIT + MEM_RESERVE" in line for line in summary.disagreements())


WHOLE = [path for path in sorted((CASES / "dressed").glob("*.txt"))
         if path.name[:2] not in ("12", "24", "28", "29")]  # fmt: skip


class TestDressed:
    @pytest.mark.parametrize("path", WHOLE, ids=[path.stem for path in WHOLE])
    def test_growth_of_one_heap(self, path: Path) -> None:
        verdict = from_files([path])
        assert (verdict.kind, verdict.handle, verdict.bytes) == ("growth", 0x39D0000, 5_812 * KIB)
        assert verdict.busy == (3_546 * KIB, 9_358 * KIB)

    def test_a_row_cut_in_the_middle(self) -> None:
        verdict = from_files([next((CASES / "dressed").glob("12-*"))])
        assert verdict.kind == "unknown"
        assert "line 46" in verdict.missing[0]

    @pytest.mark.parametrize("start", ["24", "28", "29"])
    def test_summaries(self, start: str) -> None:
        path = next((CASES / "dressed").glob(f"{start}-*"))
        (summary,) = windbg.read(path).addresses
        assert summary.disagreements() == ()
        assert from_files([path]).kind == "one moment"


class TestMore:
    """Clothes that no file of the folder wears."""

    TEXT = single("34").read_text(encoding="utf-8")

    def check(self, text: str) -> None:
        verdict = from_log(windbg.parse(text))
        assert (verdict.kind, verdict.handle, verdict.bytes) == ("growth", 0x39D0000, 5_812 * KIB)

    def test_markdown_table(self) -> None:
        rows = [
            "| " + " | ".join(line.split()) + " |"
            if line[:8].strip() and line[8:10] == " 0" and len(line.split()) > 9
            else line
            for line in self.TEXT.splitlines()
        ]
        assert sum(row.startswith("|") for row in rows) == 6
        self.check("\n".join(rows))

    @pytest.mark.parametrize("gap", ["", "\n"])
    def test_html_table(self, gap: str) -> None:
        def cells(line: str) -> str:
            return f"<tr>{gap}" + "".join(f"<td>{c}</td>{gap}" for c in line.split()) + "</tr>"

        rows = [
            cells(line) if len(line.split()) > 9 and line[8:10] == " 0" else line
            for line in self.TEXT.replace("<", "&lt;").splitlines()
        ]
        self.check("<table>" + "\n".join(rows) + "</table>")

    @pytest.mark.parametrize("width", [40, 60, 72, 76])
    def test_wrapped_anywhere(self, width: int) -> None:
        lines = []
        for line in self.TEXT.splitlines():
            lines += [line[at : at + width] for at in range(0, max(1, len(line)), width)]
        self.check("\n".join(lines))

    @pytest.mark.parametrize(
        "front", ["> ", ">> ", "> > ", "12:00:01 ", "[2026-01-02 03:04:05.678] ", "  ", "\t", "// "]
    )
    def test_in_front_of_each_line(self, front: str) -> None:
        self.check("\n".join(front + line for line in self.TEXT.splitlines()))

    @pytest.mark.parametrize("form", ["{}: {}", "{:5d}  {}", "{}| {}", "{}\t{}"])
    def test_line_numbers(self, form: str) -> None:
        lines = enumerate(self.TEXT.splitlines(), 1)
        self.check("\n".join(form.format(number, line) for number, line in lines))

    @pytest.mark.parametrize("coding", ["utf-16-be", "utf-16", "utf-32", "utf-8-sig", "latin-1"])
    def test_encodings(self, coding: str) -> None:
        self.check(windbg.decode(self.TEXT.encode(coding)))

    @pytest.mark.parametrize("handle", ["0x{}", "00000000`{}", "00000000{}", "0x00000000`{}"])
    def test_handles(self, handle: str) -> None:
        text = self.TEXT
        for number in ("039d0000", "05680000", "057a0000"):
            text = text.replace(f"\n{number} 0", f"\n{handle.format(number)} 0")
        self.check(text)

    @pytest.mark.parametrize(
        "prompt", ["0:004:x86>", "||0:0:004>", "1: kd>", "lkd>", "0: kd:x86>", ">", "-0:004>"]
    )
    def test_prompts(self, prompt: str) -> None:
        self.check(self.TEXT.replace("0:004>", prompt).replace("0:006>", prompt))

    def test_pipes(self, capsys: pytest.CaptureFixture[str]) -> None:
        command = [sys.executable, "-m", "dmi", "doctor", "--json", "-"]
        done = subprocess.run(
            command, input=self.TEXT.encode(), capture_output=True, check=False, timeout=60
        )
        assert (done.returncode, json.loads(done.stdout)["bytes"]) == (1, 5_812 * KIB)
        assert main(["doctor", "--what-was-read", str(single("34"))]) == 0
        out = capsys.readouterr().out
        assert "line 19: !heap -s, 3 rows" in out
        assert "!heap -stat of 039d0000, 4 rows" in out

    def test_the_list_of_regions(self) -> None:
        text = """0:000> !address

        BaseAddress      EndAddress+1        RegionSize     Type       State                 Protect             Usage
--------------------------------------------------------------------------------------------------------------------------
+        0`00000000        0`00010000        0`00010000             MEM_FREE    PAGE_NOACCESS                      Free
+        0`00010000        0`00020000        0`00010000 MEM_MAPPED  MEM_COMMIT  PAGE_READWRITE                     Heap       [ID: 1; Handle: 00010000; Type: Segment]
+        0`00020000        0`00030000        0`00010000 MEM_PRIVATE MEM_RESERVE                                    Stack      [~0; 1f4.1f8]
         0`00030000        0`00040000        0`00010000 MEM_PRIVATE MEM_COMMIT  PAGE_READWRITE | PAGE_GUARD        Stack      [~0; 1f4.1f8]
         0`00040000        0`00100000        0`000c0000 MEM_IMAGE   MEM_COMMIT  PAGE_EXECUTE_READ                  Image      [ntdll; "C:\\ntdll.dll"]
"""  # noqa: E501
        (summary,) = windbg.parse(text).addresses
        assert summary.usage == {"Free": 0x10000, "Heap": 0x10000, "Stack": 0x20000,
                                 "Image": 0xC0000}  # fmt: skip
        assert summary.committed == 0xE0000
        assert summary.total == 0x100000
        assert summary.disagreements() == ()

    def test_the_list_of_regions_as_debuggers_before_6_10_told_it(self) -> None:
        free = f"{'':20}Type     00000000\n{'':20}Protect  00000001 PAGE_NOACCESS"
        text = f"""0:000> !address
  00000000 : 00000000 - 00010000
{free}
                    State    00010000 MEM_FREE
                    Usage    RegionUsageFree
  00010000 : 00010000 - 00001000
                    Type     00020000 MEM_PRIVATE
                    Protect  00000004 PAGE_READWRITE
                    State    00001000 MEM_COMMIT
                    Usage    RegionUsageEnvironmentBlock
  00030000 : 00030000 - 000fd000
                    Type     00020000 MEM_PRIVATE
                    State    00002000 MEM_RESERVE
                    Usage    RegionUsageStack
                    Pid.Tid  d0c.9b8
  00030000 : 0012d000 - 00003000
                    Type     00020000 MEM_PRIVATE
                    Protect  00000004 PAGE_READWRITE
                    State    00001000 MEM_COMMIT
                    Usage    RegionUsageStack
                    Pid.Tid  d0c.9b8
  01000000 : 01000000 - 00001000
                    Type     01000000 MEM_IMAGE
                    Protect  00000002 PAGE_READONLY
                    State    00001000 MEM_COMMIT
                    Usage    RegionUsageImage
                    FullPath C:\\WINDOWS\\notepad.exe
"""
        log = windbg.parse(text)
        (summary,) = log.addresses
        assert summary.usage == {"Free": 0x10000, "EnvironmentBlock": 0x1000, "Stack": 0x100000,
                                 "Image": 0x1000}  # fmt: skip
        assert summary.committed == 0x5000
        assert summary.type["MEM_PRIVATE"] == 0x101000
        assert summary.counts["usage"]["Stack"] == 2
        assert not log.unread
        # Of a block that was cut off the line is named; what it would have added is not 0.
        log = windbg.parse(text.replace("State    00002000 MEM_RESERVE", "..."))
        assert [(each.line, each.why) for each in log.unread] == [(12, "no region of the list")]
        # One region is the answer to a question, not a list.
        one = "\n".join(text.splitlines()[6:11])
        with pytest.raises(windbg.ParseError):
            windbg.parse(one)

    def test_what_was_read_names_lines(self) -> None:
        found = what_was_read(single("41"))
        assert [each["line"] for each in found["unread"]] == [18]
        assert found["moments"][0]["scope"]["lfh_key"] == 0x3F35BC5AC7BA9927
