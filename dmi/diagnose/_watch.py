"""Watching a process: moments taken in turn, the verdict as it forms, the report at the end."""

from __future__ import annotations

import hashlib
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dmi.errors import DmiError

from ._files import state_of_pid
from ._judge import THRESHOLDS, Thresholds, judge
from ._verdict import kib_or_dash

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._observe import State
    from ._verdict import Verdict

__all__ = ["parse_seconds", "watch"]

_MOST_MOMENTS: Final = 256
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_RANDOM: Final = 25
"""AT_RANDOM, getauxval(3): where a program's random bytes are; another place at each start."""


def parse_seconds(text: str) -> float:
    """Seconds of `30s`, `10m`, `1h30m` or a number alone. ValueError for anything else."""
    at, total = 0, 0.0
    while match := _PART.match(text, at):
        total += float(match[1]) * _UNITS[match[2]]
        at = match.end()
        if not match[2]:
            break
    if at != len(text) or not at or not 0 < total <= 366 * 86400:
        raise ValueError(f"a time as 30s, 10m or 1h30m, more than 0, not {text!r}")
    return total


@dataclass(frozen=True, slots=True)
class _Run:
    """Which process a number means, and which program it runs. None: not known."""

    started: str
    program: str | None
    random: str | None

    def other_than(self, before: _Run) -> str:
        """What happened since; empty: nothing did."""
        if self.started != before.started:
            return "ended"
        if None not in (self.random, before.random):
            return "exec" if self.random != before.random else ""
        # The name alone says less: that of a file which was replaced changes while it runs.
        known = None not in (self.program, before.program)
        return "exec" if known and self.program != before.program else ""

    def known_since(self, before: _Run) -> _Run:
        """Itself, with what is not known at this moment as it was before."""
        return _Run(self.started, self.program or before.program, self.random or before.random)


def _digest(auxv: bytes) -> str | None:
    """Of a program's auxiliary vector; None where it is not whole, as in the middle of an exec."""
    # Pairs of a key and a value, of 4 or of 8 bytes each: the halves of the longer are looked at.
    if _RANDOM not in memoryview(auxv[: len(auxv) // 8 * 8]).cast("I")[::2]:
        return None
    return hashlib.sha1(auxv, usedforsecurity=False).hexdigest()


def _run(pid: int) -> _Run | None:
    root = Path("/proc") / str(pid)
    try:
        fields = (root / "stat").read_text(errors="replace").rpartition(")")[2].split()
        if fields[0] in ("Z", "X"):
            return None
    except (OSError, IndexError):
        return None
    program = random = None
    with suppress(OSError):
        program = str((root / "exe").readlink())
    with suppress(OSError):
        random = _digest((root / "auxv").read_bytes())
    return _Run(fields[19], program, random)


def _since(seconds: float) -> str:
    whole = int(seconds + 0.5)
    return f"+{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _thinned(states: list[State]) -> list[State]:
    """Every other one, but the first, the busiest and the last."""
    if len(states) <= _MOST_MOMENTS:
        return states
    busiest = max(states[1:-1], key=lambda s: s.process_committed or 0)
    return [
        state
        for number, state in enumerate(states)
        if number % 2 == 0 or state is busiest or number == len(states) - 1
    ]


def _line(state: State, verdict: Verdict) -> str:
    memory = sum(state.memory.values()) if state.memory else None
    held = "memory" if memory is not None else "committed"
    size = memory if memory is not None else state.process_committed
    said = str(verdict).split("\n", 1)[0]
    return f"{state.label}  {held} {kib_or_dash(size)} KB  {said}"


def watch(
    pid: int,
    every: float,
    duration: float | None,
    *,
    say: Callable[[str], None],
    thresholds: Thresholds = THRESHOLDS,
    page_size: int = 4096,
    swap_in: bool = False,
    stop: bool = False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Verdict:
    """Take a moment of the process every so many seconds, for so long (None: until it ends), and
    judge them. ``say`` gets a line for each. KeyboardInterrupt ends it early, as the end of the
    process does; what was seen until then is judged, and the verdict notes say why it ended.

    Raises what ``dmi.open_process`` raises where there is no first moment.
    """
    states: list[State] = []
    notes: list[str] = []
    begun = clock()
    before = _run(pid)
    number = 0
    why = ""
    try:
        while not why and (duration is None or clock() - begun <= duration + every):
            now = _run(pid)
            if before is not None and now is not None:
                happened = now.other_than(before)
                if happened == "exec":
                    at = _since(clock() - begun)
                    say(f"{at}  it runs another program now; what was before it does not count")
                    notes.append(
                        f"at {at} the process began another program (exec): the {len(states)} "
                        "moments before it are left out"
                    )
                    states.clear()
            if before is not None and (now is None or now.other_than(before) == "ended"):
                why = f"the process ended before {_since(clock() - begun)}"
                break
            before = now if now is None or before is None else now.known_since(before)
            try:
                label = _since(clock() - begun)
                state = replace(state_of_pid(pid, swap_in=swap_in, stop=stop), label=label)
                after = _run(pid)
                if after != now:
                    # What was read belongs to two programs, or to none: the next turn tells which.
                    if after is None:
                        why = f"the process ended at {label}, while it was read"
                    continue
                states.append(state)
                states[:] = _thinned(states)
                verdict = judge(states, thresholds, page_size)
                say(_line(state, verdict))
                number += 1
                left = None if duration is None else duration - (clock() - begun)
                if left is not None and left < every * 0.5:
                    break
                sleep(max(0.0, min(number * every - (clock() - begun), left or every)))
            except (OSError, DmiError) as error:
                after = _run(pid)
                if after is not None and now is not None and after != now:
                    continue  # another program was begun while it was read
                if not states and not notes:
                    raise
                at = _since(clock() - begun)
                why = (
                    f"it could not be read any more at {at}: {error}"
                    if after is not None and not isinstance(error, ProcessLookupError)
                    else f"the process ended before {at}"
                )
    except KeyboardInterrupt:
        why = f"it was interrupted at {_since(clock() - begun)}"
    if why:
        say(f"({why})")
        notes.append(f"{why}; the verdict is on what was seen until then")
    if not states:
        raise ProcessLookupError(f"process {pid}: {why or 'no moment could be taken'}")
    if len(states) > 1:
        notes += [notice.text for notice in states[-1].notices]
    verdict = judge(states, thresholds, page_size)
    return replace(verdict, notes=(*verdict.notes, *notes))
