"""--hide-names: no path and no name of anybody's in any output; and none that a terminal obeys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import dmi
from tests.python.images import Glibc, glibc_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.reads

if not sys.platform.startswith("linux"):
    pytest.skip("names come from /proc and core files", allow_module_level=True)

# A program with a name, a heap with a name, and a file that is mapped.
TARGET = """
import mmap, sys, threading
import dmi
open(sys.argv[1], "wb").write(bytes(1 << 20))
file = open(sys.argv[1], "r+b")
mapped = mmap.mmap(file.fileno(), 1 << 20)
mapped[:100] = bytes(100)
heap = dmi.Heap(name="customers-of-acme")
kept = [heap.malloc(100) for _ in range(1000)]
open("/proc/self/comm", "w").write("acme-billing")
def work():
    open(f"/proc/self/task/{threading.get_native_id()}/comm", "w").write("acme-worker")
    print("ready", flush=True)
    threading.Event().wait()
threading.Thread(target=work).start()
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    file = tmp_path_factory.mktemp("named") / "secret-project.dat"
    with subprocess.Popen(
        [sys.executable, "-c", TARGET, str(file)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dmi", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout + done.stderr


NAMES = ("acme", "secret-project", "site-packages", "/usr/", "libc.so", "python3")


def names_in(text: str) -> list[str]:
    return [name for name in NAMES if name in text]


@pytest.mark.parametrize(
    "words",
    [
        ["heap", "-v"],
        ["heap", "-v", "--json"],
        ["address"],
        ["address", "--json"],
        ["layers"],
        ["layers", "--json"],
        ["doctor"],
        ["doctor", "--json"],
        ["snapshot", "--json"],
    ],
)
def test_no_name_is_shown(target: int, words: list[str]) -> None:
    said = run(*words, "--hide-names", "--pid", str(target))
    assert not names_in(said)
    if "--json" in words:
        json.loads(said)


def test_names_are_there_without_it(target: int) -> None:
    assert "customers-of-acme" in run("heap", "-v", "--pid", str(target))
    assert "secret-project" in run("address", "--pid", str(target))


def test_snapshots_and_reports_hold_none(target: int, tmp_path: Path) -> None:
    taken = tmp_path / "moment.json"
    run("snapshot", "--hide-names", "--pid", str(target), "-o", str(taken))
    assert not names_in(taken.read_text())
    assert dmi.Snapshot.load(taken).pid == target
    open_one = tmp_path / "open.json"
    run("snapshot", "--pid", str(target), "-o", str(open_one))
    assert "acme" in open_one.read_text()
    said = run("doctor", "--hide-names", str(open_one), str(open_one))
    assert not [name for name in names_in(said) if name == "acme"]
    pytest.importorskip("jinja2")
    page = tmp_path / "report.html"
    run("report", "--hide-names", str(open_one), "-o", str(page))
    assert "acme" not in page.read_text()


def test_names_cannot_steer_a_terminal(tmp_path: Path) -> None:
    image, _ = glibc_image(Glibc(36))
    evil = "/usr/lib/\x1b]0;owned\x07\x1b[2Jlibc.so.6\nforged"
    image.segments = {
        start: (data, evil if name else name) for start, (data, name) in image.segments.items()
    }
    core = image.save(tmp_path / "core")
    for words in (
        ["heap", "-v", str(core)],
        ["address", str(core)],
        ["address", "--summary", str(core)],
        ["layers", str(core)],
        ["doctor", str(core)],
        ["snapshot", str(core), "-o", os.fspath(tmp_path / "out.json")],
    ):
        said = run(*words)
        assert "\x1b" not in said, words
        assert "\x07" not in said, words
        assert not any(line.startswith("forged") for line in said.splitlines()), words
