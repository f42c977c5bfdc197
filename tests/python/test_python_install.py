"""dmi.python.install(): objects move to dmi while the interpreter runs, whatever wraps them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from typing import Any

import pytest

import dmi
from dmi.python import _checks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="install() is for Linux")


def python(
    script: str, *options: str, preload: bool = False, status: int = 0, **environment: str
) -> str:
    """Run a script in an interpreter of its own; returns what it prints."""
    dropped = ("LD_PRELOAD", "DMI_OPTIONS", "PYTHONMALLOC", "PYTHONTRACEMALLOC", "PYTHONDEVMODE")
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    if preload:
        env["LD_PRELOAD"] = dmi.get_preload_path()
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(script)],
        env=env | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done.stdout + (done.stderr if status else "")


# Objects of before, of after, and such as grow from one to the other.
CHURN = """
    import dmi, gc, json, sys

    def work(n):
        made = [{"id": k, "name": str(k) * 5, "row": [k] * (k % 40)} for k in range(n)]
        assert json.loads(json.dumps(made)) == made
        return made

    before = work(3000)
    growing = [[k] for k in range(500)]
    buffers = [bytearray(b"x" * k) for k in range(0, 3000, 7)]
    heap = dmi.python.install()
    assert heap.name == "python" and dmi.python.is_installed()
    after = work(3000)
    assert heap.stats().busy_blocks > 10000
    for n, each in enumerate(growing):
        for k in range(300):
            each.append(k)
        assert each == [n, *range(300)]
    for n, each in enumerate(buffers):
        each += b"y" * 5000
        assert each == b"x" * (n * 7) + b"y" * 5000
        del each[5:]
    assert before == after
    del before, growing, buffers
    gc.collect()
    assert work(3000) == after
    heap.validate()
    heap.stats(detail=True).check()
    print("good")
