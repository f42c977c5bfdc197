"""What is installed: files, versions, the C API through cffi, the command line."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import dmi
from dmi import cli

pytestmark = pytest.mark.reads

PACKAGE = Path(dmi.__file__).parent


def test_versions_agree() -> None:
    header = (Path(dmi.get_include()) / "dmi" / "dmi.h").read_text()
    assert f'#define DMI_VERSION "{dmi.__version__}"' in header
    assert metadata.version("dmi-heap") == dmi.__version__
    assert dmi.ffi.string(dmi.lib.dmi_version()).decode() == dmi.__version__


def test_files_are_where_the_functions_say() -> None:
    assert Path(dmi.get_library_path()).is_file()
    assert (Path(dmi.get_library_dirs()[0]) / "libdmi.so").is_file()
    for name in ("py.typed", "_core.pyi", "cdmi.pxd", "pool.pxd"):
        assert (PACKAGE / name).is_file()
    for name in ("pkgconfig/dmi.pc", "cmake/dmiConfigVersion.cmake"):
        assert dmi.__version__ in (PACKAGE / name).read_text()


def test_one_copy_of_the_library_is_loaded() -> None:
    _ = dmi.lib
    mapped = {
        line.split(maxsplit=5)[5].strip()
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "libdmi" in line
    }
    expected = {dmi.get_library_path()}
    if Path(dmi.get_library_path()) != PACKAGE / "libdmi.so":
        # The preloaded library serves all calls. Extensions name the other, which is only mapped.
        expected.add(str(PACKAGE / "libdmi.so"))
    assert mapped == expected
    with dmi.Heap() as heap:
        assert dmi.lib.dmi_heap_valid(dmi.ffi.cast("void *", heap.handle)) == 1


@pytest.mark.parametrize("module", ["_foreign", "_inspect", "pool"])
def test_the_collector_may_run_while_a_module_is_imported(module: str) -> None:
    """Types that are not ready yet must not be visited as if they were."""
    code = (
        "import gc, importlib, sys, dmi; gc.collect(); gc.set_threshold(*map(int, sys.argv[2:])); "
        "importlib.import_module(sys.argv[1])"
    )
    for young, old in ((1, 1), *((young, 1000) for young in range(1, 40, 3))):
        numbers = [str(each) for each in (young, old, old)]
        subprocess.run([sys.executable, "-c", code, f"dmi.{module}", *numbers], check=True)


def test_cffi_knows_the_whole_api() -> None:
    header = (Path(dmi.get_include()) / "dmi" / "dmi.h").read_text()
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    functions = set(re.findall(r"\b(dmi_\w+)\(", text)) - {"dmi_visit"}
    assert len(functions) > 30
    for name in functions:
        assert callable(getattr(dmi.lib, name)), name


def test_other_extensions_get_the_whole_api() -> None:
    folder = Path(dmi.get_include()) / "dmi"
    header = re.sub(r"/\*.*?\*/", "", (folder / "dmi.h").read_text(), flags=re.DOTALL)
    functions = set(re.findall(r"^DMI_API[^;(]*\b(dmi_\w+)\(", header, flags=re.MULTILINE))
    assert len(functions) > 30
    table = (folder / "capi.h").read_text()
    assert set(re.findall(r"^ +X\([^,]+, (dmi_\w+),", table, flags=re.MULTILINE)) == functions
    names = set(re.findall(r"#define (dmi_\w+) \(dmi_capi_get\(\)->\1_\)", table))
    assert names == functions


def binary_interface() -> list[str]:
    """What code compiled against the headers relies on: places, signatures, numbers."""
    ffi, lib = dmi.ffi, dmi.lib
    table = (Path(dmi.get_include()) / "dmi" / "capi.h").read_text()
    names = re.findall(r"^ +X\([^,]+, (dmi_\w+),", table, flags=re.MULTILINE)
    lines = [
        f"table {place} {name}: {ffi.typeof(getattr(lib, name)).cname}"
        for place, name in enumerate(names)
    ]
    reachable = {
        word
        for name in names
        for argument in ffi.typeof(getattr(lib, name)).args
        for word in re.findall(r"dmi_\w+", argument.cname)
    }
    for structure in sorted(reachable):
        fields = ffi.typeof(structure).fields
        lines += [f"{structure}.{k} at {f.offset}: {f.type.cname}" for k, f in fields]
    numbers = {name: getattr(lib, name) for name in dir(lib) if name.startswith("DMI_")}
    lines += [f"{k} = {v}" for k, v in sorted(numbers.items()) if not FREE.match(k)]
    return lines


# Versions, limits of one build, and what belongs to recordings.
FREE = re.compile(r"DMI_(VERSION|OP|TRACE|REPLAY)_|DMI_(USAGE_COUNT|HEAP_HOLDERS|WALK_CHUNK)$")


def test_what_compiled_code_relies_on_keeps_its_place() -> None:
    """To tests/golden/abi.txt lines are added; one that changes or goes breaks older modules."""
    golden = Path(__file__).parents[1] / "golden" / "abi.txt"
    assert binary_interface() == golden.read_text().splitlines()


def declarations(text: str) -> dict[str, str]:
    """{function: its declaration}, of C or Cython, with one kind of white space."""
    text = re.sub(r"/\*.*?\*/|^ *#.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = re.finditer(
        r"^(?:DMI_API| +)\s*((?:const )?\w+ \**(dmi_\w+)\([^)]*\))", text, flags=re.MULTILINE
    )
    # Cython has no (void), and `from` is a word of its own there.
    return {
        match[2]: re.sub(r"\s+", "", match[1]).replace("(void)", "()").replace("*from,", "*start,")
        for match in found
    }


def test_cython_gets_the_whole_api() -> None:
    header = (Path(dmi.get_include()) / "dmi" / "dmi.h").read_text()
    text = (PACKAGE / "cdmi.pxd").read_text()
    functions = declarations(header)
    assert len(functions) > 30
    made = declarations(text)
    assert {name: made.get(name) for name in functions} == functions
    numbers = {name for name in dir(dmi.lib) if name.startswith("DMI_")}
    recordings = {name for name in numbers if re.match("DMI_(OP|TRACE|REPLAY)_", name)}
    assert numbers - recordings - set(re.findall(r"^ +(DMI_\w+)$", text, re.MULTILINE)) == set()
    structures = [*re.findall(r"^} (dmi_\w+);", header, re.MULTILINE), "dmi_stats"]
    for structure in structures:
        kind = dmi.ffi.typeof(structure)
        if kind.kind != "struct":
            continue
        (body,) = re.findall(rf"ctypedef struct {structure}:\n((?: {{8}}.*\n)+)", text)
        fields = re.findall(r"(\w+)(?:\[\d+\])?$", body, re.MULTILINE)
        assert fields == [name for name, _ in kind.fields if name != "reserved_"], structure


def test_any_address_can_be_looked_up_before_there_is_a_heap() -> None:
    program = (
        "import dmi; assert not dmi.heaps(); assert dmi.find(id(dmi)) is None;"
        "there = dmi.ffi.cast('void *', id(dmi)); assert dmi.lib.dmi_usable_size(there) == 0;"
        "dmi.lib.dmi_free(dmi.ffi.NULL); assert not dmi.heaps(); dmi.lib.dmi_free(there)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGABRT, done.stderr
    assert re.fullmatch(r"dmi: free\(0x[0-9a-f]+\): no heap owns this address\n", done.stderr)


def test_cffi_structs_have_the_size_that_the_library_writes() -> None:
    ffi, lib = dmi.ffi, dmi.lib
    with dmi.Heap() as heap:
        address = heap.malloc(100)
        handle = ffi.cast("void *", heap.handle)
        stats = ffi.new("dmi_stats *", {"size": ffi.sizeof("dmi_stats")})
        assert lib.dmi_heap_stats(handle, stats, lib.DMI_STATS_DETAIL) == 0
        mine = heap.stats(detail=True)
        assert (stats.busy, stats.committed) == (mine.busy, mine.committed)
        assert mine.reasons is not None
        assert stats.reason_overhead == mine.reasons["overhead"]
        heap.free(address)


def test_a_caller_with_an_older_struct_is_served() -> None:
    ffi, lib = dmi.ffi, dmi.lib
    with dmi.Heap() as heap:
        raw = ffi.new("uint64_t[]", [0] + [0xABAB] * 100)
        raw[0] = 8 * 3
        handle = ffi.cast("void *", heap.handle)
        assert lib.dmi_heap_stats(handle, ffi.cast("dmi_stats *", raw), 0) == 0
        assert raw[1] == heap.stats().reserved
        assert list(raw[3:101]) == [0xABAB] * 98


def test_the_documented_blocks_of_cffi_look_after_themselves() -> None:
    text = (Path(__file__).parents[2] / "docs" / "embedding.md").read_text()
    (recipe,) = re.findall(r"## cffi\n.*?```python\n(.*?)```", text, flags=re.DOTALL)
    heap = dmi.Heap()
    names: dict[str, Any] = {"dmi": dmi, "heap": heap}
    exec(recipe, names)
    assert heap.stats().busy_blocks == 2
    assert not any(names["numbers"])
    with pytest.raises(MemoryError):
        names["new"]("char[]", 1 << 50)
    names["block"] = names["numbers"][0]
    gc.collect()
    assert heap.stats().busy_blocks == 1
    heap.destroy(force=True)
    del names["numbers"]
    gc.collect()


def test_import_dmi_does_not_pay_for_cffi() -> None:
    program = (
        "import dmi, sys; assert 'cffi' not in sys.modules; dmi.ffi; assert 'cffi' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_public_name_is_there() -> None:
    for name in dmi.__all__:
        assert getattr(dmi, name) is not None
        assert name in dir(dmi)
    assert callable(dmi.diagnose)
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        _ = dmi.magic  # type: ignore[attr-defined]


INTERPRETERS = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

def create(own_gil):
    if sys.version_info >= (3, 13):
        return interpreters.create("isolated" if own_gil else "legacy")
    return interpreters.create(isolated=own_gil)
"""

