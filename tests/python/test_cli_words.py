"""The command line as a whole: its list, its manual pages, what shells complete."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dmi import cli
from dmi.cli import main
from dmi.cli._words import all_commands
from dmi.trace import Record, check, pack, save
from dmi.trace.format import OP_ALLOC, OP_FREE, OP_TIME

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.reads

COMMANDS = cli.names()


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program}")
    return found


def test_without_a_command_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    lines = capsys.readouterr().err.splitlines()
    first = {line.split()[0] for line in lines if line.startswith("    ") and line.split()}
    assert first >= set(COMMANDS)


def test_words_are_those_of_the_parsers() -> None:
    found = {command.name: command for command in all_commands()}
    assert sorted(found) == COMMANDS
    options = {name: option for option in found["run"].options for name in option.names}
    assert "SIGURG" in options["--at"].choices
    assert options["--at"].repeats
    assert options["--snapshot"].value == "FILE"
    assert [place.value for place in found["run"].places] == ["PROGRAM", "ARGUMENT"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_read_its_completion(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program = need(shell)
    path = tmp_path / "dmi"
    path.write_text(printed(capsys, "completion", shell))
    done = subprocess.run([program, "-n", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def in_bash(text: str, *words: str) -> list[str]:
    """What bash offers behind these words."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"{text}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _dmi\n"
    script += "printf '%s\\n' \"${COMPREPLY[@]}\""
    command = [need("bash"), "--norc", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_bash_completes(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "completion", "bash")
    assert in_bash(text, "dmi", "sw") == ["sweep"]
    assert set(in_bash(text, "dmi", "")) >= set(COMMANDS)
    assert "--policies" in in_bash(text, "dmi", "sweep", "--")
    assert in_bash(text, "dmi", "run", "--at", "SIGU") == ["SIGUSR1", "SIGUSR2", "SIGURG"]
    assert set(in_bash(text, "dmi", "completion", "")) >= {"bash", "fish", "zsh"}
    assert "--policies" not in in_bash(text, "dmi", "run", "--", "--")


ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1=; cd %s; autoload -Uz compinit; %s; print re''ady'
zpty -r shell seen '*ready*'
zpty -w -n shell $'dmi rep\t\t'
zpty -r shell seen '*replay a recording*'
zpty -d shell
print -r -- completed
"""


@pytest.mark.parametrize(
    "loaded", ["fpath=($PWD $fpath); compinit -u -D", "compinit -u -D; source ./_dmi"]
)
def test_zsh_completes(loaded: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    zsh = need("zsh")
    (tmp_path / "_dmi").write_text(printed(capsys, "completion", "zsh"))
    script = ZSH % (tmp_path, loaded)
    done = subprocess.run(
        [zsh, "-f", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert "completed" in done.stdout, done.stderr


def test_fish_completes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fish = need("fish")
    (tmp_path / "dmi.fish").write_text(printed(capsys, "completion", "fish"))
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}

    def offered(line: str) -> set[str]:
        script = f"source {tmp_path}/dmi.fish; complete -C '{line}'"
        command = [fish, "--no-config", "-c", script]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
        )
        return {found.split("\t")[0] for found in done.stdout.splitlines()}

    assert "sweep" in offered("dmi sw")
    assert "--policies" in offered("dmi sweep --")
    assert {"SIGUSR2", "SIGURG"} <= offered("dmi run --at SIGU")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_page_is_good_roff(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "man", *([command] if command else []))
    assert text.startswith(f".TH DMI{'-' if command else ''}{command.upper()} 1")
    groff = need("groff")
    done = subprocess.run(
        [groff, "-man", "-Tutf8", "-ww", "-P-cbou"],
        input=text, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    for word in ("NAME", "SYNOPSIS", "EXIT STATUS"):
        assert f"\n{word}\n" in "\n" + done.stdout
    for option in next((c.options for c in all_commands() if c.name == command), ()):
        assert option.names[0] in done.stdout


def test_all_pages_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "man", "--to", str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {
        "dmi.1", *(f"dmi-{name}.1" for name in COMMANDS)
    }  # fmt: skip
    assert main(["man", "nothing"]) == 2
    assert "'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["30", "200"])
def test_help_fits_narrow_terminals(columns: str) -> None:
    for command in ([], ["replay"], ["run"]):
        done = subprocess.run(
            [sys.executable, "-m", "dmi", *command, "--help"],
            env={**os.environ, "COLUMNS": columns}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.startswith("usage: dmi")


def test_trace_tells_and_converts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [Record(OP_ALLOC, 0, 0, 0, 100), Record(OP_TIME, 0, 0, 0, 2_000_000)]
    records.append(Record(OP_FREE, 0, 0, 0, 0))
    source, dest = tmp_path / "one", tmp_path / "two"
    save(check(pack(records), objects=1), source)
    text = printed(capsys, "trace", str(source))
    assert f"{source}: 2 events, 2.0 s\n" in text
    facts = json.loads(printed(capsys, "trace", str(source), str(dest), "--json"))
    assert facts["peak_bytes"] == 100
    assert facts["written"] == {"file": str(dest), "bytes": dest.stat().st_size}
    assert dest.read_bytes() == source.read_bytes()
    for words in (["trace", str(tmp_path / "none")], ["trace", str(source), str(tmp_path)]):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1
