"""Verdicts on files: reading them, and saying what was read and what was not."""

from __future__ import annotations

import re
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from dmi import windbg
from dmi._files import PACKED, TooLargeError, load_json, open_regular, parse_json, seekable

from ._judge import THRESHOLDS, DifferentProcessError, Thresholds, judge
from ._moments import in_order, join, joined, of_one_process, states_of_log
from ._observe import State, state_of
from ._scope import difference

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from dmi.process import Process

    from ._verdict import Verdict

__all__ = ["from_files", "read_moments", "state_of_pid", "states_of_file", "what_was_read"]

_JSON: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\{|\[\s*[\{\]])")
_OURS: Final = frozenset(
    {"format", "heaps", "outside", "address", "process", "busy", "committed", "stats"}
)
"""Names that snapshots have, and bare statistics."""
_PRINTED: Final = re.compile(
    r"Heap +Flags +Reserv|Usage Summary|Usage SUMMARY|group-by:|HEAP_ENTRY|Class Name|GC Heap Size"
    r"|BackTrace|_HEAP @|[0-9]:[0-9]{3}> *!|Heap Address +Signature"
)
STDIN: Final = "-"
_HEAD: Final = 4096
_MOST_JSON_LINES: Final = 16 << 20


def from_files(
    paths: Iterable[str | os.PathLike[str]],
    *,
    thresholds: Thresholds = THRESHOLDS,
    page_size: int = 4096,
    across: bool = False,
    pid: int | None = None,
    swap_in: bool = False,
    stop: bool = False,
) -> Verdict:
    """The verdict on files: WinDbg logs with one or more moments, and JSON snapshots; ``-`` is
    standard input, ``heap.txt+addr.txt`` are two files of one moment. The moments are in the order
    given, unless time stamps, or titles and names that all say before, during or after, say
    otherwise; of one moment there is a report. ``pid`` is a running process, the last moment, read
    as ``dmi.open_process`` reads it with swap_in and stop.

    Raises OSError, or ValueError (naming the file) for what cannot be read; UnclearError where it
    is open which files belong together; DifferentProcessError for moments of different processes,
    unless ``across``.
    """
    if page_size <= 0 or page_size & (page_size - 1):
        raise ValueError(f"page_size must be a power of two, not {page_size}")
    now = None if pid is None else state_of_pid(pid, swap_in=swap_in, stop=stop)
    states, notes = read_moments(paths, across=across, now=now)
    verdict = judge(states, thresholds, page_size, across=across)
    return replace(verdict, notes=(*verdict.notes, *notes))


def read_moments(
    paths: Iterable[str | os.PathLike[str]], *, across: bool = False, now: State | None = None
) -> tuple[list[State], list[str]]:
    """The moments of files, and of a process now, put together and in order, and what is to be said
    about that."""
    files = [_file(str(path)) for path in paths]
    if now is not None:
        files.append((now.source, [now]))
    if not files:
        raise ValueError("no file: a verdict needs at least one")
    notes: list[str] = []
    states, more = joined(files)
    notes += more
    if not across:
        states, more = _one_process(files, states)
        notes += more
    states, more = in_order(states)
    # Of one moment the report says it by itself.
    remarks = [n.text for n in now.notices] if now is not None and len(states) > 1 else []
    return states, notes + more + remarks


def _file(name: str) -> tuple[str, list[State]]:
    """What an argument names: a file, or parts of one moment with a plus sign between them."""
    if "+" in name and name != STDIN and not Path(name).exists():
        parts = [states_of_file(part) for part in name.split("+")]
        if any(len(part) != 1 for part in parts):
            raise ValueError(f"{name}: a part that holds more than one moment cannot be joined")
        whole = parts[0][0]
        for part in parts[1:]:
            whole = join(whole, part[0])
        return name, [replace(whole, source=name)]
    return name, states_of_file(name)


def _one_process(
    files: Sequence[tuple[str, list[State]]], states: Sequence[State]
) -> tuple[list[State], list[str]]:
    """Different processes within a file are told apart, files of different ones are refused."""
    if len(files) == 1:
        return of_one_process(states)
    for number, one in enumerate(states):
        for other in states[number + 1 :]:
            why = difference(one.scope, other.scope)
            if why is None:
                continue
            kept, notes = of_one_process(states)
            homes = {state.source for state in kept}
            if notes and all(s.source in homes for s in states):
                return kept, notes
            raise DifferentProcessError(
                f"{one.source} and {other.source} are not of one process: {why}. Compare them with "
                "--across if that is meant"
            )
    return list(states), []


def states_of_file(path: str | os.PathLike[str]) -> list[State]:
    """The moments that a file holds: a WinDbg log, a JSON snapshot, or a JSON list of them. Raises
    OSError, or ValueError naming the file."""
    name = str(path)
    if _is_core(name):
        from dmi.process import open_core

        with open_core(name) as source:
            return [replace(_state_of_process(source), source=name, label=Path(name).stem)]
    try:
        with _opened(name) as file:
            given = _values_of(file)
            if given is None:
                states = states_of_log(_log(windbg.text_of(file)), name)
            elif (text := _text_within(given)) is not None:
                states = states_of_log(_log(text), name)
            else:
                states = [_state(part) for part in (given if isinstance(given, list) else [given])]
        if not states:
            raise ValueError("no figures of heaps or of the address space")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name}: {error}") from error
    states = [replace(state, source=name) for state in states]
    if len(states) == 1 and not states[0].label and name != STDIN:
        return [replace(states[0], label=Path(name).stem)]
    return states


