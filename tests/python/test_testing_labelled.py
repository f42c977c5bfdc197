"""The pytest plugin on programs of which it is known what they do: tests/labelled/diagnosis.py."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LABELLED = ROOT / "tests" / "labelled" / "diagnosis.py"

# Each scenario as a test; its heaps are handed to the plugin as they are made.
SUITE = """
import importlib.util, sys
import dmi, pytest

spec = importlib.util.spec_from_file_location("diagnosis", {labelled!r})
diagnosis = importlib.util.module_from_spec(spec)
sys.modules["diagnosis"] = diagnosis
spec.loader.exec_module(diagnosis)

{mark}
@pytest.mark.parametrize("name", {names!r})
def test_scenario(name, dmi_watch, monkeypatch):
    def watched(policy, **options):
        return dmi_watch(dmi.Heap(policy, clock="manual", **options))
    monkeypatch.setattr(diagnosis, "manual", watched)
    monkeypatch.setattr(diagnosis.dmi, "snapshot", lambda *a, **k: None)
    try:
        diagnosis.SCENARIOS[name].play()
    except diagnosis.UnavailableError as error:
        pytest.skip(str(error))
"""

# Not on heaps that the scenario makes itself, or on none of dmi's: not what the plugin judges.
ELSEWHERE = ("glibc", "python", "mappings", "threads that sleep", "two moments")


def scenarios() -> dict[str, tuple[str, tuple[str, ...]]]:
    spec = importlib.util.spec_from_file_location("diagnosis", LABELLED)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["diagnosis"] = module
    spec.loader.exec_module(module)
    return {
        name: (each.kind, each.causes)
        for name, each in module.SCENARIOS.items()
        if not any(word in name for word in ELSEWHERE)
    }


def leaks() -> set[str]:
    """The scenarios that are an alarm."""
    # What is due later is no leak: the trim takes it, and the policy would.
    found = {
        name
        for name, (kind, causes) in scenarios().items()
        if kind == "second-order leak" and causes[0] not in ("delay", "decay", "offered")
    }
    assert len(found) >= 10
    return found


def fates(names: list[str], folder: Path, *options: str, marked: bool = True) -> dict[str, str]:
    """passed, failed, skipped or error for each scenario."""
    mark = "@pytest.mark.dmi(no_second_order_leak=True)" if marked else ""
    text = SUITE.format(labelled=str(LABELLED), names=names, mark=mark)
    (folder / "test_labelled.py").write_text(text)
    (folder / "pytest.ini").touch()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "-q"]
    done = subprocess.run(
        [*command, *options, "test_labelled.py"],
        cwd=folder,
        env=dict(os.environ, PYTHONPATH=str(ROOT), PYTEST_ADDOPTS=""),
        capture_output=True,
        text=True,
        timeout=600,
    )
    found = {}
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("PASSED", "FAILED", "SKIPPED", "ERROR") and "[" in rest:
            found[rest.split("[", 1)[1].split("]", 1)[0]] = word.lower()
    assert found, done.stdout + done.stderr
    return found


@pytest.mark.long
def test_every_second_order_leak_is_caught_and_nothing_else(tmp_path: Path) -> None:
    every = scenarios()
    found = fates(list(every), tmp_path)
    missed = {name for name in leaks() if found.get(name) not in ("failed", "skipped")}
    assert not missed
    well = {name for name, (kind, _) in every.items() if kind == "none"}
    assert len(well) >= 10
    false = {name for name in well if found.get(name) != "passed"}
    assert not false
