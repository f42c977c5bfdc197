"""Byte counts as people write and read them: "1 MiB", "64K", 12_345."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["parse_share", "parse_size", "show_size"]

_UNITS: Final = {"": 0, "b": 0, "k": 10, "kib": 10, "m": 20, "mib": 20, "g": 30, "gib": 30}
_SIZE: Final = re.compile(r"([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([a-zA-Z]*)")
_SHARE: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]+)?)\s*%")


def parse_size(value: object, what: str) -> int:
    """Bytes: an int, or text such as "64 KiB", "1.5M". Else ValueError that names ``what``."""
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value < 1 << 63:
            return value
    elif isinstance(value, str):
        found = _SIZE.fullmatch(value.strip())
        unit = _UNITS.get(found[2].lower()) if found else None
        if found and unit is not None:
            size = round(float(found[1].replace(",", "").replace("_", "")) * (1 << unit))
            if size < 1 << 63:
                return size
    raise ValueError(
        f'{what} must be bytes, as an int or as "64 KiB" or "1 MiB", not {value!r:.60}'
    )


def parse_share(value: object, what: str) -> float:
    """A share from 0 to 1: 0.95, or "95 %". ValueError that names ``what`` for others."""
    share = -1.0
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        share = float(value)
    elif isinstance(value, str) and (found := _SHARE.fullmatch(value.strip())):
        share = float(found[1]) / 100
    if not 0 <= share <= 1:
        raise ValueError(f'{what} must be a share, as 0.95 or "95 %", not {value!r:.60}')
    return share


def show_size(size: int | None) -> str:
    """Bytes in the largest unit that keeps a digit in front of the point; "-" for unknown."""
    if size is None:
        return "-"
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if abs(size) >= 1 << shift:
            return f"{size / (1 << shift):,.2f} {unit}"
    return f"{size} B"