"""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="plain"),
        pytest.param(("-X", "dev"), id="debug hooks"),
        pytest.param(("-X", "tracemalloc"), id="tracemalloc"),
        pytest.param(("-X", "dev", "-X", "tracemalloc"), id="both", marks=pytest.mark.long),
    ],
)
def test_objects_move_in_a_running_interpreter(options: tuple[str, ...]) -> None:
    assert python(CHURN, *options) == "good\n"


@pytest.mark.parametrize("malloc", ["malloc", "pymalloc"])
def test_objects_move_beside_the_preloaded_library(malloc: str) -> None:
    assert python(CHURN, preload=True, PYTHONMALLOC=malloc) == "good\n"


def test_a_write_behind_a_block_is_found_by_the_debug_hooks_after_install() -> None:
    script = """
        import ctypes, dmi
        dmi.python.install()
        api = ctypes.pythonapi
        api.PyObject_Malloc.restype = ctypes.c_void_p
        api.PyObject_Free.argtypes = [ctypes.c_void_p]
        block = api.PyObject_Malloc(40)
        assert dmi.find(block) is not None
        ctypes.memset(block + 40, 0, 1)
        api.PyObject_Free(block)
    """
    said = python(script, "-X", "dev", status=-6)
    assert "bad trailing pad byte" in said


def test_tracemalloc_may_start_and_stop_at_any_time_and_sees_all_blocks() -> None:
    script = """
        import dmi, tracemalloc
        tracemalloc.start()
        first = [[n] for n in range(10000)]
        dmi.python.install()
        second = [[n] for n in range(10000)]
        assert tracemalloc.get_traced_memory()[0] > 20000 * 64
        tracemalloc.stop()
        third = [[n] for n in range(10000)]
        assert dmi.find(id(third[5000])) is not None
        tracemalloc.start()
        fourth = [[n] for n in range(10000)]
        assert tracemalloc.get_traced_memory()[0] > 10000 * 64
        with dmi.python.heap("inner"):
            fifth = [[n] for n in range(10000)]
        assert dmi.python.context_of(fifth[5000]) == "inner"
        del first, second, third
        assert fourth == fifth
        tracemalloc.stop()
        with dmi.python.heap("inner"):
            sixth = [[n] for n in range(1000)]
        assert dmi.python.context_of(sixth[500]) == "inner"
    """
    python(script)


def test_threads_go_on_while_objects_move() -> None:
    script = """
        import dmi, threading, time
        stop = False
        rounds = [0] * 4
        def work(k):
            kept = []
            while not stop:
                kept.append({"k": k, "v": [k] * 9, "s": str(rounds[k])})
                if len(kept) > 500:
                    assert all(each["k"] == k for each in kept)
                    del kept[::2]
                rounds[k] += 1
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for each in threads: each.start()
        while min(rounds) < 1000: time.sleep(0.01)
        heap = dmi.python.install()
        then = list(rounds)
        while min(now - was for now, was in zip(rounds, then)) < 5000: time.sleep(0.01)
        stop = True
        for each in threads: each.join()
        heap.validate()
    """
    python(script)


def test_a_forked_child_goes_on_and_starts_workers() -> None:
    script = """
        import dmi, os, multiprocessing, sys
        heap = dmi.python.install()
        kept = [[n] for n in range(20000)]
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                assert kept[777] == [777]
                mine = [str(n) for n in range(20000)]
                del kept[::2]
                heap.validate()
                os._exit(0 if dmi.find(id(mine[9999])) else 1)
            assert os.waitpid(pid, 0)[1] == 0
        def square(n):
            return sum(k * n for k in range(1000))
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(square, range(50)) == [square(n) for n in range(50)]
    """
    python(script)


def test_the_interpreter_ends_with_objects_on_the_heap() -> None:
    script = """
        import atexit, dmi, sys, threading
        class Late:
            def __del__(self):
                made = [str(n) for n in range(1000)]
                if made: sys.__stderr__ and sys.__stderr__.flush()
        kept = Late()
        dmi.python.install()
        also = Late()
        also.me = also
        atexit.register(lambda: [{} for _ in range(5000)])
        threading.Thread(target=lambda: [{} for _ in range(5000)]).start()
        sys.modules["keeps"] = Late()
        print("end")
    """
    assert python(script) == "end\n"
    assert python(script, "-X", "dev") == "end\n"
    assert python(script, preload=True) == "end\n"


def test_a_heap_of_ones_own_is_kept_alive() -> None:
    script = """
        import dmi
        heap = dmi.Heap(name="mine", decommit="lazy:delay=0.1")
        assert dmi.python.install(heap) is heap
        assert dmi.python.install() is heap and dmi.python.install(heap) is heap
        try: heap.destroy()
        except dmi.HeapError as error: assert "dmi.python" in str(error), error
        else: raise SystemExit("destroyed")
        try: dmi.python.install(dmi.Heap(name="other"))
        except dmi.python.InstallError as error: assert "mine" in str(error)
        else: raise SystemExit("moved")
        kept = [[n] for n in range(1000)]
        assert dmi.find(id(kept[500])).heap is heap
    """
    python(script)


@pytest.mark.parametrize("policy", ["eager", "never", "lazy:delay=0.01:how=decommit"])
def test_heaps_of_every_kind_serve_objects(policy: str) -> None:
    script = f"""
        import dmi
        dmi.python.install(dmi.Heap({policy!r}))
        for _ in range(3):
            kept = {{n: [str(n)] for n in range(5000)}}
        assert kept[4999] == ["4999"]
    """
    python(script)


def test_a_hardened_heap_serves_objects() -> None:
    python("import dmi; dmi.python.install(dmi.Heap(hardened=True)); [str(n) for n in range(3000)]")


def test_raw_is_refused_beside_threads_and_served_before() -> None:
    script = """
        import dmi, threading
        stop = threading.Event()
        if {early}:
            dmi.python.install(domains=["raw", "mem", "obj"])
        thread = threading.Thread(target=stop.wait)
        thread.start()
        try:
            dmi.python.install(domains=["raw", "mem", "obj"])
        except dmi.python.InstallError as error:
            print(error)
        stop.set()
        thread.join()
        dmi.python.install(domains=["mem", "obj"])
        with dmi.python.heap("x"):
            kept = [str(n) for n in range(5000)]
    """
    assert "2 threads" in python(script.format(early=False))
    assert python(script.format(early=True)) == ""


def test_another_tools_hooks_are_refused_by_name() -> None:
    pytest.importorskip("memray")
    script = """
        import dmi, memray, tempfile, os
        with tempfile.TemporaryDirectory() as folder:
            with memray.Tracker(os.path.join(folder, "trace"), trace_python_allocators=True):
                try:
                    dmi.python.install()
                except dmi.python.InstallError as error:
                    print(error)
            dmi.python.install()
            with memray.Tracker(os.path.join(folder, "trace2"), trace_python_allocators=True):
                kept = [[n] for n in range(1000)]
                try:
                    with dmi.python.heap("x"):
                        pass
                except dmi.python.InstallError as error:
                    print(error)
            with dmi.python.heap("x"):
                kept = [[n] for n in range(1000)]
    """
    said = python(script).splitlines()
    assert len(said) == 2
    assert all("memray" in line for line in said)


@pytest.mark.parametrize(
    ("options", "told"),
    [((), True), (("-X", "dev"), True), (("-X", "tracemalloc"), False)],
    ids=["plain", "debug hooks", "tracemalloc"],
)
def test_debugmallocstats_tells_of_both_allocators(options: tuple[str, ...], told: bool) -> None:
    """CPython's lines as it prints them without dmi, which is none beneath tracemalloc."""
    script = """
        import sys
        if {on}:
            import dmi
            kept = [str(n) for n in range(20_000)]
            dmi.python.install()
            first = sys._debugmallocstats
            dmi.python.install(domains=["obj"])
            assert sys._debugmallocstats is first
            with dmi.python.heap("import"):
                more = [str(n) for n in range(20_000)]
        assert sys._debugmallocstats() is None
        try: sys._debugmallocstats(True)
        except TypeError: pass
        else: raise SystemExit("takes an argument")
        if {on}:
            # Old and new blocks go where they came from, and what comes now is dmi's.
            del kept, more
            new = [str(n) for n in range(20_000)]
            assert dmi.find(id(new[7])) is not None
            next(h for h in dmi.heaps() if h.name == "python").validate()
        sys.exit(7)
    """
    without, beside = (python(script.format(on=on), *options, status=7) for on in (False, True))

    def labels(text: str) -> list[str]:
        lines = (re.sub(r"[\d,]+", "", line) for line in text.splitlines())
        return [" ".join(line.split()) for line in lines if re.search("[a-z]", line)]

    assert ("Small block threshold" in without) == told
    assert [line for line in labels(beside) if line in labels(without)] == labels(without)
    rows = {row[0]: row[1:] for row in re.findall(r"^(\w+) +(\d+) +(\d+)", beside, re.MULTILINE)}
    assert {"python", "import"} <= set(rows)
    assert int(rows["import"][0]) >= 20_000
    if told and not options:
        # What lay with pymalloc before is there still: the first 20,000 strings, 64 bytes each.
        held = re.search(r"# bytes in allocated blocks += +([\d,]+)", beside)
        assert held is not None
        assert int(held[1].replace(",", "")) > 20_000 * 56


