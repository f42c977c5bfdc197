"""Forks beside everything that holds a lock: neither the program nor its children stop for good."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from test_preload import build, succeeded

if TYPE_CHECKING:
    from test_preload import Build

__all__ = ["build"]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is no LD_PRELOAD"),
    pytest.mark.timeout(900),
]

# How often in the fast part: what a fork of each way costs differs.
WAYS = {"stdio": 40, "dlopen": 150, "threads": 200, "unseen": 80, "handler": 300, "signals": 150}


def fork(build: Build, way: str, count: int, options: str = "") -> None:
    plugin = build("plugin.c", "-shared", "-fPIC", target="plugin.so")
    out = succeeded(build("forks.c"), way, str(count), plugin, options=options)
    assert out == "ok\n"


@pytest.mark.parametrize("way", WAYS)
def test_forks_beside(build: Build, way: str) -> None:
    fork(build, way, WAYS[way])


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_ten_thousand_forks(build: Build, way: str) -> None:
    fork(build, way, 10_000 if way != "stdio" else 2_000)


@pytest.mark.long
@pytest.mark.parametrize("options", ["decommit=eager", "hardened=on", "decommit=lazy:delay=0.01"])
@pytest.mark.parametrize("way", ["threads", "signals", "stdio"])
def test_forks_under_other_options(build: Build, way: str, options: str) -> None:
    fork(build, way, WAYS[way], options)
