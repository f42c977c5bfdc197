"""The preload library under small C and C++ programs: contracts, threads, fork, plugins, operators,
options, summaries."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

import dmi
from dmi import windbg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Build = Callable[..., Path]

SOURCES = Path(__file__).resolve().parent.parent / "preload"
C = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-pthread", f"-I{SOURCES}"]
CXX = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-pthread"]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is no LD_PRELOAD"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """build(name, *flags): the program or library of tests/preload/name, compiled once."""
    folder = tmp_path_factory.mktemp("preload")
    made: dict[str, Path] = {}

    def compiled(name: str, *flags: str, target: str = "") -> Path:
        target = target or name.partition(".")[0]
        if target not in made:
            compiler, common = ("g++", CXX) if name.endswith(".cpp") else ("gcc", C)
            found = shutil.which(compiler)
            if found is None:
                pytest.skip(f"no {compiler}")
            output = folder / target
            subprocess.run([found, *common, *flags, SOURCES / name, "-o", output], check=True)
            made[target] = output
        return made[target]

    return compiled


def preloaded(
    *command: str | Path, options: str = "", stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program on dmi; the output as text."""
    environment = {**os.environ, **(env or {}), "LD_PRELOAD": dmi.get_preload_path()}
    environment.pop("DMI_OPTIONS", None)
    if options:
        environment["DMI_OPTIONS"] = options
    return subprocess.run(
        [os.fspath(part) for part in command],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def succeeded(*command: str | Path, options: str = "", stdin: str = "") -> str:
    """The same, and it must have ended well and in silence on stderr; returns its stdout."""
    done = preloaded(*command, options=options, stdin=stdin)
    assert done.returncode == 0, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    assert done.stderr == ""
    return done.stdout


# ---- contracts -----------------------------------------------------------------------------------

OTHERS = ["never", "lazy:delay=0", "decay:half_life=0.01", "threshold", "budget"]
POLICIES = ["", "eager", *(pytest.param(policy, marks=pytest.mark.long) for policy in OTHERS)]


@pytest.mark.keeps
@pytest.mark.parametrize("policy", POLICIES)
def test_every_function_of_the_family_keeps_its_contract(build: Build, policy: str) -> None:
    keeps = ["keeps"] if policy in ("", "never") else []
    succeeded(build("family.c"), *keeps, options=f"decommit={policy}" if policy else "")


def test_a_hardened_heap_keeps_the_contracts(build: Build) -> None:
    succeeded(build("family.c"), options="hardened=on")


def test_malloc_info_is_xml_with_every_counter(build: Build) -> None:
    text = succeeded(build("family.c"), "info", options="name=a<b>&\"c',decommit=lazy:delay=0.5")
    root = ElementTree.fromstring(text)
    assert root.tag == "malloc"
    assert root.attrib["version"] == f"dmi-{dmi.__version__}"
    (heap,) = root.findall("heap")
    assert heap.attrib["name"] == "a<b>&\"c'"
    assert heap.attrib["default"] == "1"
    assert heap.attrib["decommit"] == "lazy:delay=0.5"
    counters = {c.attrib["name"]: int(c.text or "") for c in heap.findall("counter")}
    stats = dmi.HeapStats.from_dict(counters)
    assert stats.busy > 0
    assert stats.reserved == stats.uncommitted + stats.committed
    free = stats.free_lfh + stats.free_list + stats.free_pages
    assert stats.committed == stats.busy + free + stats.offered + stats.overhead
    assert counters["reclaimable"] + counters["pinned"] == free
    assert counters["resident"] > 0
    sums = {(each.tag, each.attrib["type"]): each.attrib for each in root if "type" in each.attrib}
    assert sums.keys() == {("total", "rest"), ("total", "mmap"), ("system", "current")}
    assert 0 < int(sums["system", "current"]["size"]) <= stats.committed + 65536
    metadata = root.find("metadata")
    assert metadata is not None
    assert int(metadata.text or "") > 0


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"caf\xc3\xa9", "caf\u00e9"),
        (b"\xff\xc3", "\ufffd\ufffd"),
        (b"a\x01\nb\x7f", "a\ufffd\ufffdb\x7f"),
        (b"\xef\xbf\xbf.\xed\xa0\x80", "\ufffd.\ufffd\ufffd\ufffd"),
    ],
)
def test_malloc_info_is_xml_whatever_the_name_holds(build: Build, name: bytes, shown: str) -> None:
    text = succeeded(build("family.c"), "info", options="name=" + os.fsdecode(name))
    heap = ElementTree.fromstring(text).find("heap")
    assert heap is not None
    assert heap.attrib["name"] == shown


