"""How the package is put together: what imports what, what is shown, and what is stated once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dmi
from dmi import _decommit, _faults
from dmi.policy import COMBINES, HOWS, WHENS

ROOT = Path(__file__).parents[2]

# Stands before the import of dmi: as on a machine for which there is no native part.
BLOCK = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in NATIVE:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
"""
NATIVE = {f"dmi.{path.stem}" for path in (ROOT / "dmi").glob("*.pyx")}


def run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_windbg_and_diagnose_need_nothing_native(tmp_path: Path) -> None:
    table = (
        "  Heap     Flags   Reserv  Commit  Virt   Free  List   UCR  Virt  Lock  Fast \n"
        "                    (k)     (k)    (k)     (k) length      blocks cont. heap \n"
        "{line}\n"
        "00310000 00000002    {size}   {size}   {size}    100    10     1    0      0   LFH\n"
        "{line}\n"
    )
    log = tmp_path / "log.txt"
    log.write_text("\n".join(table.format(line="-" * 77, size=size) for size in (1024, 9216)))
    program = (
        f"NATIVE = {NATIVE}{BLOCK}"
        "import dmi, dmi.windbg, dmi.diagnose\n"
        "log = dmi.windbg.parse(open(sys.argv[1]).read())\n"
        "assert len(log.heaps) == 2, log\n"
        "assert dmi.diagnose.from_files([sys.argv[1]])\n"
        "try:\n    dmi.Heap\nexcept ImportError as error:\n    print(error)\n"
        "from dmi.cli import main\n"
        "assert main(['heap', '--columns']) == 0 and main(['doctor', sys.argv[1]]) in (0, 1, 3)\n"
    )
    assert "is blocked" in run(program, str(log))


@pytest.mark.parametrize("arguments", [["heap", "--help"], ["heap", "--columns"]])
def test_a_command_imports_what_it_needs(arguments: list[str]) -> None:
    program = (
        "import sys, json\nfrom dmi.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps([name for name in sys.modules if name.startswith('dmi.')]))\n"
    )
    loaded = set(json.loads(run(program, *arguments).splitlines()[-1]))
    assert not loaded & NATIVE
    assert not {name for name in loaded if name.startswith("dmi.cli.") and name[8] != "_"} - {
        "dmi.cli.heap"
    }


def test_importing_dmi_alone_is_cheap() -> None:
    loaded = run("import sys, dmi; print(*[m for m in sys.modules if m.startswith('dmi.')])")
    assert set(loaded.split()) == {"dmi._version", "dmi.errors"}


def test_every_name_that_is_promised_is_there() -> None:
    assert [name for name in dmi.__all__ if getattr(dmi, name, None) is None] == []
    assert set(dmi.__all__) <= set(dir(dmi))
    assert not hasattr(dmi, "no_such_name")


def test_a_heap_shows_what_users_may_call_and_nothing_else() -> None:
    shown = {name for name in dir(dmi.Heap) if not name.startswith("_")}
    assert shown == {
        "advance",
        "threads",
        "alloc",
        "blocks_since",
        "calloc",
        "check",
        "clock",
        "closed",
        "decommit",
        "destroy",
        "empty",
        "explain",
        "free",
        "from_handle",
        "guard",
        "hand_over",
        "handle",
        "hardened",
        "histogram",
        "holders",
        "huge_pages",
        "huge_split",
        "is_default",
        "lfh",
        "malloc",
        "mark",
        "max_size",
        "name",
        "pins",
        "ranges",
        "realloc",
        "row",
        "segments",
        "stats",
        "summary",
        "take_over",
        "thread_safe",
        "time",
        "trim",
        "usable_size",
        "validate",
        "walk",
        "walk_array",
        "zeros",
    }
    assert all(getattr(dmi.Heap, name).__doc__ for name in shown)


def test_a_policy_is_read_once_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    parse = _decommit.policy_parse

    def counted(text: str) -> object:
        read.append(text)
        return parse(text)

    monkeypatch.setattr(_decommit, "policy_parse", counted)
    with dmi.Heap("lazy:delay=0.5") as heap:
        assert read == ["lazy:delay=0.5"]
        assert heap.decommit == dmi.Decommit("lazy", delay=0.5)
        assert read == ["lazy:delay=0.5", "lazy:delay=0.5"]  # the second by Decommit() above
        heap.decommit = "decay"
        assert str(heap.decommit) == "decay"
        assert read[2:] == ["decay"]


def test_faults_have_the_same_words_in_c_and_python() -> None:
    header = (Path(dmi.get_include()) / "dmi" / "dmi.h").read_text()
    for number, (word, sentence) in _faults.FAULTS.items():
        assert f'"{word}", "{sentence}"' in header
        assert number in range(1, 8)
    assert len(_faults.FAULTS) == 7
    with (
        dmi.Heap() as heap,
        pytest.raises(dmi.HeapError, match="no heap owns this address") as raised,
    ):
        heap.free(4096)
    assert raised.value.fault == "foreign"


@pytest.mark.skipif(not (ROOT / "tools" / "generate.py").exists(), reason="not a source tree")
def test_lists_that_follow_from_the_tables_are_up_to_date() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "generate.py", "--check"], check=True)


@pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="not a source tree")
def test_files_that_comments_and_docs_name_are_there() -> None:
    there = {path.name for path in ROOT.rglob("*.[ch]") if ".venv" not in path.parts}
    texts = [*(ROOT / "csrc").rglob("*.[ch]"), ROOT / "csrc" / "README.md"]
    texts += [ROOT / "docs" / name for name in ("architecture.md", "tuning.md", "vocabulary.md")]
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in texts
        for line in path.read_text().splitlines()
        if "#include <" not in line
        for name in re.findall(r"\b([a-z_0-9]+\.[ch])\b", line)
        if name not in there
    ]
    assert missing == []


def test_policies_have_the_names_and_numbers_that_c_gives_them() -> None:
    for number, name in enumerate(WHENS):
        fields = dmi.Decommit().native()._replace(when=number)
        assert _decommit.policy_format(fields).partition(":")[0] == name
        assert _decommit.policy_parse(name).when == number
    with pytest.raises(ValueError, match="no such policy"):
        _decommit.policy_format(dmi.Decommit().native()._replace(when=len(WHENS)))
    for how in HOWS[1:]:
        assert HOWS[_decommit.policy_parse(f"lazy:how={how}").how] == how
    for combine in COMBINES:
        assert COMBINES[_decommit.policy_parse(f"threshold:combine={combine}").combine] == combine
