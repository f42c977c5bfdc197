"""pprof's profile.proto, written by hand: eight messages of whole numbers and strings.

The fields and their numbers are those of https://github.com/google/pprof/blob/main/proto/profile.proto.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from dmi.profile._measure import BY_ITSELF
from dmi.profile._stacks import MOMENT, by_number
from dmi.profile._symbols import NO_STACK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dmi.profile._model import Profile
    from dmi.profile._symbols import Place, Resolver

__all__ = ["pprof"]


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative int64 as protobuf has it
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


def _whole(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value) if value else b""


def _bytes(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _packed(number: int, values: Iterable[int]) -> bytes:
    return _bytes(number, b"".join(map(_varint, values)))


class _Tables:
    """Strings, functions, mappings and locations; each once."""

    def __init__(self, profile: Profile, resolver: Resolver) -> None:
        self._resolver = resolver
        self._profile = profile
        self.strings: dict[str, int] = {"": 0}
        self.functions: dict[tuple[str, str], int] = {}
        self.locations: dict[object, int] = {}
        self.parts: list[bytes] = []
        self._mappings = {each: number for number, each in enumerate(profile.mappings, 1)}
        for each, number in self._mappings.items():
            self.parts.append(_bytes(3, b"".join((
                _whole(1, number), _whole(2, each.start), _whole(3, each.end),
                _whole(4, each.offset), _whole(5, self.string(each.path)),
                _whole(7, 1), _whole(8, 1), _whole(9, 1), _whole(10, 1),
            ))))  # fmt: skip

    def string(self, text: str) -> int:
        return self.strings.setdefault(text, len(self.strings))

    def function(self, name: str, file: str) -> int:
        number = self.functions.get((name, file))
        if number is None:
            number = self.functions[name, file] = len(self.functions) + 1
            self.parts.append(_bytes(5, b"".join((
                _whole(1, number), _whole(2, self.string(name)), _whole(3, self.string(name)),
                _whole(4, self.string(file)),
            ))))  # fmt: skip
        return number

    def named(self, name: str) -> int:
        """The location of what has no code."""
        return self._location(name, 0, 0, [(self.function(name, ""), 0)])

    def frame(self, number: int, places: Sequence[Place]) -> int:
        frame = self._profile.frames[number]
        lines = [(self.function(p.function or p.name, p.file or p.module), p.line) for p in places]
        address, mapping = 0, 0
        if frame.address is not None:
            address = max(0, frame.address - 1)
            found = self._resolver.mapping(address)
            mapping = self._mappings[found] if found is not None else 0
        return self._location((number, len(places)), address, mapping, lines)

    def _location(
        self, key: object, address: int, mapping: int, lines: list[tuple[int, int]]
    ) -> int:
        number = self.locations.get(key)
        if number is None:
            number = self.locations[key] = len(self.locations) + 1
            made = _whole(1, number) + _whole(2, mapping) + _whole(3, address)
            made += b"".join(_bytes(4, _whole(1, f) + _whole(2, line)) for f, line in lines)
            self.parts.append(_bytes(4, made))
        return number

    def stack(self, number: int | None) -> list[int]:
        """The locations of a stack, the innermost first, without the allocator at its top."""
        if number is None:
            return [self.named(NO_STACK)]
        if number < 0:
            return [self.named(BY_ITSELF)]
        frames = self._profile.stacks[number]
        places = [self._resolver.places(frame) for frame in frames]
        dropped = sum(map(len, places)) - len(self._resolver.stack(number))
        found = []
        for frame, each in zip(frames, places, strict=True):
            left = each[dropped:] if dropped < len(each) else ()
            dropped = max(0, dropped - len(each))
            if left:
                found.append(self.frame(frame, left))
        return found or [self.named(NO_STACK)]


def pprof(profile: Profile, resolver: Resolver, what: str) -> bytes:
    """The file, packed, with all measures; ``what`` is the one that is shown first."""
    tables = _Tables(profile, resolver)
    unit = tables.string("bytes")
    head = [_bytes(1, _whole(1, tables.string(each)) + _whole(2, unit)) for each in MOMENT]
    for number, sizes in by_number(profile, MOMENT).items():
        if any(sizes):
            head.append(_bytes(2, _packed(1, tables.stack(number)) + _packed(2, sizes)))
    space, first = tables.string("space"), tables.string(what)
    tail = [
        _whole(9, round(profile.time * 1e9)),
        _bytes(11, _whole(1, space) + _whole(2, unit)),
        _whole(12, profile.one_in * profile.page_bytes),
        _whole(14, first),
    ]
    strings = [_bytes(6, text.encode("utf-8", "replace")) for text in tables.strings]
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(b"".join([*head, *tables.parts, *strings, *tail])) + packer.flush()