def exported(library: str | Path) -> set[str]:
    """The functions and variables that a library defines for others, without versions."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm")
    command = [nm, "-D", "--defined-only", os.fspath(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {line.split()[2].partition("@")[0] for line in listing.splitlines()}


def test_all_that_programs_may_ask_for_is_exported() -> None:
    names = exported(dmi.get_preload_path())
    family = """malloc calloc realloc reallocarray free cfree memalign posix_memalign aligned_alloc
        valloc pvalloc malloc_usable_size malloc_trim mallinfo mallinfo2 malloc_info malloc_stats
        mallopt free_sized free_aligned_sized"""
    assert set(family.split()) <= names
    # What is not public stays inside, and every public function of the core is there.
    assert not {name for name in names if name.startswith("_dmi_")}
    header = (Path(dmi.get_include()) / "dmi" / "dmi.h").read_text()
    public = set(re.findall(r"DMI_API[^;]*?\b(dmi_\w+)\(", header))
    assert public
    assert public <= names


def library_of(compiler: str, name: str) -> str:
    """Where a compiler finds a library. Skips without the compiler."""
    found = shutil.which(compiler)
    if found is None:
        pytest.skip(f"no {compiler}")
    command = [found, f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_what_the_c_library_exports_of_the_family_is_exported() -> None:
    """A function left out would hand its caller a block of another heap."""
    word = "malloc|calloc|realloc|reallocarray|free|cfree|memalign|aligned_alloc|valloc|pvalloc"
    wanted = re.compile(rf"(__libc_|posix_)?({word}|mallinfo2?|mallopt)|malloc_\w+|free_\w*sized")
    theirs = {name for name in exported(library_of("gcc", "libc.so.6")) if wanted.fullmatch(name)}
    assert {"malloc", "mallopt", "__libc_memalign", "malloc_usable_size"} <= theirs
    # glibc's private name, called by its own libraries only; it calls realloc by its public name.
    theirs -= {"__libc_reallocarray"}
    assert theirs <= exported(dmi.get_preload_path())


def test_what_the_headers_declare_is_exported(tmp_path: Path) -> None:
    """Every function of malloc.h, and of stdlib.h what is named like it, in the newest C."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc")
    command = [gcc, "-E", "-P", "-std=gnu2x", "-D_GNU_SOURCE", "-include", "stdlib.h", "-"]
    text = subprocess.run(
        command, input="#include <malloc.h>\n", capture_output=True, text=True, check=True
    ).stdout
    declared = set(re.findall(r"\b(\w*(?:alloc|mall|memalign)\w*|c?free\w*) ?\(", text))
    declared = {name for name in declared if not name.startswith("__")}
    assert {"malloc", "mallopt", "malloc_info", "reallocarray", "aligned_alloc"} <= declared
    assert declared <= exported(dmi.get_preload_path()) | {"alloca"}


def test_every_operator_of_the_runtime_is_exported() -> None:
    names = exported(dmi.get_preload_path())
    operators = {n for n in names if re.match(r"_Z(n[wa]|d[la])", n)}
    align, nothrow = "St11align_val_t", "RKSt9nothrow_t"
    wanted = {f"_Zn{k}m{a}{n}" for k in "wa" for a in ("", align) for n in ("", nothrow)}
    wanted |= {f"_Zd{k}Pv{s}{a}" for k in "la" for s in ("", "m") for a in ("", align)}
    wanted |= {f"_Zd{k}Pv{a}{nothrow}" for k in "la" for a in ("", align)}
    assert operators == wanted
    theirs = exported(library_of("g++", "libstdc++.so.6"))
    assert {n for n in theirs if re.match(r"_Z(n[wa]|d[la])", n)} <= operators