def _is_core(name: str) -> bool:
    """Whether it is a core file, told by its first bytes: without the native part for any other."""
    if name == STDIN or not Path(name).is_file():
        return False
    with Path(name).open("rb") as file:
        head = file.read(6)
    return head[:4] == b"\x7fELF" or any(head.startswith(each[0]) for each in PACKED)


def state_of_pid(pid: int, *, swap_in: bool = False, stop: bool = False) -> State:
    """A running process as a moment. Raises what ``dmi.open_process`` raises."""
    from dmi.process import open_process

    with open_process(pid, swap_in=swap_in, stop=stop) as source:
        return replace(_state_of_process(source), source=f"process {pid}")


def _state_of_process(source: Process) -> State:
    state = state_of(source.snapshot())
    remarks = (windbg.Notice("note", text) for text in source.remarks)
    return replace(state, unread=(*state.unread, *source.gaps), notices=(*state.notices, *remarks))


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    """The file, standard input, or what a shell hands over, to be read more than once."""
    with ExitStack() as stack:
        file = sys.stdin.buffer if name == STDIN else open_regular(name, pipe=True)
        if name != STDIN:
            stack.enter_context(file)
        if not file.seekable():
            file = stack.enter_context(seekable(file, windbg.MAX_FILE))
        yield file


def _is_json(file: IO[bytes]) -> bool:
    head = file.read(_HEAD)
    file.seek(0)
    return _JSON.match(head) is not None


def _values_of(file: IO[bytes]) -> Any:
    """The values of JSON; None where it is a log, also one whose lines are JSON each."""
    if not _is_json(file):
        return None
    try:
        return _values(file)
    except ValueError:
        file.seek(0)
        head = file.read(_HEAD)
        file.seek(0)
        # A snapshot that is cut is no log.
        if b"dmi-snapshot" in head or not re.search(rb"!\w|Heap +Flags|Total Size", head):
            raise
        return _json_lines(file)


def _json_lines(file: IO[bytes]) -> list[Any] | None:
    """The values of a file whose lines are JSON each; None for any other."""
    values: list[Any] = []
    for line in file.read(_MOST_JSON_LINES).splitlines():
        if not line.strip():
            continue
        try:
            values.append(parse_json(line))
        except ValueError:
            file.seek(0)
            return None
    file.seek(0)
    return values or None


def _text_within(given: Any) -> str | None:
    """What a debugger printed and a program put into JSON, line by line; None for a snapshot."""
    parts = given if isinstance(given, list) else [given]
    if any(isinstance(part, dict) and part.keys() & _OURS for part in parts):
        return None
    lines: list[str] = []
    left = [given]
    while left:
        value = left.pop()
        if isinstance(value, str):
            lines.append(value)
        elif isinstance(value, list):
            left += reversed(value)
        elif isinstance(value, dict):
            left += reversed(value.values())
    text = "\n".join(lines)
    return text if _PRINTED.search(text) else None


def _values(file: IO[bytes]) -> Any:
    try:
        return load_json(file)
    except TooLargeError:
        # With a profile it may be larger. It loads the native part, which others can do without.
        from dmi.profile._read import load_values

        file.seek(0)
        return load_values(file, _state)


def _log(text: str | windbg.LongText) -> windbg.Log:
    """A log; one of which only lines that cannot be read are left is a moment of which nothing is
    known, and one without any is no log."""
    log = windbg.parse(text, partial=True)
    if not (log.heaps or log.unread or log.addresses or log.facts or log.told or log.asked):
        return windbg.parse(text)
    return log


