"""What was not seen is not 0: damaged, cut and rearranged texts never make a verdict milder without
saying what is missing; and what is printed for machines keeps to its schema."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dmi import windbg
from dmi.cli import main
from dmi.diagnose import Verdict, diagnose, from_files, from_log

pytestmark = pytest.mark.reads

CASES = Path(__file__).resolve().parent.parent / "golden" / "windbg"
SCHEMA = json.loads(
    (Path(windbg.__file__).parents[1] / "diagnose" / "verdict.schema.json").read_text()
)
SERIOUS = ("first-order leak", "second-order leak", "growth")


def text_of(*names: str) -> str:
    return "\n".join((CASES / name).read_text(encoding="utf-8") for name in names)


LEAKS = {
    "article": text_of("several/X-heap-before.txt", "several/X-heap-during.txt",
                       "several/X-heap-after.txt"),
    "two moments": text_of("several/Y-good.txt"),
    "segment heap": text_of("several/A-before.txt", "several/A-after.txt"),
    "32 bits": text_of("single/34-wow64-two-breaks-one-log.txt"),
    "virtual blocks": text_of("single/03-three-dumps-debugger63.txt"),
}  # fmt: skip


def said(text: str) -> Verdict | None:
    """The verdict; None where the text is refused, which claims nothing."""
    try:
        return from_log(windbg.parse(text, partial=True))
    except ValueError:
        return None


def check(text: str, why: str) -> None:
    """Nobody is told that nothing leaks, unless what is missing is said with it."""
    verdict = said(text)
    if verdict is None or verdict.kind in SERIOUS:
        return
    if verdict.kind == "none":
        assert verdict.missing, f"{why}: {verdict.headline or verdict}"
        raise AssertionError(f"{why}: no leak, although {verdict.missing}")


def rows_of(text: str) -> list[int]:
    """Numbers of the lines that hold a heap's row."""
    return [
        n
        for n, line in enumerate(text.splitlines())
        if len(line.split()) > 5 and line.split()[0].strip().isalnum()
        and len(line.split()[0]) > 7 and line.split()[1].isalnum() and line.split()[2].isdigit()
    ]  # fmt: skip


@pytest.mark.parametrize("name", LEAKS)
class TestMetamorphic:
    def test_whole(self, name: str) -> None:
        verdict = said(LEAKS[name])
        assert verdict is not None
        assert verdict.kind in SERIOUS

    def test_a_row_is_dropped(self, name: str) -> None:
        lines = LEAKS[name].splitlines()
        rows = rows_of(LEAKS[name])
        assert rows
        for n in rows:
            check("\n".join(lines[:n] + lines[n + 1 :]), f"without line {n + 1}")

    def test_a_row_is_cut(self, name: str) -> None:
        lines = LEAKS[name].splitlines()
        for n in rows_of(LEAKS[name]):
            for part in (12, 24, 36):
                check("\n".join([*lines[:n], lines[n][:part], *lines[n + 1 :]]), f"line {n + 1}")

    def test_the_text_ends_early(self, name: str) -> None:
        text = LEAKS[name]
        for end in range(40, len(text), 97):
            check(text[:end], f"cut at {end}")

    def test_lines_are_dropped(self, name: str) -> None:
        lines = LEAKS[name].splitlines()
        for n in range(len(lines)):
            check("\n".join(lines[:n] + lines[n + 1 :]), f"without line {n + 1}")

    def test_clothes_change_nothing(self, name: str) -> None:
        text = LEAKS[name]
        whole = said(text)
        assert whole is not None
        for dressed in (
            "\n".join("> " + line for line in text.splitlines()),
            "\n".join(f"{n}: {line}" for n, line in enumerate(text.splitlines(), 1)),
            text.replace("\n", "\r\n"),
            text.replace("  ", " \u00a0"),
            "<pre>" + text.replace("&", "&amp;").replace("<", "&lt;") + "</pre>",
        ):
            verdict = said(dressed)
            assert verdict is not None
            assert (verdict.kind, verdict.bytes) == (whole.kind, whole.bytes)

    def test_wrapped(self, name: str) -> None:
        whole = said(LEAKS[name])
        assert whole is not None
        for width in (50, 64, 72, 80):
            lines = [
                line[at : at + width]
                for line in LEAKS[name].splitlines()
                for at in range(0, max(1, len(line)), width)
            ]
            check("\n".join(lines), f"wrapped at {width}")

    def test_random_edits(self, name: str) -> None:
        lines = LEAKS[name].splitlines()
        rows = rows_of(LEAKS[name])
        for seed in range(60):
            chance = random.Random(seed)
            edited = list(lines)
            for n in sorted(chance.sample(rows, min(len(rows), 2)), reverse=True):
                kind = chance.randrange(3)
                if kind == 0:
                    del edited[n]
                elif kind == 1:
                    at = chance.randrange(1, len(edited[n]))
                    edited[n : n + 1] = [edited[n][:at], "", edited[n][at:]]
                else:
                    edited[n] = "Error: could not read heap"
            check("\n".join(edited), f"seed {seed}")