def test_knobs_answer_as_in_glibc(build: Build) -> None:
    program = build("mallopt.c", f"-I{dmi.get_include()}")
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "DMI_OPTIONS")}
    theirs = subprocess.run(
        [program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert theirs.count("\n") == 13
    assert succeeded(program) == theirs


ANSWERS = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for name in ("malloc", "aligned_alloc"):
    getattr(libc, name).restype = ctypes.c_void_p
libc.malloc_usable_size.restype = ctypes.c_size_t
libc.malloc_usable_size.argtypes = [ctypes.c_void_p]
libc.aligned_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
p = libc.malloc(7)
size = libc.malloc_usable_size(p)
ctypes.memset(p, 255, size)
libc.free(p)
print(size >= 7, libc.malloc_usable_size(None), libc.malloc_usable_size(16))
for align, size in ((64, 64), (1, 64), (4096, 7), (65, 64), (0, 64), (2**63, 64)):
    ctypes.set_errno(0)
    p = libc.aligned_alloc(align, size)
    print(p is not None and p % align == 0, ctypes.get_errno() if not p else 0)
print(libc.mallopt(-6, 0xA5), libc.mallopt(-6, 0))
libc.malloc_stats()
"""


def test_what_glibcs_own_tests_ask_is_answered_as_documented() -> None:
    done = preloaded(sys.executable, "-c", ANSWERS)
    assert done.returncode == 0, done.stderr
    refused = f"False {errno.EINVAL}"
    assert done.stdout.splitlines() == [
        "True 0 0", "True 0", "True 0", "True 0", refused, refused,
        f"False {errno.ENOMEM}", "0 1",
    ]  # fmt: skip
    heads = ["Arena 0:", "Total (incl. mmap):", "max mmap regions", "max mmap bytes   =          -"]
    assert "on request" in done.stderr
    for head in heads:
        assert f"\n{head}" in done.stderr
    numbers = [
        int(n)
        for n in re.findall(r"^(?:system|in use) bytes +=  *(\d+)$", done.stderr, re.MULTILINE)
    ]
    assert len(numbers) == 4
    assert numbers[0] >= numbers[1] > 0
    assert numbers[2] >= numbers[3] >= numbers[1]


def test_a_program_may_ask_to_keep_everything_unless_a_policy_was_chosen(build: Build) -> None:
    program = build("mallopt.c", f"-I{dmi.get_include()}")
    assert succeeded(program, "heap") == "0 0 1 1 0 0 1 0"
    assert succeeded(program, "heap", options="decommit=lazy") == "0 0 0 0 0 0 0 0"
    assert succeeded(program, "heap", options="decommit=never") == "1 1 1 1 1 1 1 1"


# ---- one copy of the core ------------------------------------------------------------------------

LIBRARY = Path(dmi.get_include()).parent / "libdmi.so"
EEXIST = errno.EEXIST


@dataclass
class Copies:
    """Files that hold the core: two equal ones, and the one that is made to be preloaded."""

    a: Path
    b: Path
    program: Path
    preload: Path = Path(dmi.get_preload_path())

    def load(self, *words: str, preload: bool = False) -> tuple[list[tuple[int, int]], list[str]]:
        """What tests/preload/copies.c says of each, and the lines on standard error. Words are
        l:a, g:b and so on."""
        files = [f"{word[:2]}{getattr(self, word[2:])}" for word in words]
        environment = {
            k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "DMI_OPTIONS")
        }
        if preload:
            environment["LD_PRELOAD"] = str(self.preload)
        done = subprocess.run(
            [self.program, *files], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said = [line.split() for line in done.stdout.splitlines()]
        return [(int(error), int(heaps)) for error, heaps in said], done.stderr.splitlines()

    def refused(self, second: str, first: str) -> list[str]:
        line = "dmi: {} is a second copy of dmi in this process and makes no heap: {} serves it"
        return [line.format(getattr(self, second), getattr(self, first))]


@pytest.fixture
def copies(build: Build, tmp_path: Path) -> Copies:
    for name in "ab":
        (tmp_path / name).mkdir()
        shutil.copy(LIBRARY, tmp_path / name)
    return Copies(
        tmp_path / "a" / LIBRARY.name, tmp_path / "b" / LIBRARY.name, build("copies.c", "-ldl")
    )


def test_a_file_loaded_twice_is_one_copy(copies: Copies) -> None:
    for second in ("l:a", "g:a", "d:a"):
        assert copies.load("l:a", second) == ([(0, 2), (0, 3)], [])


@pytest.mark.parametrize("how", ["l", "g", "d"])
def test_of_two_files_loaded_privately_the_first_serves(copies: Copies, how: str) -> None:
    """The loader keeps them apart, so each must look for the other itself, at load."""
    assert copies.load("l:a", f"{how}:b", "l:a") == (
        [(0, 2), (EEXIST, 0), (0, 3)], copies.refused("b", "a"),
    )  # fmt: skip


def test_a_copy_that_all_can_see_serves(copies: Copies) -> None:
    """The others are idle, as every library that was linked against them: nothing to say at load,
    and an error for whoever reaches for one all the same."""
    assert copies.load("g:a", "l:b") == ([(0, 2), (EEXIST, 0)], copies.refused("b", "a"))


def test_the_preloaded_copy_serves_whatever_is_loaded(copies: Copies) -> None:
    assert copies.load(preload=True) == ([], [])
    for how in "lg":
        said, lines = copies.load(f"{how}:a", "l:preload", preload=True)
        assert said == [(EEXIST, 0), (0, 2)]
        assert lines == copies.refused("a", "preload")


def test_the_preload_library_beside_one_that_serves(copies: Copies) -> None:
    for how in "lg":
        said, lines = copies.load(f"{how}:a", "l:preload")
        assert said == [(0, 2), (EEXIST, 0)]
        assert lines == copies.refused("preload", "a")


@pytest.mark.parametrize("on_dmi", [False, True])
def test_a_program_that_is_linked_has_one_list_of_heaps(
    build: Build, copies: Copies, on_dmi: bool
) -> None:
    """Its own library comes before private ones, and after a preloaded one."""
    folder = LIBRARY.parent
    linked = build(
        "copies.c", "-Wl,--no-as-needed", f"-L{folder}", "-ldmi", f"-Wl,-rpath,{folder}", "-ldl",
        target="linked",
    )  # fmt: skip
    there = Copies(copies.a, LIBRARY, linked)
    said, lines = there.load("l:b", "l:a", preload=on_dmi)
    assert said == ([(EEXIST, 0), (EEXIST, 0)] if on_dmi else [(0, 2), (EEXIST, 0)])
    serves = "preload" if on_dmi else "b"
    assert lines == [
        line for name in ("b", "a") if name != serves for line in there.refused(name, serves)
    ]


def import_after(library: Path) -> subprocess.CompletedProcess[str]:
    """Python loads a copy privately, then dmi, which makes a heap."""
    script = (
        f"import ctypes; library = ctypes.CDLL({str(library)!r})\n"
        "import dmi, errno\n"
        "try: dmi.Heap(name='mine'); print(len(dmi.heaps()) == library.dmi_heap_list(None, 0))\n"
        "except OSError as error: print(errno.errorcode[error.errno], error)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )


def test_python_takes_the_library_that_is_there(copies: Copies) -> None:
    done = import_after(copies.a)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_python_says_why_it_makes_no_heap(copies: Copies) -> None:
    done = import_after(copies.preload)
    assert done.stdout.startswith("EEXIST ")
    assert "another copy of dmi serves this process" in done.stdout
    said = done.stderr.splitlines()
    assert said[0].startswith("dmi: libdmi_malloc.so serves no allocation here")
    assert said[1:] == Copies(copies.a, LIBRARY, copies.program).refused("b", "preload")


def test_a_foreign_pointer_ends_the_program_with_a_message(build: Build) -> None:
    done = preloaded(build("free_foreign.c"))
    assert done.returncode == -signal.SIGABRT
    assert re.search(
        r"^dmi: free\(0x[0-9a-f]+\): no heap owns this address$", done.stderr, re.MULTILINE
    )


# ---- a program's life ----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["lazy", "eager", "lazy:delay=0"])
def test_allocating_before_main_at_exit_and_while_threads_end(build: Build, policy: str) -> None:
    succeeded(build("lifetime.c"), options=f"decommit={policy}")


@pytest.mark.parametrize(
    "policy", ["lazy", "eager", pytest.param("lazy:delay=0", marks=pytest.mark.long)]
)
def test_a_threaded_program_can_fork(build: Build, policy: str) -> None:
    out = succeeded(build("threads.c"), options=f"decommit={policy}")
    exchanged = re.fullmatch(r"(\d+) blocks changed hands\n", out)
    assert exchanged
    assert int(exchanged[1]) > 10000


@pytest.mark.skipif("COVERAGE_RUN" in os.environ, reason="the counted build makes no tail calls")
@pytest.mark.parametrize("policy", ["lazy:delay=0", "lazy:delay=0.01", "eager"])
def test_ended_threads_beyond_what_glibc_keeps(build: Build, policy: str) -> None:
    """Their frees come under a lock that starting a thread needs."""
    assert succeeded(build("stacks.c"), options=f"decommit={policy}") == "1\n"


def test_a_cancelled_thread_can_fork(build: Build) -> None:
    succeeded(build("cancelled.c"))


def test_children_of_a_bare_clone_wait_for_no_thread(build: Build) -> None:
    succeeded(build("cloned.c"), options="decommit=lazy:delay=0.5")


@pytest.mark.keeps
@pytest.mark.parametrize("policy", ["lazy", "never", "eager", "lazy:how=decommit", "threshold"])
def test_what_is_kept_serves_when_the_system_has_no_more(build: Build, policy: str) -> None:
    succeeded(build("room.c"), options=f"decommit={policy}")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_little_address_space_is_enough_or_the_reason_is_named() -> None:
    """In KiB: what the tables need, and too little."""
    assert preloaded("bash", "-c", "ulimit -v 400000; exec ls /").returncode == 0
    done = preloaded("bash", "-c", "ulimit -v 200000; exec ls /")
    assert done.returncode != 0
    assert done.stderr.startswith("dmi: libdmi_malloc.so cannot make its heap: ")


def test_libraries_come_and_go(build: Build) -> None:
    shared = ("-shared", "-fPIC")
    plugins = [build("plugin.c", *shared, target=f"plugin{n}.so") for n in range(3)]
    succeeded(build("plugins.c"), *plugins)


# ---- C++ -----------------------------------------------------------------------------------------


def test_operators_new_and_delete(build: Build) -> None:
    succeeded(build("operators.cpp"))


def test_a_program_with_operators_of_its_own_gets_every_form(build: Build) -> None:
    succeeded(build("replaced.cpp", "-Wno-sized-deallocation"))


def test_without_a_runtime_operator_new_says_why_it_stops(build: Build) -> None:
    done = preloaded(build("no_runtime.c"))
    assert done.returncode == -signal.SIGABRT
    assert done.stderr.startswith("dmi: operator new: out of memory")


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("colour=red", "unknown option 'colour'; accepted: decommit, name, summary, scavenger,"),
        ("decommit", "no value for 'decommit'; accepted: a policy"),
        ("decommit=", "no value for 'decommit'"),
        ("decommit=sometimes", "sometimes"),
        ("decommit=lazy:delay=-1", "delay"),
        ("summary=SIGKILL", "unknown value 'SIGKILL'; accepted: exit, SIGUSR1"),
        ("scavenger=maybe", "unknown value 'maybe'; accepted: on, off"),
        ("name=x,colour=red,hardened=off", "unknown option 'colour'"),
        ("=", "unknown option ''"),
        ("name=" + "x" * 5000, "too long"),
        ("two\nlines\x1b[31m=1", "unknown option 'two?lines?[31m'"),
        ("decommit=a\nb", "a?b"),
        ("%s%n=%s", "unknown option '%s%n'"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_no_crash(options: str, said: str) -> None:
    done = preloaded("true", options=options)
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("dmi: DMI_OPTIONS: ")
    assert said in lines[0]


def test_garbage_is_lines_that_say_so(tmp_path: Path) -> None:
    random = Random(7)
    keys = ["decommit", "name", "summary", "scavenger", "hardened", "huge", "snapshot", "x"]
    for _ in range(150):
        parts = []
        for _ in range(random.randrange(1, 5)):
            junk = bytes(random.randrange(1, 256) for _ in range(random.randrange(20)))
            text = os.fsdecode(junk.replace(b"/", b"")).replace(",", "")
            parts.append(random.choice(["", f"{random.choice(keys)}="]) + text)
        done = subprocess.run(
            [shutil.which("true") or "true"],
            env={"LD_PRELOAD": dmi.get_preload_path(), "DMI_OPTIONS": ",".join(parts)},
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, parts
        lines = done.stderr.splitlines()
        assert all(line.startswith(b"dmi: ") for line in lines), (parts, lines)
        assert len(lines) <= len(parts) + 1


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root")
def test_a_program_with_more_rights_than_its_caller_reads_no_options(tmp_path: Path) -> None:
    """Or its caller could have it write a snapshot anywhere."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode | 0o011)
    library = shutil.copy(dmi.get_preload_path(), tmp_path)
    program, made = tmp_path / "trusted", tmp_path / "made"
    made.mkdir()
    made.chmod(0o777)
    link = ["-Wl,--no-as-needed", library, f"-Wl,-rpath,{tmp_path}"]
    subprocess.run([gcc, *C, SOURCES / "trusted.c", *link, "-o", program], check=True)

    def as_nobody() -> subprocess.CompletedProcess[str]:
        options = f"colour=red,summary=exit,snapshot={made}/file"
        return subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program],
            env={**os.environ, "DMI_OPTIONS": options},
            capture_output=True,
            text=True,
            check=False,
        )

    done = as_nobody()
    if done.stdout != "0\n":
        pytest.skip("nobody cannot run programs from here")
    assert "unknown option" in done.stderr
    assert [path.name for path in made.iterdir()] == ["file"]
    (made / "file").unlink()
    program.chmod(0o4755)
    done = as_nobody()
    if done.stdout != "1\n":
        pytest.skip("no setuid programs here")
    assert done.stderr == ""
    assert not list(made.iterdir())