class Hook:
    """A native part that says what a test wants to hear."""

    FREE_THREADED = False

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {
            "is_main_interpreter": True,
            "interpreters": 1,
            "is_preloaded": False,
            "installed": [],
            "look": ("bottom", False, "libpython"),
        } | answers

    def __getattr__(self, name: str) -> Any:
        if name not in self.answers:
            raise AttributeError(name)
        return lambda *_: self.answers[name]


def test_what_cannot_be_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("mem", "obj")
    assert _checks.refusal(Hook(), both) is None
    free = Hook()
    free.FREE_THREADED = True
    said = _checks.refusal(free, both)
    assert said is not None
    assert "free-threaded" in said
    assert "dmi.numpy.use" in said
    for answers, word in (
        ({"is_main_interpreter": False}, "main interpreter"),
        ({"look": ("unknown", False, "/lib/tool.so")}, "/lib/tool.so"),
        ({"look": ("bottom", True, "libpython"), "is_preloaded": True}, "PYTHONMALLOC=debug"),
    ):
        assert word in (_checks.refusal(Hook(**answers), both) or "")
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    assert "sub-interpreters" in (_checks.refusal(Hook(interpreters=2), both) or "")
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))
    assert _checks.refusal(Hook(interpreters=2), both) is None


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ("install(1)", TypeError, "dmi.Heap or None, not int"),
        ("install(domains='obj')", TypeError, "a list such as"),
        ("install(domains=['objects'])", ValueError, "raw, mem, obj, not 'objects'"),
        ("install(domains=[])", ValueError, "must name one of"),
    ],
)
def test_wrong_arguments_are_named(call: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        eval(f"dmi.python.{call}")


def test_importing_the_package_changes_nothing() -> None:
    assert not dmi.python.is_installed()
    with pytest.raises(dmi.python.InstallError, match="install"):
        dmi.python.heap("x")
    with pytest.raises(dmi.python.InstallError, match="install"):
        dmi.python.usage()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dmi.python.nothing  # type: ignore[attr-defined]
