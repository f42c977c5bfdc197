"""The types of Python objects in a profile: what the process itself knows is the truth."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import dmi

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or bool(getattr(sys, "_is_gil_enabled", lambda: True)()) is False,
    reason="Linux, and a Python with the GIL",
)

KEPT = """
import collections, sys
class Session:
    __slots__ = ("user", "at")
class Entry:
    def __init__(self, key): self.key = key
class Meta(type): pass
class Derived(metaclass=Meta):
    __slots__ = ("a", "b", "c")
kept = []
def fill():
    for i in range(40000):
        if i % 4 == 0: kept.append(Session())
        elif i % 4 == 1: kept.append(Entry(i))
        elif i % 4 == 2: kept.append(Derived())
        else: kept.append(str(i) * 9)
        bytearray(100)
fill()
"""
# Every page is sampled, and no bound of time makes that fewer.
SAVE = KEPT.replace("fill()\n\n", "") + "p.stop(); p.save(sys.argv[1])\n"
IN_PROCESS = SAVE.replace(
    "\nfill()\n", "\nimport dmi\np = dmi.profile(1, cost=None).start()\nfill()\n"
)


def profile_of(script: str, tmp_path: Path, options: str = "") -> dict[str, Any]:
    made = tmp_path / "a.profile"
    environment = {**os.environ, "PYTHONMALLOC": "malloc", "LD_PRELOAD": dmi.get_preload_path()}
    environment |= {"DMI_OPTIONS": options.format(made), "DMI_PYTHON": "0"}
    subprocess.run([sys.executable, "-c", script, made], env=environment, check=True, timeout=100)
    return dmi.Profile.load(made).as_dict()


def counts(profile: dict[str, Any]) -> dict[str, int]:
    """Objects by type, each times what its page stands for."""
    found: dict[str, int] = {}
    for mark in profile["marks"]:
        for _, _, _, *kind in mark["blocks"]:
            assert len(kind) == 1
            found[kind[0]] = found.get(kind[0], 0) + round(mark["weight"])
    return found


def test_objects_are_counted_by_type(tmp_path: Path) -> None:
    found = counts(profile_of(IN_PROCESS, tmp_path))
    for name in ("Session", "Entry", "Derived"):
        assert 9_900 <= found[name] <= 10_010, found
    assert found["str"] >= 9_900
    assert found["(no object)"] > 0  # tables of dicts, the list's own
    assert sum(found.values()) < 2 * 60_000


def test_blame_names_types(tmp_path: Path) -> None:
    profile = profile_of(IN_PROCESS, tmp_path)
    rows = {row.name: row for row in dmi.blame(profile, "type", "busy").rows}
    assert rows["Session"].named
    assert rows["Session"].bytes >= 9_900 * 48
    top = dmi.blame(profile, "type", "busy").top
    assert top is not None
    assert top.name in ("str", "Entry", "Session", "Derived")


def test_a_profile_from_outside_python_has_them_too(tmp_path: Path) -> None:
    """Written by the preload library when Python ends."""
    found = counts(profile_of(KEPT, tmp_path, "profile={}:sample=1:cost=off"))
    for name in ("Session", "Entry", "Derived"):
        assert 9_900 <= found[name] <= 10_010, found
    assert found["str"] >= 9_900


def test_of_other_programs_no_types_are_recorded(tmp_path: Path) -> None:
    made = tmp_path / "a.profile"
    environment = {**os.environ, "LD_PRELOAD": dmi.get_preload_path()}
    environment["DMI_OPTIONS"] = f"profile={made}:sample=1"
    subprocess.run(["sort", "/proc/self/maps"], env=environment, check=True, capture_output=True)
    profile = dmi.Profile.load(made)
    assert all(block.type is None for mark in profile.marks for block in mark.blocks)
    assert {row.name for row in dmi.blame(profile, "type", "busy").rows} <= {"(type not recorded)"}