@pytest.mark.parametrize("options", ["", ",", ",,,", "name=x,", ",scavenger=off"])
def test_empty_parts_are_nothing(options: str) -> None:
    succeeded("true", options=options)


# ---- summaries -----------------------------------------------------------------------------------


def table(text: str, why: str) -> windbg.HeapTable:
    """The table under its heading, exactly as dmi.summary() would write the same rows."""
    heading, _, rest = text.partition("\n")
    assert re.fullmatch(rf"dmi: heaps of process \d+, {why}", heading), text
    (found,) = windbg.parse(rest).heaps
    assert windbg.format_heap_summary(found.rows) == rest
    return found


def test_a_summary_at_exit_even_when_stderr_is_closed(build: Build) -> None:
    done = preloaded(build("signalled.c"), options="summary=exit", stdin="\n")
    # Nobody listens to the signal here, and its default is the end.
    assert done.returncode == -signal.SIGUSR2
    done = preloaded("ls", "/", options="name=n,summary=exit,decommit=never")
    assert done.returncode == 0
    (row,) = table(done.stderr, "at exit").rows
    assert row.flags == 2
    assert row.committed_kib > 0


def test_a_summary_on_a_signal(build: Build) -> None:
    done = preloaded(build("signalled.c"), options="summary=SIGUSR2,summary=exit", stdin="\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "alive\n"
    first, heading, last = done.stderr.partition("dmi: heaps of process ")[2].rpartition(
        "dmi: heaps of process "
    )
    table(heading + first, "on a signal")
    table(heading + last, "at exit")


@contextmanager
def asleep(program: Path, how: str, options: str) -> Iterator[Sleeper]:
    """tests/preload/asleep.c in its sleep."""
    environment = {**os.environ, "LD_PRELOAD": dmi.get_preload_path(), "DMI_OPTIONS": options}
    with subprocess.Popen(
        [program, how],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            pid, threads = map(int, process.stdout.readline().split())
            yield Sleeper(process, pid, threads)
        finally:
            process.kill()


@dataclass
class Sleeper:
    process: subprocess.Popen[str]
    pid: int
    threads: int

    def answer(self) -> str:
        """What a signal makes it write; the time limit of the test ends the wait for nothing."""
        os.kill(self.pid, signal.SIGUSR2)
        assert self.process.stderr is not None
        lines = [self.process.stderr.readline()]
        while sum(line.startswith("---") for line in lines) < 2:
            lines.append(self.process.stderr.readline())
        assert f"process {self.pid}, " in lines[0]
        return "".join(lines)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ["pause", "read", "locked", "parent", "child", "busy"])
def test_a_sleeping_program_answers_a_signal(build: Build, how: str) -> None:
    with asleep(build("asleep.c"), how, "summary=SIGUSR2") as sleeper:
        for _ in range(3):
            (row,) = table(sleeper.answer(), "on a signal").rows
            assert row.committed_kib > 0


@pytest.mark.timeout(60)
def test_signals_in_a_burst_are_answered_and_texts_do_not_mix(build: Build) -> None:
    with asleep(build("asleep.c"), "busy", "summary=SIGUSR2") as sleeper:
        for _ in range(2000):
            os.kill(sleeper.pid, signal.SIGUSR2)
        for _ in range(5):
            table(sleeper.answer(), "on a signal")


def test_only_a_chosen_signal_costs_a_thread(build: Build) -> None:
    program = build("asleep.c")
    with asleep(program, "pause", "summary=exit,scavenger=off") as sleeper:
        assert sleeper.threads == 1
    with asleep(program, "pause", "summary=SIGUSR2,scavenger=off") as sleeper:
        assert sleeper.threads == 2


def test_a_program_that_uses_the_signal_keeps_it_and_gets_no_thread(build: Build) -> None:
    ignoring = ["env", "--ignore-signal=SIGUSR2", str(build("asleep.c")), "pause"]
    environment = {"LD_PRELOAD": dmi.get_preload_path(), "DMI_OPTIONS": "summary=SIGUSR2"}
    with subprocess.Popen(
        ignoring, env=os.environ | environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid, threads = map(int, process.stdout.readline().split())
        os.kill(pid, signal.SIGUSR2)
        assert threads == 1
        process.terminate()
        assert process.wait() == -signal.SIGTERM


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare")
def test_without_a_signal_namespaces_can_be_left() -> None:
    plain = subprocess.run(["unshare", "-U", "true"], capture_output=True, check=False)
    if plain.returncode:
        pytest.skip("no user namespaces here")
    succeeded("unshare", "-U", "true", options="decommit=lazy:delay=0")
    refused = preloaded("unshare", "-U", "true", options="summary=SIGUSR2")
    assert refused.returncode != 0
    assert "unshare failed" in refused.stderr


@pytest.mark.keeps
def test_fragmentation_lines_are_those_of_the_python_package(build: Build) -> None:
    script = "keep=[bytes(600) for i in range(60000)][::7]"
    env = {"PYTHONMALLOC": "malloc"}
    done = preloaded(sys.executable, "-c", script, options="summary=exit,decommit=never", env=env)
    assert done.returncode == 0
    assert "External fragmentation" in done.stderr
    table(done.stderr, "at exit")
