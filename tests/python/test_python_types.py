"""dmi.python.by_type() and holders(): what lies on Python's heaps, and who keeps it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from test_preload import build

from tests.python.test_python_contexts import run

if TYPE_CHECKING:
    from test_preload import Build

__all__ = ["build"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="install() is for Linux")

MANY = """
    class Plain:
        def __init__(self, k): self.k, self.text = k, str(k) * 3
    class Small:
        __slots__ = ("k",)
        def __init__(self, k): self.k = float(k)
    class Weak(dict): pass
    with heap("many"):
        plain = [Plain(k) for k in range(1000, 4000)]
        small = [Small(k) for k in range(2000)]
        texts = ["é" * (k % 90 + 1) + str(k) for k in range(700)]
        raw = [bytes([k % 256]) * (k % 300 + 2) for k in range(600)]
        long = [(*range(25), plain[k]) for k in range(500)]
        weak = [Weak(a=k) for k in range(400)]
        sets = [{k, str(k)} for k in range(300)]
        big = [1 << (k + 70) for k in range(450)]
        arrays = [bytearray(b"x" * 100) for _ in range(350)]
    types = {row.type: row for row in dmi.python.by_type("many").types()}
"""
EXPECTED = """
    want = {"__main__.Plain": 3000, "__main__.Small": 2000, "builtins.bytes": 600,
            "builtins.tuple": 500, "__main__.Weak": 400, "builtins.set": 300,
            "builtins.bytearray": 350, "builtins.str": 3000 + 700 + 300}
    # The free list carries some from before the context began.
    near = {"builtins.float": 2000}
    for name, count in want.items():
        assert types[name].count == count, (name, types[name])
    for name, count in near.items():
        assert count - 200 <= types[name].count <= count + 200, (name, types.get(name))
    assert types["builtins.int"].count >= 3000 + 450, types["builtins.int"]
