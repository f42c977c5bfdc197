"""A process that is stopped for a look: it goes on whatever happens to who looks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import dmi

if not sys.platform.startswith("linux"):
    pytest.skip("ptrace is Linux's", allow_module_level=True)

from dmi.process._stop import LIMIT_MS, PER_PIECE_MS, PIECE, Stop, limit_for

if TYPE_CHECKING:
    from collections.abc import Iterator

# Counts in three threads, and says so; a signal is counted too.
TARGET = """
import signal, threading, time
counts = [0, 0, 0]
signals = 0
def caught(*_):
    global signals
    signals += 1
signal.signal(signal.SIGUSR1, caught)
kept = [bytes(700) for _ in range(20000)]
def work(n):
    while True:
        counts[n] += 1
        time.sleep(0.0005)
for n in range(3):
    threading.Thread(target=work, args=(n,), daemon=True).start()
print("ready", flush=True)
while True:
    print(*counts, signals, flush=True)
    time.sleep(0.002)
"""


@pytest.fixture
def target(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    said = tmp_path / "said"
    with said.open("wb") as out, subprocess.Popen([sys.executable, "-c", TARGET], stdout=out) as p:
        until = time.monotonic() + 20
        while b"ready" not in said.read_bytes() and time.monotonic() < until:
            time.sleep(0.01)
        yield p, said
        p.kill()


def counts(said: Path) -> list[int]:
    with said.open("rb") as file:
        file.seek(max(0, said.stat().st_size - 200))
        return [int(word) for word in file.read().split(b"\n")[-2].split()]


def states(pid: int) -> set[str]:
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found.add((task / "stat").read_text().rpartition(")")[2].split()[0])
    return found


def goes_on(pid: int, said: Path) -> bool:
    """Every thread counts on, and nobody traces it."""
    before = counts(said)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        time.sleep(0.02)
        now = counts(said)
        if all(a > b for a, b in zip(now[:3], before[:3], strict=True)):
            status = Path(f"/proc/{pid}/status").read_text()
            return "TracerPid:\t0\n" in status and "t" not in states(pid)
    return False


def may_trace(pid: int) -> bool:
    stop = Stop(pid, 50)
    stop.resume()
    return not stop.why


def test_the_limit_follows_the_size_of_the_heap() -> None:
    assert limit_for(0) == limit_for(PIECE) == PER_PIECE_MS == 50
    assert limit_for(PIECE + 1) == 100
    assert limit_for(100 * PIECE) == LIMIT_MS == 200


def test_it_stands_still_and_goes_on(target: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, said = target
    stop = Stop(process.pid, 5000)
    if stop.why:
        pytest.skip(stop.why)
    assert states(process.pid) == {"t"}
    before = counts(said)
    os.kill(process.pid, signal.SIGUSR1)
    time.sleep(0.05)
    assert counts(said) == before
    stop.resume()
    assert stop.in_time
    assert stop.took_ms is not None
    assert stop.took_ms >= 50
    assert "it was stopped for" in stop.note
    assert goes_on(process.pid, said)
    until = time.monotonic() + 20
    while not counts(said)[3] and time.monotonic() < until:
        time.sleep(0.01)
    assert counts(said)[3] == 1, "the signal that came meanwhile is not lost"


def test_when_the_time_is_up_it_goes_on_by_itself(
    target: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, said = target
    if not may_trace(process.pid):
        pytest.skip("no right to trace")
    stop = Stop(process.pid, 50)
    if not stop.why:  # on a busy machine its threads may not stand still within the time
        assert goes_on(process.pid, said)
    stop.resume()
    assert "limit" in stop.note or "in time" in stop.note
    assert goes_on(process.pid, said)


# Stops the process, says so, and never lets it go.
HOLDER = """
import sys, time
from dmi.process._stop import Stop
stop = Stop(int(sys.argv[1]), 600_000)
print(stop.why or "stopped", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("delay", [None, 0.0, 0.03, 0.06, 0.1])
def test_whoever_looks_may_be_killed_at_any_moment(
    target: tuple[subprocess.Popen[bytes], Path], delay: float | None
) -> None:
    process, said = target
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(process.pid)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        if delay is None:
            line = holder.stdout.readline().strip().decode()
            if line != "stopped":
                holder.kill()
                pytest.skip(line)
            assert states(process.pid) == {"t"}
        else:
            time.sleep(delay)
        holder.send_signal(signal.SIGKILL)
    assert goes_on(process.pid, said)


def test_the_heaps_of_a_stopped_process_add_up(
    target: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, said = target
    with dmi.open_process(process.pid, stop=True) as looked:
        heaps = looked.heaps()
        figures = [heap.stats() for heap in heaps]
    assert any("stopped" in note for note in looked.notes)
    if any("not stopped" in note for note in looked.notes):
        pytest.skip(str(looked.notes))
    assert [f for f in figures if f.kind == "glibc"]
    assert goes_on(process.pid, said)


def test_the_command_says_for_how_long(target: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, said = target
    done = subprocess.run(
        [sys.executable, "-m", "dmi", "heap", "-s", "--stop", "--pid", str(process.pid)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "stopped" in done.stdout.splitlines()[-1]
    assert goes_on(process.pid, said)
    refused = subprocess.run(
        [sys.executable, "-m", "dmi", "heap", "-s", "--stop", str(said)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 2
    assert "--pid" in refused.stderr


def test_a_process_that_is_traced_already_is_read_while_it_runs(
    target: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, said = target
    first = Stop(process.pid, 5000)
    if first.why:
        pytest.skip(first.why)
    second = Stop(process.pid, 200)
    assert "debugger" in second.why
    second.resume()
    assert "not stopped" in second.note
    first.resume()
    assert goes_on(process.pid, said)
    done = subprocess.run(
        [sys.executable, "-m", "dmi", "snapshot", "--stop", "--pid", str(process.pid), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert any("stopped" in note for note in json.loads(done.stdout)["notes"])


FIRST_THREAD_ENDS = """
import ctypes, threading, time
def work():
    time.sleep(0.3)
    print("ready", flush=True)
    time.sleep(600)
threading.Thread(target=work).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_whose_first_thread_ended_is_stopped_by_the_others() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FIRST_THREAD_ENDS], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            pytest.skip("this Python ends with its first thread")
        stop = Stop(process.pid, 3000)
        found = states(process.pid)
        stop.resume()
        process.kill()
    if stop.why:
        assert "rights" in stop.why
        pytest.skip(stop.why)
    assert found == {"Z", "t"}


def test_a_process_that_somebody_stopped_stays_stopped(
    target: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, said = target
    process.send_signal(signal.SIGSTOP)
    until = time.monotonic() + 10
    while states(process.pid) != {"T"} and time.monotonic() < until:
        time.sleep(0.01)
    stop = Stop(process.pid, 3000)
    stop.resume()
    if stop.why:
        pytest.skip(stop.why)
    time.sleep(0.05)
    assert states(process.pid) == {"T"}
    process.send_signal(signal.SIGCONT)
    assert goes_on(process.pid, said)


@pytest.mark.parametrize("words", [["layers"], ["address", "-summary"], ["doctor"]], ids=" ".join)
def test_every_command_stops_it_within_the_limit_and_says_for_how_long(
    target: tuple[subprocess.Popen[bytes], Path], words: list[str]
) -> None:
    process, said = target
    if not may_trace(process.pid):
        pytest.skip("no right to trace")
    done = subprocess.run(
        [sys.executable, "-m", "dmi", *words, "--stop", "--swap-in", "--pid", str(process.pid)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    # On a busy machine its threads may not stand still within the time.
    assert "it was stopped for" in done.stdout or "it was not stopped" in done.stdout
    assert goes_on(process.pid, said)


@pytest.mark.parametrize("words", [["layers"], ["address"], ["doctor", "x.txt"]], ids=" ".join)
@pytest.mark.parametrize("option", ["--stop", "--swap-in"])
def test_what_does_not_run_is_not_stopped(words: list[str], option: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dmi", *words, option],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"{option} is for a process that runs" in done.stderr
