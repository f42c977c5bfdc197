"""Baseline files: what each test left behind when the file was written, as small JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from dmi import _files
from dmi._sizes import show_size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dmi.testing._watch import Found

__all__ = ["Baseline"]

FORMAT: Final = "dmi-test-baseline"
MAX_BYTES: Final = 16 << 20
ROOM: Final = 64 << 10
SHARE: Final = 0.1
"""A test may exceed its baseline by ROOM bytes, or by this share of it where that is more."""
MEASURES: Final = ("busy_growth", "retained_growth")


class Baseline:
    """The figures of earlier runs by test."""

    def __init__(self, tests: Mapping[str, Mapping[str, int]]) -> None:
        self.tests = {name: dict(row) for name, row in tests.items()}

    @classmethod
    def load(cls, path: Path) -> Baseline:
        """Read a file. ValueError, naming it, for anything that is no baseline."""
        values = _files.read_json(path, what="a baseline of dmi", budget=MAX_BYTES)
        try:
            if not isinstance(values, dict) or values.get("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT!r}")
            return cls({str(name): cls._row(row) for name, row in values["tests"].items()})
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}: not a baseline of dmi: {error}") from None

    @staticmethod
    def _row(row: Any) -> dict[str, int]:
        found = {name: row[name] for name in MEASURES}
        if not all(type(value) is int for value in found.values()):
            raise ValueError(f"{found!r:.80} must be whole bytes")
        return found

    def text(self) -> str:
        """The file's contents, sorted so that two runs compare line by line."""
        tests = {name: {m: row[m] for m in MEASURES} for name, row in sorted(self.tests.items())}
        return json.dumps({"format": FORMAT, "tests": tests}, indent=1) + "\n"

    def broken(self, test: str, found: Found) -> list[str]:
        """A sentence for each figure that rose. A test that the file does not know passes."""
        before = self.tests.get(test)
        if before is None:
            return []
        said = []
        for name in MEASURES:
            was, now = before[name], int(getattr(found, name))
            if now > was + max(ROOM, int(SHARE * abs(was))):
                said.append(
                    f"{name.replace('_', ' ')} was {show_size(was)} in the baseline and is "
                    f"{show_size(now)}"
                )
        return said
