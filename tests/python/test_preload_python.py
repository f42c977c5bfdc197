"""Python on the preload library: dmi run, and that importing dmi finds the very same heaps."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import dmi
from dmi.cli import run as command
from tools import interpreters

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is no LD_PRELOAD"),
    pytest.mark.timeout(300),
]


def dmi_run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m dmi run ARGUMENTS`, without what this process may have in its environment."""
    dropped = ("LD_PRELOAD", "DMI_OPTIONS", "PYTHONMALLOC")
    inherited = {name: value for name, value in os.environ.items() if name not in dropped}
    return subprocess.run(
        [sys.executable, "-m", "dmi", "run", *arguments],
        env={**inherited, **(env or {})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def facts_of(script: str, *options: str) -> dict[str, object]:
    """What a script that runs on dmi prints as JSON."""
    done = dmi_run(*options, "--", sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


# ---- one copy of the core ------------------------------------------------------------------------


def test_imported_dmi_sees_the_heap_that_the_interpreter_lives_on() -> None:
    script = """
import json, dmi
before = dmi.default_heap().stats().busy_blocks
kept = [object() for _ in range(100_000)]
after = dmi.default_heap().stats().busy_blocks
found = dmi.find(id(kept[0]))
with dmi.Heap(name="mine") as mine:
    handles = dmi.ffi.new("void *[8]")
    count = dmi.lib.dmi_heap_list(handles, 8)
    by_cffi = [int(dmi.ffi.cast("uintptr_t", handles[i])) for i in range(count)]
    by_python = [heap.handle for heap in dmi.heaps()]
    print(json.dumps(dict(
        before=before, after=after, name=dmi.default_heap().name,
        of_object=found and found.heap.handle, state=found and found.state,
        default=dmi.default_heap().handle,
        mine=mine.handle, by_cffi=by_cffi, by_python=by_python, library=dmi.get_library_path(),
        rows=dmi.summary().count("\\n"),
    )))
"""
    facts = facts_of(script, "--name", "whole", "--decommit", "decay:half_life=2")
    before, after = facts["before"], facts["after"]
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert before > 10_000
    assert 99_900 < after - before < 110_000  # the interpreter frees a few of its own
    assert facts["name"] == "whole"
    assert facts["of_object"] == facts["default"]
    assert facts["state"] == "busy"
    assert facts["by_cffi"] == facts["by_python"] == [facts["default"], facts["mine"]]
    assert facts["library"] == dmi.get_preload_path()


@pytest.mark.plain
def test_without_preload_the_library_is_that_of_the_package() -> None:
    assert dmi.get_library_path().endswith("/libdmi.so")
    assert Path(dmi.get_preload_path()).name == "libdmi_malloc.so"
    assert Path(dmi.get_preload_path()).is_file()


def test_replay_in_a_preloaded_interpreter_uses_the_same_core() -> None:
    script = """
import json, dmi
from dmi import _core
state = dmi.ffi.new("dmi_replay_state *", {"size": dmi.ffi.sizeof("dmi_replay_state")})
records = bytes([1, 0, 0, 0, 0, 0, 0, 0]) + (5000).to_bytes(8, "little")
heap = dmi.Heap(name="played", clock="manual")
target = dmi.ffi.new("dmi_replay_target *", {
    "size": dmi.ffi.sizeof("dmi_replay_target"), "page_size": 4096,
    "heap": dmi.ffi.cast("void *", heap.handle)})
buffer = dmi.ffi.from_buffer(records)
replay = dmi.lib.dmi_replay_open(buffer, 1, 1, 1, target, 0)
done = dmi.lib.dmi_replay_play(replay, 2**64 - 1, 2**64 - 1, state)
print(json.dumps(dict(done=done, failed=int(state.failed), busy=heap.stats().busy_blocks)))
"""
    assert facts_of(script) == {"done": 1, "failed": 0, "busy": 1}


@pytest.mark.keeps
def test_decommit_through_dmi_gives_back_what_python_freed() -> None:
    script = """
import json, gc, dmi
kept = [bytes(700) for _ in range(100_000)]
peak = dmi.default_heap().stats().committed
del kept
gc.collect()
report = dmi.default_heap().trim()
after = dmi.default_heap().stats()
dmi.default_heap().validate()
print(json.dumps(dict(peak=peak, given=report.decommitted, committed=after.committed,
                      default=str(dmi.default_heap().decommit))))
"""
    facts = facts_of(script, "--decommit", "never")
    peak, given, committed = facts["peak"], facts["given"], facts["committed"]
    assert isinstance(peak, int)
    assert isinstance(given, int)
    assert isinstance(committed, int)
    assert facts["default"] == "never"
    assert given > 60_000_000
    assert committed < peak - 60_000_000


# ---- the command ---------------------------------------------------------------------------------


def test_the_exit_status_is_the_programs() -> None:
    assert dmi_run("--", "sh", "-c", "exit 7").returncode == 7
    assert dmi_run("--", "sh", "-c", "kill -9 $$").returncode == -9


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    done = dmi_run("--", "no-such-program-at-all")
    assert done.returncode == 127
    assert done.stderr == "dmi run: no-such-program-at-all: not found\n"
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF and nothing else")
    broken.chmod(0o755)
    done = dmi_run("--", str(broken))
    assert done.returncode == 126
    assert len(done.stderr.splitlines()) == 1


def test_arguments_reach_the_program_as_they_are() -> None:
    words = ["--summary", "-h", "--", "a b", "", "--json"]
    done = dmi_run("--", "printf", "%s\\n", *words)
    assert done.stdout.splitlines() == words
    assert done.stderr == ""


def test_the_programs_environment() -> None:
    done = dmi_run("--decommit", "lazy:delay=1.0:how=offer", "--name=n", "--summary", "--", "env")
    lines = dict(line.partition("=")[::2] for line in done.stdout.splitlines() if "=" in line)
    assert lines["LD_PRELOAD"] == dmi.get_preload_path()
    assert lines["DMI_OPTIONS"] == "decommit=lazy:how=offer,name=n,summary=exit"
    assert "PYTHONMALLOC" not in lines
    assert "heaps of process" in done.stderr


def test_options_of_the_outside_stay_and_are_outdone() -> None:
    library = dmi.get_preload_path()
    env = {"DMI_OPTIONS": "decommit=never,name=outer", "LD_PRELOAD": f"{library} libm.so.6"}
    done = dmi_run("--name", "inner", "--", "env", env=env)
    assert "DMI_OPTIONS=decommit=never,name=outer,name=inner\n" in done.stdout
    assert f"LD_PRELOAD={library}:libm.so.6\n" in done.stdout


def test_python_programs_are_told_apart(tmp_path: Path) -> None:
    script = tmp_path / "tool"
    script.write_text(f"#!{sys.executable}\nprint('hello')\n")
    script.chmod(0o755)
    shell = tmp_path / "python-like.sh"
    shell.write_text("#!/bin/sh\necho $PYTHONMALLOC\n")
    shell.chmod(0o755)
    assert command.is_python("/usr/bin/python3")
    assert command.is_python("/opt/bin/python3.13t")
    assert command.is_python(str(script))
    assert not command.is_python(str(shell))
    assert not command.is_python("/usr/bin/pypy3")
    assert not command.is_python("/usr/bin/python3-config")
    done = dmi_run("--", str(script))
    assert done.stdout == "hello\n"
    assert re.search("PYTHONMALLOC=malloc is set", done.stderr)
    done = dmi_run("--", str(shell))
    assert done.stdout == "\n"
    assert done.stderr == ""


def test_a_choice_of_pythonmalloc_is_kept() -> None:
    show = "import os; print(os.environ['PYTHONMALLOC'])"
    done = dmi_run("--", sys.executable, "-c", show)
    assert done.stdout == "malloc\n"
    done = dmi_run("--", sys.executable, "-c", show, env={"PYTHONMALLOC": "pymalloc"})
    assert done.stdout == "pymalloc\n"
    assert "PYTHONMALLOC=pymalloc is kept" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--decommit", "sometimes", "--", "true"], "sometimes"),
        (["--name", "a,b", "--", "true"], "comma"),
        (["--summary=SIGKILL", "--", "true"], "SIGKILL"),
        ([], "PROGRAM"),
    ],
)
def test_wrong_use_is_refused(arguments: list[str], said: str) -> None:
    done = dmi_run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


QUIET = """
import os, sys
kept = [bytes(700) for _ in range(100_000)]
del kept[1:]
os.write(1, b"ready\\n")
os.read(0, 1)
child = os.fork()
if child == 0:
    os._exit(len([bytes(700) for _ in range(10_000)]) & 255)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.timeout(120)
def test_a_fork_after_the_scavenger_is_no_fork_of_a_threaded_process() -> None:
    """From Python 3.12 on, os.fork itself says so when there is a second thread."""
    environment = os.environ | {
        "LD_PRELOAD": dmi.get_preload_path(),
        "DMI_OPTIONS": "decommit=lazy:delay=1",
        "PYTHONMALLOC": "malloc",
    }
    with subprocess.Popen(
        [sys.executable, "-W", "always", "-c", QUIET],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        tasks = Path("/proc") / str(process.pid) / "task"
        assert len(list(tasks.iterdir())) == 2
        while len(list(tasks.iterdir())) > 1:  # looked at from outside: looking is work as well
            time.sleep(0.1)
        output, errors = process.communicate("x")
    assert (process.returncode, errors) == (0, "")
    assert output == f"{10_000 & 255}\n"


COMPARED = "json sqlite3 re threading multiprocessing_main_handling"
ONCE = "fork1 gc multiprocessing_fork multiprocessing_spawn concurrent_futures"
"""These take minutes: they are run without dmi only where something failed with it."""


@dataclass(frozen=True)
class Outcome:
    """What a suite of CPython's own said: how many tests ran and were skipped, and which failed."""

    ran: int
    skipped: int
    failed: frozenset[str]


def _suite(
    name: str, on_dmi: bool, python: str = sys.executable, options: str | None = None
) -> Outcome:
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "DMI_OPTIONS")}
    environment["PYTHONMALLOC"] = "malloc"
    if on_dmi:
        environment["LD_PRELOAD"] = dmi.get_preload_path()
    if options:
        environment["DMI_OPTIONS"] = options
    done = subprocess.run(
        [python, "-m", "test", "-v", "--timeout=600", name],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
    text = done.stdout + done.stderr
    failed = frozenset(re.findall(r"^(?:FAIL|ERROR): (.+)$", text, re.MULTILINE))
    if done.returncode and not failed:
        failed = frozenset({f"status {done.returncode}: {text[-3000:]}"})
    return Outcome(
        sum(map(int, re.findall(r"^Ran (\d+) tests? in", text, re.MULTILINE))),
        sum(map(int, re.findall(r"^(?:OK|FAILED) \(.*?skipped=(\d+)", text, re.MULTILINE))),
        failed,
    )


def _need(suite: str) -> None:
    if importlib.util.find_spec(f"test.{suite}") is None:
        pytest.skip(f"this Python comes without test.{suite}")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("suite", [f"test_{name}" for name in COMPARED.split()])
def test_cpythons_own_suites_say_the_same_with_and_without(suite: str) -> None:
    _need(suite)
    with ThreadPoolExecutor(2) as pool:
        plain = pool.submit(_suite, suite, False)
        tiers = [
            pool.submit(_suite, suite, True, options=options) for options in ("", "hardened=on")
        ]
    theirs = plain.result()
    for ours in (tier.result() for tier in tiers):
        assert ours.ran > 0
        assert (ours.ran, ours.skipped) == (theirs.ran, theirs.skipped)
        # Some fail on some machines whatever the allocator; those say nothing about this one.
        assert not ours.failed - theirs.failed


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("suite", [f"test_{name}" for name in ONCE.split()])
def test_cpythons_own_suites_fail_nowhere_else(suite: str) -> None:
    _need(suite)
    ours = _suite(suite, on_dmi=True)
    assert ours.ran > 0
    assert not ours.failed or not ours.failed - _suite(suite, on_dmi=False).failed


# The others of these take minutes a run.
@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("suite", ["test_fork1", "test_gc"])
def test_cpythons_own_suites_fail_nowhere_else_hardened(suite: str) -> None:
    _need(suite)
    ours = _suite(suite, on_dmi=True, options="hardened=on")
    assert ours.ran > 0
    assert not ours.failed or not ours.failed - _suite(suite, on_dmi=False).failed


@pytest.mark.long
@pytest.mark.keeps
@pytest.mark.timeout(3600)
def test_the_threading_suite_of_the_newest_python_fails_nowhere_else() -> None:
    """From 3.12 on it fails where a fork finds one thread too many."""
    found = [p for p in interpreters.find()[0] if p.version >= (3, 12) and not p.free_threaded]
    if not found:
        pytest.skip("no Python 3.12 or newer on this machine")
    python = str(max(found, key=lambda p: p.version).path)
    if subprocess.run([python, "-c", "import test.test_threading"], check=False).returncode:
        pytest.skip(f"{python} comes without test.test_threading")
    ours = _suite("test_threading", on_dmi=True, python=python)
    assert ours.ran > 0
    assert not ours.failed or not ours.failed - _suite("test_threading", False, python).failed
