"""What is said of a process whose memory may not be read, and which right would give the rest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import dmi
from dmi.address._maps import ProcSource
from dmi.cli import main
from dmi.process import _rights

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

CHILD = (
    "import sys\nkept = [bytes(700) for _ in range(20000)]\nprint(flush=True)\nsys.stdin.read()\n"
)


@pytest.fixture
def child() -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield started.pid
        started.communicate("")


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As yama does it: mappings may be read, memory may not."""
    opened = os.open

    def refuse(path: os.PathLike[str] | str, *words: int, **names: int) -> int:
        if os.fspath(path).endswith("/mem"):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *words, **names)

    monkeypatch.setattr(os, "open", refuse)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch, unreadable: None) -> None:
    """As for another user's process: not even mappings may be read."""
    text = ProcSource._text

    def refuse(self: ProcSource, name: str) -> str:
        if name in ("maps", "smaps"):
            raise PermissionError(13, "Permission denied", name)
        return text(self, name)

    monkeypatch.setattr(ProcSource, "_text", refuse)


COMMANDS = (["heap", "-s"], ["layers"], ["address", "-summary"], ["address"], ["doctor"])


@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize("words", [*COMMANDS, ["snapshot", "--json"]], ids=" ".join)
def test_what_the_mappings_tell_is_told(
    child: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--pid", str(child)]) in (0, 1)
    said = capsys.readouterr().out
    assert "its memory may not be read" in said
    assert "kubectl debug" in said
    assert "VmRSS" in said
    if words[0] == "layers":
        assert " sum " in said
    if words[0] == "address":
        assert "MappedFile" in said


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("words", [*COMMANDS, ["snapshot", "--json"]], ids=" ".join)
def test_without_mappings_what_everybody_may_know_is_told(
    child: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*words, "--pid", str(child)])
    told = capsys.readouterr()
    said = told.out + told.err
    assert "its memory may not be read" in said
    assert "VmRSS" in said
    assert "docker run" in said


@pytest.mark.usefixtures("closed")
def test_layers_without_mappings_add_up_to_what_the_status_says(child: int) -> None:
    layers = dmi.layers(child)
    assert sum(leaf.holds or 0 for leaf in layers.leaves) == layers["3"].holds
    assert layers["3"].holds
    assert layers.holder is None
    assert layers.stuck is None


@pytest.mark.parametrize(
    ("scope", "capable", "said"),
    [
        ("1", False, "a process that started it, one that it allows (PR_SET_PTRACER), or the"),
        ("2", False, "ptrace_scope is 2: that needs the capability SYS_PTRACE"),
        ("3", False, "until the next boot"),
        ("3", True, "until the next boot"),
        ("1", True, "another user namespace or a security module"),
        ("0", False, "not dumpable"),
    ],
)
def test_the_right_that_is_missing_is_named(
    child: int,
    scope: str,
    capable: bool,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "ptrace_scope"
    file.write_text(scope)
    monkeypatch.setattr(_rights, "_YAMA", file)
    monkeypatch.setattr(_rights, "has_ptrace", lambda: capable)
    lines = _rights.without_rights(child)
    assert said in lines[0]
    # Where nobody gets the right, no way to it is shown.
    assert any("docker run" in line for line in lines) == (scope != "3")


def _unshare(*words: str) -> list[str]:
    return ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", *words]


needs_unshare = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(_unshare("true"), capture_output=True, check=False).returncode != 0,
    reason="no namespaces can be made here",
)
# The program, then dmi on it, in one set of namespaces.
INSIDE = """
import json, subprocess, sys, dmi
from dmi.cli import main
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
child.stdout.readline()
assert child.pid < 10
main(["layers", "--json", "--pid", str(child.pid)])
child.communicate("")
"""


@needs_unshare
@pytest.mark.parametrize("drop", [(), ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-all")])
def test_in_a_container_the_same_user_needs_no_more_right(drop: tuple[str, ...]) -> None:
    if drop and shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    done = subprocess.run(
        _unshare(*drop, sys.executable, "-c", INSIDE.format(child=CHILD)),
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["notes"] == []
    names = [part["name"] for layer in found["layers"] for part in layer["parts"]]
    assert any(name.startswith("pymalloc") for name in names)


# Whoever is not to be dumped belongs to nobody but root.
NOT_DUMPABLE = "import ctypes\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n" + CHILD


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_a_process_that_is_not_dumpable() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", NOT_DUMPABLE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as started:  # fmt: skip
        assert started.stdout is not None
        started.stdout.readline()
        command = [sys.executable, "-m", "dmi", "heap", "-s", "--pid", str(started.pid)]
        if os.geteuid() == 0:
            with dmi.open_process(started.pid) as process:
                assert {heap.kind for heap in process.heaps()} >= {"glibc"}
            command = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-all", *command]
        said = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60,
            cwd=Path(dmi.__file__).parents[1],
        ).stdout  # fmt: skip
        started.communicate("")
    assert "its memory may not be read" in said
    assert "SYS_PTRACE" in said
