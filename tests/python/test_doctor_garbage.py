"""Garbage that waits for a collector, what a second-order leak is not, stacks that are reserved and
not touched, and what the end of a heap would give."""

from __future__ import annotations

from typing import Any

import pytest

import dmi

MIB = 1 << 20


def glibc(busy: int, committed: int, **more: int) -> dict[str, Any]:
    return {"name": "glibc main arena", "kind": "glibc", "handle": 0x1000, "busy": busy,
            "committed": committed, "free": committed - busy, "list_length": 9, **more}  # fmt: skip


def other(kind: str, size: int) -> dict[str, Any]:
    return {"name": f"{kind} in a.so", "kind": kind, "handle": 1 << 40, "busy": None,
            "committed": size, "resident": size}  # fmt: skip


def moment(*outside: dict[str, Any], program: str = "", stack: int = 0) -> dict[str, Any]:
    memory = {"HeapBrk": 0, "Other": 0, "Stack": min(stack, MIB)}
    for each in outside:
        memory["HeapBrk" if each["kind"] == "glibc" else "Other"] += each["committed"]
    return {"heaps": [], "outside": list(outside), "memory": memory,
            "commit": {**memory, "Stack": stack}, "program": program}  # fmt: skip


@pytest.mark.parametrize("program", ["ruby", "ruby3.1", "irb", "puma: worker 1", "R", "lua5.4",
                                     "pypy3", "swipl"])  # fmt: skip
def test_a_little_more_in_use_may_be_garbage(program: str) -> None:
    def moments(gained: int, of: str) -> list[dict[str, Any]]:
        return [
            moment(glibc(20 * MIB, 21 * MIB), program=of),
            moment(glibc(20 * MIB + gained, 21 * MIB + gained), program=of),
            moment(glibc(20 * MIB + gained, 21 * MIB + gained), program=of),
        ]

    verdict = dmi.diagnose(*moments(9 * MIB, program))
    assert verdict.kind == "none"
    assert any("garbage that waits for the collector" in line for line in verdict.evidence)
    assert dmi.diagnose(*moments(30 * MIB, program)).kind == "first-order leak"
    assert dmi.diagnose(*moments(9 * MIB, "redis-server")).kind == "first-order leak"


@pytest.mark.parametrize(("kind", "waits"), [("V8", 30 * MIB), ("SBCL", 50 * MIB)])
def test_young_objects_wait_for_their_collection(kind: str, waits: int) -> None:
    levels = (40 * MIB, 40 * MIB + waits, 40 * MIB + waits)
    verdict = dmi.diagnose(*(moment(other(kind, level)) for level in levels))
    assert verdict.kind == "none"
    assert any("its collector lets wait" in line for line in verdict.evidence)
    levels = (40 * MIB, 70 * MIB, 40 * MIB + 2 * waits)
    assert dmi.diagnose(*(moment(other(kind, level)) for level in levels)).kind == "growth"


def test_a_second_order_leak_says_that_nothing_grew() -> None:
    verdict = dmi.diagnose(
        moment(glibc(2 * MIB, 3 * MIB)),
        moment(glibc(90 * MIB, 92 * MIB), stack=160 * MIB),
        moment(glibc(2 * MIB, 92 * MIB, trim=80 * MIB, trim_top=70 * MIB), stack=160 * MIB),
    )
    assert (verdict.kind, verdict.bytes) == ("second-order leak", 89 * MIB)
    assert verdict.evidence[0].startswith("What the program uses did not grow")
    assert any("stacks of threads" in line and "1,024 KB of that" in line
               for line in verdict.evidence)  # fmt: skip
    given = {cure.text.split()[0].partition("=")[0]: cure.gives for cure in verdict.cures}
    assert given["MALLOC_TRIM_THRESHOLD_"] == 70 * MIB


def test_arenas_that_keep_next_to_nothing_have_no_cure() -> None:
    def arena(number: int, kept: int) -> dict[str, Any]:
        return {"name": f"glibc thread arena {number}", "kind": "glibc", "handle": number,
                "busy": MIB, "committed": MIB + kept, "free": kept, "list_length": 1}  # fmt: skip

    def advice(kept: int) -> str:
        arenas = [arena(number, kept) for number in range(2, 6)]
        verdict = dmi.diagnose(
            moment(glibc(2 * MIB, 3 * MIB), *arenas),
            moment(glibc(90 * MIB, 92 * MIB), *arenas),
            moment(glibc(2 * MIB, 92 * MIB), *arenas),
        )
        return " ".join(verdict.advice)

    assert "MALLOC_ARENA_MAX" in advice(8 * MIB)
    assert "MALLOC_ARENA_MAX" not in advice(4096)
