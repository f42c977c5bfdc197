"""otel_memory: the probes that OpenTelemetry's profiler attaches to. The notes are read from the
files as a tracer reads them; a semaphore is set from outside as the kernel sets it; what the probes
say is held against the truth."""

from __future__ import annotations

import os
import platform
import re
import shutil
import struct
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from elftools.elf.elffile import ELFFile

import dmi

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES: Final = Path(__file__).parents[1] / "preload"
PROGRAM: Final = SOURCES / "probes.c"

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or platform.machine() != "x86_64", reason="Linux on x86-64 alone"
    ),
    pytest.mark.timeout(200),
]


def probes_of(path: str) -> dict[str, dict[str, Any]]:
    """The probes of a file by their notes; addresses as the file has them now."""
    found: dict[str, dict[str, Any]] = {}
    with Path(path).open("rb") as file:
        elf = ELFFile(file)
        there, notes, probes = map(
            elf.get_section_by_name, (".stapsdt.base", ".note.stapsdt", ".probes")
        )
        assert there
        assert notes
        assert probes
        base, data = there["sh_addr"], notes.data()
        while data:
            name_size, size, kind = struct.unpack_from("<III", data)
            assert (data[12:20], name_size, kind) == (b"stapsdt\0", 8, 3)
            at, linked, semaphore = struct.unpack_from("<QQQ", data, 20)
            provider, name, arguments = data[44 : 20 + size].split(b"\0")[:3]
            assert provider == b"otel_memory"
            moved = base - linked
            found[name.decode()] = {
                "at": at + moved,
                "semaphore": semaphore + moved,
                "arguments": arguments.decode(),
            }
            # The kernel looks for a semaphore by its place in the file.
            inside = probes["sh_addr"] <= semaphore + moved < probes["sh_addr"] + probes["sh_size"]
            assert inside
            assert probes["sh_type"] == "SHT_PROGBITS"
            data = data[20 + (size + 3) // 4 * 4 :]
    return found


def libraries() -> list[str]:
    made = dmi.get_preload_path()
    return [made, str(Path(made).with_name("libdmi.so"))]


@pytest.mark.parametrize("library", libraries(), ids=lambda path: Path(path).name)
def test_the_notes_name_both_probes(library: str) -> None:
    found = probes_of(library)
    assert {name: each["arguments"] for name, each in found.items()} == {
        "alloc": "8@%rdi 8@%rsi 8@%rdx",
        "free": "8@%rdi",
    }


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    made = tmp_path_factory.mktemp("probes") / "probes"
    subprocess.run(
        [compiler, "-O1", "-g", "-fno-omit-frame-pointer", "-I", SOURCES, PROGRAM, "-o", made],
        check=True,
    )
    return made


class Traced:
    """The program that traps its own probes, and the semaphore of it that we set from outside."""

    def __init__(self, child: subprocess.Popen[str], semaphore: int) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        self._child, self._in, self._out = child, child.stdin, child.stdout
        self._semaphore = int(self._out.readline(), 16) + semaphore

    def attach(self, count: int) -> None:
        with Path(f"/proc/{self._child.pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(self._semaphore)
            memory.write(struct.pack("<H", count))

    def work(self) -> tuple[int, ...]:
        """Bytes allocated, left, and both as told of; hits; frees of unknown blocks."""
        self._in.write("\n")
        self._in.flush()
        return tuple(map(int, self._out.readline().split()))


@contextmanager
def traced(program: Path, options: str = "") -> Iterator[Traced]:
    probes = probes_of(dmi.get_preload_path())
    environment = {**os.environ, "LD_PRELOAD": dmi.get_preload_path(), "DMI_OPTIONS": options}
    words = [str(program), *(hex(probes[name]["at"]) for name in ("alloc", "free"))]
    with subprocess.Popen(
        words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield Traced(child, probes["alloc"]["semaphore"])
        finally:
            assert child.stdin is not None
            child.stdin.close()
            assert child.wait(60) == 0


def test_an_agent_needs_no_restart(program: Path) -> None:
    """Nobody is attached: nothing is told. Somebody is: what is told of stands for all, also of
    pages that were in use before. He leaves: nothing again."""
    with traced(program) as running:
        for _ in range(2):
            assert running.work()[2:] == (0, 0, 0, 0, 0)
        running.attach(1)
        running.work()  # the round in which he came, and some blocks went out before
        allocated, left, told, told_left, allocs, frees, unknown = running.work()
        # Every 64th block: 813 with a standard error of 50, and the bytes within 5 %. Five of them.
        assert 560 < allocs < 1070
        assert 0.75 * allocated < told < 1.25 * allocated
        assert 0.75 * left < told_left < 1.25 * left
        assert 0 < frees <= allocs * 2
        assert unknown == 0
        running.attach(0)
        assert running.work()[4] == 0
        running.attach(2)
        running.work()
        assert 560 < running.work()[4] < 1070


def test_an_agent_beside_a_profile(program: Path, tmp_path: Path) -> None:
    """The sampler that runs already serves both."""
    made = tmp_path / "a.profile"
    with traced(program, f"profile={made}") as running:
        assert running.work()[4] == 0
        running.attach(1)
        running.work()
        allocated, _, told, _, allocs, _, unknown = running.work()
        assert allocs > 100
        assert 0.4 * allocated < told < 1.8 * allocated
        assert unknown == 0
    found = dmi.blame(made, "function", "busy")
    assert [row.name for row in found.rows if "work" in row.name]


def test_a_debugger_stops_at_the_probe(program: Path) -> None:
    """gdb finds the probes, sets the semaphore, and reads the arguments as the note says."""
    gdb = shutil.which("gdb")
    if gdb is None:
        pytest.skip("no gdb")
    commands = [
        "set breakpoint pending on",
        f"set environment LD_PRELOAD {dmi.get_preload_path()}",
        "break work",
        "run < /dev/zero",
        "info probes stap otel_memory",
        "break -probe-stap otel_memory:alloc",
        "continue",
        "print $_probe_argc",
        "print (unsigned long)$_probe_arg1",
        "print (unsigned long)$_probe_arg2",
        "info symbol $pc",
        "kill",
    ]
    asked = [word for each in commands for word in ("-ex", each)]
    words = [gdb, "-q", "-batch", "-nx", *asked, str(program)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=150, check=False)
    found = re.findall(r"^\$\d+ = (\d+)$", done.stdout, re.MULTILINE)
    assert len(found) == 3, done.stdout + done.stderr
    count, size, stands_for = map(int, found)
    assert count == 3
    assert 16 <= size <= 3_000_000
    # size / (1 - exp(-size / 512 KiB)): 512 KiB and a little for a small block, never less.
    assert stands_for >= max(size, 524_288)
    assert "_dmi_os_probe_alloc" in done.stdout
