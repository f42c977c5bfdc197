"""dmi.python.heap(): contexts, what they hold, and their limits."""

from __future__ import annotations

import sys

import pytest

from tests.python.test_python_install import python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="install() is for Linux")

# Objects of a class of their own: CPython keeps no free list of those.
START = """
    import asyncio, contextvars, dmi, gc, threading
    dmi.python.install()
    class Node:
        __slots__ = ("value",)
        def __init__(self, value): self.value = value
    def made(n=500): return [Node(k) for k in range(n)]
    def places(nodes): return {dmi.python.context_of(each) for each in nodes}
    heap, usage = dmi.python.heap, dmi.python.usage
"""


def run(script: str, *options: str) -> str:
    import textwrap

    return python(textwrap.dedent(START) + textwrap.dedent(script), *options)


def test_objects_lie_where_they_were_made_and_outlive_it() -> None:
    run("""
        with heap("import") as inner:
            assert dmi.python.current() == "import"
            kept = made()
            with heap("nested"):
                deep = made()
            again = made()
        assert dmi.python.current() is None
        outside = made()
        assert places(kept) == places(again) == {"import"}
        assert places(deep) == {"nested"} and places(outside) == {"outside"}
        row = usage().of("import")
        assert row == inner.usage()
        assert row.count >= 1000 and row.busy <= row.page_bound <= row.committed
        assert row.retained == row.committed - row.busy and row.limit is None
        with heap("import"):
            third = made()
        assert places(third) == {"import"} and [r.name for r in usage()][:1] == ["outside"]
        del kept, again, third
        gc.collect()  # empties CPython's free lists
        assert usage().of("import").count < 20
        assert "import" in str(usage())
    """)


def test_a_container_that_grows_stays_in_its_heap() -> None:
    run("""
        grows, empty = [made(1)[0]], []
        def tables(name):  # blocks that hold 3000 pointers
            table = heap(name).heap.walk()
            return len([b for b in table if b.state == "busy" and b.size > 3000 * 8])
        with heap("request"):
            nodes = made(3000)
            before = tables("request")
            for each in nodes: grows.append(each)
            assert tables("request") == before
            # What had nothing yet gets its first buffer here, and keeps to it.
            for each in nodes: empty.append(each)
            assert tables("request") == before + 1
    """)


def test_tasks_carry_their_context() -> None:
    run("""
        async def one(name):
            with heap(name):
                found = []
                for _ in range(15):
                    found += made(30)
                    await asyncio.sleep(0)
                    child = asyncio.create_task(two())
                    found += await child
            return name, found
        async def two():
            await asyncio.sleep(0)
            return made(10)
        async def main():
            return await asyncio.gather(*[one(f"task {n}") for n in range(12)])
        for name, found in asyncio.run(main()):
            assert places(found) == {name}
    """)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
def test_eager_tasks_carry_theirs() -> None:
    run("""
        async def one(name):
            with heap(name):
                found = made(50)
                await asyncio.sleep(0)
                return name, found + made(50)
        async def main():
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            with heap("main"):
                tasks = [asyncio.create_task(one(f"eager {n}")) for n in range(5)]
                assert places(made(50)) == {"main"}
                return await asyncio.gather(*tasks)
        for name, found in asyncio.run(main()):
            assert places(found) == {name}
    """)


def test_threads_begin_outside_and_a_copied_context_brings_it_along() -> None:
    run("""
        found = {}
        def work(name): found[name] = made()
        with heap("request"):
            plain = threading.Thread(target=work, args=("plain",))
            copied = threading.Thread(target=contextvars.copy_context().run,
                                      args=(work, "copied"))
            for each in (plain, copied):
                each.start()
                each.join()
            context = contextvars.copy_context()
        assert places(found["plain"]) == {"outside"}
        assert places(found["copied"]) == {"request"}
        context.run(work, "later")
        work("outside")
        assert places(found["later"]) == {"request"} and places(found["outside"]) == {"outside"}
        empty = contextvars.Context()
        with heap("request"):
            empty.run(work, "empty")
            work("inside")
        assert places(found["empty"]) == {"outside"} and places(found["inside"]) == {"request"}
    """)


