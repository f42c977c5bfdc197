"""`dmi run --report`: the program as a child, looked at from outside while it runs.

The time line comes from reading the child's heaps and its resident size every now and then; the
rest of the page from the snapshot that the child writes when it ends. A child that is killed, or
that calls _exit(), leaves the time line alone, and the page says so.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dmi._files import check_target

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run_reported"]

SHARE: Final = 0.02
"""Of the child's time, at most, goes into looking at it."""
SOONEST: Final = 0.05
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)


class Timeline:
    """What was seen of the child, in bytes at seconds since its start."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.begin = time.monotonic()
        self.busy: list[tuple[float, float]] = []
        self.committed: list[tuple[float, float]] = []
        self.resident: list[tuple[float, float]] = []

    def look(self) -> float:
        """One look; returns the seconds until the next."""
        from dmi._layers import physical_memory
        from dmi.address import process_heaps

        start = time.monotonic()
        when = start - self.begin
        with suppress(OSError, ProcessLookupError, NotImplementedError):
            self.resident.append((when, float(physical_memory(self.pid)["Rss"])))
            heaps = process_heaps(self.pid)
            if heaps:
                self.busy.append((when, float(sum(each.busy for each in heaps))))
                self.committed.append((when, float(sum(each.committed for each in heaps))))
        return max(SOONEST, (time.monotonic() - start) / SHARE)


def run_reported(output: str, start: Callable[[str], Any], program: str) -> int:
    """Run, wait, write the page; returns the program's exit status as a shell has it.

    start  becomes the program, given the file for the snapshot at its end; does not return
    """
    check_target(output)
    target = Path(output).absolute()
    with tempfile.TemporaryDirectory(prefix="dmi-report-") as folder:
        file = Path(folder) / "end.json"
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            try:
                os._exit(int(start(str(file)) or 0))
            except BaseException as error:
                print(f"dmi run: {error}", file=sys.stderr, flush=True)
                os._exit(126)
        status, timeline = _watched(child)
        _written(target, program, file, timeline, status)
    return status


def _watched(child: int) -> tuple[int, Timeline]:
    """Wait for the child and look at it; signals that would end us go to it."""
    kept = {
        number: signal.signal(number, lambda n, _frame: _pass_on(child, n)) for number in _PASSED_ON
    }
    # The terminal sends it to both.
    kept[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    timeline = Timeline(child)
    try:
        due = 0.0
        while True:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                code = os.waitstatus_to_exitcode(status)
                return (code if code >= 0 else 128 - code), timeline
            now = time.monotonic()
            if now >= due:
                due = now + timeline.look()
            time.sleep(0.01)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _pass_on(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, number)


def _written(target: Path, program: str, file: Path, timeline: Timeline, status: int) -> None:
    from dmi._snapshot import Snapshot
    from dmi.report._content import Chart, Series
    from dmi.report._gather import report_of_run

    lines = [
        Series("busy", timeline.busy, True),
        Series("committed", timeline.committed),
        Series("resident, whole process", timeline.resident),
    ]
    note = "Seen from outside while it ran; what came and went between two looks is not there."
    chart = Chart("Memory while it ran", note, [line for line in lines if line.points])
    end = None
    with suppress(OSError, ValueError):
        end = Snapshot.load(file)
    made = report_of_run(Path(program).name, status, chart, end)
    made.save(target)
    print(f"dmi run: {target} written", file=sys.stderr)
