"""Reading a profile. Whoever wrote it, no number of it is used before it was checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any, Final

from dmi import _files
from dmi.profile._large import look_through
from dmi.profile._parts import (
    FATES,
    KIND,
    SNAPSHOT,
    VERSION,
    Allocated,
    Block,
    Frame,
    Large,
    Mapped,
    MarkedPage,
)

if TYPE_CHECKING:
    import os

__all__ = ["checked", "load_values", "may_be_large", "read_profile", "read_values"]

BUDGET: Final = 256 << 20
"""Bytes of memory that a profile's text and values may take."""
_MARK: Final = f'"{KIND}"'.encode()
_MOST: Final = (1 << 64) - 1
_MOST_WEIGHT: Final = float(1 << 40)
_MOST_TEXT: Final = 4096
_MOST_TIMES: Final = 1 << 20
_MOST_DEPTH: Final = 1024


def read_values(
    path: str | os.PathLike[str], what: str, check: Callable[[dict[str, Any]], object]
) -> Any:
    """The values of a JSON file that is a profile or may carry one.

    A file that takes more memory than other JSON files may is read whole once it was looked through
    for faults, so that one that is refused takes little. ``check`` refuses what such a file holds
    besides the profile.
    """
    with _files.open_regular(path) as file:
        try:
            return load_values(file, check)
        except _files.TooLargeError as error:
            raise _files.TooLargeError(f"{path}: {error}") from None
        except ValueError as error:
            raise ValueError(f"{path}: not {what}: {error}") from None


def load_values(file: IO[bytes], check: Callable[[dict[str, Any]], object]) -> Any:
    """The same from a file that is open and can be read twice; messages name no file."""
    weight, marked = _files.weight_of_json(file, BUDGET, _MARK)
    budget = BUDGET if marked and weight > _files.JSON_BUDGET else _files.JSON_BUDGET
    if weight > budget:
        raise _files.TooLargeError(
            f"its values would take {weight >> 20} MiB of memory or more; "
            f"up to {budget >> 20} are taken"
        )
    if budget == BUDGET:
        check(look_through(file, _LISTS, checked))
    file.seek(0)
    return _files.load_json(file, budget=budget)


def may_be_large(file: IO[bytes]) -> bool:
    """Whether it takes more memory than a JSON file without a profile may."""
    weight, marked = _files.weight_of_json(file, BUDGET, _MARK)
    return marked and weight > _files.JSON_BUDGET