SHARED_GIL = """
import threading
import dmi
code = '''
import dmi
for _ in range(50):
    heap = dmi.Heap()
    blocks = [heap.alloc(10 * n + 1) for n in range(20)]
    try:
        heap.free(1)
    except dmi.HeapError:
        pass
    heap.stats(detail=True).check()
    heap.explain()
    heap.destroy()
'''
others = [create(own_gil=False) for _ in range(2)]
failed = []
threads = [
    threading.Thread(target=lambda other=other: failed.append(interpreters.run_string(other, code)))
    for other in others
]
with dmi.Heap(name="mine") as heap:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        interpreters.destroy(other)
    assert failed == [None, None], failed
    assert dmi.heaps() == [heap], dmi.heaps()
"""

# A walk over another process leaves the GIL and takes it again for each look.
ELSEWHERE = """
import subprocess, threading
program = "kept = [str(n) * 20 for n in range(20000)]; print(flush=True); input()"
child = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1)
child.stdout.readline()
code = f'''
import dmi
rows = [heap.stats().busy for heap in dmi.open_process({child.pid}).heaps()
        if heap.kind == "pymalloc"]
assert rows and rows[0] > 1_000_000, rows
'''
others = [create(own_gil=False) for _ in range(2)]
for other in others:
    # Else threading takes a thread below for the interpreter's first, and waits for it at the end.
    interpreters.run_string(other, "import threading")
failed = []
threads = [
    threading.Thread(target=lambda other=other: failed.append(interpreters.run_string(other, code)))
    for other in others
]
for thread in threads:
    thread.start()
exec(code)
for thread in threads:
    thread.join()
for other in others:
    interpreters.destroy(other)
child.communicate(b"\\n")
assert failed == [None, None], failed
"""

