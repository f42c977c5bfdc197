"""Snapshots of programs of any kind, written by the preload library."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import dmi
from dmi import windbg
from dmi.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is no LD_PRELOAD"),
    pytest.mark.timeout(300),
]
DMI = [sys.executable, "-m", "dmi"]


def preloaded(
    *command: str, options: str, limit: int | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program with the library and these options; limit: bytes of its largest file."""
    environment = {**os.environ, "LD_PRELOAD": dmi.get_preload_path(), "DMI_OPTIONS": options}

    def prepare() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        command,
        env=environment,
        preexec_fn=prepare,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_on_dmi(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`dmi run` with these words."""
    command = [*DMI, "run", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=cwd
    )


def wait_for(path: Path) -> None:
    for _ in range(1200):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def sound(path: Path) -> dmi.Snapshot:
    """The snapshot in the file; its parts agree with each other."""
    found = dmi.Snapshot.load(path)
    assert found.heaps
    for each in found.heaps:
        each.stats.check()
        assert each.stats.reasons is not None
        if each.blocks is not None:
            assert sum(block.size for block in each.blocks) == each.stats.reserved
            assert list(each.histogram or ()) == each.blocks.histogram()
        assert each.histogram is not None
        assert each.segments is not None
        assert sum(row.total for row in each.histogram) == each.stats.busy
        assert sum(s.reserved for s in each.segments) == each.stats.reserved
        assert sum(s.committed for s in each.segments) == each.stats.committed
    assert found.address is not None
    for table in ("usage", "type", "state"):
        assert sum(found.address[table].values()) == found.address["total"]
    reserved = sum(each.stats.reserved for each in found.heaps)
    assert found.address["usage"]["HeapDmi"] == reserved
    assert found.process is not None
    assert found.process["committed"] == found.address["state"]["MEM_COMMIT"]
    assert (found.process["resident"] or 0) > 0
    assert found.memory is not None
    assert found.memory["HeapDmi"] > 0
    assert found.scope is not None
    assert found.scope["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert found.scope["started"] > 0
    return found


@pytest.mark.keeps  # a block of a subsegment is there at the end
def test_any_program_leaves_one_at_its_end(tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        pytest.skip("no jq")
    path = tmp_path / "jq.json"
    words = ["--name", 'a"b\\é', "--decommit", "lazy:delay=0.5", "--snapshot", "jq.json"]
    done = run_on_dmi(*words, "--blocks", "--", "jq", "-n", "[range(3)]|length", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["jq.json", "jq.json.blocks"]
    found = sound(path)
    assert found.program == "jq"
    (heap,) = found.heaps
    assert (heap.name, heap.decommit, heap.stats.flags) == ('a"b\\é', "lazy:delay=0.5", 2)
    assert heap.blocks is not None
    block = next(block for block in heap.blocks if block.kind == "lfh")
    assert f"{block.address:016x}" in windbg.heap(found, f"-x {block.address + 1:x}")
    for option in (["-s"], ["-v"], ["-h"], ["-stat"], ["-flt", "s", f"{block.size:x}"]):
        assert main(["heap", str(path), *option]) == 0
        assert main(["heap", str(path), *option, "--json"]) == 0
    assert main(["doctor", str(path), str(path)]) == 0


SAME = """
import json, os, signal, sys, time
import dmi
heap = dmi.Heap("never", name="n\\u00e4h\\u4e2d")
sizes = (24, 100, 100, 700, 5000, 70_000, 20 << 20)
made = [heap.malloc(size) for size in sizes for _ in range(40)]
for address in made[::3]:
    heap.free(address)
folder = sys.argv[1]
taken = dmi.snapshot(blocks=True)
taken.save(folder + "/python.json")
os.kill(os.getpid(), signal.SIGUSR2)
while not os.path.exists(folder + "/native.json"):
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_says_what_python_says(tmp_path: Path) -> None:
    options = f"snapshot={tmp_path}/native.json:blocks:at=SIGUSR2"
    done = preloaded(sys.executable, "-c", SAME, str(tmp_path), options=options)
    assert done.returncode == -signal.SIGKILL, done.stderr
    one = sound(tmp_path / "native.json")
    # While Python takes its own, its objects come and go.
    other = dmi.Snapshot.load(tmp_path / "python.json")
    assert (one.pid, one.page_size, one.program) == (other.pid, other.page_size, other.program)
    assert one.as_dict().keys() == other.as_dict().keys()
    assert [heap.handle for heap in one.heaps] == [heap.handle for heap in other.heaps]
    same: list[dict[str, Any]] = []
    native, python = (
        next(heap for heap in taken.heaps if heap.name == "näh中") for taken in (one, other)
    )
    # What the looks themselves change, and whom the locks kept waiting.
    moving = {"resident", "lock_contention", "metadata_committed", "ages"}
    assert (native.stats.ages or {}).keys() == (python.stats.ages or {}).keys() != set()
    for figures in (native.as_dict(), python.as_dict()):
        flying = figures.pop("threads")  # whose names only Python knows
        assert all(re.fullmatch(r".+ \(\d+\)|threads that ended", name) for name in flying)
        assert sum(flying.values()) == figures["stats"]["reasons"]["in_flight"]
        figures["stats"] = {k: v for k, v in figures["stats"].items() if k not in moving}
        same.append(figures)
    assert same[0] == same[1]
    assert native.blocks is not None
    assert python.blocks is not None
    # But for reasons: for the thread that listens, a block of the thread that waits is in flight.
    assert [each._replace(reason=None) for each in native.blocks] == [
        each._replace(reason=None) for each in python.blocks
    ]
    packed = (tmp_path / "native.json.blocks").stat().st_size
    ranges = sum(len(heap.blocks or ()) for heap in one.heaps)
    assert packed < 40 * ranges / 4


def test_a_program_that_sleeps_answers_the_signal(tmp_path: Path) -> None:
    when = ["--snapshot", str(tmp_path / "%n.json"), "--at", "SIGUSR2", "--at", "exit"]
    script = "input('asleep'); raise SystemExit(7)"
    command = [*DMI, "run", *when, "--", sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            # Figures and blocks are two looks: they agree where nothing happens in between.
            assert process.stdout.read(6) == b"asleep"
            while "\nState:\tS" not in Path(f"/proc/{process.pid}/status").read_text():
                time.sleep(0.02)
            for number in (1, 2):
                process.send_signal(signal.SIGUSR2)
                wait_for(tmp_path / f"{number}.json")
            process.communicate(b"\n", timeout=60)
        finally:
            process.kill()
    assert process.returncode == 7
    for number in (1, 2, 3):
        found = sound(tmp_path / f"{number}.json")
        assert found.pid == process.pid
        assert found.heaps[0].blocks is None
    texts = [json.loads((tmp_path / f"{n}.json").read_text())["why"] for n in (1, 2, 3)]
    assert texts == ["on a signal", "on a signal", "at exit"]


def test_without_p_in_the_name_only_the_program_writes(tmp_path: Path) -> None:
    # A child by fork, one by exec, and the program itself ends first of all.
    script = (
        "import os, subprocess, sys\n"
        "if os.fork() == 0: sys.exit(0)\n"
        "os.wait()\n"
        "subprocess.run(['ls', '/dev/null'], check=True)\n"
        "print(os.getpid())\n"
    )
    path = tmp_path / "one.json"
    done = run_on_dmi("--snapshot", str(path), "--", sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    assert sound(path).pid == int(done.stdout.split()[-1])
    many = tmp_path / "many"
    many.mkdir()
    done = run_on_dmi("--snapshot", str(many / "%p.json"), "--", sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    found = [sound(file) for file in many.iterdir()]
    assert len(found) == 3
    assert {f"{each.pid}.json" for each in found} == {file.name for file in many.iterdir()}
    assert sum(each.program == "ls" for each in found) == 1
    # The options alone, without `dmi run`: children of a fork stay silent too.
    alone = tmp_path / "alone.json"
    script = "import os, sys\nif os.fork(): os.wait(); os._exit(0)"
    done = preloaded(sys.executable, "-c", script, options=f"snapshot={alone}")
    assert done.returncode == 0
    assert not alone.exists()


@pytest.mark.keeps  # what is written is too large for the limit
@pytest.mark.parametrize(
    ("name", "limit", "reason"),
    [
        ("/proc/none/a.json", None, "No such file or directory"),
        ("/dev/null/a.json", None, "Not a directory"),
        ("small.json", 4096, "File too large"),
        ("x" * 300, None, "File name too long"),
    ],
)
def test_a_file_that_cannot_be_written_is_one_line(
    tmp_path: Path, name: str, limit: int | None, reason: str
) -> None:
    options = f"snapshot={name}:blocks"
    script = "print('out'); raise SystemExit(3)"
    done = preloaded(sys.executable, "-c", script, options=options, limit=limit, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "out\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("dmi: snapshot: /")
    assert line.endswith(f": {reason}")
    assert not list(tmp_path.iterdir())


def test_a_program_that_ends_in_the_middle_leaves_whole_files(tmp_path: Path) -> None:
    script = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2)"
    for _ in range(10):
        options = f"snapshot={tmp_path}/a%n.json:blocks:at=SIGUSR2"
        assert preloaded(sys.executable, "-c", script, options=options).returncode == 0
        assert sorted(file.name for file in tmp_path.iterdir()) == ["a1.json", "a1.json.blocks"]
        # The program went on meanwhile, so figures and blocks may differ; the files are whole.
        (heap,) = dmi.Snapshot.load(tmp_path / "a1.json").heaps
        assert heap.blocks is not None
        assert len(heap.blocks) > 100


@pytest.mark.parametrize(
    "value",
    [":blocks", "a:colour", "a:at=never", "a:at=SIGKILL", "a:only=x", "a:only=1x", "a%d", "a%"],
)
def test_what_the_option_does_not_know_is_one_line(value: str) -> None:
    done = preloaded("true", options=f"snapshot={value}")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("dmi: DMI_OPTIONS: unknown value '")
    assert "accepted: FILE (%p process, %n number, %% percent), then :blocks, :at=WHEN" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--blocks"], "needs --snapshot"),
        (["--at", "exit"], "needs --snapshot"),
        (["--snapshot", "a,b"], "without comma and colon"),
        (["--snapshot", "a%d"], "%p, %n and %%"),
        (["--snapshot", "/"], "must name a file"),
        (["--snapshot", ""], "must name a file"),
        (["--snapshot", "/no such/a.json"], "there is no directory /no such"),
        (["--snapshot", "a", "--at", "SIGUSR1", "--at", "SIGUSR2"], "one signal and exit"),
    ],
)
def test_wrong_use_is_said_before_the_program_starts(
    words: list[str], said: str, tmp_path: Path
) -> None:
    done = run_on_dmi(*words, "--", "touch", "started", cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


# ---- what is in the way --------------------------------------------------------------------------


def put_fifo(path: Path) -> None:
    os.mkfifo(path)


def put_link(path: Path) -> None:
    path.with_name("victim").write_text("precious")
    path.symlink_to("victim")


def put_dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def put_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("behind", ["", ".blocks"])
@pytest.mark.parametrize("put", [put_fifo, put_link, put_dangling, put_folder])
def test_only_new_and_regular_files_are_written(
    tmp_path: Path, put: Callable[[Path], None], behind: str
) -> None:
    """In place of the file itself, and of what earlier releases wrote to first."""
    target = tmp_path / f"moment.json{behind}"
    put(target)
    os.mkfifo(tmp_path / f"moment.json{behind}.part")
    before, names = target.lstat(), {path.name for path in tmp_path.iterdir()}
    done = preloaded("true", options=f"snapshot={tmp_path}/moment.json:blocks")
    assert done.returncode == 0
    assert re.fullmatch(rf"dmi: snapshot: {re.escape(str(target))}: it is a .*\n", done.stderr)
    assert target.lstat() == before
    assert {path.name for path in tmp_path.iterdir()} == names
    if put is put_link:
        assert (tmp_path / "victim").read_text() == "precious"


def test_a_snapshot_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "moment.json"
    path.write_text("old")
    path.chmod(0o666)
    done = preloaded("true", options=f"snapshot={path}:blocks")
    assert (done.returncode, done.stderr) == (0, "")
    assert {file.name for file in tmp_path.iterdir()} == {"moment.json", "moment.json.blocks"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    sound(path)


def test_where_nothing_can_be_made_is_said(tmp_path: Path) -> None:
    for folder in ("/proc", tmp_path / "missing"):
        done = preloaded("true", options=f"snapshot={folder}/moment.json")
        assert done.returncode == 0
        assert f"dmi: snapshot: {folder}/moment.json: " in done.stderr


def test_a_program_whose_errors_nobody_reads_can_be_ended() -> None:
    """Its standard error is a full pipe; the summary waits for a reader, and SIGTERM ends that."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    environment = {
        **os.environ, "LD_PRELOAD": dmi.get_preload_path(), "DMI_OPTIONS": "summary=exit"
    }  # fmt: skip
    program = subprocess.Popen(["true"], env=environment, stderr=writer)
    time.sleep(1)
    assert program.poll() is None
    program.terminate()
    assert program.wait(timeout=5) == -signal.SIGTERM
    os.close(reader)
    os.close(writer)


def test_tables_of_the_sampler_are_no_stacks(tmp_path: Path) -> None:
    """They lie between guards, as stacks of threads do."""
    path = tmp_path / "moment.json"
    code = "kept = [str(number) for number in range(100_000)]"
    done = run_on_dmi(
        *("--profile", str(tmp_path / "profile"), "--sample", "1", "--cost", "off"),
        *("--snapshot", str(path), "--", sys.executable, "-c", code),
    )
    assert done.returncode == 0, done.stderr
    found = dmi.Snapshot.load(path)
    assert found.memory is not None
    assert 0 < found.memory["Stack"] < 1 << 20
    assert found.memory["Other"] > 4 << 20  # the tables
    values = json.loads(path.read_text())
    for wrong in (5, [5], [[1]], [["a", 2]], [[1, 1 << 70]]):
        path.write_text(json.dumps({**values, "tables": wrong}))
        with pytest.raises(ValueError, match=r"tables must be|must be 2 sizes"):
            dmi.Snapshot.load(path)