"""


@pytest.mark.parametrize(
    "options",
    [(), ("-X", "dev"), pytest.param(("-X", "tracemalloc"), marks=pytest.mark.long)],
)
def test_objects_are_counted_exactly(options: tuple[str, ...]) -> None:
    run(MANY + EXPECTED, *options)


def test_rows_add_up_to_what_is_busy() -> None:
    run(
        MANY
        + """
    table = dmi.python.by_type("many")
    used = usage().of("many")
    assert sum(row.busy for row in table) == used.busy
    assert sum(row.count for row in table) == used.count
    assert sum(row.busy for row in table.types()) == used.busy
    assert "__main__.Plain" in str(table)
    assert all(row.busy == row.count * row.size for row in table)
    stats = heap("many").heap.stats(detail=True)
    pinned = sum(row.pinned for row in table)
    assert abs(pinned - stats.pinned) <= max(4096, stats.pinned // 10), (pinned, stats.pinned)
    del plain[::2]
    import gc; gc.collect()
    more = {row.type: row for row in dmi.python.by_type("many").types()}
    assert more["__main__.Plain"].pinned > types["__main__.Plain"].pinned
    try: dmi.python.by_type("nobody")
    except KeyError: pass
    else: raise SystemExit("found")
    """
    )


def test_blocks_that_look_like_objects_are_none() -> None:
    run("""
        import ctypes
        api = ctypes.pythonapi
        api.PyMem_Malloc.restype = ctypes.c_void_p
        def count(): return {r.type: r.count for r in dmi.python.by_type("fake").types()}
        with heap("fake"):
            kept = made(10)
        before = count()
        blocks = []
        with heap("fake"):
            for refs, kind, size in (
                (1, id(Node), 500),        # far too large
                (0, id(Node), 24),         # no reference
                (id(kept), id(Node), 24),  # a pointer where the count should be
                (1, id(Node) + 8, 24),     # no type
                (1, id(kept), 24),         # an object that is no type
                (1, id(tuple), 40),        # its type has a GC header, and there is none
            ):
                block = api.PyMem_Malloc(size)
                ctypes.memset(block, 0, size)
                ctypes.c_uint64.from_address(block).value = refs
                ctypes.c_uint64.from_address(block + 8).value = kind
                blocks.append(block)
        after = count()
        assert after["__main__.Node"] == before["__main__.Node"] == 10
        assert after.get("builtins.tuple", 0) == before.get("builtins.tuple", 0)
    """)


def test_holders_lead_to_modules_classes_and_frames() -> None:
    run("""
        import sys, types
        CACHE = {"k": [made(3)]}
        class Registry:
            kept = {"node": Node(1)}
        module = types.ModuleType("mine")
        module.things = (Node(2),)
        sys.modules["mine"] = module
        def paths(thing):
            # This very frame is a holder as well.
            return [str(h) for h in dmi.python.holders(thing) if h.kind != "frame"]
        said = paths(CACHE["k"][0][2])
        assert said == ["module __main__: __main__.CACHE['k'][0][2]"], said
        name = "__main__.Registry"
        said = paths(Registry.kept["node"])
        assert said[0] == f"class {name}: {name}.kept['node']", said
        assert paths(module.things[0])[0] == "module mine: mine.things[0]"
        def local():
            held = Node(5)
            return [h for h in dmi.python.holders(held) if h.kind == "frame"]
        found = local()
        assert found[0].path == "local.held" and "local (<string>:" in found[0].root, found
        def stream():
            kept = Node(6)
            yield kept
        suspended = stream()
        next(suspended)
        assert any(h.kind == "frame" and "stream" in h.root
                   for h in dmi.python.holders(next(o for o in gc.get_objects()
                       if type(o) is Node and o.value == 6)))
        # By address, and of what is no object.
        assert paths(id(CACHE["k"][0][1])) == ["module __main__: __main__.CACHE['k'][0][1]"]
        with heap("tables"):
            long = [None] * 3000
        table = next(b for b in heap("tables").heap.walk() if b.state == "busy" and b.size >= 24000)
        assert paths(table.address) == ["module __main__: __main__.long (its buffer)"]
        chained = Node(Node(Node("end")))
        assert paths(chained.value.value)[0] == "module __main__: __main__.chained.value.value"
    """)


def test_addresses_of_nothing_are_refused() -> None:
    run("""
        import ctypes
        other = dmi.Heap()
        for address in (0, 4096, other.malloc(10), id(None)):
            try: dmi.python.holders(address)
            except ValueError: pass
            else: raise SystemExit(address)
    """)


def test_a_block_whose_pages_are_gone_is_no_object() -> None:
    # Of the raw domain, and of C code: freed by a thread that does not hold the GIL.
    run("""
        import ctypes, mmap
        from dmi.python import _objects
        room = mmap.mmap(-1, 4 * mmap.PAGESIZE)
        view = ctypes.c_char.from_buffer(room)
        address = ctypes.addressof(view)
        del view
        room.close()
        for at in range(address, address + 64, 16):
            assert _objects.object_at(at, 4096, False) == []
    """)


def test_threads_of_c_code_may_free_while_types_are_counted(build: Build) -> None:
    library = build("churner.c", "-shared", "-fPIC", target="churner.so")
    run(f"""
        import ctypes, pathlib
        kept = [{{i: str(i)}} for i in range(3000)]
        core = ctypes.CDLL(str(pathlib.Path(dmi.__file__).parent / "libdmi.so"))
        churner = ctypes.CDLL({str(library)!r})
        churner.churner_start.argtypes = [ctypes.c_void_p] * 3
        address = lambda function: ctypes.cast(function, ctypes.c_void_p)
        heap = dmi.heaps()[0]
        heap.decommit = "lazy:delay=0.001:how=decommit"
        assert churner.churner_start(
            heap.handle, address(core.dmi_heap_malloc), address(core.dmi_free)) == 0
        for _ in range(8):
            rows = dmi.python.by_type()
        churner.churner_stop()
        assert sum(row.count for row in rows if row.type == "builtins.dict") >= 3000
    """)