def _state(given: Any) -> State:
    if isinstance(given, dict) and given.get("format") == "dmi-snapshot":
        from dmi._snapshot import Snapshot  # loads the native part, which logs can do without

        return state_of(Snapshot.from_dict(given))
    return state_of(given)


# ---- what was read -------------------------------------------------------------------------------


def what_was_read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Everything that a file holds and that was understood, and the lines that were not, as data
    for JSON."""
    name = str(path)
    core = _is_core(name)
    log: windbg.Log | None = None
    if not core:
        with _opened(name) as file:
            given = _values_of(file)
            text = windbg.text_of(file) if given is None else _text_within(given)
            if text is not None:
                log = windbg.parse(text, partial=True)
    if log is None:
        states = states_of_file(name) if name != STDIN else []
        return {
            "file": name,
            "kind": "core file" if core else "snapshot",
            "moments": [_moment_line(state) for state in states],
            "tables": [],
            "unread": [],
            "notices": [],
        }
    tables: list[dict[str, Any]] = []
    for table in log.heaps:
        what = "!heap -s" if table.headed else "!heap -s, its header missing"
        tables.append(_table(table.line, what, len(table.rows), table.label, whole=table.whole))
    for summary in log.addresses:
        names = [n for n in ("usage", "type", "state", "protect") if getattr(summary, n)]
        rows = sum(len(getattr(summary, n)) for n in names)
        names += ["largest"] if summary.largest else []
        tables.append(_table(summary.line, f"!address ({', '.join(names)})", rows, summary.label))
    sources = {
        "segment": "segment heaps", "detail": "one heap (!heap -s ADDRESS)",
        "segments": "segments of heaps (!heap -h)",
        "regions": "heaps that the regions name", "listing": "list of heaps",
    }  # fmt: skip
    counted = Counter(each.source for each in log.facts)
    for source, count in counted.items():
        line = next(each.line for each in log.facts if each.source == source)
        tables.append(_table(line, sources[source], count, ""))
    tables += [
        _table(sizes.line, f"!heap -stat of {sizes.handle:08x}", len(sizes.rows), sizes.label)
        for sizes in log.sizes
    ]
    for listed in log.blocks:
        command = {"leaked": "-l", "flt": "-flt", "found": "-srch", "entries": "-h"}[listed.command]
        tables.append(_table(listed.line, f"!heap {command}", listed.blocks, ""))
    tables += [
        _table(compared.line, "UMDH comparison", len(compared.traces), "")
        for compared in log.traces
    ]
    tables += [
        _table(block.line, f"one block (-p -a, -i) of {block.address:08x}", 1, "")
        for block in log.asked
    ]
    tables += [_table(told.line, told.source, len(told.rows), told.label) for told in log.told]
    tables.sort(key=lambda each: each["line"])
    return {
        "file": name,
        "kind": "log",
        "moments": [_moment_line(state) for state in states_of_log(log, name)],
        "tables": tables,
        "unread": [{"line": each.line, "why": each.why, "text": each.text} for each in log.unread],
        "notices": [
            {"line": each.line, "kind": each.kind, "text": each.text} for each in log.notices
        ],
    }


def _table(line: int, what: str, rows: int, label: str, *, whole: bool = True) -> dict[str, Any]:
    return {"line": line, "what": what, "rows": rows, "title": label, "whole": whole}


def _moment_line(state: State) -> dict[str, Any]:
    return {
        "title": state.label,
        "line": state.line,
        "kinds": sorted(state.kinds),
        "heaps": len(state.heaps),
        "scope": state.scope.as_dict(),
    }


def read_text(found: dict[str, Any]) -> str:
    """What was read of one file, as lines."""
    lines = [f"{found['file']}: {found['kind']}"]
    for table in found["tables"]:
        title = f", titled {table['title']!r}" if table["title"] else ""
        part = "" if table["whole"] else ", not whole"
        lines.append(f"  line {table['line']}: {table['what']}, {table['rows']} rows{title}{part}")
    for number, moment in enumerate(found["moments"], 1):
        title = f" {moment['title']!r}" if moment["title"] else ""
        key = moment["scope"]["lfh_key"]
        of = "" if key is None else f", LFH key 0x{key:x}"
        held = ", ".join(moment["kinds"]) or "nothing that can be compared"
        lines.append(f"  moment {number}{title}: {held}; {moment['heaps']} heaps{of}")
    lines += [f"  line {n['line']}: {n['kind']}: {n['text']}" for n in found["notices"]]
    lines += [f"  line {u['line']}: NOT READ, {u['why']}: {u['text']}" for u in found["unread"]]
    if not found["tables"] and not found["moments"]:
        lines.append("  nothing that the doctor reads")
    return "\n".join(lines)
