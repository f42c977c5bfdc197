"""The pressure policy on the kernel's own files: its pressure file and the limit of a cgroup.

One test is shown other files than the rest of the machine, in a mount namespace of its own. Others
start a process in a cgroup with a real limit, of version 2 or 1, which they make and remove: in or
beside the one that they run in, or in the directory that DMI_TEST_CGROUP names. Where none may be
made they are skipped, and say why.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def places() -> Iterator[Path]:
    """Where a cgroup with a memory limit might be made: what is named, else in or beside ours."""
    named = os.environ.get("DMI_TEST_CGROUP")
    if named is not None:
        yield Path(named)
        return
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), group))
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            path = own.get("")
        elif kind == "cgroup" and "memory" in options.split(","):
            path = own.get("memory")
        else:
            continue
        if path is not None:
            root, point = before.split()[3:5]
            inside = Path(point) / os.path.relpath(path, root)
            # In version 2 a group with processes has no children that count memory.
            yield from (inside, inside.parent, Path(point))


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup of the test's own with a limit of 128 MiB and no swap; nothing is in it yet."""
    refusals = []
    for place in places():
        made = place / f"dmi-test-{os.getpid()}"
        try:
            made.mkdir()
        except OSError as error:
            refusals.append(f"{place}: {error.strerror}")
            continue
        try:
            names = [made / name for name in ("memory.max", "memory.limit_in_bytes")]
            limit = next((name for name in names if name.exists()), None)
            if limit is None:
                refusals.append(f"{place}: no memory controller")
                continue
            limit.write_text(str(128 * MIB))
            for name, value in (("memory.swap.max", 0), ("memory.swappiness", 0)):
                if (made / name).exists():
                    (made / name).write_text(str(value))
            yield made
            return
        finally:
            made.rmdir()
    pytest.skip("no cgroup with a memory limit may be made: " + "; ".join(refusals))


def stopped_at_the_limit(group: Path) -> int:
    """How often an allocation met the limit of the group."""
    old = group / "memory.failcnt"
    if old.exists():
        return int(old.read_text())
    events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
    return int(events["max"])


# Fills a heap and frees it again, waits for what the policy does, and then needs memory elsewhere.
ELSEWHERE = """
import mmap, sys, time
import dmi
heap = dmi.Heap(decommit=sys.argv[1])
held = [heap.malloc(1000) for _ in range(80 * 1048)]
for address in held:
    dmi.ffi.memmove(dmi.ffi.cast("char *", address), b"1" * 1000, 1000)
for address in held:
    heap.free(address)
end = time.monotonic() + float(sys.argv[2])
while heap.stats().committed > 8 << 20 and time.monotonic() < end:
    time.sleep(0.05)
print(heap.stats().committed, flush=True)
other = mmap.mmap(-1, 80 << 20)
for page in range(0, 80 << 20, mmap.PAGESIZE):
    other[page] = 1
print("survived", flush=True)
"""


def needs_memory_elsewhere(group: Path, policy: str, wait: float) -> tuple[int, list[str]]:
    shell = f'echo $$ > {group}/cgroup.procs; exec "$0" -c "$1" "$2" "$3"'
    done = subprocess.run(
        ["sh", "-ec", shell, sys.executable, ELSEWHERE, policy, str(wait)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.split()


@pytest.mark.keeps
def test_a_process_lives_within_a_limit_that_kills_one_which_keeps(group: Path) -> None:
    status, said = needs_memory_elsewhere(group, "never", 0)
    assert status == -signal.SIGKILL, said
    assert len(said) == 1
    assert int(said[0]) >= 80 * MIB
    met = stopped_at_the_limit(group)
    # What is freed here is 80 MiB of 128, so at half of the limit all of it must go.
    status, said = needs_memory_elsewhere(group, "pressure:psi=100:headroom=0.5", 30)
    assert status == 0, said
    assert said[1] == "survived"
    assert int(said[0]) <= 8 * MIB
    assert stopped_at_the_limit(group) == met, "it was the kernel that had to find memory"


@pytest.mark.keeps
def test_at_ease_within_a_limit_everything_stays(group: Path) -> None:
    shell = f"echo $$ > {group}/cgroup.procs"
    with start(shell, "pressure:psi=100:headroom=0.1", 32, 1) as child:
        assert answer(child) >= 32 * MIB
        child.communicate()
        assert child.returncode == 0


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
