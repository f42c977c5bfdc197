"""Plugins that are loaded with RTLD_DEEPBIND, on the preload library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dmi

SOURCES = Path(__file__).resolve().parent.parent / "preload"

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is no LD_PRELOAD"),
    pytest.mark.timeout(120),
]


def on_dmi(*command: str | Path, options: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LD_PRELOAD": dmi.get_preload_path(), "DMI_OPTIONS": options}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The program and its plugin."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc")
    folder = tmp_path_factory.mktemp("deepbind")
    (folder / "plugins").mkdir()

    def build(name: str, target: str, *flags: str) -> Path:
        command = [gcc, "-std=gnu11", "-O1", "-Wall", "-Wextra", f"-I{SOURCES}"]
        output = folder / target
        subprocess.run([*command, SOURCES / name, "-o", output, *flags], check=True)
        return output

    plugin = build("deepbind_plugin.c", "deep.so", "-shared", "-fPIC")
    for name in ("early.so", "plugin.so"):
        shutil.copy(plugin, folder / "plugins" / name)
    beside = "-Wl,--enable-new-dtags,-rpath,$ORIGIN/plugins"
    build("deepbind_loader.c", "libloader.so", "-shared", "-fPIC", beside, "-ldl")
    made = build("deepbind.c", "deepbind", f"-L{folder}", "-lloader", "-ldl")
    return made, plugin


def run(program: tuple[Path, Path], options: str = "") -> subprocess.CompletedProcess[str]:
    made, plugin = program
    os.environ["LD_LIBRARY_PATH"] = str(made.parent)
    try:
        return on_dmi(made, plugin, options=options)
    finally:
        del os.environ["LD_LIBRARY_PATH"]


def test_blocks_cross_the_border_and_the_caller_of_dlopen_counts(
    program: tuple[Path, Path],
) -> None:
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_flag_is_kept_where_that_is_asked_for(program: tuple[Path, Path]) -> None:
    done = run(program, "deepbind=keep")
    assert done.returncode != 0
    assert "not so: malloc_usable_size(block) >= 50" in done.stderr
    assert run(program, "deepbind=strip").returncode == 0
    done = run(program, "deepbind=off")
    assert done.returncode == 0
    assert "deepbind" not in done.stdout
    assert "unknown value 'off'; accepted: strip, keep" in done.stderr


HARDENED = [
    pytest.param(f"{policy},hardened=on", marks=pytest.mark.long) for policy in ("lazy", "eager")
]


@pytest.mark.parametrize("policy", ["lazy", "eager", *HARDENED])
def test_php_runs_with_its_extensions(policy: str) -> None:
    if shutil.which("php") is None:
        pytest.skip("no php")
    done = on_dmi("php", "-r", "echo 1;", options=f"decommit={policy}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1", "")
    code = (
        "foreach (get_loaded_extensions() as $name) $seen[strtolower($name)] = 1;"
        "$text = json_encode(range(1, 20000)); $sum = array_sum(json_decode($text));"
        "if (isset($seen['intl'])) $sum += (new Collator('de'))->compare('a', 'b');"
        "if (isset($seen['mbstring'])) $sum += mb_strlen(mb_strtoupper(str_repeat('x', 99999)));"
        "if (isset($seen['dom'])) { $d = new DOMDocument(); $d->loadXML('<a><b>1</b></a>');"
        "$sum += strlen($d->saveXML()); } echo $sum;"
    )
    plain = subprocess.run(["php", "-r", code], capture_output=True, text=True, check=True).stdout
    done = on_dmi("php", "-r", code, options=f"decommit={policy}")
    assert (done.returncode, done.stdout, done.stderr) == (0, plain, "")
