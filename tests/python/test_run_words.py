"""What `dmi run` and the preload library say of programs that dmi cannot serve."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dmi
from dmi.cli import _elf

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is no LD_PRELOAD"),
    pytest.mark.timeout(120),
]

DMI = [sys.executable, "-m", "dmi", "run", "--"]
SOURCE = '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n'


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*DMI, *(os.fspath(word) for word in words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def compiled(folder: Path, compiler: str, *flags: str) -> Path:
    found = shutil.which(compiler)
    if found is None:
        pytest.skip(f"no {compiler}")
    source = folder / "hello.c"
    source.write_text(SOURCE)
    program = folder / "hello"
    subprocess.run([found, source, "-o", program, *flags], check=True)
    return program


def test_a_program_of_musl_is_refused_in_words(tmp_path: Path) -> None:
    program = compiled(tmp_path, "musl-gcc")
    script = tmp_path / "script"
    script.write_text(f"#!{program}\n")
    script.chmod(0o755)
    for name in (program, script):
        done = run(name)
        assert done.returncode == 126
        assert f"{program} is linked with musl" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("compiler", ["gcc", "musl-gcc"])
def test_a_static_program_runs_and_is_said_to_be_one(tmp_path: Path, compiler: str) -> None:
    done = run(compiled(tmp_path, compiler, "-static"))
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert "is linked statically" in done.stderr
    assert done.stderr.count("\n") == 1


def test_others_run_without_a_word(tmp_path: Path) -> None:
    done = run(compiled(tmp_path, "gcc"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


def test_what_cannot_be_started_ends_as_in_a_shell(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("text")
    for name, status, words in (
        ("/etc/passwd", 126, "permission denied"),
        (str(tmp_path), 126, "is a directory"),
        (str(tmp_path / "none"), 127, "not found"),
        ("no-such-program-anywhere", 127, "not found"),
    ):
        done = run(name)
        assert (done.returncode, done.stderr) == (status, f"dmi run: {name}: {words}\n")


def test_damaged_programs_are_looked_at_without_a_fault(tmp_path: Path) -> None:
    whole = Path(sys.executable).resolve().read_bytes()[:8192]
    path = tmp_path / "program"
    rng = random.Random(11)
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(0, 1024)] = rng.randrange(256)
        path.write_bytes(data[: rng.choice((0, 5, 60, 64, 500, 8192))])
        found = _elf.read(str(path))
        assert found is None or found.bits in (32, 64)
    os.mkfifo(tmp_path / "pipe")
    assert _elf.read(str(tmp_path / "pipe")) is None
    assert _elf.chain(str(tmp_path / "pipe")) == [str(tmp_path / "pipe")]


@pytest.mark.parametrize("kib", [1000, 3000])
def test_a_limit_of_data_is_named(kib: int) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (kib << 10, kib << 10))

    done = subprocess.run(
        ["/bin/true"],
        env={**os.environ, "LD_PRELOAD": dmi.get_preload_path()},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "ulimit -d" in done.stderr
    assert "another malloc" not in done.stderr


RESETS = """
import signal, sys, time
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGURG):
    if number != signal.SIGURG or sys.argv[1] == "all":
        signal.signal(number, signal.SIG_DFL)
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("which", ["all", "as gunicorn"])
def test_the_safe_signal_ends_no_program_that_sets_signals_back(tmp_path: Path, which: str) -> None:
    path = tmp_path / "moment.json"
    program = subprocess.Popen(
        [sys.executable, "-c", RESETS, which],
        env={
            **os.environ,
            "LD_PRELOAD": dmi.get_preload_path(),
            "DMI_OPTIONS": f"snapshot={path}:at=SIGURG",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGURG)
    for _ in range(100):
        if path.exists() or which == "all":
            break
        time.sleep(0.05)
    assert path.exists() == (which != "all")
    program.communicate("\n", timeout=30)
    assert program.returncode == 0


def test_a_malloc_of_the_programs_own_is_not_called_before_its_main(tmp_path: Path) -> None:
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc")
    source = Path(__file__).parent.parent / "preload" / "early_malloc.c"
    program = tmp_path / "early"
    subprocess.run([gcc, "-O1", "-fno-builtin", source, "-o", program], check=True)
    done = run(program)
    assert done.returncode == 0, done.stderr
    assert "serves no allocation here" in done.stderr
