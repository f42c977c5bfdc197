"""Sources: any FILE that is a core by its magic, compressed ones, cores that lack something, and
processes in a namespace of their own."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import dmi
from dmi.cli import main
from tests.python.images import HEAP, LIBC, Glibc, glibc_image

if TYPE_CHECKING:
    from collections.abc import Callable

if not sys.platform.startswith("linux"):
    pytest.skip("core files are read on Linux", allow_module_level=True)


@pytest.fixture
def core(tmp_path: Path) -> Path:
    image, _ = glibc_image(Glibc(36))
    return image.save(tmp_path / "a file of any name")


@pytest.mark.parametrize(
    "words",
    [
        ["heap", "-s"],
        ["heap", "-v"],
        ["heap", "-h"],
        ["heap", "-stat"],
        ["heap", "-flt", "s", "50"],
        ["heap", "-x", f"{HEAP + 0x2A0:x}"],
        ["layers"],
        ["address"],
        ["doctor"],
        ["snapshot", "--json"],
    ],
)
def test_every_command_takes_a_core(
    words: list[str], core: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([words[0], str(core), *words[1:]]) in (0, 1)
    assert "glibc" in capsys.readouterr().out or words[0] == "address"


def test_a_snapshot_of_a_core_is_written_with_o(core: Path, tmp_path: Path) -> None:
    out = tmp_path / "moment.json"
    assert main(["snapshot", str(core), "-o", str(out)]) == 0
    assert dmi.Snapshot.load(out).outside[0]["kind"] == "glibc"
    before = core.read_bytes()
    assert main(["snapshot", str(core)]) == 2  # never written over
    assert main(["snapshot", str(core), "-o", str(out), "--json"]) == 2
    assert main(["snapshot", "--core", str(core), str(out), "-o", str(out)]) == 2
    assert core.read_bytes() == before


def packed_by(program: str) -> Callable[[bytes], bytes]:
    def pack(data: bytes) -> bytes:
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")
        return subprocess.run(
            [program, "-c"], input=data, stdout=subprocess.PIPE, check=True
        ).stdout

    return pack


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".bz2", bz2.compress),
        (".zst", packed_by("zstd")),
        (".lz4", packed_by("lz4")),
        ("", lzma.compress),
    ],
)
def test_the_line_that_unpacks_is_the_right_one(
    suffix: str,
    pack: Callable[[bytes], bytes],
    core: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # systemd-coredump gives names like this one; a quote must not end the word.
    small = tmp_path / f"core.it's a.1000.8d3f.4711.1700{suffix}"
    small.write_bytes(pack(core.read_bytes()))
    for words in (["heap", "-s"], ["layers"], ["address"], ["doctor"], ["snapshot", "--json"]):
        assert main([words[0], str(small), *words[1:]]) == 2
        said = capsys.readouterr().err
        assert "compressed; unpack it first: " in said
    line = said.partition("unpack it first: ")[2].strip()
    program = line.split()[0]
    if shutil.which(program) is None:
        pytest.skip(f"no {program}")
    subprocess.run(["sh", "-c", line], check=True, cwd=tmp_path)
    name = small.name.removesuffix(suffix) if suffix else f"{small.name}.unpacked"
    assert (tmp_path / name).read_bytes() == core.read_bytes()
    assert small.exists()
    assert main(["heap", str(tmp_path / name), "-s"]) == 0


def test_what_a_core_lacks_is_named(tmp_path: Path) -> None:
    image, _ = glibc_image(Glibc(36))
    whole = bytearray(image.core())
    cut = tmp_path / "cut"
    cut.write_bytes(whole[: len(whole) - (600 << 10)])
    with dmi.open_core(cut) as process:
        (note,) = [each for each in process.notes if "cut off" in each]
    assert "600 KB" in note
    # Of the last mapping a part is gone, and of the one before it too.
    assert " anonymous" in note or "KB /" in note
    count = struct.unpack_from("<H", whole, 56)[0]
    for at in range(64, 64 + 56 * count, 56):
        if struct.unpack_from("<Q", whole, at + 16)[0] == LIBC:
            struct.pack_into("<Q", whole, at + 32, 0)  # its bytes were left out
    filtered = tmp_path / "filtered"
    filtered.write_bytes(whole)
    with dmi.open_core(filtered) as process:
        (note,) = [each for each in process.notes if "coredump_filter" in each]
    assert f"{LIBC:x}" in note
    assert "libc.so.6" in note


def test_residence_is_unknown_in_a_core(core: Path) -> None:
    with dmi.open_core(core) as process:
        stats = next(heap.stats() for heap in process.heaps() if heap.kind == "glibc")
        assert stats.resident is None
        taken = process.snapshot()
    assert taken.process is not None
    assert taken.process["resident"] is None
    assert taken.process["swapped"] is None
    assert taken.memory is None


def test_heap_stack_and_vdso_of_a_core_have_names(tmp_path: Path) -> None:
    if shutil.which("gcore") is None:
        pytest.skip("no gcore")
    code = (
        "import time; k = [bytes(700) for _ in range(9000)]; print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with dmi.open_process(process.pid) as live:
            spans = {m.name: (m.start, m.end) for m in live.space().mappings if m.name[:1] == "["}
            program = next(m.name for m in live.space().mappings if m.has_file)
        made = subprocess.run(
            ["gcore", "-o", tmp_path / "core", str(process.pid)], capture_output=True, check=False
        )
        process.kill()
    if made.returncode:
        pytest.skip("gcore may not look at processes here")
    with dmi.open_core(tmp_path / f"core.{process.pid}") as read:
        named = {m.name: (m.start, m.end) for m in read.space().mappings if m.name[:1] == "["}
        assert any(m.name == program for m in read.space().mappings)
        usages = {region.usage for region in read.address_summary().regions}
    assert named["[heap]"] == spans["[heap]"]
    low, high = named["[stack]"]
    assert low <= spans["[stack]"][1] - 1 < high
    assert {"HeapBrk", "Stack"} <= usages or {"Heap", "Stack"} <= usages


def test_the_number_in_its_own_namespace_is_shown() -> None:
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c",
         "import os, time; print(os.getpid(), flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as outer:  # fmt: skip
        assert outer.stdout is not None
        inner = outer.stdout.readline()
        if not inner:
            pytest.skip("no namespaces here")
        pid = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()[0])
        with dmi.open_process(pid) as process:
            assert process.pid == pid
            assert f"process {pid} is process {int(inner)} in its own namespace" in process.notes
            taken = process.snapshot()
        said = subprocess.run(
            [sys.executable, "-m", "dmi", "heap", "--pid", str(pid)],
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
        outer.kill()
    assert taken.pid == pid
    assert "in its own namespace" in said
    assert json.dumps(taken.as_dict())
    assert os.getpid() != pid


def test_without_rights_the_right_is_named_and_what_everybody_may_know(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("another user's process is needed, so root")
    package = Path(dmi.__file__).parent
    if not all(folder.stat().st_mode & 0o001 for folder in (package, *package.parents)):
        pytest.skip("another user cannot reach the package here")
    commands = [["heap", "-s"], ["layers"], ["doctor"], ["snapshot", "--json"]]
    said = []
    # What is imported before the rights go need not be readable for the other user.
    code = (
        "import os, sys, dmi.cli, dmi.process, dmi.process._snapshot, dmi.process._layers\n"
        "import dmi.diagnose._single, dmi.diagnose._process, dmi._layers, dmi._snapshot\n"
        "from dmi.cli import doctor, heap, layers, snapshot\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sys.exit(dmi.cli.main(sys.argv[1:]))"
    )
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--pid", str(os.getpid())],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        said.append(done.stdout + done.stderr)
    for text in said:
        assert "belongs to user 0" in text, text
        assert "SYS_PTRACE" in text
        assert "docker run" in text
        assert "kubectl debug" in text
        assert "VmRSS" in text
