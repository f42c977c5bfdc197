"""Choosing a policy by measurement: one recording, replayed under each.

result = dmi.replay("redis.raw.zst", decommit="never,eager,lazy")
print(result)                          # tables, and one sentence
result["lazy"].end.stats.retained      # bytes
"""

from __future__ import annotations

from dmi.experiment._against import Comparison, Rival, RivalError, against, library_of
from dmi.experiment._replay import Replay, replay
from dmi.experiment._results import Cell, Run
from dmi.experiment._run import Sample, ranges_at_end
from dmi.experiment._sweep import Sweep, SweepError, check_plot, sweep

__all__ = [
    "Cell",
    "Comparison",
    "Replay",
    "Rival",
    "RivalError",
    "Run",
    "Sample",
    "Sweep",
    "SweepError",
    "against",
    "check_plot",
    "library_of",
    "ranges_at_end",
    "replay",
    "sweep",
]
