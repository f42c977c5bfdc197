"""Policies against each other: what each costs to replay a recording, and what it retains.

Time is taken over whole replays, each on a fresh heap. The memory figures come from a pass of their
own, because looking costs time; they stand in `extra_info["dmi"]`, in bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import dmi
from dmi.experiment._run import Player, Stop

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from dmi.experiment import Run, Sample

POLICIES = (
    "never,eager,lazy:delay=0.1|1|10,decay:half_life=1|5,threshold:block=4K|64K,"
    "budget:ratio=0.1,pressure"
)
RECORDINGS = ("synthetic-peak", "redis-peak", "sqlite-vacuum")
ROUNDS = 5

Recording = Callable[[str], "dmi.trace.Trace"]


def _state(sample: Sample) -> dict[str, int | None]:
    stats = sample.stats
    return {
        "busy": stats.busy,
        "committed": stats.committed,
        "retained": stats.retained,
        "page_bound": stats.page_bound,
        "resident": stats.resident,
        "mean_free_block": stats.mean_free_block,
    }


def memory(run: Run) -> dict[str, Any]:
    """What stands in extra_info: bytes before, at and after the peak, and the ledger."""
    end = run.end.stats
    return {
        "decommit": run.decommit,
        "mean_retained": run.mean_retained,
        "before": _state(run.before),
        "peak": _state(run.peak),
        "end": _state(run.end),
        "decommit_calls": end.decommit_calls,
        "decommit_bytes": end.decommit_bytes,
        "recommit_calls": end.recommit_calls,
        "recommit_bytes": end.recommit_bytes,
        "recommit_churn_bytes": end.recommit_churn_bytes,
    }


@pytest.mark.parametrize("policy", [str(p) for p in dmi.expand(POLICIES)])
@pytest.mark.parametrize("name", RECORDINGS)
def test_replay(benchmark: BenchmarkFixture, recording: Recording, name: str, policy: str) -> None:
    """Replay all of a recording on its own clock."""
    try:
        dmi.Heap(decommit=policy, clock="manual").destroy()
    except OSError as error:
        pytest.skip(f"{policy} is not possible here: {error}")
    trace = recording(name)
    benchmark.group = f"replay {name}"
    used: list[dmi.Heap] = []

    def fresh() -> tuple[tuple[Player], dict[str, Any]]:
        while used:
            used.pop().destroy(force=True)
        used.append(dmi.Heap(decommit=policy, clock="manual", name="bench"))
        return (Player(trace, used[-1]),), {}

    def play(player: Player) -> bool:
        return player.play(Stop())

    pedantic: Callable[..., bool] = benchmark.pedantic
    assert pedantic(play, setup=fresh, rounds=ROUNDS, iterations=1, warmup_rounds=1)
    for heap in used:
        heap.destroy(force=True)

    run = dmi.replay(trace, decommit=policy)[policy]
    assert run.failed == 0
    benchmark.extra_info["events"] = trace.events
    benchmark.extra_info["dmi"] = memory(run)