def test_wrong_order_is_refused_and_leaves_the_right_heap() -> None:
    run("""
        one = heap("one")
        with one:
            try:
                with one: pass
            except RuntimeError as error: assert "in use" in str(error)
            else: raise SystemExit("entered twice")
            assert places(made()) == {"one"}
        try: one.__exit__(None, None, None)
        except RuntimeError as error: assert "not entered" in str(error)
        else: raise SystemExit("left twice")
        one.__enter__()
        try: contextvars.copy_context().run(one.__exit__, None, None, None)
        except ValueError: pass
        else: raise SystemExit("left in another context")
        try:
            with heap("two"): raise KeyError
        except KeyError: pass
        assert places(made()) == {"one"}
    """)


def test_heaps_without_a_name_are_used_again_once_they_are_empty() -> None:
    run("""
        before = len(dmi.heaps())
        for _ in range(200):
            with heap() as h:
                kept = made(100)
            del h
        assert len(dmi.heaps()) - before <= 4
        held = []
        for _ in range(40):
            with heap() as h:
                held.append(made(100))
            del h
        assert len([r for r in usage() if r.name is None]) >= 39
        del held, kept
        usage()
        assert len(dmi.heaps()) - before <= 20
        with heap():
            copied = contextvars.copy_context()
        usage()
        assert len(copied.run(made)) == 500
        gc.collect()
    """)


def test_a_limit_raises_and_leaves_room_to_deal_with_it() -> None:
    run("""
        kept = []
        for _ in range(3):
            try:
                with heap("bounded", limit=1 << 20), heap("bounded"):
                    while True: kept.append(Node(len(kept)))
            except MemoryError as error:
                row = usage().of("bounded")
                (note,) = error.__notes__
                assert "'bounded'" in note and "1,048,576" in note, note
                assert (1 << 20) <= row.busy <= (1 << 20) * 1.2 and row.limit == 1 << 20, row
            else: raise SystemExit("no limit")
        kept.clear()
        with heap("bounded", limit=1 << 20):
            kept = made(3000)
        more = made(100000)
        try:
            with heap("roomy", limit=1 << 30): raise MemoryError
        except MemoryError as error: assert not hasattr(error, "__notes__")
    """)


def test_a_callback_is_told_once_and_again_after_it_fell() -> None:
    run("""
        told = []
        for round in range(1, 4):
            with heap("watched", limit=1 << 20, on_limit=told.append) as inner:
                kept = made(40000)
                for _ in range(100): pass
            assert len(told) == round, (round, told)
            assert told[-1].name == "watched" and told[-1].busy >= 1 << 20
            del kept
    """)


def test_what_a_callback_raises_is_shown_and_goes_no_further() -> None:
    run("""
        import sys
        shown = []
        sys.excepthook = lambda *error: shown.append(error)
        with heap("watched", limit=100_000, on_limit=lambda usage: 1 / 0):
            kept = made(40000)
        assert [each[0] for each in shown][:1] == [ZeroDivisionError]
    """)


def test_names_and_limits_are_checked() -> None:
    run("""
        for arguments, error in (((1,), TypeError), (("",), ValueError), (("x" * 48,), ValueError),
                                 (("outside",), ValueError), (("a\\0b",), ValueError)):
            try: heap(*arguments)
            except error: pass
            else: raise SystemExit(arguments)
        for keywords, error in (({"limit": 0}, ValueError), ({"limit": "1"}, TypeError),
                                ({"limit": True}, TypeError), ({"on_limit": print}, ValueError),
                                ({"limit": 9, "on_limit": 3}, TypeError),
                                ({"decommit": "often"}, ValueError)):
            try: heap("x", **keywords)
            except error: pass
            else: raise SystemExit(keywords)
        with heap("own policy", decommit="lazy:delay=0.25") as inner:
            assert inner.heap.decommit.delay == 0.25
        try: usage().of("nobody")
        except KeyError: pass
        else: raise SystemExit("found")
    """)


def test_forked_children_keep_their_contexts() -> None:
    run("""
        import os
        with heap("parent"):
            kept = made()
            pid = os.fork()
            if pid == 0:
                mine = made()
                with heap("child"): deep = made()
                good = places(mine) == {"parent"} and places(deep) == {"child"}
                os._exit(0 if good and places(kept) == {"parent"} else 1)
            assert os.waitpid(pid, 0)[1] == 0
    """)


def test_generators_leak_it_as_any_context_variable() -> None:
    run("""
        def stream():
            with heap("stream"):
                yield made(10)
                yield made(10)
        each = stream()
        first = next(each)
        assert places(first) == {"stream"} and places(made()) == {"stream"}
        list(each)
        assert places(made()) == {"outside"}
    """)
