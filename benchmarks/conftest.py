"""What the suites share: small Cython modules built on the spot, and recordings to replay."""

from __future__ import annotations

import importlib.util
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    import dmi.trace

HERE = Path(__file__).resolve().parent
RECORDINGS = HERE.parent / "examples"

MIB = 1 << 20
SECOND = 1_000_000  # in a recording's microseconds


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModuleType]:
    """Build and import benchmarks/NAME.pyx; skips where Cython or a compiler is missing."""
    pytest.importorskip("Cython")
    folder = tmp_path_factory.mktemp("native")
    built: dict[str, ModuleType] = {}

    def load(name: str) -> ModuleType:
        if name in built:
            return built[name]
        shutil.copy(HERE / f"{name}.pyx", folder)
        done = subprocess.run(
            [sys.executable, "-m", "Cython.Build.Cythonize", "-i", f"{name}.pyx"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        files = sorted(folder.glob(f"{name}.*.so")) + sorted(folder.glob(f"{name}.*.pyd"))
        if done.returncode != 0 or not files:
            pytest.skip(f"{name}.pyx cannot be built here: {done.stderr.strip()[-300:]}")
        spec = importlib.util.spec_from_file_location(name, files[0])
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        built[name] = module
        return module

    return load


def synthetic_peak(base: int = 4 * MIB, factor: int = 6) -> dmi.trace.Trace:
    """A recording whose shape follows the article that this project began with.

    A service has run for a while: its first `base` bytes live, buffers of as many bytes were
    freed, so that the free blocks are larger than a page on average; five seconds at `base`.
    Then busy grows to `factor` times that in ten seconds, while the blocks of the base are being
    replaced, and comes back to it in the next ten; the free blocks left between the survivors are
    smaller than a page. Ten nearly idle seconds follow. tests/python/test_bench_policies.py holds
    it to that.
    """
    from dmi import trace
    from dmi.trace.format import OP_ALLOC, OP_FREE, OP_TIME

    rng = random.Random(252129)
    records: list[tuple[int, int, int, int, int]] = []
    live: dict[int, int] = {}
    number = busy = 0

    def allocate(owner: list[int], size: int = 0) -> None:
        nonlocal number, busy
        size = size or min(max(8, round(rng.lognormvariate(6.2, 1.1))), 128 * 1024)
        records.append((OP_ALLOC, 4, 0, number, size))
        live[number] = size
        owner.append(number)
        busy += size
        number += 1

    def free(owner: list[int], index: int) -> None:
        nonlocal busy
        owner[index], owner[-1] = owner[-1], owner[index]
        victim = owner.pop()
        records.append((OP_FREE, 0, 0, victim, 0))
        busy -= live.pop(victim)

    def clock(seconds: float) -> None:
        records.append((OP_TIME, 0, 0, 0, round(seconds * SECOND)))

    old: list[int] = []
    new: list[int] = []
    while busy < base:
        allocate(old)
    while busy < 2 * base:
        allocate(new, rng.randint(16 * 1024, 128 * 1024))
    while new:
        free(new, len(new) - 1)
    for tick in range(51):
        free(old, rng.randrange(len(old)))
        allocate(old)
        clock(tick / 10)
    span, at = (factor - 1) * base, 5.0
    while busy < factor * base:
        for _ in range(12):
            allocate(new)
        free(old, rng.randrange(len(old)))
        allocate(old)
        at = max(at, 5 + 10 * min(1.0, (busy - base) / span))
        clock(at)
    while new:
        for _ in range(min(32, len(new))):
            free(new, rng.randrange(len(new)))
        clock(15 + 10 * (1 - max(0, busy - base) / span))
    for tick in range(1, 101):
        for _ in range(10):
            free(old, rng.randrange(len(old)))
            allocate(old)
        clock(25 + tick / 10)
    return trace.check(trace.pack(records), objects=number, name="synthetic-peak")


@pytest.fixture(scope="session")
def recording() -> Callable[[str], dmi.trace.Trace]:
    """Load a recording by name: `synthetic-peak`, or one that the project ships."""
    from dmi import trace

    loaded: dict[str, trace.Trace] = {}

    def load(name: str) -> trace.Trace:
        if name not in loaded:
            if name == "synthetic-peak":
                loaded[name] = synthetic_peak()
            else:
                pytest.importorskip("zstandard")
                loaded[name] = trace.load(RECORDINGS / f"{name}.dmi.zst", name=name)
        return loaded[name]

    return load
