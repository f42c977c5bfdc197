"""The native workloads and the runner of benchmarks/peers: they work, and they say so when not."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.peers import allocators, build, measure
from benchmarks.peers.allocators import Allocator, AllocatorError

if TYPE_CHECKING:
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("LD_PRELOAD and /proc are Linux", allow_module_level=True)

GLIBC = Allocator("glibc", None)
# Arguments that make each workload last milliseconds.
SMALL = {
    "alloc_free_all": "2 5000",
    "alloc_test": "500 20000",
    "cache_scratch": "2 2000",
    "cache_thrash": "2 2000",
    "cfrac": "188643701166941698757897",
    "large_blocks": "100",
    "larson": "2 5 500 1000",
    "micro": "random 5000",
    "mstress": "2 3 3000",
    "realloc_grow": "1 200",
    "rptest": "2 3 500 1000",
    "sh6": "200",
    "sh8": "2 200",
    "xmalloc": "2 2 100 50",
}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    build.build(folder, measure.PROGRAMS)
    return folder


def run(program: Path, arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments.split()], capture_output=True, text=True, check=False, timeout=60
    )


def test_every_workload_is_here() -> None:
    assert set(measure.WORKLOADS) | {"micro"} == set(SMALL)
    sources = {path.stem for path in build.NATIVE.glob("*.c")}
    assert sources == set(measure.PROGRAMS)


@pytest.mark.parametrize("name", SMALL)
def test_workload_prints_one_line(programs: Path, name: str) -> None:
    done = run(programs / name, SMALL[name])
    assert (done.returncode, done.stderr) == (0, "")
    printed, operations, seconds = done.stdout.split()
    assert printed == (name if name != "micro" else "micro_random")
    assert int(operations) > 0
    assert float(seconds) >= 0
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("arguments", ["-1", "0", "ten", "5x", "99999999999999999999"])
def test_workload_refuses_a_bad_argument(programs: Path, arguments: str) -> None:
    done = run(programs / "sh6", arguments)
    assert done.returncode == 2
    assert arguments in done.stderr


def test_cfrac_refuses_what_it_cannot_factor(programs: Path) -> None:
    assert run(programs / "cfrac", "10").returncode == 2
    assert run(programs / "cfrac", "12a").returncode == 2
    # A prime has no factor to find.
    assert run(programs / "cfrac", "101").returncode == 1


@pytest.mark.parametrize("arguments", ["r 1 8", "c 1 8", "p 1 8"])
def test_retained_measures_what_lives(programs: Path, arguments: str) -> None:
    done = run(programs / "retained", arguments)
    assert done.returncode == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["0", "1", f"retained_{arguments[0]}"]
    for _, resident, bound, ratio, _ in lines[:2]:
        # A tenth of 8 MiB lives: no fewer pages than that, and no more than the peak.
        assert 0.7 * 2**20 < int(bound) < 8 * 2**20
        assert int(resident) > int(bound) * 0.9
        assert float(ratio) == pytest.approx(int(resident) / int(bound), abs=1e-3)


def test_sleepers_free_nine_in_ten(programs: Path) -> None:
    done = run(programs / "sleepers", "1 8 16")
    assert done.returncode == 0
    first = done.stdout.split()
    assert 1.3 * 2**20 < int(first[2]) < 16 * 2**20


def test_peak_memory_is_the_programs_own(programs: Path) -> None:
    ballast = bytearray(200 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    sample = measure.run_once(programs, GLIBC, "cfrac")
    assert 100 < sample.peak_rss < 50_000
    assert sample.user > 0
    assert sample.cpu <= sample.wall * 1.1 + 0.02


def test_a_failing_program_is_reported_and_left_out(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "launch").symlink_to(programs / "launch")
    for name, text in (("cfrac", "echo cfrac 1 1"), ("sh6", "echo broken >&2; exit 3")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    samples, failures = measure.run_rounds(tmp_path, [GLIBC], ["cfrac", "sh6"], 2, lambda _: None)
    assert len(samples["cfrac"]["glibc"]) == 2
    assert samples["sh6"] == {}
    assert failures == ["sh6 under glibc: status 3: broken"]


def test_a_library_that_serves_nothing_is_refused(programs: Path) -> None:
    allocators.check(GLIBC, programs)
    libm = next((f / "libm.so.6" for f in allocators._library_folders() if f.exists()), None)
    assert libm is not None
    with pytest.raises(AllocatorError, match="malloc is served by"):
        allocators.check(Allocator("libm", libm.resolve()), programs)


@pytest.mark.parametrize("text", ["", "name", "name=", "=path", "name=/nowhere/lib.so"])
def test_bad_library(text: str) -> None:
    with pytest.raises(AllocatorError):
        allocators.parse_library(text)


def test_options_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert allocators.parse_option("dmi:DMI_OPTIONS=decommit=lazy:delay=1") == (
        "dmi",
        "DMI_OPTIONS",
        "decommit=lazy:delay=1",
    )
    with pytest.raises(AllocatorError):
        allocators.parse_option("DMI_OPTIONS=1")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("KEPT", "1")
    environment = Allocator("x", None, {"MIMALLOC_ALLOW_THP": "0"}).environment()
    assert environment["KEPT"] == "1"
    assert environment["MIMALLOC_ALLOW_THP"] == "0"
    assert "MALLOC_ARENA_MAX" not in environment
