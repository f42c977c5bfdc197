"""The pressure policy on the kernel's own files: its pressure file and the limit of a cgroup.

One test is shown other files than the rest of the machine, in a mount namespace of its own; another
one lives in a real cgroup with a real limit. That needs a directory in which cgroups may be made,
so somebody must name one: DMI_TEST_CGROUP=/sys/fs/cgroup/test. Tests do not meddle with the cgroups
that they happen to run in.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 1 << 20
NEVER_HIGH = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"

# Frees `peak` MiB, prints how much is committed then; when told to go on, waits until no more than
# `low` MiB are, and prints again. Never frees or allocates while it waits: the scavenger does it.
CHILD = """
import ctypes, sys, time
import dmi
policy, peak, low = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
heap = dmi.Heap(decommit=policy)
held = [heap.malloc(1000) for _ in range(peak * 1048)]
for address in held:
    ctypes.memset(address, 1, 1000)
for address in held:
    heap.free(address)
time.sleep(2.5)
print(heap.stats().committed, flush=True)
for _ in sys.stdin:
    end = time.monotonic() + 30
    while heap.stats().committed > low << 20 and time.monotonic() < end:
        time.sleep(0.05)
    print(heap.stats().committed, flush=True)
"""


def start(shell: str, policy: str, peak: int, low: int, *extra: str) -> subprocess.Popen[str]:
    """Run the child after some lines of shell, which find the extra arguments from $5 on."""
    return subprocess.Popen(
        [*extra, "sh", "-ec", f'{shell}\nexec "$0" -c "$1" "$2" "$3" "$4"',
         sys.executable, CHILD, policy, str(peak), str(low)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def answer(child: subprocess.Popen[str]) -> int:
    assert child.stdout is not None
    assert child.stderr is not None
    line = child.stdout.readline()
    assert line, child.stderr.read()
    return int(line)


def ask(child: subprocess.Popen[str]) -> int:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    return answer(child)


@pytest.mark.keeps
def test_the_pressure_file(tmp_path: Path) -> None:
    if not Path("/proc/pressure/memory").exists():
        pytest.skip("this kernel has no /proc/pressure/memory")
    isolated = ("unshare", "--mount", "--propagation", "private")
    try:
        subprocess.run([*isolated, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no mount namespace of one's own: {error}")
    file = tmp_path / "memory"
    file.write_text(NEVER_HIGH)
    # A headroom of 0 asks for more than the limit in use, which no cgroup lets happen.
    shell = f"mount --bind {file} /proc/pressure/memory"
    with start(shell, "pressure:psi=25:headroom=0", 16, 2, *isolated) as child:
        assert answer(child) >= 16 * MIB
        file.write_text(NEVER_HIGH.replace("avg10=0.00", "avg10=25.01"))
        assert ask(child) <= 2 * MIB
        child.communicate()
        assert child.returncode == 0


def test_a_real_limit() -> None:
    parent = os.environ.get("DMI_TEST_CGROUP")
    if parent is None:
        pytest.skip("DMI_TEST_CGROUP names no directory in which cgroups may be made")
    group = Path(parent) / f"dmi-test-{os.getpid()}"
    group.mkdir()
    try:
        names = ("memory.max", "memory.limit_in_bytes")
        limit = next((group / name for name in names if (group / name).exists()), None)
        if limit is None:
            pytest.skip(f"{parent} has no memory controller")
        limit.write_text(str(512 * MIB))
        # The interpreter alone stays far below a quarter of it, 300 MiB of blocks do not.
        policy = "pressure:psi=100:headroom=0.5"
        shell = f"echo $$ > {group}/cgroup.procs"
        with start(shell, policy, 32, 1) as child:
            assert answer(child) >= 32 * MIB
            child.communicate()
        with start(shell, policy, 300, 2) as child:
            answer(child)
            assert ask(child) <= 2 * MIB
            child.communicate()
    finally:
        group.rmdir()


def test_a_system_without_either_says_so(tmp_path: Path) -> None:
    """Where nothing tells of pressure, the policy is refused with a reason, not ignored."""
    isolated = ("unshare", "--mount", "--propagation", "private")
    try:
        subprocess.run([*isolated, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no mount namespace of one's own: {error}")
    empty = tmp_path / "empty"
    empty.write_text("")
    hide = ["/proc/pressure/memory", "/proc/self/cgroup"]
    code = (
        "import errno, dmi\n"
        "def check(error):\n"
        "    assert error.errno == errno.ENOTSUP\n"
        "    assert 'nothing to go by' in str(error)\n"
        "try:\n    dmi.Heap(decommit='pressure')\n"
        "except OSError as error:\n    check(error)\n"
        "else:\n    raise SystemExit('made')\n"
        "heap = dmi.Heap()\n"
        "try:\n    heap.decommit = dmi.Decommit('pressure')\n"
        "except OSError as error:\n    check(error)\n"
        "else:\n    raise SystemExit('taken')\n"
        "assert heap.decommit == dmi.Decommit('lazy')\n"
    )
    # The process's own cgroup file has a path of its own, so it is hidden where it is: by number.
    shell = "\n".join(
        f"test ! -e {path} || mount --bind {empty} {path.replace('self', '$$')}" for path in hide
    )
    done = subprocess.run(
        [*isolated, "sh", "-ec", f'{shell}\nexec "$0" -c "$1"', sys.executable, code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
