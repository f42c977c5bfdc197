"""Names of native code: symbols, lines, inlined functions, and files that are no help."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from profiles import page, profile

import dmi
from dmi.profile._demangle import demangled
from dmi.profile._elf import ElfCode

SOURCE = """\
#include <cstdlib>
#include <string>
#include <vector>

static inline __attribute__((always_inline)) void *get(int size)
{
    return malloc(size);
}

struct Cache {
    std::vector<std::string *> kept;
    __attribute__((noinline)) void put(int size)
    {
        kept.push_back(new std::string(size, 'x'));
    }
};

__attribute__((noinline)) void *fill(int size)
{
    return get(size);
}

int main(int count, char **)
{
    Cache cache;
    cache.put(count);
    return fill(count) == nullptr;
}
"""


def built(folder: Path, *flags: str) -> Path:
    (folder / "cache.cpp").write_text(SOURCE)
    program = folder / "program"
    subprocess.run(
        ["g++", "-O1", *flags, "-o", str(program), str(folder / "cache.cpp")], check=True
    )
    return program


def calls(program: Path) -> list[tuple[int, str]]:
    """(address behind the call, name of what is called) of the calls in a program."""
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(program)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    lines = re.findall(r"^\s*([0-9a-f]+):\s*(\S+)(.*)$", text, re.MULTILINE)
    return [
        (int(lines[n + 1][0], 16), found[1])
        for n, (_, word, rest) in enumerate(lines[:-1])
        if word == "call" and (found := re.search(r"<([^>@+]+)", rest))
    ]


pytestmark = [
    pytest.mark.reads,
    pytest.mark.skipif(
        shutil.which("g++") is None or shutil.which("objdump") is None,
        reason="needs g++ and objdump",
    ),
]


def blamed(program: Path, *addresses: int, **more: Any) -> list[str]:
    """The names that these return addresses of a program get, each once, in order."""
    values = profile(
        [page([[48, n]], weight=1.0, number=n) for n in range(len(addresses))],
        frames=[{"address": 0x5000_0000 + address} for address in addresses],
        stacks=[[n] for n in range(len(addresses))],
        mappings=[
            {"start": 0x5000_0000, "end": 0x5100_0000, "offset": 0, "path": str(program)},
        ],
    )
    return sorted(row.name for row in dmi.blame(values, **more).rows)


@pytest.mark.parametrize("flags", [["-g"], ["-g", "-gdwarf-4", "-gz=zlib"]])
def test_lines_through_what_was_inlined(tmp_path: Path, flags: list[str]) -> None:
    program = built(tmp_path, *flags)
    wanted = ("malloc", "_Znwm", "_ZN5Cache3putEi")
    addresses = [address for address, name in calls(program) if name in wanted]
    found = blamed(program, *addresses)
    assert "cache.cpp:7 get" in found
    # What the C++ library's headers put there is skipped: the line is the program's.
    assert "cache.cpp:14 Cache::put" in found
    assert "cache.cpp:26 main" in found
    stacks = blamed(program, *addresses, by="stack")
    assert "cache.cpp:7 get < cache.cpp:20 fill" in stacks


def test_lines_are_those_of_addr2line(tmp_path: Path) -> None:
    if shutil.which("addr2line") is None:
        pytest.skip("needs addr2line")
    program = built(tmp_path, "-g")
    code = ElfCode(str(program))
    addresses = [address - 1 for address, _ in calls(program)]
    told = subprocess.run(
        ["addr2line", "-iae", str(program), *map(hex, addresses)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    theirs = [
        [line.split(" (discriminator")[0] for line in part.split("\n")[1:-1]]
        for part in re.split(r"^0x", told, flags=re.MULTILINE)[1:]
    ]
    compared = 0
    for address, lines in zip(addresses, theirs, strict=True):
        if "?" in lines[0]:
            continue
        ours = [f"{each.file}:{each.line}" for each in code.at(address)]
        assert ours == lines
        compared += 1
    assert compared > 5
    code.close()


def test_symbols_where_there_are_no_lines(tmp_path: Path) -> None:
    program = built(tmp_path)
    names = blamed(program, *(address for address, name in calls(program) if name == "malloc"))
    assert any(re.fullmatch(r"fill\+0x[0-9a-f]+ \(program\)", name) for name in names), names


def test_the_module_where_there_are_no_symbols(tmp_path: Path) -> None:
    program = built(tmp_path, "-s")
    address = next(address for address, name in calls(program) if name == "malloc")
    assert blamed(program, address) == [f"program+{address - 1:#x}"]


def test_a_file_that_is_gone_or_none(tmp_path: Path) -> None:
    assert blamed(tmp_path / "gone", 0x1000) == ["gone+0xfff"]
    (tmp_path / "text").write_text("no program")
    assert blamed(tmp_path / "text", 0x1000) == ["text+0xfff"]
    assert blamed(Path("/dev/zero"), 0x1000) == ["zero+0xfff"]


def test_damaged_files_give_no_names_and_no_harm(tmp_path: Path) -> None:
    program = built(tmp_path, "-g")
    whole = program.read_bytes()
    addresses = [address - 1 for address, _ in calls(program)]
    chance = random.Random(3)
    for _ in range(25):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 200)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        (tmp_path / "damaged").write_bytes(data[: chance.randint(len(data) // 2, len(data))])
        code = ElfCode(str(tmp_path / "damaged"))
        for address in addresses[:4]:
            code.at(address)
        code.close()


def test_names_of_cpp() -> None:
    assert demangled("_ZN5Cache3putEi") == "Cache::put"
    assert demangled("_ZNSt6vectorIiSaIiEE9push_backEOi") == (
        "std::vector<int, std::allocator<int> >::push_back"
    )
    assert demangled("_Znwm") == "operator new"
    assert demangled("main") == "main"
    assert demangled("_Z" + "P" * 3000) == "_Z" + "P" * 3000
    assert demangled("_ZN1AclEv") == "A::operator()"


def test_what_a_file_claims_takes_no_memory(tmp_path: Path) -> None:
    """A table of names that is a hole of 8 GiB, in a file that is long enough."""
    import struct

    elffile = pytest.importorskip("elftools.elf.elffile")
    program = built(tmp_path)
    with program.open("rb") as file:
        elf = elffile.ELFFile(file)
        places = [
            elf["e_shoff"] + number * elf["e_shentsize"]
            for number, section in enumerate(elf.iter_sections())
            if section.name in (".strtab", ".dynstr")
        ]
    with program.open("r+b") as file:
        for place in places:
            file.seek(place + 32)
            file.write(struct.pack("<Q", 8 << 30))
        file.truncate(16 << 30)
    code = ElfCode(str(program))
    code.close()
    assert code._symbols == []
