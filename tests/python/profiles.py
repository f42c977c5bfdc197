"""Profiles made by hand and by chance, for the tests."""

from __future__ import annotations

import random
from typing import Any

FRAMES: list[dict[str, Any]] = [
    {"file": "/srv/app/cache.py", "function": "put", "line": 57},
    {"file": "/srv/app/main.py", "function": "serve", "line": 10},
    {"file": "/usr/lib/python3.11/json/decoder.py", "function": "raw_decode", "line": 353},
    {"file": "/srv/venv/lib/python3.11/site-packages/flask/app.py", "function": "run", "line": 9},
    {"address": 0x1000},
]
# raw_decode < put < serve, put < serve, run < serve, run alone, an address < serve
STACKS = [[2, 0, 1], [0, 1], [3, 1], [3], [4, 1]]


def page(
    blocks: list[list[Any]], *, weight: float = 64.0, fate: str = "pinned", number: int = 0
) -> dict[str, Any]:
    """A marked page with these blocks, [size, stack] each, one after the other."""
    start = 0x7F00_0000_0000 + number * 64 * 4096
    placed, at = [], start
    for size, stack in blocks:
        placed.append([at, size, stack])
        at += size
    free = 0 if fate == "empty" else 4096 - (at - start)
    return {
        "heap": "default", "weight": weight, "bytes": 4096, "free": free, "fate": fate,
        "page": start, "blocks": placed,
    }  # fmt: skip


def profile(marks: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A profile of these pages."""
    made: dict[str, Any] = {
        "kind": "dmi-profile", "version": 1, "one_in": 64, "pid": 42, "time": 1e9,
        "page_bytes": 4096, "mappings": [], "frames": FRAMES, "stacks": STACKS, "marks": marks,
        "large": [], "allocated": [], "lost": {"stacks": 0, "marks": 0},
    }  # fmt: skip
    return made | more


def by_chance(seed: int, pages: int = 300) -> dict[str, Any]:
    """Pages of every kind, some with a stack that is not known."""
    chance = random.Random(seed)
    marks = []
    for number in range(pages):
        fate = chance.choice(["pinned"] * 5 + ["goes_back", "empty"])
        blocks = (
            [[16 * chance.randint(1, 30), chance.choice([0, 0, 0, 1, 2, 3, 4, None])]
             for _ in range(chance.randint(1, 8))]
            if fate == "pinned" else []
        )  # fmt: skip
        weight = chance.choice([1.0, 64.0, 61.5])
        marks.append(page(blocks, weight=weight, fate=fate, number=number))
    large = [
        {"address": n << 24, "size": chance.randint(1, 1 << 24),
         "retained": chance.randint(0, 4095), "weight": chance.choice([1.0, 2.5]),
         "stack": chance.choice([0, 1, None])}
        for n in range(chance.randint(0, 9))
    ]  # fmt: skip
    allocated = [[n, chance.random() * 1e6, chance.random() * 1e3] for n in (0, 1, None)]
    return profile(marks, large=large, allocated=allocated)
