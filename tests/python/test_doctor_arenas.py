"""glibc's arenas of threads are one finding, however many there are."""

from __future__ import annotations

from dmi.diagnose import diagnose
from dmi.diagnose._observe import state_of
from dmi.diagnose._single import one_moment

MIB = 1 << 20


def arena(number: int, busy: int, committed: int) -> dict[str, object]:
    return {"name": "glibc thread arena", "kind": "glibc", "handle": number << 26,
            "busy": busy, "committed": committed, "trim": (committed - busy) * 3 // 4}  # fmt: skip


def moment(*arenas: dict[str, object]) -> dict[str, object]:
    return {"heaps": [], "outside": list(arenas), "memory": {"Other": 0}, "commit": {"Other": 0},
            "process": {"committed": 0, "resident": 0}}  # fmt: skip


def test_what_they_keep_is_told_together() -> None:
    verdict = diagnose(
        moment(),
        moment(*(arena(n, 8 * MIB, 8 * MIB) for n in range(1, 9))),
        moment(*(arena(n, 80 << 10, 8 * MIB) for n in range(1, 9))),
    )
    assert verdict.kind == "second-order leak"
    assert "thread arenas (8)" in verdict.subject
    assert verdict.bytes == 8 * (8 * MIB - (80 << 10))
    assert not verdict.others
    assert any("8 of threads" in cure.text for cure in verdict.cures)
    trims = [cure.gives for cure in verdict.cures if "malloc_trim" in cure.text]
    assert trims == [8 * ((8 * MIB - (80 << 10)) * 3 // 4)]


def test_many_small_ones_count_together() -> None:
    verdict = diagnose(
        moment(),
        moment(*(arena(n, 900 << 10, 900 << 10) for n in range(1, 33))),
        moment(*(arena(n, 9 << 10, 900 << 10) for n in range(1, 33))),
    )
    assert (verdict.kind, verdict.bytes) == ("second-order leak", 32 * (891 << 10))


def test_one_arena_keeps_its_handle() -> None:
    verdict = diagnose(
        moment(arena(1, 0, 0)), moment(arena(1, 9 * MIB, 9 * MIB)), moment(arena(1, 0, 9 * MIB))
    )
    assert verdict.handle == 1 << 26


def test_what_is_not_known_of_one_is_not_known_of_all() -> None:
    torn = {"name": "glibc thread arena", "kind": "glibc", "handle": 2 << 26, "busy": None,
            "committed": 8 * MIB}  # fmt: skip
    verdict = diagnose(moment(arena(1, MIB, MIB), torn), moment(arena(1, MIB, MIB), torn))
    assert verdict.busy[-1] is None


def headline(given: dict[str, object]) -> str:
    return one_moment(state_of(given)).headline


def test_one_moment_names_what_has_most_memory_wherever_it_is() -> None:
    state = moment(arena(1, MIB, 2 * MIB)) | {
        "memory": {"Other": 0, "HeapGlibcArena": 2 * MIB, "Shared": 30 * MIB}
    }
    assert "most of its memory is shared memory, 30,720 KB" in headline(state)
    state["memory"] = {"Other": 64 * MIB, "HeapGlibcArena": 2 * MIB}
    assert "mappings of the program's own, 65,536 KB" in headline(state)
    state["memory"] = {"Other": MIB, "HeapGlibcArena": 2 * MIB}
    assert "most of its memory" not in headline(state)


def test_mapped_blocks_that_nobody_counted_are_not_called_the_programs_own() -> None:
    main = {"name": "glibc main arena", "kind": "glibc", "handle": 1 << 30, "busy": MIB,
            "committed": 2 * MIB, "mapped": None}  # fmt: skip
    state = moment(main) | {"memory": {"Other": 64 * MIB, "HeapGlibcArena": 2 * MIB}}
    assert "mappings of the program's own" not in headline(state)
    main["mapped"] = 10 * MIB
    assert "mappings of the program's own, 55,296 KB" in headline(state)