OWN_GIL = """
if sys.version_info < (3, 12):
    sys.exit()
code = '''
import dmi  # loads nothing native
try:
    dmi.Heap
except ImportError as error:
    assert "dmi._core" in str(error), error
else:
    raise AssertionError("dmi._core was not refused")
'''
other = create(own_gil=True)
failed = interpreters.run_string(other, code)
assert failed is None, failed
interpreters.destroy(other)
"""


@pytest.mark.parametrize(
    "program",
    [SHARED_GIL, ELSEWHERE, OWN_GIL],
    ids=["shared GIL", "shared GIL, another process", "own GIL"],
)
def test_other_interpreters_are_served_or_refused_by_name(program: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INTERPRETERS + program],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (answer.returncode, answer.stderr) == (0, "")


def dmi_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dmi", *arguments], check=False, capture_output=True, text=True
    )


def test_env_names_versions_and_paths() -> None:
    answer = dmi_command("env", "--json")
    facts = json.loads(answer.stdout)
    assert facts["dmi"] == dmi.__version__
    library = dmi.get_library_path()
    if library == dmi.get_preload_path() and "LD_PRELOAD" not in os.environ:
        # This process is on dmi, and what it starts is not.
        library = str(PACKAGE / "libdmi.so")
    assert facts["library"] == library
    assert facts["decommit"] == "lazy"
    plain = dmi_command("env").stdout
    assert all(str(value) in plain for value in facts.values())


def test_help_is_long_and_h_is_free() -> None:
    assert dmi_command("--help").returncode == 0
    for command in cli.commands():
        answer = dmi_command(command.NAME, "--help")
        assert (answer.returncode, answer.stderr) == (0, "")
        assert "-h," not in answer.stdout
    assert dmi_command("-h").returncode == 2
    assert dmi_command("env", "-h").returncode == 2


@pytest.mark.parametrize("arguments", [(), ("fly",), ("env", "--speed"), ("env", "extra")])
def test_wrong_use_is_exit_2_without_a_traceback(arguments: tuple[str, ...]) -> None:
    answer = dmi_command(*arguments)
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""


def test_a_reader_that_goes_away_is_no_error() -> None:
    program = f"{sys.executable} -m dmi env | true; exit ${{PIPESTATUS[0]}}"
    answer = subprocess.run(["bash", "-c", program], check=False, capture_output=True, text=True)
    assert answer.stderr == ""
    assert answer.returncode in (0, 141)


def test_a_tree_that_was_not_built_says_what_to_do(tmp_path: Path) -> None:
    """As after `pip install .`, when Python is started in the clone."""
    source = Path(dmi.__file__).parent
    shutil.copytree(
        source, tmp_path / "dmi", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    )
    done = subprocess.run(
        [sys.executable, "-S", "-m", "dmi", "env"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert str(tmp_path / "dmi") in last
    assert "make build" in last
    assert "python3 -P" in last


def test_the_examples_are_where_the_package_says() -> None:
    assert (Path(dmi.get_examples()) / "second_order_leak.py").is_file()