def test_split_over_files(tmp_path: Path) -> None:
    text = LEAKS["article"]
    parts = text.split("0:000> !heap -s")[1:]
    names = []
    for number, part in enumerate(parts):
        names.append(tmp_path / f"{number}.txt")
        names[-1].write_text("0:000> !heap -s" + part, encoding="utf-8")
    assert from_files(names).bytes == 509_936 * 1024
    whole = tmp_path / "whole.txt"
    whole.write_text(text, encoding="utf-8")
    assert from_files([whole]).bytes == 509_936 * 1024


class TestUnknownIsNotZero:
    def test_busy_that_is_not_known(self) -> None:
        before = {"busy": None, "committed": 10 << 20}
        after = {"busy": None, "committed": 500 << 20}
        verdict = diagnose(before, after)
        assert (verdict.kind, verdict.bytes) == ("growth", 490 << 20)
        assert verdict.first_order_bytes is None
        assert diagnose(before, before).kind == "none"

    def test_commit_that_is_not_known_at_the_end(self) -> None:
        known = {"heaps": [{"name": "a", "busy": 1, "committed": 500 << 20}]}
        unknown = {"heaps": [{"name": "a", "busy": 1, "committed": None}]}
        verdict = diagnose(known, unknown)
        assert (verdict.kind, verdict.bytes, verdict.finding) == ("unknown", None, False)
        assert verdict.missing
        with pytest.raises(ValueError, match="both are null"):
            diagnose({"busy": None, "committed": None}, {"busy": None, "committed": None})

    def test_usages_without_commit(self) -> None:
        text = (CASES / "single" / "36-blog-x64-usage-only.txt").read_text(encoding="utf-8")
        grown = text.replace("0`01b0b000 (  27.043 MB)", "0`41b0b000 (   1.026 GB)")
        verdict = from_log(windbg.parse(text + "\n" + grown))
        assert (verdict.kind, verdict.how, verdict.bytes) == ("growth", "at most", 1 << 30)
        assert "address space of Heap" in verdict.subject
        stacks = text.replace("0`015c0000 (  21.750 MB)", "0`415c0000 (   1.021 GB)")
        verdict = from_log(windbg.parse(text + "\n" + stacks))
        assert verdict.kind == "unknown"

    def test_a_state_table_that_lost_its_commit(self) -> None:
        text = text_of("several/X-addr-before.txt", "several/X-addr-after.txt")
        lines = [line for line in text.splitlines() if "4505d000" not in line]
        verdict = from_log(windbg.parse("\n".join(lines)))
        assert verdict.kind == "unknown"


class TestMachines:
    @staticmethod
    def valid(document: Any) -> None:
        jsonschema = pytest.importorskip("jsonschema")
        jsonschema.Draft202012Validator(SCHEMA).validate(document)

    @pytest.mark.parametrize("name", LEAKS)
    def test_schema(self, name: str) -> None:
        verdict = said(LEAKS[name])
        assert verdict is not None
        self.valid(json.loads(json.dumps(verdict.as_dict())))

    def test_schema_of_every_sample(self, capsys: pytest.CaptureFixture[str]) -> None:
        for path in sorted(CASES.glob("*/*.txt")):
            status = main(["doctor", "--json", str(path)])
            out = capsys.readouterr().out
            if out:
                document = json.loads(out)
                self.valid(document)
                assert status == {"none": 0, "unknown": 2}.get(
                    document["kind"], int(document["bytes"] is not None)
                ), path.name

    def test_the_fields_in_the_schema_are_those_of_a_verdict(self) -> None:
        assert (
            list(diagnose({"busy": 1, "committed": 1}, {"busy": 1, "committed": 1}).as_dict())
            == (SCHEMA["$defs"]["verdict"]["required"])
        )


def test_logs_are_read_and_judged_without_the_native_part() -> None:
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name in ('dmi._core', 'dmi._inspect', 'dmi._faults'):\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from dmi import windbg\n"
        "from dmi.diagnose import from_files\n"
        f"print(from_files([{str(CASES / 'several' / 'Y-good.txt')!r}]).kind)\n"
        "assert not any(name in sys.modules for name in ('dmi._core', 'dmi._inspect'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "second-order leak\n", done.stderr
