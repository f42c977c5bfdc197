"""Feeds damaged WinDbg texts and damaged snapshots to their readers.

    python tests/fuzz/fuzz.py texts --count 1000000
    python tests/fuzz/fuzz.py leaks --count 1000000
    python tests/fuzz/fuzz.py snapshots --count 1000000 --seed 7
    python tests/fuzz/fuzz.py texts --only 4711          one case again

Every case is made from its number and the seed alone, read in this process, and used to the end:
written again, compared, diagnosed, asked as `!heap` asks. What is allowed is an answer or the error
that the reader documents. Any other exception, a case that takes longer than --seconds of processor
time, and memory beyond --memory MiB above the start end the run; the case is saved then.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dmi
from dmi import diagnose, windbg
from dmi._snapshot import HeapSnapshot
from dmi.walk import Ranges, Segment

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
ALPHABET = "0123456789abcdefgKMGTB`'()%:.<>-[]… \t\n\rLHx\u0667\0\uffff"
ODD_JSON = (
    b"-1", b"1e999", b"null", b"[]", b'"x"', b"9" * 30, b"true", b"NaN", b"{}", b"[[[[[[", b"\\",
    b'"', b",", b"0.5", b'"\\ud800"', b"\xff",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    -1, 0, 1, 2**31, 2**63, 2**64 - 1, 2**64, 10**40, 1e308, float("nan"), float("inf"), None, True,
    "", "x" * 300, "\ud800", [], {}, [[]], [0] * 5, {"blocks": 1 << 29},
)  # fmt: skip


class HangError(BaseException):
    """A case that does not end. No reader may catch it."""


# ---- texts ---------------------------------------------------------------------------------------


class Texts:
    """Mutations of the golden logs, in both formats."""

    def __init__(self) -> None:
        heaps, addresses = (
            (GOLDEN / name).read_text(encoding="utf-8")
            for name in ("heap-summaries.txt", "address-summaries.txt")
        )
        table = windbg.parse(heaps).heaps[0]
        summaries = windbg.parse(addresses).addresses
        new = windbg.format_address_summary(summaries[0], "new")
        self.whole = [heaps, addresses, new + windbg.format_heap_summary(table.rows, 7)]
        # Small ones are read faster, so that more is tried of what is decided in few lines.
        self.whole += [windbg.format_heap_summary(each.rows) for each in windbg.parse(heaps).heaps]
        self.whole += [windbg.format_address_summary(summaries[1]), new]
        # As people posted them: segment heaps, -stat, -l, UMDH, HTML, titles, prompts.
        posted = sorted((GOLDEN / "windbg" / "single").glob("*.txt"))
        self.whole += [windbg.decode(path.read_bytes()) for path in posted]
        self.lines = [line for text in self.whole for line in text.splitlines(keepends=True)]

    def make(self, chance: random.Random) -> str:
        text = chance.choice(self.whole)
        for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
            at = chance.randrange(len(text) + 1)
            span = chance.choice((0, 1, 1, 2, 8, 80, 400))
            kind = chance.randrange(7)
            if kind == 0:
                text = text[:at] + text[at + span :]
            elif kind == 1:
                many = chance.choice((1, 1, 3, 30, 2000))
                text = text[:at] + chance.choice(ALPHABET) * many + text[at:]
            elif kind == 2:
                text = text[:at] + chance.choice(ALPHABET) + text[at + 1 :]
            elif kind == 3:
                text = text[:at] + chance.choice(self.lines) + text[at:]
            elif kind == 4:
                other = chance.choice(self.whole)
                start = chance.randrange(len(other))
                text = text[:at] + other[start : start + 5 * span] + text[at:]
            elif kind == 5:
                lines = text.splitlines(keepends=True)
                chance.shuffle(lines)
                text = "".join(lines)
            else:
                digits = str(chance.choice((0, 1, 2**32, 2**63, 2**64, 10**16, 10**30)))
                text = text[:at] + digits + text[at + len(digits) :]
        return text

    def read(self, text: str) -> bool:
        try:
            log = windbg.parse(text)
        except windbg.ParseError:
            return False
        for table in log.heaps:
            again = windbg.parse(windbg.format_heap_summary(table.rows))
            assert again.heaps[0].rows == table.rows, "written and read it is not the same"
            table.disagreements()
        for summary in log.addresses:
            summary.disagreements()
            windbg.format_address_summary(summary)
            windbg.format_address_summary(summary, "new")
        with suppress(ValueError):  # without figures, or of several processes
            verdict = diagnose.from_log(log)
            str(verdict)
            json.dumps(verdict.as_dict())
        return True

    def save(self, text: str, folder: Path) -> Path:
        path = folder / "case.txt"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        return path


class Leaks(Texts):
    """Texts that show a leak, of which rows and lines are dropped, cut, wrapped, quoted, split and
    joined: none of them may then be said to show none, and none a smaller one without a word on
    what is missing."""

    NAMES = (
        ("several/X-heap-before.txt", "several/X-heap-during.txt", "several/X-heap-after.txt"),
        ("several/Y-good.txt",),
        ("several/A-before.txt", "several/A-after.txt"),
        ("single/34-wow64-two-breaks-one-log.txt",),
        ("single/03-three-dumps-debugger63.txt",),
    )

    def __init__(self) -> None:
        self.whole = [
            "\n".join((GOLDEN / "windbg" / name).read_text(encoding="utf-8") for name in names)
            for names in self.NAMES
        ]
        self.shown = [self._bytes(diagnose.from_log(windbg.parse(text))) for text in self.whole]
        self.origin = 0

    @staticmethod
    def _bytes(verdict: dmi.Verdict) -> int:
        """Of the largest finding."""
        return max((each.bytes or 0 for each in verdict.findings), default=0)

    def make(self, chance: random.Random) -> str:
        self.origin = chance.randrange(len(self.whole))
        lines = self.whole[self.origin].splitlines()
        taken = False
        for _ in range(chance.choice((1, 1, 2, 3))):
            n = chance.randrange(len(lines))
            at = chance.randrange(len(lines[n]) + 1)
            kind = chance.randrange(7)
            # Without a heap's row in all moments nothing in the text is left of its leak.
            kind = kind if kind not in (0, 1, 4) or not taken else 5
            taken = taken or kind in (0, 1, 4)
            if kind == 0:
                del lines[n]
            elif kind == 1:
                # Half of a row's last number is a number too: no reader can tell.
                lines[n] = lines[n][: min(at, lines[n].rstrip().rfind(" ") + 1)]
            elif kind == 2:
                lines[n : n + 1] = [lines[n][:at], lines[n][at:]]
            elif kind == 3:
                lines = [chance.choice(("> ", "  ", ">> ")) + line for line in lines]
            elif kind == 4:
                del lines[n:]
            elif kind == 6:
                lines[n : n + 2] = [" ".join(lines[n : n + 2])]
            else:
                lines.insert(n, "")
            if not lines:
                break
        return "\n".join(lines)

    def read(self, text: str) -> bool:
        try:
            verdict = diagnose.from_log(windbg.parse(text, partial=True))
        except ValueError:
            return False
        str(verdict)
        said = verdict.headline or str(verdict)
        assert verdict.kind != "none", f"no leak is said: {said}"
        if verdict.kind != "one moment" and self._bytes(verdict) < self.shown[self.origin] // 2:
            told = verdict.missing or any("set aside" in note for note in verdict.notes)
            assert told, f"milder, and nothing is said to be missing: {said}"
        return True


# ---- snapshots -----------------------------------------------------------------------------------


def small_snapshot() -> dmi.Snapshot:
    """Two real heaps of a few blocks each, at fixed addresses, so that every run sees the same."""
    with (
        dmi.Heap("never", name="one", clock="manual") as one,
        dmi.Heap("lazy:delay=2", name="two", clock="manual") as two,
    ):
        for heap in (one, two):
            made = [heap.malloc(size) for size in (24, 100, 700, 5000, 24, 100, 100, 20 << 20)]
            for address in made[::3]:
                heap.free(address)
        mine = {one.handle, two.handle}
        taken = dmi.snapshot(blocks=True, label="small")
    heaps = []
    for number, each in enumerate(h for h in taken.heaps if h.handle in mine):
        assert each.blocks is not None
        base = {s.address: (number + 1) << 40 | i << 32 for i, s in enumerate(each.segments)}
        record = struct.Struct("=QQIIIIQ")
        moved = b"".join(
            record.pack(f[0] - f[6] + base[f[6]], *f[1:6], base[f[6]])
            for f in record.iter_unpack(each.blocks.records)
        )
        segments = tuple(Segment(base[s.address], *s[1:]) for s in each.segments)
        heaps.append(
            HeapSnapshot(
                0x1000 * (number + 1), each.name, each.decommit, each.stats, segments,
                each.histogram, Ranges(moved),
            )
        )  # fmt: skip
    address = {
        "total": 1 << 47, "busy": 1 << 30, "free": (1 << 47) - (1 << 30),
        "usage": {"Other": 1 << 30}, "type": {"MEM_PRIVATE": 1 << 30},
        "state": {"MEM_COMMIT": 1 << 29, "MEM_RESERVE": 1 << 29}, "protect": {}, "notes": [],
    }  # fmt: skip
    outside = ({"name": "glibc malloc", "busy": 1 << 20, "committed": 1 << 21},)
    process = {"committed": 1 << 29, "resident": 1 << 28}
    return dmi.Snapshot("small", 1.5, 77, 4096, tuple(heaps), outside, address, process)


class Snapshots:
    """Mutations of the JSON, of the side file, and of the records within it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dmi-fuzz-", dir=shm()))
        self.path = self.folder / "case.json"
        self.beside = self.folder / "case.json.blocks"
        self.good = small_snapshot()
        self.good.save(self.path)
        self.json, self.blocks = self.path.read_bytes(), self.beside.read_bytes()
        self.magic = self.blocks[:8]
        self.records = zlib.decompress(self.blocks[8:])
        address = self.good.heaps[0].segments[0].address + 0x400
        self.commands = ("-s", "-v", "-h", "-stat", "-flt r 1 0n100000", f"-x {address:x}")
        self.number = 0

    def close(self) -> None:
        for path in (self.path, self.beside):
            path.unlink(missing_ok=True)
        self.folder.rmdir()

    def make(self, chance: random.Random) -> tuple[bytes, bytes]:
        text, blocks = self.json, self.blocks
        kind = chance.randrange(5)
        if kind == 0:
            text = self._bytes(text, chance)
        elif kind in (1, 2):
            text = self._values(chance)
        elif kind == 3:
            blocks = self._bytes(blocks, chance)
        else:
            records = (
                self._in_place(chance) if chance.randrange(3) else self._bytes(self.records, chance)
            )
            blocks = self.magic + zlib.compress(records, 1)
        if not chance.randrange(8):
            text = self._values(chance)
        return text, blocks

    @staticmethod
    def _bytes(data: bytes, chance: random.Random) -> bytes:
        out = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(out) + 1)
            kind = chance.randrange(5)
            if kind == 0 and at < len(out):
                out[at] = chance.randrange(256)
            elif kind == 1:
                del out[at : at + chance.randint(1, 40)]
            elif kind == 2:
                out[at:at] = out[at : at + chance.randint(1, 400)]
            elif kind == 3:
                out[at:at] = out[: min(at, 10_000)] * chance.choice((1, 1, 1, 30))
            else:
                out[at : at + chance.randint(0, 3)] = chance.choice(ODD_JSON)
        return bytes(out)

    def _in_place(self, chance: random.Random) -> bytes:
        """Records of the right length, a few of their words a little or entirely different."""
        out = bytearray(self.records)
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randrange(len(out) // 4) * 4
            (word,) = struct.unpack_from("=I", out, at)
            word = chance.choice((word + 1, word - 1, word ^ 1 << chance.randrange(32), 0, -1))
            struct.pack_into("=I", out, at, word & 0xFFFFFFFF)
        return bytes(out)

    def _values(self, chance: random.Random) -> bytes:
        root: Any = json.loads(self.json)
        for _ in range(chance.randint(1, 4)):
            node = root
            while True:
                keys = list(node) if isinstance(node, dict) else list(range(len(node)))
                if not keys:
                    break
                key = chance.choice(keys)
                if isinstance(node[key], dict | list) and node[key] and chance.randrange(8):
                    node = node[key]
                    continue
                kind = chance.randrange(4)
                if kind == 0:
                    del node[key]
                elif kind == 1 and isinstance(node, list):
                    node.extend(node[:])
                elif kind == 2 and isinstance(node[key], int):
                    node[key] += chance.choice((-1, 1, 4096, -4096, 1 << 40))
                else:
                    # A copy: what was put in is changed by what comes after.
                    node[key] = json.loads(json.dumps(chance.choice(ODD_VALUES)))
                break
        return json.dumps(root).encode("utf-8", "surrogatepass")

    def read(self, case: tuple[bytes, bytes]) -> bool:
        self.path.write_bytes(case[0])
        self.beside.write_bytes(case[1])
        try:
            found = dmi.Snapshot.load(self.path)
        except ValueError as error:
            if "case.json: not a snapshot of dmi: " not in str(error):
                raise
            return False
        # In turn, so that a million cases end in a day.
        self.number += 1
        command = self.commands[self.number % len(self.commands)]
        with suppress(ValueError):
            windbg.heap(found, command)
            json.dumps(windbg.heap_data(found, command))
        str(dmi.diagnose(self.good, found) if self.number % 2 else dmi.diagnose(found, self.good))
        return True

    def save(self, case: tuple[bytes, bytes], folder: Path) -> Path:
        (folder / "case.json.blocks").write_bytes(case[1])
        path = folder / "case.json"
        path.write_bytes(case[0])
        return path


def shm() -> str | None:
    """Where files cost no disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


TARGETS: dict[str, Callable[[], Any]] = {
    "texts": Texts,
    "leaks": Leaks,
    "snapshots": Snapshots,
}


# ---- the run -------------------------------------------------------------------------------------


def limit(memory: int) -> None:
    """At most ``memory`` MiB of address space more than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (memory << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def hang(*_: object) -> None:
    raise HangError


def run(args: argparse.Namespace) -> int:
    target = TARGETS[args.target]()
    limit(args.memory)
    signal.signal(signal.SIGPROF, hang)
    numbers = range(args.count) if args.only is None else range(args.only, args.only + 1)
    begun, read, slowest = time.monotonic(), 0, 0.0
    case: Any = None
    try:
        for number in numbers:
            if number % 1000 == 0:
                # For what hangs where no handler runs: the process says where, and ends.
                faulthandler.dump_traceback_later(1000 * args.seconds, exit=True)
            case = target.make(random.Random(args.seed << 32 | number))
            signal.setitimer(signal.ITIMER_PROF, args.seconds)
            before = time.process_time()
            read += bool(target.read(case))
            slowest = max(slowest, time.process_time() - before)
            signal.setitimer(signal.ITIMER_PROF, 0)
    except (Exception, HangError) as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        where = target.save(case, Path(tempfile.mkdtemp(prefix="dmi-fuzz-case-")))
        print(f"case {number} of {args.target}, seed {args.seed}: {type(error).__name__}: {error}")
        print(f"saved as {where}")
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
        if hasattr(target, "close"):
            target.close()
    took = time.monotonic() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{len(numbers):,} {args.target}, seed {args.seed}: {read:,} read and used, "
        f"{len(numbers) - read:,} refused with the documented error; {took:.0f} s, slowest "
        f"{slowest * 1e3:.0f} ms, peak resident {peak} MiB"
    )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--count", type=int, default=100_000, help="cases (default: 100000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this case alone")
    parser.add_argument("--memory", type=int, default=256, metavar="MIB")
    parser.add_argument("--seconds", type=float, default=20.0, help="of CPU time for one case")
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
