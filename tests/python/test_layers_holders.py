"""Whose memory it is where another allocator than glibc's, dmi's or Python's has it."""

from __future__ import annotations

import ast
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import dmi
from dmi.address._maps import parse_maps
from dmi.process import open_core
from dmi.process._glibc_find import Space
from dmi.process._mapped import mapped_blocks
from dmi.process._others import other_heaps
from dmi.process._programs import contained, names_of_symbols
from dmi.windbg import Region

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dmi._layers import Layers

pytestmark = [
    pytest.mark.reads,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc"),
]
MIB = 1 << 20
LIBRARIES = "/usr/lib/x86_64-linux-gnu"

# A peak of 20,000 blocks of which one in seven stays: about 20 MiB held, 3 MiB in use.
PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static char *kept[20000];
int main(void) {
    for (int i = 0; i < 20000; i++) {
        kept[i] = malloc(100 + i % 1900);
        if (kept[i] != NULL) memset(kept[i], 1, 100 + i % 1900);
    }
    for (int i = 0; i < 20000; i++)
        if (i % 7) free(kept[i]);
    puts("ready");
    fflush(stdout);
    return getchar();
}
"""
GO = """
package main
import ("fmt"; "bufio"; "os")
var kept [][]byte
func main() {
    for i := 0; i < 200; i++ {
        b := make([]byte, 100000)
        for j := range b { b[j] = 1 }
        kept = append(kept, b)
    }
    fmt.Println("ready")
    bufio.NewReader(os.Stdin).ReadString('\\n')
}
"""


def built(folder: Path, *command: str) -> str:
    compiler = shutil.which(command[0])
    if compiler is None:
        pytest.skip(f"needs {command[0]}")
    source, program = folder / "held.c", folder / "held"
    source.write_text(PROGRAM)
    made = subprocess.run(
        [compiler, "-O1", "-o", str(program), str(source), *command[1:]],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"{command[0]} cannot build it: {made.stderr!r}")
    return str(program)


def looked_at(
    command: list[str], core: Path | None = None, environment: Mapping[str, str] | None = None
) -> tuple[Layers, Layers | None]:
    """The layers of a program at rest, and of its core file where a place for it is named."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        live, dead = dmi.layers(child.pid), None
        if core is not None and shutil.which("gcore"):
            subprocess.run(
                ["gcore", "-o", str(core), str(child.pid)], capture_output=True, check=True
            )
            with open_core(f"{core}.{child.pid}") as process:
                dead = process.layers()
        return live, dead
    finally:
        child.kill()
        child.communicate()


def closes(layers: Layers) -> bool:
    return sum(leaf.holds or 0 for leaf in layers.leaves) == layers["3"].holds


@pytest.mark.parametrize(
    ("kind", "library"),
    [
        ("jemalloc", "libjemalloc.so.2"),
        ("mimalloc", "libmimalloc.so.2"),
        ("tcmalloc", "libtcmalloc_minimal.so.4"),
    ],
)
def test_an_allocator_that_was_preloaded(kind: str, library: str, tmp_path: Path) -> None:
    path = f"{LIBRARIES}/{library}"
    if not Path(path).exists():
        pytest.skip(f"needs {library}")
    program = built(tmp_path, "gcc")
    live, dead = looked_at([program], tmp_path / "core", {"LD_PRELOAD": path})
    assert closes(live)
    assert live.holder is not None
    assert live.holder[0] == kind
    assert 18 * MIB < live.holder[1] < 40 * MIB
    for layers in (live, dead):
        if layers is not None:
            assert layers.stuck is None
            assert layers.unknown is not None
            assert layers.unknown.name.startswith(f"{kind} in {library}")
            assert "cannot be said" in str(layers)


INSIDE = """
import dmi
kept = [{"n": n, "text": str(n)} for n in range(60_000)]
del kept[::3]
large = bytearray(40 << 20)
layers = dmi.layers()
rows = [(part.name, part.holds, part.uses, part.resident) for part in layers["1a"].parts]
leaves = [(leaf.name, leaf.allocator, leaf.size, leaf.holds) for leaf in layers.leaves]
print([rows, leaves, layers["3"].holds, layers.counted])
"""


