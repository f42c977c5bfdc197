"""A recording on other allocators, beside dmi's policies, at the recording's own pace.

Other allocators know no clock but the system's: what they give back, they give back in real time.
So each is preloaded into a process of its own, dmi's library with its policies like the others, and
the recording is played as slowly as it was recorded. What is compared is what the system sees:
resident memory, and CPU time of all threads.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dmi.errors import DmiError
from dmi.experiment._report import mib
from dmi.trace import Trace, load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dmi.policy import Decommit

__all__ = ["Comparison", "Rival", "against", "library_of"]

GLIBC: Final = "glibc"
_FILES: Final = {
    "jemalloc": ("libjemalloc.so*",),
    "mimalloc": ("libmimalloc.so*", "libmimalloc-*.so*"),
    "tcmalloc": ("libtcmalloc_minimal.so*", "libtcmalloc.so*"),
    "snmalloc": ("libsnmallocshim.so*",),
    "rpmalloc": ("librpmallocwrap.so*", "librpmalloc.so*"),
    "scudo": ("libscudo.so*",),
    "hoard": ("libhoard.so*",),
}
_TICK: Final = 0.05
"""Seconds between two samples."""


class RivalError(DmiError):
    """An allocator could not be played on; the message names it."""


@dataclass(frozen=True, slots=True)
class Rival:
    """A recording on one allocator. Bytes are resident memory beyond what the process held
    before."""

    name: str
    library: str | None
    """The file that was preloaded; None for the C library's own malloc."""
    resident_peak: int
    resident_end: int
    mean_resident: float
    """Over the recording's time."""
    cpu_seconds: float
    """User and system time of all threads while it played."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of them. str() is a table."""

    recording: str
    events: int
    duration: float
    live_bytes: int
    rivals: tuple[Rival, ...]

    def as_dict(self) -> dict[str, Any]:
        """What `dmi replay --against … --json` prints."""
        values = asdict(self)
        values["rivals"] = [asdict(rival) for rival in self.rivals]
        return values

    def to_json(self, *, indent: int | None = None) -> str:
        """as_dict() as JSON text."""
        return json.dumps(self.as_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        head = ["", "peak, MiB", "mean, MiB", "end, MiB", "CPU s"]
        rows = [
            [
                rival.name,
                mib(rival.resident_peak),
                mib(rival.mean_resident),
                mib(rival.resident_end),
                f"{rival.cpu_seconds:.2f}",
            ]
            for rival in sorted(self.rivals, key=lambda rival: rival.mean_resident)
        ]
        widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in (head, *rows)
        ]
        lines.insert(1, "-" * len(lines[0]))
        title = f"{self.recording}: {self.events:,} events, {self.duration:.1f} s, "
        title += f"{mib(self.live_bytes)} MiB asked for and live at the end"
        note = (
            "Resident memory, at the recording's own pace; the replayer's table is in it, the same"
        )
        return "\n".join([title, "", *lines, "", f"{note} for all."])


def _folders() -> list[Path]:
    given = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    triple = sysconfig.get_config_var("MULTIARCH") or ""
    names = [name for name in given if name.startswith(os.sep)]
    names += [f"/usr/local/lib/{triple}", "/usr/local/lib", f"/usr/lib/{triple}", f"/lib/{triple}"]
    names += ["/usr/lib64", "/lib64", "/usr/lib", f"{sys.prefix}/lib"]
    return [Path(name) for name in names]


def library_of(name: str) -> str | None:
    """The file of an allocator by its name or path; None for glibc. ValueError names what there
    is no file of."""
    if name == GLIBC:
        return None
    if os.sep in name:
        path = Path(name).absolute()
        if not path.is_file():
            raise ValueError(f"there is no library {name}")
        return str(path)
    if name not in _FILES:
        known = ", ".join((GLIBC, *_FILES))
        raise ValueError(f"no allocator {name!r}; known are {known}, or the path of a library")
    for folder in _folders():
        for pattern in _FILES[name]:
            # The shortest name is the one without a version of its own.
            found = sorted(folder.glob(pattern), key=lambda path: (len(path.name), path.name))
            if found:
                return str(found[0])
    raise ValueError(f"{name} is not installed: none of {', '.join(_FILES[name])} was found")


