"""Makes the cores of this folder: of a program on dmi as it was at an earlier commit.

    python -m tests.golden.cores.make COMMIT NAME

Writes NAME.core.xz, which has only the pages that a look at it reads, and NAME.txt, what the
program says that it holds. Needs git, gcc and gcore.
"""

from __future__ import annotations

import lzma
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dmi.process import Process, text
from dmi.process._corefile import CoreReader
from tests.python.images import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
PAGE = 4096


class Noting(CoreReader):
    """Notes which pages are read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.read_pages: set[int] = set()

    def read_into(self, address: int, room: memoryview) -> int:
        done = super().read_into(address, room)
        if done:
            self.read_pages.update(range(address // PAGE, (address + done - 1) // PAGE + 1))
        return done


def library(commit: str, folder: Path) -> Path:
    """dmi for whole programs, as it was."""
    whole = subprocess.run(["git", "archive", commit, "csrc"], check=True, capture_output=True)
    subprocess.run(["tar", "x", "-C", folder], input=whole.stdout, check=True)
    skipped = ("windows", "fake")
    files = [
        path
        for path in (folder / "csrc").rglob("*.c")
        if not path.name.startswith(skipped) and path.parent.name != "foreign"
    ]
    made = folder / "libdmi_malloc.so"
    subprocess.run(
        ["gcc", "-O2", "-std=gnu11", "-fPIC", "-shared", "-pthread", "-ftls-model=initial-exec",
         "-fvisibility=hidden", "-DDMI_BUILD", "-I", folder / "csrc/include", *files, "-o", made,
         "-lm", "-ldl", "-Wl,-z,nodelete"],
        check=True,
    )  # fmt: skip
    return made


def stretches(pages: set[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of neighbours."""
    ordered = sorted(pages)
    while ordered:
        count = 1
        while count < len(ordered) and ordered[count] == ordered[0] + count:
            count += 1
        yield ordered[0], count
        del ordered[:count]


def shrunk(path: Path) -> bytes:
    """The core with the pages alone that a look reads, and the names of dmi's files."""
    image = Image()
    with Noting(path) as reader:
        process = Process(reader)
        names = {m.start: m.name for m in process.space().mappings if "libdmi" in m.name}
        spans = [(m.start, m.end) for m in process.space().mappings if "libdmi" in m.name]
        for _ in text.heap(process, "-h"):
            pass
        for _ in text.heap(process, "-v"):
            pass
        kept = {
            page
            for page in reader.read_pages
            if any(low <= page * PAGE < high for low, high in spans)
            or any(
                s.address - (8 << 20) <= page * PAGE < s.address + s.reserved
                for heap in process.heaps()
                if heap.kind == "dmi"
                for s in heap.segments()
            )
            or page * PAGE > 0x7E0000000000
        }
        for first, count in stretches(kept):
            start = first * PAGE
            name = next((n for at, n in names.items() if at <= start < at + (1 << 20)), "")
            data = reader.read(start, count * PAGE) or b""
            if data:
                file = f"/usr/lib/{Path(name).name}" if name else ""
                image.segments[start] = (bytearray(data), file)
    return image.core()


def main(commit: str, name: str) -> None:
    """Make the two files."""
    with tempfile.TemporaryDirectory(prefix="dmi-") as made:
        folder = Path(made)
        preload = library(commit, folder)
        program = folder / "witness"
        subprocess.run(["gcc", "-O1", HERE / "witness.c", "-o", program], check=True)
        with (
            (folder / "said").open("w") as said,
            subprocess.Popen([program], stdout=said, env={"LD_PRELOAD": str(preload)}) as running,
        ):
            time.sleep(4.5)
            subprocess.run(
                ["gcore", "-o", folder / "core", str(running.pid)], check=True, capture_output=True
            )
            running.kill()
        small = shrunk(folder / f"core.{running.pid}")
        (HERE / f"{name}.core.xz").write_bytes(lzma.compress(small, preset=9))
        (HERE / f"{name}.txt").write_text((folder / "said").read_text())


if __name__ == "__main__":
    main(*sys.argv[1:])
