"""The synthetic peak of the policy benchmarks has the shape that it claims."""

from __future__ import annotations

import mmap

import pytest

import dmi
from benchmarks.conftest import synthetic_peak
from benchmarks.test_policies import memory

IDLE, PEAK, END = 4.9, 15.0, 34.9  # seconds in the recording


@pytest.mark.keeps
def test_the_peak_is_that_of_the_article() -> None:
    trace = synthetic_peak()
    found = dmi.replay(trace, "never,threshold,lazy", at=[IDLE, PEAK, END], samples=60, repeat=1)
    for run in found.runs:
        idle, peak, end = (sample.stats for sample in run.at)
        # Busy is six-fold and comes back to where it was.
        assert 5.7 < peak.busy / idle.busy < 6.3
        assert 0.97 < end.busy / idle.busy < 1.03
        assert max(s.stats.busy for s in run.timeline) < 1.01 * peak.busy
        # What is left free lies in blocks below a page, each beside survivors.
        assert end.mean_free_block is not None
        assert end.mean_free_block < mmap.PAGESIZE
        assert end.page_bound is not None
        assert end.page_bound > 1.5 * end.busy
    never, threshold, lazy = ([sample.stats for sample in run.at] for run in found.runs)
    # Before the peak the mean free block was above a page, as the article's 5,882 bytes.
    assert never[0].mean_free_block is not None
    assert never[0].mean_free_block > mmap.PAGESIZE
    # Commit does not come back where nothing is given back, and hardly by NT's rule.
    assert never[2].committed == max(s.stats.committed for s in found["never"].timeline)
    assert threshold[2].committed > 0.7 * never[2].committed
    assert lazy[2].committed < 0.4 * never[2].committed


def test_the_memory_figures_stand_in_extra_info() -> None:
    trace = synthetic_peak(base=1 << 20, factor=3)
    run = dmi.replay(trace, "lazy", samples=20, repeat=1)["lazy"]
    figures = memory(run)
    assert figures["decommit"] == "lazy"
    for state in ("before", "peak", "end"):
        assert figures[state]["retained"] == figures[state]["committed"] - figures[state]["busy"]
    assert figures["end"]["retained"] == run.end.stats.retained
    assert figures["mean_retained"] == run.mean_retained > 0
    assert figures["decommit_bytes"] == run.end.stats.decommit_bytes > 0
