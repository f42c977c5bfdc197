"""Programs that mind a second thread: Python 3.12 and newer at fork, unshare(CLONE_NEWUSER)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import dmi
from tools import interpreters

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD and /proc are Linux"),
    pytest.mark.timeout(120),
]

PEAK = """
import os
kept = [bytes(700) for _ in range(100_000)]
del kept[1:]
os.write(1, b"ready\\n")
os.read(0, 1)
"""
FORKS = (
    PEAK
    + """
child = os.fork()
if child == 0:
    os._exit(len([bytes(700) for _ in range(10_000)]) & 255)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10_000 & 255
"""
)
# The scavenger is at work each time: something is free, and its delay is not over.
FORKS_AT_WORK = """
import os, time
for round in range(5):
    kept = [bytes(700) for _ in range(20_000)]
    del kept
    time.sleep(0.2)
    len([bytes(700) for _ in range(2_000)])
    threads = len(os.listdir("/proc/self/task"))
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
print(threads)
"""
FORKS_WITH_A_THREAD = (
    PEAK
    + """
import threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
if os.fork() == 0:
    os._exit(0)
os.wait()
"""
)
# Python itself allocates on the way to the call, so the scavenger may be back; the preload library
# has it step aside.
LEAVES = (
    PEAK
    + """
import ctypes
library = ctypes.CDLL(None, use_errno=True)
if library.unshare(0x10000000):
    raise OSError(ctypes.get_errno(), "unshare")
kept = [bytes(700) for _ in range(100_000)]
del kept[1:]
assert len(os.listdir("/proc/self/task")) == 2, "there is a scavenger again"
if library.unshare(0x10000):  # CLONE_THREAD: does nothing, and only where there is one thread
    raise OSError(ctypes.get_errno(), "unshare")
"""
)


def newer() -> Iterator[str]:
    """Every Python here that counts threads at fork."""
    for found in interpreters.find()[0]:
        if found.version >= (3, 12):
            yield str(found.path)


def environment(policy: str) -> dict[str, str]:
    """Of a Python on dmi."""
    made = os.environ | {
        "LD_PRELOAD": dmi.get_preload_path(),
        "DMI_OPTIONS": f"decommit={policy}",
        "PYTHONMALLOC": "malloc",
    }
    for name in ("PYTHONPATH", "PYTHONHOME"):
        made.pop(name, None)
    return made


def run_until_quiet(python: str, script: str) -> tuple[int, str]:
    """Run it on dmi; it goes on after its peak once the scavenger has come and gone."""
    with subprocess.Popen(
        [python, "-W", "always", "-c", script],
        env=environment("lazy:delay=0.5"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        tasks = Path("/proc") / str(process.pid) / "task"
        assert len(list(tasks.iterdir())) == 2, "the scavenger has work"
        while len(list(tasks.iterdir())) > 1:
            time.sleep(0.1)
        _, errors = process.communicate("x")
    return process.returncode, errors


@pytest.fixture(scope="module")
def pythons() -> list[str]:
    found = list(newer())
    if not found:
        pytest.skip("no Python 3.12 or newer on this machine")
    return found


@pytest.mark.keeps
def test_no_new_warning_at_a_fork_after_the_scavenger(pythons: list[str]) -> None:
    for python in pythons:
        assert run_until_quiet(python, FORKS) == (0, ""), python


@pytest.mark.keeps
def test_no_new_warning_at_a_fork_while_the_scavenger_works(pythons: list[str]) -> None:
    for python in pythons:
        done = subprocess.run(
            [python, "-W", "always", "-c", FORKS_AT_WORK],
            env=environment("lazy:delay=5"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "2\n"), python


@pytest.mark.keeps
def test_the_warning_is_there_to_be_seen(pythons: list[str]) -> None:
    """The same with a thread of the program's own: else the test above could not fail."""
    for python in pythons:
        status, errors = run_until_quiet(python, FORKS_WITH_A_THREAD)
        assert status == 0, errors
        assert "multi-threaded" in errors, python


def test_a_program_that_had_a_peak_can_leave_its_user_namespace() -> None:
    plain = subprocess.run(["unshare", "-U", "true"], capture_output=True, check=False)
    if plain.returncode:
        pytest.skip("no user namespaces here")
    assert run_until_quiet(sys.executable, LEAVES) == (0, "")
