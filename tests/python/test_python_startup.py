"""python -m dmi.python, dmi python enable, and what dmi run says of -I and -E."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import dmi
from dmi.cli import run as command
from dmi.python import startup

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="install() is for Linux")

SHOW = "import json, sys, dmi; print(json.dumps([__name__, sys.argv, sys.path[0], \
dmi.python.is_installed()]))"


def shown(*arguments: str, cwd: Path) -> list[object]:
    done = subprocess.run(
        [sys.executable, "-m", "dmi.python", *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(dmi.__file__).parent.parent)},
    )
    found: list[object] = json.loads(done.stdout)
    return found


def test_a_script_a_module_and_a_text_run_as_python_runs_them(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SHOW)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "__main__.py").write_text(SHOW)
    script = str(tmp_path / "script.py")
    assert shown(script, "-m", "x", cwd=folder) == [
        "__main__",
        [script, "-m", "x"],
        str(tmp_path),
        True,
    ]
    name, argv, first, there = shown("-m", "script", "a", cwd=tmp_path)
    assert (name, first, there) == ("__main__", str(tmp_path), True)
    assert argv == [script, "a"]
    assert shown("-c", SHOW, "--usage", cwd=tmp_path) == ["__main__", ["-c", "--usage"], "", True]
    assert shown("--decommit", "never", str(folder), cwd=tmp_path)[3] is True


def test_its_exit_status_and_its_traceback_are_the_programs(tmp_path: Path) -> None:
    for text, status in (("import sys; sys.exit(7)", 7), ("1 / 0", 1)):
        done = subprocess.run(
            [sys.executable, "-m", "dmi.python", "--usage", "-c", text],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status
        assert "outside" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "SCRIPT, -m MODULE or -c CODE is needed"),
        (["/nowhere/script.py"], "there is none"),
        (["--decommit", "often", "-c", "0"], "decommit"),
    ],
)
def test_wrong_use_is_named(arguments: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dmi.python", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr


def test_a_virtual_environment_starts_with_its_objects_on_dmi(tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    folder = str(Path(dmi.__file__).parent.parent)
    site = next(home.glob("lib/python*/site-packages"))
    # What pip would have done, and what dmi needs.
    paths = {folder, *(str(Path(m.__file__ or "").parent.parent) for m in (pytest,))}
    (site / "a-dmi.pth").write_text("\n".join(paths))

    def run(*arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [python, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DMI_"))}
            | environment,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout.strip()

    ask = "import dmi; print(dmi.python.is_installed())"
    loaded = "import sys; print('dmi' in sys.modules, 'dmi.python._hook' in sys.modules)"
    assert run("-c", ask) == "False"
    told = json.loads(run("-m", "dmi", "python", "enable", "--json"))
    assert told["enabled"] is True
    assert Path(told["file"]) == site / startup.FILE
    assert run("-c", ask) == run("-I", "-c", ask) == "True"
    assert run("-c", loaded) == "False True"
    assert run("-c", ask, DMI_PYTHON="0") == "False"
    both = "import dmi; dmi.python.install(); dmi.python.install(domains=['obj']); "
    use = "h = dmi.python.heap('x'); h.__enter__(); print(dmi.python.usage()[0].count > 1000)"
    assert run("-c", both + use) == "True"
    assert "enabled" in run("-m", "dmi", "python")
    for value, there in (
        *(("malloc", False), ("malloc_debug", False), ("pymalloc", False), ("", True)),
        *(("debug", True), ("default", True)),
    ):
        assert run("-c", ask, PYTHONMALLOC=value) == str(there), value
        # Which Python ignores, so that nobody gets what it names.
        assert run("-I", "-c", ask, PYTHONMALLOC=value) == "True"
        assert run("-c", ask, PYTHONMALLOC=value, DMI_PYTHON="1") == "True", value
    assert run("-X", "dev", "-W", "error", "-c", ask) == "True"
    assert run("-X", "dev", "-W", "error", "-c", "print()", DMI_PYTHON="0") == ""
    assert run("-c", ask, PYTHONMALLOC="malloc", LD_PRELOAD=dmi.get_preload_path()) == "True"
    assert run("-c", ask, PYTHONMALLOC="pymalloc", LD_PRELOAD=dmi.get_preload_path()) == "False"
    assert "PYTHONMALLOC=malloc is set here" in run("-m", "dmi", "python", PYTHONMALLOC="malloc")
    # Without dmi the line says nothing.
    text = (site / startup.FILE).read_text()
    (site / startup.FILE).write_text(text.replace("_start.py", "gone.py"))
    assert run("-c", loaded) == "False False"
    assert "disabled" in run("-m", "dmi", "python", "disable")
    assert "disabled" in run("-m", "dmi", "python", "disable")
    assert run("-c", ask) == "False"
    assert not (site / startup.FILE).exists()


def test_the_systems_own_python_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    with pytest.raises(dmi.python.InstallError, match="not a virtual environment"):
        startup.enable()


@pytest.mark.parametrize(
    ("program", "arguments", "option"),
    [
        ("python3", ["-I", "x.py"], "-I"),
        ("python3.11", ["-sE", "-c", "0"], "-E"),
        ("python", ["-X", "dev", "-I"], "-I"),
        ("python", ["-Xdev", "-W", "error", "-BI", "-m", "x"], "-I"),
        ("python", ["-c", "-I"], None),
        ("python", ["-m", "x", "-E"], None),
        ("python", ["-W", "-I", "x.py"], None),
        ("python", ["x.py", "-I"], None),
        ("python", ["-"], None),
    ],
)
def test_run_sees_what_makes_python_ignore_its_environment(
    program: str, arguments: list[str], option: str | None
) -> None:
    assert command.ignores_environment(program, arguments) == option


def test_run_sees_it_in_the_first_line_of_a_script(tmp_path: Path) -> None:
    script = tmp_path / "tool"
    for first, option in (
        ("#!/usr/bin/python3 -I", "-I"),
        ("#!/usr/bin/env -S python3 -E", "-E"),
        ("#!/usr/bin/python3", None),
    ):
        script.write_text(first + "\nprint(1)\n")
        assert command.ignores_environment(str(script), ["-I"]) == option


def test_run_says_it_and_offers_install() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dmi", "run", "--", sys.executable, "-I", "-c", "0"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "-I makes Python ignore PYTHONMALLOC" in done.stderr
    assert "dmi.python.install()" in done.stderr