def told_inside(environment: Mapping[str, str]) -> tuple[list[Any], list[Any], int, int]:
    done = subprocess.run(
        [sys.executable, "-c", INSIDE],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    rows, leaves, resident, counted = ast.literal_eval(done.stdout)
    assert sum(holds or 0 for *_, holds in leaves) == resident
    return rows, leaves, resident, counted


@pytest.mark.parametrize(
    ("kind", "library"),
    [("jemalloc", "libjemalloc.so.2"), ("mimalloc", "libmimalloc.so.2")],
)
def test_a_process_names_its_own_other_allocators(kind: str, library: str) -> None:
    path = f"{LIBRARIES}/{library}"
    if not Path(path).exists():
        pytest.skip(f"needs {library}")
    rows, leaves, _, _ = told_inside({"LD_PRELOAD": path, "PYTHONMALLOC": "malloc"})
    ((name, holds, uses, resident),) = (row for row in rows if row[0].startswith(kind))
    assert name.startswith(f"{kind} in {library}")
    assert uses is None
    assert 20 * MIB < resident <= holds < 120 * MIB
    assert [(leaf[0], leaf[3]) for leaf in leaves if leaf[1] == kind] == [(name, resident)]


def test_a_process_finds_its_own_blocks_that_malloc_mapped() -> None:
    rows, leaves, _, counted = told_inside({"PYTHONMALLOC": "malloc", "LD_PRELOAD": ""})
    assert rows == []
    ((size, holds),) = (leaf[2:] for leaf in leaves if leaf[0].startswith("glibc blocks"))
    assert size >= 40 * MIB
    assert holds <= size
    assert counted < MIB


NAMED = r"""
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#ifdef MESSAGE
const char message[] __attribute__((used)) = MESSAGE;
#endif
__attribute__((noinline, used)) void NAME(char *place) { memset(place, 1, 4 << 20); }
int main(void) {
    NAME(mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    puts("ready");
    fflush(stdout);
    return getchar();
}
"""


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (("-DNAME=rpmalloc_thread_finalize",), "rpmalloc"),
        (("-DNAME=rpmalloc_thread_finalize", "-s"), "unknown"),
        (("-DNAME=f", "-s", '-DMESSAGE="Failed to initialise snmalloc."'), "snmalloc"),
        # Firefox runs some code apart, which brings its own parts of musl.
        (("-DNAME=f", '-DMESSAGE="\\0No error information"'), "unknown"),
        (("-DNAME=f", '-DMESSAGE="GCHeapAffinitizeRanges"'), ".NET"),
        (("-DNAME=f", '-DMESSAGE=": (malloc) Error in munmap(): "'), "mozjemalloc"),
    ],
)
def test_names_and_messages_in_a_program_tell_what_is_linked_into_it(
    options: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    source, program = tmp_path / "named.c", tmp_path / "named"
    source.write_text(NAMED)
    subprocess.run(["gcc", "-O1", "-o", str(program), str(source), *options], check=True)
    for layers in looked_at([str(program)], tmp_path / "core"):
        if layers is not None:
            assert layers.unknown is not None
            assert layers.unknown.name.startswith(kind)
            assert layers.stuck is None


@pytest.mark.parametrize("options", [("musl-gcc",), ("musl-gcc", "-static", "-s")])
def test_musl_is_known_by_its_groups(options: tuple[str, ...], tmp_path: Path) -> None:
    live, _ = looked_at([built(tmp_path, *options)])
    assert live.holder is not None
    assert live.holder[0] == "musl"
    assert live.stuck is None
    assert closes(live)


def test_glibc_that_is_linked_statically_is_walked(tmp_path: Path) -> None:
    live, dead = looked_at([built(tmp_path, "gcc", "-static", "-s")], tmp_path / "core")
    for layers in (live, dead):
        if layers is not None:
            assert layers.stuck is not None
            assert layers.stuck.name == "glibc main arena"
            assert 14 * MIB < (layers.stuck.retains or 0) < 20 * MIB


@pytest.mark.long
def test_a_go_program_is_known_by_where_its_heap_lies(tmp_path: Path) -> None:
    if shutil.which("go") is None:
        pytest.skip("needs go")
    (tmp_path / "held.go").write_text(GO)
    environment = {"GOCACHE": str(tmp_path / "cache"), "GO111MODULE": "off", "HOME": str(tmp_path)}
    subprocess.run(
        ["go", "build", "-o", "held", "held.go"],
        cwd=tmp_path, env={**os.environ, **environment}, check=True, capture_output=True,
    )  # fmt: skip
    live, _ = looked_at([str(tmp_path / "held")])
    assert live.holder is not None
    assert live.holder[0] == "Go"
    assert live.holder[1] > 19 * MIB
    assert closes(live)


def test_redis_on_jemalloc(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None or shutil.which("redis-cli") is None:
        pytest.skip("needs redis")
    socket = str(tmp_path / "s")
    child = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", socket, "--save", "",
         "--dir", str(tmp_path), "--enable-debug-command", "yes"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip

    def say(*words: str) -> bool:
        answer = subprocess.run(
            ["redis-cli", "-s", socket, *words], capture_output=True, check=False, text=True
        )
        return answer.returncode == 0 and answer.stdout.strip() in ("OK", "PONG")

    try:
        for _ in range(200):
            if say("ping"):
                break
        assert say("debug", "populate", "150000", "key", "100")
        layers = dmi.layers(child.pid)
    finally:
        child.kill()
        child.wait()
    assert layers.holder is not None
    assert layers.holder[0] == "jemalloc"
    assert layers.stuck is None
    assert layers.unknown is not None
    assert layers.unknown.name.startswith("jemalloc")
    assert closes(layers)


# ---- what files tell -----------------------------------------------------------------------------


class Still:
    """A process of which only mappings are known, and words where a test puts them."""

    page = 4096
    stands_still = True
    swap_in = False
    denied = ""
    pid = 0

    def __init__(self, words: Mapping[int, bytes] | None = None) -> None:
        self.words = dict(words or {})

    def read(self, address: int, size: int) -> bytes | None:
        found = self.words.get(address)
        return None if found is None else found[:size].ljust(size, b"\0")

    def read_into(self, address: int, room: memoryview) -> int:
        return 0

    def next_there(self, address: int) -> int:
        return address

    def pagemap(self, address: int, pages: int) -> bytes | None:
        return None


def elf(text: bytes) -> bytes:
    """An ELF file that loads the text, and has it at its very end."""
    head = bytearray(64)
    head[:6] = b"\x7fELF\x02\x01"
    head[32:40] = (64).to_bytes(8, "little")
    head[54:58] = (56).to_bytes(2, "little") + (1).to_bytes(2, "little")
    entry = bytearray(56)
    entry[0] = 1
    entry[8:16] = (120).to_bytes(8, "little")
    entry[32:40] = len(text).to_bytes(8, "little")
    return bytes(head + entry) + text


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    # The message lies where two pieces of a read meet.
    (tmp_path / "static").write_bytes(elf(b"x" * ((4 << 20) - 5) + b"<jemalloc>: oops\0"))
    (tmp_path / "unloaded").write_bytes(elf(b"x") + b"<jemalloc>: oops\0")
    (tmp_path / "cut").write_bytes(elf(b"x" * 900)[:200])
    (tmp_path / "text").write_bytes(b"<jemalloc>: oops")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def test_an_allocator_that_is_linked_statically_is_known_by_its_messages(programs: Path) -> None:
    names = ("static", "unloaded", "cut", "text", "pipe", "missing")
    text = "".join(
        f"{n + 1}000-{n + 2}000 r-xp 0 00:01 7 {programs / name}\n" for n, name in enumerate(names)
    )
    memory: Any = Still()
    found, notes = contained(memory, Space(parse_maps(text)))
    assert [(each.kind, each.file, each.by_name) for each in found] == [
        ("jemalloc", "static", False)
    ]
    assert notes == ["2 of its files could not be looked through for allocators that they contain"]


def test_mappings_that_say_whose_they_are() -> None:
    class Summary:
        regions = tuple(
            Region(start << 32, 8 << 20, "Other", "MEM_PRIVATE", "PAGE_READWRITE", 8 << 20, name,
                   4 << 20)
            for start, name in (
                (1, "[anon:scudo:primary]"), (2, "[anon: Go: heap]"), (3, "[anon:v8]"), (4, ""),
                (5, "[anon:jemalloc]"), (6, "[anon:js-gc-heap]"), (7, "[anon:jemalloc_pg]"),
            )
        )  # fmt: skip

    memory, summary = Still(), Summary()
    heaps, _ = other_heaps(memory, Space([]), summary, [])  # type: ignore[arg-type]
    assert {heap.kind: heap.stats().committed for heap in heaps} == dict.fromkeys(
        ("scudo", "Go", "V8", "unknown", "mozjemalloc", "SpiderMonkey", "jemalloc"), 8 << 20
    )
    assert {heap.stats().busy for heap in heaps} == {None}


def test_blocks_that_malloc_mapped_are_found_where_the_kernel_joined_them() -> None:
    def head(size: int) -> bytes:
        return bytes(8) + (size | 2).to_bytes(8, "little")

    memory: Any = Still(
        {
            0x10000: head(0x3000),
            0x13000: head(0x2000),
            0x15000: b"anything else....",
            0x18000: head(0x4000 - 16),  # as glibc 2.43 writes it
            0x20000: head(0x900000),  # more than the mapping has
            0x30000: head(0x1001),
        }
    )
    ranges = [(0x10000, 0x20000), (0x20000, 0x24000), (0x30000, 0x32000)]
    found = [(0x10000, 0x3000), (0x13000, 0x2000), (0x18000, 0x4000)]
    assert mapped_blocks(memory, ranges, 0x9000, 3) == found
    assert mapped_blocks(memory, ranges, 1 << 40, 9) == found
    assert mapped_blocks(memory, ranges, 0x5000, 9) == found[:2]
    assert mapped_blocks(memory, ranges, 0, 0) == []


def test_a_damaged_table_of_symbols_is_no_fault(tmp_path: Path) -> None:
    chance = random.Random(3)
    whole = Path(sys.executable).resolve().read_bytes()[:4096] + os.urandom(64)
    for _ in range(300):
        data = bytearray(whole)
        data[40:48] = chance.choice((0, 64, len(data) - 8, 1 << 63)).to_bytes(8, "little")
        data[60:62] = chance.choice((1, 40, 4096)).to_bytes(2, "little")
        at = chance.randrange(64, len(data) - 64)
        data[at : at + 4] = (2).to_bytes(4, "little")
        (tmp_path / "damaged").write_bytes(data)
        with (tmp_path / "damaged").open("rb") as file:
            for offset, size in names_of_symbols(file.fileno(), len(data)):
                assert 0 <= offset <= offset + size <= len(data)
