"""What the doctor makes of memory whose blocks nobody walks: other allocators, shared memory,
mappings that nobody wrote to."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import sys
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import pytest

import dmi
from dmi import windbg
from dmi.diagnose import from_log

MIB = 1 << 20


def other(kind: str, size: int, handle: int = 1 << 40, where: str = "in a.so") -> dict[str, Any]:
    return {"name": f"{kind} {where}", "kind": kind, "handle": handle, "busy": None,
            "committed": size, "resident": size}  # fmt: skip


def glibc(
    busy: int, committed: int, mapped: int | None, name: str = "main arena"
) -> dict[str, Any]:
    return {"name": f"glibc {name}", "kind": "glibc", "handle": hash(name) & 0xFFFFF,
            "busy": busy, "committed": committed, "mapped": mapped}  # fmt: skip


def moment(
    *outside: dict[str, Any], memory: dict[str, int] | None = None, program: str = "",
    commit: dict[str, int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    memory = (
        {"Other": sum(each["committed"] or 0 for each in outside)} if memory is None else memory
    )
    return {"heaps": [], "outside": list(outside), "memory": memory,
            "commit": memory if commit is None else commit, "program": program}  # fmt: skip


class TestAllocatorsThatAreNotWalked:
    def test_their_growth_is_outside_the_heaps_and_says_whose(self) -> None:
        verdict = dmi.diagnose(moment(other("jemalloc", MIB)), moment(other("jemalloc", 90 * MIB)))
        assert (verdict.kind, verdict.bytes) == ("growth", 89 * MIB)
        assert "outside the heaps" in verdict.subject
        assert "jemalloc in a.so" in verdict.subject
        assert verdict.others == ()  # the same memory is not found twice
        assert any("MALLOC_CONF" in text for text in verdict.advice)
        assert not any("!heap" in text for text in verdict.advice)

    def test_another_first_address_is_the_same_heap(self) -> None:
        moments = [moment(other("Go", 50 * MIB, handle)) for handle in (1 << 40, 1 << 39, 1 << 41)]
        assert dmi.diagnose(*moments).kind == "none"

    def test_another_name_for_the_same_memory_is_no_growth(self) -> None:
        names = ("unknown", "jemalloc or V8", "V8")
        assert dmi.diagnose(*(moment(other(name, 50 * MIB)) for name in names)).kind == "none"
        last = moment(other("V8", 150 * MIB))
        verdict = dmi.diagnose(moment(other("unknown", 50 * MIB)), last)
        assert (verdict.kind, verdict.bytes) == ("growth", 100 * MIB)

    def test_what_is_small_beside_the_peak_is_kept_for_what_comes_next(self) -> None:
        sizes = (2 * MIB, 90 * MIB, 7 * MIB)
        assert dmi.diagnose(*(moment(other("jemalloc", size)) for size in sizes)).kind == "none"

    def test_garbage_that_waits_for_its_collector_is_no_growth(self) -> None:
        sizes = (8 * MIB, 6 * MIB, 21 * MIB)
        assert dmi.diagnose(*(moment(other("Go", size)) for size in sizes)).kind == "none"
        assert dmi.diagnose(*(moment(other("jemalloc", size)) for size in sizes)).kind == "growth"
        sizes = (100 * MIB, 120 * MIB, 160 * MIB)
        assert dmi.diagnose(*(moment(other("V8", size)) for size in sizes)).kind == "growth"

    def test_what_a_trim_took_is_no_memory_though_it_may_be_written(self) -> None:
        sizes = (MIB, 80 * MIB, MIB)
        commit = ({"Other": size} for size in (45 * MIB, 130 * MIB, 130 * MIB))
        moments = [
            moment(other("Go", size), commit=each) for size, each in zip(sizes, commit, strict=True)
        ]
        verdict = dmi.diagnose(*moments)
        assert verdict.kind == "none"
        assert any("may be written to" in line for line in verdict.evidence)

    @pytest.mark.parametrize("kind", [[], {}, 5, None])
    def test_a_kind_that_is_no_word(self, kind: Any) -> None:
        one = {**other("x", MIB), "kind": kind, "busy": 0}
        assert dmi.diagnose(moment(one), moment(one)).kind == "none"


class TestGlibc:
    def test_blocks_mapped_on_their_own_count_once_beside_arenas_of_threads(self) -> None:
        before = moment(
            glibc(MIB, MIB, 0), glibc(0, MIB, None, "thread arena"), memory={"Other": 0}
        )
        after = moment(
            glibc(49 * MIB, 49 * MIB, 48 * MIB), glibc(0, MIB, None, "thread arena"),
            memory={"Other": 48 * MIB},
        )  # fmt: skip
        verdict = dmi.diagnose(before, after, after)
        assert (verdict.kind, verdict.subject) == ("first-order leak", "glibc main arena")
        assert verdict.others == ()

    def test_both_orders_are_findings_the_larger_first(self) -> None:
        moments = [
            moment(glibc(busy * MIB, held * MIB, 0), memory={"HeapBrk": held * MIB})
            for busy, held in ((1, 2), (99, 100), (31, 75))
        ]
        verdict = dmi.diagnose(*moments)
        assert [(v.kind, v.bytes) for v in verdict.findings] == [
            ("second-order leak", 43 * MIB),
            ("first-order leak", 30 * MIB),
        ]


class TestPools:
    @pytest.mark.parametrize(
        ("program", "said"),
        [("postgres", "DISCARD ALL"), ("nginx", "pools"), ("ruby", "GC.stat"), ("memcached", "-m")],
    )
    def test_a_pool_above_malloc_is_said(self, program: str, said: str) -> None:
        moments = [
            moment(glibc(size, size, 0), memory={"HeapBrk": size}, program=program)
            for size in (MIB, 60 * MIB)
        ]
        assert any(said in line for line in dmi.diagnose(*moments).evidence)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
class TestSharedMemory:
    def test_what_another_wrote_is_no_growth_of_who_reads_it(self) -> None:
        if os.geteuid():
            pytest.skip("the kernel tells only root what a piece of shared memory holds")
        size = 48 * MIB
        shared = SharedMemory(create=True, size=size)
        view = shared.buf
        assert view is not None
        try:
            child = os.fork()
            if child == 0:
                view[:] = b"x" * size
                os._exit(0)
            os.waitpid(child, 0)
            before = dmi.snapshot(label="before")
            assert sum(view[:: mmap.PAGESIZE]) == ord("x") * (size // mmap.PAGESIZE)
            after = dmi.snapshot(label="after")
        finally:
            del view
            shared.close()
            shared.unlink()
        assert before.memory is not None
        assert before.memory["Shared"] >= size
        assert dmi.diagnose(before, after).kind == "none"

    def test_what_it_writes_itself_is(self) -> None:
        # In a process of its own: beside what other tests left here it may be too little to tell.
        child = multiprocessing.get_context("spawn").Process(target=self.write_shared_memory)
        child.start()
        child.join()
        assert child.exitcode == 0

    @staticmethod
    def write_shared_memory() -> None:
        size = 48 * MIB
        before = dmi.snapshot(label="before")
        shared = SharedMemory(create=True, size=size)
        view = shared.buf
        assert view is not None
        try:
            for at in range(0, size, mmap.PAGESIZE):
                view[at] = 1
            after = dmi.snapshot(label="after")
        finally:
            del view
            shared.close()
            shared.unlink()
        verdict = dmi.diagnose(before, after)
        assert verdict.kind == "growth"
        assert "outside" in verdict.subject
        assert "shared memory" in verdict.causes[0].text


class TestRowsThatAreMissing:
    HEAD = "Heap Flags Reserv Commit Virt Free List UCR Virt Lock Fast\n"
    ROW = "00310000 00001002 1255320 512712 1177236 260583 45362 41898 2 3751a5 L\n"
    DERIVED = "External fragmentation 50 % (45362 free blocks)\n"

    def test_the_lines_of_a_row_say_that_it_is_missing(self) -> None:
        log = windbg.parse(self.HEAD + self.DERIVED + "0:000> !heap -s\n" + self.HEAD + self.ROW)
        assert [each.line for each in log.unread] == [2]

    def test_a_table_without_a_row_is_named(self) -> None:
        log = windbg.parse(self.HEAD + "0:000> !heap -s\n" + self.HEAD + self.ROW)
        assert [(each.line, each.why) for each in log.unread] == [
            (1, "a table of heaps without a row")
        ]

    def test_without_any_header_too(self) -> None:
        log = windbg.parse(self.DERIVED + "0:000> !heap -s\n" + self.HEAD + self.ROW)
        assert [each.line for each in log.unread] == [1]

    def test_a_handle_of_ticks_alone_is_no_crash(self) -> None:
        log = windbg.parse("Heap at ```````\n" + self.HEAD + self.ROW)
        assert len(log.heaps[0].rows) == 1

    def test_a_lock_count_that_spells_a_word(self) -> None:
        row = windbg.parse(self.HEAD + self.ROW.replace("3751a5", "0bad")).heaps[0].rows[0]
        assert row.lock_contention == 0xBAD
        again = windbg.parse(windbg.format_heap_summary([row])).heaps[0].rows
        assert again == (row,)

    @pytest.mark.parametrize("cut", [" (UTC + ", "", " (UTC"])
    def test_a_time_whose_offset_was_cut_off_orders_nothing(self, cut: str) -> None:
        blocks = ("11", "43")
        times = (f"14:30:02.000 2022{cut}", "14:30:34.000 2022 (UTC + 8:00)")
        text = "".join(
            f"Debug session time: Tue Jan 25 {time}\n0:000> !heap -s\nLFH Key : 0x23227b77\n"
            f"{self.HEAD}033f0000 00000002 1076 72 1020 1 9 1 {count} 1 LFH\n0:000> g\n"
            for time, count in zip(times, blocks, strict=True)
        )
        verdict = from_log(windbg.parse(text))
        assert verdict.kind == "growth"
        assert "virtual blocks" in verdict.subject

    def test_a_header_and_a_key_that_were_wrapped(self) -> None:
        log = windbg.parse(
            "LFH Key : 0x07\n262959\n" + self.HEAD[:-10] + "\n" + self.HEAD[-10:] + self.ROW
        )
        assert log.heaps[0].lfh_key == 0x07262959
        assert len(log.heaps[0].rows) == 1
        assert log.unread == ()
