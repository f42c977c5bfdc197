"""A progress bar for what takes longer than a second."""

from __future__ import annotations

import sys
import time
from typing import Any


class Bar:
    """Appears after a second: on a terminal, where rich is installed, as a bar; elsewhere as a
    line for each step that begins.

    Drawn by whoever reports progress: a thread of its own would disturb what is measured.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._wanted = sys.stderr is not None and sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None
        self._said = ""

    def __call__(self, label: str, done: int, total: int) -> None:
        """Show that `done` of `total` is done."""
        if time.monotonic() - self._start < 1 or sys.stderr is None:
            return
        if not self._wanted:
            self._say(label, done, total)
            return
        if self._bar is None:
            try:
                from rich.console import Console
                from rich.progress import Progress
            except ImportError:
                self._wanted = False
                self._say(label, done, total)
                return
            self._bar = Progress(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, description=label, completed=done, total=total, refresh=True)

    def _say(self, label: str, done: int, total: int) -> None:
        if label != self._said:
            self._said = label
            print(f"{100 * done // max(1, total):3} % {label}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
