"""Stops a process for a moment, by a helper that lets it go whatever happens.

The helper is a process of its own, which attaches to every thread (PTRACE_SEIZE, which sends no
signal), interrupts it, and lets all go again when it is told so, when the time is up, or when it
ends: the kernel detaches what a dead tracer held. It dies with the process that started it, and no
key of a terminal reaches it. So the other process runs on however this one ends.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

__all__ = ["LIMIT_MS", "PER_PIECE_MS", "PIECE", "Stop", "limit_for"]

PIECE: Final = 128 << 20
PER_PIECE_MS: Final = 50
LIMIT_MS: Final = 200

_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_DETACH: Final = 17
_EVENT_STOP: Final = 128
_WALL: Final = 0x40000000
_PDEATHSIG: Final = 1
_MAX_THREADS: Final = 1 << 16


def limit_for(size: int) -> int:
    """For how many milliseconds a process with heaps of that size may be stopped."""
    return min(LIMIT_MS, PER_PIECE_MS * max(1, -(-size // PIECE)))


class Stop:
    """The helper, seen from the process that looks. ``why``: why nothing is stopped, else empty."""

    def __init__(self, pid: int, limit_ms: int) -> None:
        self.limit_ms = limit_ms
        self.why = ""
        self.took_ms: float | None = None
        self.in_time = True
        self._helper: subprocess.Popen[bytes] | None = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(pid), str(limit_ms)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if self._line() != "ready":
            self.why = "the helper that stops it could not be started"
        else:
            self._tell(b"go\n")
            said = self._line()
            self.why = "" if said == "stopped" else said or "the helper that stops it ended"
        if self.why:
            self._end()

    def _line(self) -> str:
        pipe = self._helper.stdout if self._helper else None
        return pipe.readline().decode("utf-8", "replace").strip() if pipe else ""

    def _tell(self, what: bytes) -> None:
        if self._helper is not None and self._helper.stdin is not None:
            with suppress(OSError):
                self._helper.stdin.write(what)
                self._helper.stdin.flush()

    def resume(self) -> None:
        """Let it go, if that has not happened yet. took_ms: for how long it stood still; in_time:
        whether that was until now, not only until the time was up."""
        if self._helper is None or self.why:
            return
        self._tell(b"done\n")
        word, _, took = self._line().partition(" ")
        self.in_time = word == "resumed"
        with suppress(ValueError):
            self.took_ms = float(took)
        self._end()

    def _end(self) -> None:
        helper, self._helper = self._helper, None
        if helper is None:
            return
        for pipe in (helper.stdin, helper.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        helper.wait()

    @property
    def note(self) -> str:
        """What is to be said of it, after resume."""
        if self.why:
            return f"it was not stopped: {self.why}; read while it ran"
        if self.took_ms is None:
            return "it was stopped; for how long is not known"
        took = f"it was stopped for {self.took_ms:.1f} ms"
        return took if self.in_time else f"{took}, the limit; what was left was read while it ran"


# ---- the helper ----------------------------------------------------------------------------------


class _Tracer:
    """Attaches to threads. Errors are numbers of errno."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.held: set[int] = set()
        self.stopped: dict[int, int] = {}
        self.ended: set[int] = set()
        libc: Any = ctypes.CDLL(None, use_errno=True)
        self._ptrace = libc.ptrace
        self._ptrace.restype = ctypes.c_long
        self._ptrace.argtypes = [ctypes.c_long] * 2 + [ctypes.c_void_p] * 2
        libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def call(self, request: int, thread: int, data: int = 0) -> int:
        return 0 if self._ptrace(request, thread, None, data) == 0 else ctypes.get_errno()

    def threads(self) -> set[int]:
        found: set[int] = set()
        with suppress(OSError):
            found = {int(task.name) for task in Path(f"/proc/{self.pid}/task").iterdir()}
        return found

    def has_ended(self, thread: int) -> bool:
        """A first thread that ended before the others stays in the list."""
        with suppress(OSError, IndexError):
            text = Path(f"/proc/{self.pid}/task/{thread}/stat").read_text(errors="replace")
            return text.rpartition(")")[2].split()[0] in ("Z", "X")
        return True

    def seize_new(self) -> int:
        """Attach to threads that are not held yet, and interrupt them. 0, or an errno."""
        for thread in self.threads() - self.held - self.ended:
            failed = self.call(_SEIZE, thread)
            if failed == errno.ESRCH or (failed == errno.EPERM and self.has_ended(thread)):
                self.ended.add(thread)
                continue
            if failed:
                return failed
            self.held.add(thread)
            self.call(_INTERRUPT, thread)
        return 0

    def wait(self, until: float) -> bool:
        """Until every thread that is held stands still. False: the time was up."""
        while waiting := self.held - self.stopped.keys():
            for thread in waiting:
                try:
                    found, status = os.waitpid(thread, os.WNOHANG | _WALL)
                except ChildProcessError:
                    self.held.discard(thread)
                    continue
                if not found:
                    continue
                if os.WIFSTOPPED(status):
                    # A signal that came first is given on when it is let go.
                    event = status >> 16 == _EVENT_STOP
                    self.stopped[thread] = 0 if event else os.WSTOPSIG(status)
                else:
                    self.held.discard(thread)
            if time.monotonic() > until:
                return False
            time.sleep(0.0002)
        return True

    def stop(self, until: float) -> str:
        """Stop all threads, those that others begin meanwhile too. Empty, or why not."""
        while len(self.held) < _MAX_THREADS:
            failed = self.seize_new()
            if failed == errno.EPERM:
                return "that needs the rights of a debugger, and that no debugger is attached"
            if failed:
                return os.strerror(failed)
            if not self.held:
                return "it has ended"
            if not self.wait(until):
                return "a thread did not stand still in time"
            if not self.threads() - self.held - self.ended:
                return ""
        return "it has too many threads"

    def go(self) -> None:
        """Let all go."""
        for thread, sign in self.stopped.items():
            self.call(_DETACH, thread, sign)


def _help(pid: int, limit_ms: int) -> None:
    tracer = _Tracer(pid)
    if os.getppid() == 1:
        return  # whoever started this was gone before the kernel was asked to tell of it
    print("ready", flush=True)
    if sys.stdin.readline() != "go\n":
        return
    begun = time.monotonic()
    until = begun + limit_ms / 1000
    why = tracer.stop(until)
    if why:
        tracer.go()
        print(why, flush=True)
        return
    print("stopped", flush=True)
    asked, _, _ = select.select([sys.stdin], [], [], max(0.0, until - time.monotonic()))
    tracer.go()
    took = (time.monotonic() - begun) * 1000
    with suppress(OSError):
        print("resumed" if asked else "late", f"{took:.1f}", flush=True)


if __name__ == "__main__":
    _help(int(sys.argv[1]), int(sys.argv[2]))