def against(
    recording: str | os.PathLike[str],
    names: Sequence[str],
    policies: Sequence[Decommit] = (),
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Play a recording on each allocator and under each policy, in processes of their own.

    names     "glibc", "jemalloc", "mimalloc", "tcmalloc", …, or paths of libraries
    policies  of dmi

    Takes the recording's time for each, as many at once as there are processors. ValueError for an
    allocator that is not there, RivalError for one that cannot be played on.
    """
    import dmi

    wanted: list[tuple[str, str | None, str]] = [
        (f"dmi {policy}", dmi.get_preload_path(), f"decommit={policy}") for policy in policies
    ]
    wanted += [
        (name if os.sep not in name else Path(name).name, library_of(name), "") for name in names
    ]
    trace = load(recording)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        waiting = [
            (name, library, pool.submit(_cell, os.fspath(recording), name, library, options))
            for name, library, options in wanted
        ]
        rivals: list[Rival] = []
        for name, library, future in waiting:
            if progress:
                progress(f"{name}, {trace.duration:.0f} s", len(rivals), len(waiting))
            rivals.append(Rival(name, library, **future.result()))
    return Comparison(trace.name, trace.events, trace.duration, trace.live_bytes, tuple(rivals))


def _cell(recording: str, name: str, library: str | None, options: str) -> dict[str, Any]:
    from dmi.experiment._sweep import child

    dropped = ("LD_PRELOAD", "DMI_OPTIONS", "PYTHONMALLOC")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    if library is not None:
        environment["LD_PRELOAD"] = library
    if options:
        environment["DMI_OPTIONS"] = options
    done = subprocess.run(
        [*child(__name__), recording, library or ""],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines()
        reason = said[-1] if said else f"exit status {done.returncode}"
        raise RivalError(f"{name}: {reason}") from None
    return found


# ---- in the process that plays ------------------------------------------------------------------


def _functions() -> tuple[dict[str, int], str]:
    """The addresses of malloc and its family in this process, and the file that malloc is in."""
    import cffi

    linker = cffi.FFI()
    linker.cdef(
        "void *malloc(size_t); void *calloc(size_t, size_t); void *realloc(void *, size_t);"
        "void *aligned_alloc(size_t, size_t); void free(void *);"
        "typedef struct { const char *file; void *base; const char *symbol; void *at; } Dl_info;"
        "int dladdr(const void *address, Dl_info *info);"
    )
    process: Any = linker.dlopen(None)
    found = {
        name: int(linker.cast("uintptr_t", linker.addressof(process, name)))
        for name in ("malloc", "calloc", "realloc", "aligned_alloc", "free")
    }
    info: Any = linker.new("Dl_info *")

    def file_of(address: int) -> str:
        process.dladdr(linker.cast("void *", address), info)
        return os.fsdecode(linker.string(info.file))

    served = file_of(found["malloc"])
    if Path(served).resolve() == Path("/proc/self/exe").resolve():
        # An interpreter that is linked at a fixed address has a place of its own for functions that
        # it only asks for; they are those of the first preloaded library that has them.
        for name in filter(None, os.environ.get("LD_PRELOAD", "").split(":")):
            library: Any = linker.dlopen(name)
            address = int(linker.cast("uintptr_t", linker.addressof(library, "malloc")))
            if Path(file_of(address)).resolve() == Path(name).resolve():
                return found, name
    return found, served


def _resident() -> int:
    """Bytes of this process's own memory that are resident."""
    total = 0
    for line in Path("/proc/self/status").read_bytes().splitlines():
        if line.startswith((b"RssAnon:", b"RssShmem:")):
            total += int(line.split()[1]) << 10
    return total


def play(trace: Trace, functions: dict[str, int]) -> dict[str, Any]:
    """The figures of Rival, of the malloc of this process."""
    from dmi._cffi import ffi, lib

    target = ffi.new("dmi_replay_target *")
    target.size = ffi.sizeof("dmi_replay_target")
    target.page_size = mmap.PAGESIZE
    for name, address in functions.items():
        kind = ffi.typeof(getattr(target, f"{name}_fn"))
        setattr(target, f"{name}_fn", ffi.cast(kind, address))
    state = ffi.new("dmi_replay_state *")
    state.size = ffi.sizeof("dmi_replay_state")
    records = ffi.from_buffer(trace.records)
    replay = lib.dmi_replay_open(records, trace.count, trace.objects, trace.threads, target, 0)
    if replay == ffi.NULL:
        raise MemoryError(f"no memory for a table of {trace.objects:,} objects")
    base = _resident()
    peak = total = 0
    samples = 0
    begin, cpu = time.monotonic(), time.process_time()
    ended = False
    while not ended:
        samples += 1
        moment = samples * _TICK
        last = moment >= trace.duration
        until = (1 << 64) - 1 if last else round(moment * 1e6)
        ended = lib.dmi_replay_play(replay, (1 << 64) - 1, until, state) != 0
        now = max(0, _resident() - base)
        peak, total = max(peak, now), total + now
        wait = begin + min(moment, trace.duration) - time.monotonic()
        if wait > 0:
            time.sleep(wait)
    used = time.process_time() - cpu
    return {
        "resident_peak": peak,
        "resident_end": max(0, _resident() - base),
        "mean_resident": total / samples,
        "cpu_seconds": used,
    }


def main() -> None:
    """Play the recording of the first argument; the second is the library that should serve."""
    recording, library = sys.argv[1:]
    functions, served = _functions()
    if library and Path(served).resolve() != Path(library).resolve():
        raise SystemExit(f"{library} does not serve malloc, {served} does")
    print(json.dumps(play(load(recording), functions)))


if __name__ == "__main__":
    main()
