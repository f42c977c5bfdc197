"""Where the system gives no random bytes: what needs a key fails and says so, all else runs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from test_preload import build, preloaded

if TYPE_CHECKING:
    from test_preload import Build

__all__ = ["build"]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is no seccomp"),
    pytest.mark.timeout(120),
]

CREATE = """
import dmi
with dmi.Heap() as heap:
    heap.free(heap.malloc(100))
try:
    dmi.Heap(hardened=True)
    print("made")
except OSError as error:
    print(error)
"""


def sealed(build: Build, *how: str, options: str = "") -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = preloaded(
        build("sealed.c"), *how, "ls", "/", options=options
    )
    if done.returncode == 77:
        pytest.skip("no seccomp here")
    return done


@pytest.mark.parametrize("how", [["EAGAIN"], ["ENOSYS", "device"], ["EPERM", "device"]])
def test_without_random_bytes(build: Build, how: list[str]) -> None:
    plain = sealed(build, *how)
    assert (plain.returncode, plain.stderr) == (0, "")
    hardened = sealed(build, *how, options="hardened=on")
    assert hardened.returncode != 0
    assert "cannot make a hardened heap: the system gives no random bytes" in hardened.stderr
    created = subprocess.run(
        [build("sealed.c"), *how, sys.executable, "-c", CREATE],
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "no hardened heap: the system gives no random bytes" in created.stdout, created.stderr


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_the_device_serves_where_the_call_is_refused(build: Build, error: str) -> None:
    hardened = sealed(build, error, options="hardened=on")
    assert (hardened.returncode, hardened.stderr) == (0, "")
