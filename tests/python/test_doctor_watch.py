"""`dmi doctor --pid N --every TIME --for TIME`: moments taken in turn, the verdict as it forms."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dmi.cli import main
from dmi.diagnose._watch import _digest, parse_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

if not sys.platform.startswith("linux"):
    pytest.skip("processes are watched through /proc", allow_module_level=True)

GROWS = """
import ctypes, sys, time
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
print("ready", flush=True)
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    for _ in range(40):
        ctypes.memset(libc.malloc(50_000), 1, 50_000)
    time.sleep(0.02)
"""
BECOMES = """
import os, sys, time
print("ready", flush=True)
kept = bytearray(30 << 20)
sys.stdin.readline()
os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"])
"""


def start(code: str, *words: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@contextmanager
def growing() -> Iterator[subprocess.Popen[bytes]]:
    process = start(GROWS, "600")
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def watch(pid: int, every: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dmi", "doctor", "--pid", str(pid), "--every", every]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def doctor(pid: int, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dmi", "doctor", "--pid", str(pid), *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30.0), ("10m", 600.0), ("1h30m", 5400.0), ("0.5", 0.5), ("2d", 172800.0)],
)
def test_times_are_written_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "soon", "1h30", "30s ", "1e9", "9999d", "nan"])
def test_other_times_are_refused(text: str) -> None:
    if text == "1h30":
        assert parse_seconds(text) == 3630.0
        return
    with pytest.raises(ValueError, match="a time as"):
        parse_seconds(text)


def test_growth_is_seen_as_it_forms_and_reported_at_the_end() -> None:
    with growing() as process, watch(process.pid, "0.5") as watcher:
        try:
            assert watcher.stdout is not None
            taken: list[str] = []
            while not taken or "Growth" not in taken[-1]:
                line = watcher.stdout.readline()
                assert line, taken
                if line.startswith("+0:"):
                    taken.append(line)
            watcher.send_signal(signal.SIGINT)
            report, _ = watcher.communicate(timeout=60)
        finally:
            watcher.kill()
    assert len(taken) >= 2
    assert watcher.returncode == 1
    assert "Growth in" in report
    assert "glibc" in report


def test_it_ends_after_the_time_that_was_asked_for() -> None:
    with growing() as process:
        done = doctor(process.pid, "--every", "0.5s", "--for", "1s")
    assert done.stdout.startswith("+0:00:00"), done.stderr
    assert "\n\n" in done.stdout
    assert done.returncode in (0, 1)


def test_the_end_of_the_process_ends_the_watch_with_a_report() -> None:
    with growing() as process:
        words = ("--pid", str(process.pid), "--every", "0.5", "--json")
        with subprocess.Popen(
            [sys.executable, "-m", "dmi", "doctor", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as watcher:
            assert watcher.stderr is not None
            try:
                said = watcher.stderr.readline()
                while said.count("+0:0") < 2:
                    line = watcher.stderr.readline()
                    assert line, said
                    said += line
                process.kill()
                process.wait()
                answer, rest = watcher.communicate(timeout=60)
            finally:
                watcher.kill()
    assert answer, said + rest
    verdict = json.loads(answer)
    assert len(verdict["moments"]) >= 2
    assert any("ended" in note for note in verdict["notes"])
    assert said.startswith("+0:00:00")


def test_ctrl_c_ends_it_with_a_report() -> None:
    with growing() as process, watch(process.pid, "1") as watcher:
        try:
            assert watcher.stdout is not None
            watcher.stdout.readline()
            watcher.stdout.readline()
            watcher.send_signal(signal.SIGINT)
            rest, _ = watcher.communicate(timeout=60)
        finally:
            watcher.kill()
    assert "interrupted at" in rest
    assert "Read" in rest
    assert watcher.returncode in (0, 1)


def test_another_program_in_the_same_process_begins_anew() -> None:
    with (
        subprocess.Popen(
            [sys.executable, "-c", BECOMES], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
        watch(process.pid, "0.3") as watcher,
    ):
        try:
            assert process.stdin is not None
            assert watcher.stdout is not None
            watcher.stdout.readline()
            process.stdin.write(b"go\n")
            process.stdin.flush()
            while "another program" not in (line := watcher.stdout.readline()):
                assert line
            # While it begins it may be told of twice; a moment has a size.
            while " KB  " not in (line := watcher.stdout.readline()):
                assert line
            watcher.send_signal(signal.SIGINT)
            rest, _ = watcher.communicate(timeout=60)
        finally:
            watcher.kill()
            process.kill()
    assert "exec" in rest, rest


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--every", "1s"], "--pid"),
        (["--pid", str(os.getpid()), "--for", "1m"], "--every"),
        (["--pid", str(os.getpid()), "--every", "1m", "--for", "1s"], "shorter"),
        (["--pid", str(os.getpid()), "--every", "now"], "a time as"),
        (["--pid", "4194000", "--every", "1", "--for", "2"], "no process"),
    ],
)
def test_wrong_use_is_said(words: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *words]) == 2
    assert what in capsys.readouterr().err


def test_a_quiet_process_has_nothing() -> None:
    process = start("import time; print('ready', flush=True); time.sleep(600)")
    begun = time.monotonic()
    try:
        done = doctor(process.pid, "--every", "0.3", "--for", "0.9")
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - begun >= 0.6


def test_a_program_that_is_being_started_is_no_program_yet() -> None:
    """In the middle of an exec the vector is there and empty: that made two programs of one."""
    whole = Path("/proc/self/auxv").read_bytes()
    assert _digest(whole) == _digest(whole)
    assert _digest(b"") is None
    assert _digest(bytes(16)) is None
    assert _digest(whole[:7]) is None


def test_a_program_whose_file_was_replaced_is_the_same_program(tmp_path: Path) -> None:
    """As an upgrade does to what runs: its name ends in (deleted) from then on."""
    copied = tmp_path / "sleep"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", copied)
    with (
        subprocess.Popen([copied, "600"]) as process,
        watch(process.pid, "0.3") as watcher,
    ):
        try:
            assert watcher.stdout is not None
            watcher.stdout.readline()
            copied.unlink()
            for _ in range(3):
                watcher.stdout.readline()
            watcher.send_signal(signal.SIGINT)
            rest, _ = watcher.communicate(timeout=60)
        finally:
            watcher.kill()
            process.kill()
    assert "moments" in rest or "Read" in rest
    assert "exec" not in rest
    assert "another program" not in rest