def read_profile(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a Profile: of a file, or of a snapshot that carries one."""
    values = read_values(path, "a profile of dmi", lambda _: None)
    try:
        if isinstance(values, dict) and values.get("format") == SNAPSHOT:
            values = values.get("profile")
            if values is None:
                raise ValueError("a snapshot without a profile: it was taken without a sampler")
        return checked(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def checked(values: object) -> dict[str, Any]:
    """The fields of the Profile that the values of a JSON file are. ValueError says where they are
    none."""
    top = _Part(values, "a profile")
    if top.values.get("kind") != KIND:
        raise ValueError(f"not a profile of dmi: kind is {top.values.get('kind')!r:.60}")
    if top.values.get("version") != VERSION:
        raise ValueError(
            f"a profile of version {top.values.get('version')!r:.20}; this dmi reads {VERSION}"
        )
    frames = top.each("frames", _frame)
    stacks = top.each("stacks", lambda given, where: _stack(given, where, len(frames)))
    count = len(stacks)
    lost = _Part(top.values.get("lost") or {}, "lost")
    one_in = top.whole("one_in", least=1)
    return {
        "one_in": one_in,
        "pid": top.whole("pid", default=0),
        "time": top.real("time", 0.0, _MOST_WEIGHT, default=0.0),
        "page_bytes": top.whole("page_bytes", least=1, most=1 << 30),
        "program": top.text("program", default=""),
        "mappings": top.each("mappings", _mapped, default=()),
        "frames": frames,
        "stacks": stacks,
        "marks": top.each("marks", lambda given, where: _mark(given, where, count)),
        "large": top.each("large", lambda given, where: _large(given, where, count), default=()),
        "allocated": top.each(
            "allocated",
            lambda given, where: _allocated(given, where, count, one_in),
            default=(),
        ),
        "lost_stacks": lost.whole("stacks", default=0),
        "lost_marks": lost.whole("marks", default=0),
        "memory": None if top.values.get("memory") is None else top.whole("memory"),
    }


class _Part:
    """A JSON object, and how to name it."""

    __slots__ = ("values", "where")

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, Mapping):
            raise ValueError(f"{where} must be an object, not {_what(values)}")
        self.values = values
        self.where = where

    def _get(self, name: str, default: object) -> object:
        value = self.values.get(name, default)
        if value is _NEEDED:
            raise ValueError(f"{self.where} lacks {name!r}")
        return value

    def whole(self, name: str, *, least: int = 0, most: int = _MOST, default: Any = None) -> int:
        value = self._get(name, _NEEDED if default is None else default)
        return _whole(value, f"{self.where}: {name}", least, most)

    def real(self, name: str, least: float, most: float, *, default: Any = None) -> float:
        value = self._get(name, _NEEDED if default is None else default)
        return _real(value, f"{self.where}: {name}", least, most)

    def text(self, name: str, *, default: Any = None) -> str:
        value = self._get(name, _NEEDED if default is None else default)
        return _text(value, f"{self.where}: {name}")

    def each(
        self, name: str, made: Callable[[object, str], Any], *, default: object = None
    ) -> tuple[Any, ...]:
        value = self._get(name, _NEEDED if default is None else default)
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{self.where}: {name} must be a list, not {_what(value)}")
        return tuple(made(entry, f"{name}[{number}]") for number, entry in enumerate(value))


_NEEDED: Final = object()


def _what(value: object) -> str:
    if value is None or isinstance(value, (bool, int, float, str)):
        return f"{value!r:.40}"
    return type(value).__name__


def _whole(value: object, where: str, least: int = 0, most: int = _MOST) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(
            f"{where} must be a whole number from {least} to {most}, not {_what(value)}"
        )
    return value


def _real(value: object, where: str, least: float, most: float) -> float:
    if type(value) not in (int, float) or not least <= value <= most:  # type: ignore[operator]
        raise ValueError(f"{where} must be a number from {least:g} to {most:g}, not {_what(value)}")
    return float(value)  # type: ignore[arg-type]


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        raise ValueError(
            f"{where} must be text of up to {_MOST_TEXT} characters, not {_what(value)}"
        )
    return value


def _number(value: object, where: str, count: int) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < count:
        raise ValueError(f"{where}: there is no stack {_what(value)}; there are {count}")
    return value


def _mapped(given: object, where: str) -> Mapped:
    part = _Part(given, where)
    found = Mapped(part.whole("start"), part.whole("end"), part.whole("offset"), part.text("path"))
    if found.end < found.start:
        raise ValueError(f"{where} ends before it starts")
    return found


def _frame(given: object, where: str) -> Frame:
    part = _Part(given, where)
    if "address" in part.values:
        return Frame(part.whole("address"))
    return Frame(
        None, part.text("file"), part.text("function"), part.whole("line", most=1 << 31, default=0)
    )


def _stack(given: object, where: str, frames: int) -> tuple[int, ...]:
    if not isinstance(given, (list, tuple)) or len(given) > _MOST_DEPTH:
        raise ValueError(f"{where} must be a list of up to {_MOST_DEPTH} frames")
    for frame in given:
        if type(frame) is not int or not 0 <= frame < frames:
            raise ValueError(f"{where}: there is no frame {_what(frame)}; there are {frames}")
    return tuple(given)


def _mark(given: object, where: str, stacks: int) -> MarkedPage:
    part = _Part(given, where)
    size = part.whole("bytes", most=1 << 40)
    free = part.whole("free")
    if free > size:
        raise ValueError(f"{where}: {free} free bytes on {size}")
    fate = part.text("fate")
    if fate not in FATES:
        raise ValueError(f"{where}: fate must be one of {', '.join(FATES)}, not {fate!r:.40}")
    blocks = part.each("blocks", lambda entry, place: _block(entry, f"{where}.{place}", stacks))
    if blocks and fate == "empty":
        raise ValueError(f"{where} is empty, and has blocks")
    page = part.values.get("page")
    return MarkedPage(
        part.text("heap", default=""),
        part.real("weight", 1.0, _MOST_WEIGHT),
        size,
        free,
        fate,
        blocks,
        None if page is None else _whole(page, f"{where}: page"),
    )


def _block(given: object, where: str, stacks: int) -> Block:
    if not isinstance(given, (list, tuple)) or len(given) not in (3, 4, 5):
        raise ValueError(f"{where} must be [address, size, stack], not {_what(given)}")
    kind = given[3] if len(given) > 3 else None
    return Block(
        _whole(given[0], f"{where}: address"),
        _whole(given[1], f"{where}: size"),
        _number(given[2], where, stacks),
        None if kind is None else _text(kind, f"{where}: type"),
        _whole(given[4], f"{where}: times", most=_MOST_TIMES) if len(given) == 5 else 1,
    )


def _large(given: object, where: str, stacks: int) -> Large:
    part = _Part(given, where)
    return Large(
        part.whole("address"),
        part.whole("size"),
        part.whole("retained"),
        part.real("weight", 1.0, _MOST_WEIGHT),
        _number(part.values.get("stack"), where, stacks),
    )


def _allocated(given: object, where: str, stacks: int, one_in: int) -> Allocated:
    if not isinstance(given, (list, tuple)) or len(given) not in (3, 4):
        raise ValueError(f"{where} must be [stack, bytes, count], not {_what(given)}")
    most = float(1 << 80)
    count = _real(given[2], f"{where}: count", 0.0, most)
    # Where the number of samples is not told: each stands for one_in blocks.
    samples = _whole(given[3], f"{where}: samples") if len(given) == 4 else round(count / one_in)
    size = _real(given[1], f"{where}: bytes", 0.0, most)
    return Allocated(_number(given[0], where, stacks), size, count, samples)


_LISTS: Final[dict[str, Callable[[object, str, int, int], object]]] = {
    "mappings": lambda given, where, _frames, _stacks: _mapped(given, where),
    "frames": lambda given, where, _frames, _stacks: _frame(given, where),
    "stacks": lambda given, where, frames, _stacks: _stack(given, where, frames),
    "marks": lambda given, where, _frames, stacks: _mark(given, where, stacks),
    "large": lambda given, where, _frames, stacks: _large(given, where, stacks),
    "allocated": lambda given, where, _frames, stacks: _allocated(given, where, stacks, 1),
}
