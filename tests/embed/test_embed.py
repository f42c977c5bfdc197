"""The examples of examples/embed, built from an installed wheel alone and run together.

One wheel of dmi is built, installed into a clean environment that knows nothing of the source tree,
and everything else happens in there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "embed"

pytestmark = pytest.mark.long


def run(
    *command: str | Path,
    check: bool = True,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in command],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | (env or {}),
    )
    if check and done.returncode:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


class Site:
    """A clean environment with dmi in it, from a wheel or sdist.

    DMI_DIST names the file and DMI_DIST_PYTHON the Python to use; tools/check_dist.py sets them. By
    default it is a wheel made of this tree, for the Python that runs the tests.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        base = os.environ.get("DMI_DIST_PYTHON", sys.executable)
        run(base, "-m", "venv", folder / "venv")
        self.pip("install", "setuptools>=77", "Cython>=3.1,<4", "cffi>=1.15", "psutil>=5.9")
        given = os.environ.get("DMI_DIST")
        if given is None:
            self.pip("install", "--no-deps", self.wheel_of_the_tree())
        else:
            # As a user does it: what it needs comes with it, and an sdist builds in isolation.
            self.pip("install", Path(given).resolve())

    def wheel_of_the_tree(self) -> Path:
        source = self.folder / "source"
        # A copy: a build leaves files, and the tree may be in use.
        shutil.copytree(
            ROOT,
            source,
            ignore=shutil.ignore_patterns(
                ".*", "build", "dist", "*.egg-info", "*.so", "include.*", "__pycache__"
            ),
        )
        self.pip(
            "wheel", "--no-deps", "--no-build-isolation", "-w", self.folder / "wheel", source
        )  # fmt: skip
        shutil.rmtree(source)
        (wheel,) = (self.folder / "wheel").glob("*.whl")
        return wheel

    def pip(self, *words: str | Path) -> None:
        run(self.python, "-m", "pip", "-q", "--disable-pip-version-check", *words, cwd=self.folder)

    def install(self, package: Path) -> None:
        """Build a package that needs dmi at build time; dmi-heap comes from here, not an index."""
        copy = self.folder / f"package-{package.name}"
        shutil.copytree(package, copy)
        self.pip("install", "--no-deps", "--no-build-isolation", copy)

    def run(self, program: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        text = textwrap.dedent(program)
        return run(self.python, "-W", "error", "-c", text, check=check, cwd=self.folder)

    def ask(self, expression: str) -> str:
        return self.run(f"import dmi; print({expression})").stdout.strip()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("embed"))


@pytest.fixture(scope="module")
def examples(site: Site) -> Site:
    for name in ("c", "cpp", "cython", "cffi"):
        site.install(EXAMPLES / name)
    return site


def test_what_is_installed_works(site: Site) -> None:
    done = run(site.python, ROOT / "tests" / "smoke.py", cwd=site.folder)
    assert "works in" in done.stdout
    run(site.folder / "venv" / "bin" / "dmi", "env", cwd=site.folder)


def test_manual_pages_and_completions_are_found(site: Site) -> None:
    share = site.folder / "venv" / "share"
    pages = sorted(page.name for page in (share / "man" / "man1").iterdir())
    assert {"dmi.1", "dmi-run.1", "dmi-report.1"} <= set(pages)
    assert "complete" in (share / "bash-completion/completions/dmi").read_text()
    assert (share / "zsh/site-functions/_dmi").read_text().startswith("#compdef dmi")
    assert "complete -c dmi" in (share / "fish/vendor_completions.d/dmi.fish").read_text()
    if shutil.which("man"):
        # man looks beside the folders of PATH.
        path = f"{site.folder}/venv/bin:{os.environ['PATH']}"
        found = run("man", "-w", "dmi-run", env={"PATH": path, "MANPATH": ""}, check=False)
        assert found.stdout.strip() == str(share / "man" / "man1" / "dmi-run.1"), found.stderr


def test_each_example_runs(examples: Site) -> None:
    examples.run("""
        import embed_c
        numbers = [embed_c.put(b"%d" % n * n) for n in range(100)]
        assert embed_c.get(numbers[42]) == b"42" * 42
        embed_c.drop(numbers[42])
        try:
            embed_c.get(numbers[42])
        except KeyError:
            pass
        else:
            raise AssertionError
    """)
    examples.run("""
        import dmi, embed_cpp
        heap = dmi.Heap.from_handle(embed_cpp.handle())
        for n in range(3):
            assert embed_cpp.count("a word that no small string buffer holds") == n + 1
        assert [embed_cpp.add(n) for n in range(1000)][-1] == 999 * 500
        assert heap.stats().busy_blocks == 3, heap.stats().busy_blocks  # node, string, vector
        embed_cpp.clear()
        assert heap.stats().busy_blocks == 0
    """)
    examples.run("""
        import dmi, embed_cython, gc
        histogram = embed_cython.Histogram(10)
        assert [histogram.add(3) for _ in range(5)] == [1, 2, 3, 4, 5]
        with dmi.Heap() as heap:
            vector = embed_cython.Vector(heap)
            for n in range(1000):
                vector.append(n)
            assert vector.sum() == 999 * 500
            assert heap.stats().busy_blocks == 1
            assert vector.pool.size == 1024 * 8
            assert list(vector.pool.addresses.values()) == [1024 * 8]
            try:
                heap.destroy()
            except dmi.HeapError as error:
                assert "1 of its busy blocks" in str(error), error
            else:
                raise AssertionError
            del vector
            gc.collect()
            assert heap.stats().busy_blocks == 0
    """)
    examples.run("""
        import dmi, embed_cffi, gc
        heap = dmi.Heap.from_handle(embed_cffi.handle())
        block = embed_cffi.reverse(b"stressed")
        assert embed_cffi.ffi.string(block) == b"desserts"
        assert heap.stats().busy_blocks == 1
        del block
        gc.collect()
        assert heap.stats().busy_blocks == 0
        assert "embed_cffi" in repr(heap)
    """)


def test_extensions_and_python_share_one_list_of_heaps(examples: Site) -> None:
    examples.run("""
        import dmi, embed_c, embed_cpp, embed_cffi, embed_cython
        mine = dmi.Heap(name="python")
        names = {heap.name for heap in dmi.heaps()}
        assert names >= {"embed_c", "embed_cpp", "embed_cffi", "python"}, names
        text = dmi.summary()
        for heap in dmi.heaps():
            assert f"{heap.handle:x}" in text, (heap, text)
        copies = {line.split()[-1] for line in open("/proc/self/maps") if "libdmi" in line}
        assert len(copies) == 1, copies
    """)


def test_heaps_of_all_are_in_the_table_of_a_snapshot(examples: Site) -> None:
    examples.run("""
        import dmi, embed_c, embed_cpp
        mine = dmi.Heap(name="python")
        kept = mine.alloc(100_000)
        embed_c.put(b"x" * 50_000)
        embed_cpp.add(5)
        dmi.snapshot().save("three.json")
        print(*(f"{handle:016x}" for handle in (mine.handle, embed_c.handle(), embed_cpp.handle())))
    """)
    handles = examples.run("""
        import json
        heaps = {heap["name"]: heap for heap in json.load(open("three.json"))["heaps"]}
        print(*(f"{heaps[name]['handle']:016x}" for name in ("python", "embed_c", "embed_cpp")))
    """).stdout.split()
    done = run(examples.folder / "venv" / "bin" / "dmi", "heap", "-s", "three.json",
               cwd=examples.folder)  # fmt: skip
    assert len(handles) == 3
    for handle in handles:
        assert handle in done.stdout, done.stdout


def test_a_heap_that_another_extension_holds_is_not_destroyed(examples: Site) -> None:
    done = examples.run("""
        import dmi, embed_c
        heap = dmi.Heap(name="lent")
        heap.malloc(10)
        block = embed_c.borrow(heap.handle)
        try:
            heap.destroy()
        except dmi.HeapError as error:
            print(error)
        try:
            with heap:
                pass
        except dmi.HeapError as error:
            print(error)
        embed_c.give_back(block)
        heap.destroy()
        print(heap.closed)
        try:
            dmi.Heap.from_handle(embed_c.handle()).destroy()
        except dmi.HeapError as error:
            print(error)
    """)
    refused, again, closed, foreign = done.stdout.splitlines()
    assert "(lent) cannot be destroyed: embed_c holds it; 1 of its busy blocks" in refused
    assert again == refused
    assert closed == "True"
    assert "(embed_c) belongs to somebody else" in foreign


def test_an_extension_cannot_destroy_what_others_hold(examples: Site) -> None:
    examples.run("""
        import dmi, embed_c, embed_cpp
        # Another extension, then Python, has a block in the heap of the first one.
        block = embed_c.borrow(embed_cpp.handle())
        kept = dmi.Heap.from_handle(embed_cpp.handle()).alloc(100)
        view = memoryview(kept)
        for who in ("embed_c", "dmi.Block"):
            try:
                embed_cpp.close()
            except RuntimeError as error:
                assert f"held by {who}" in str(error), error
            else:
                raise AssertionError(who)
            if who == "embed_c":
                embed_c.give_back(block)
        view[99] = 1
        del view, kept
        embed_cpp.close()
        assert "embed_cpp" not in [heap.name for heap in dmi.heaps()]
        # And a heap of Python's by C code that has no business with it.
        heap = dmi.Heap()
        try:
            embed_c.destroy(heap.handle)
        except RuntimeError as error:
            assert "held by dmi.Heap" in str(error), error
        else:
            raise AssertionError
    """)


def test_blocks_of_an_extension_that_does_not_hold_are_seen(site: Site) -> None:
    extension(site, "careless", installed_header(site))
    examples = """
        import careless, dmi
        heap = dmi.Heap(name="lent")
        heap.malloc(10)
        block = careless.allocate(heap.handle)
        try:
            heap.destroy()
        except dmi.HeapError as error:
            assert "(lent) cannot be destroyed: 1 of its busy blocks belong to" in str(error), error
        else:
            raise AssertionError
        careless.free(block)
        heap.destroy()
    """
    site.run(examples)


def test_interpreters_are_served_or_refused_by_name(site: Site) -> None:
    """The tests of the tree do it for the Python that runs them; here it is every one."""
    run(site.python, "-m", "pip", "-q", "--disable-pip-version-check", "install", "pytest>=8")
    run(site.python, "-c", INTERPRETERS.format(tests=ROOT / "tests" / "python"), cwd=site.folder)


INTERPRETERS = """
import importlib.util
spec = importlib.util.spec_from_file_location("package", "{tests}/test_package.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
for program in (module.SHARED_GIL, module.OWN_GIL):
    module.test_other_interpreters_are_served_or_refused_by_name(program)
"""


# ---- the table -----------------------------------------------------------------------------------

MODULE = """
#include <dmi/capi.h>

static PyObject *works(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    void *block = dmi_malloc(100);
    size_t usable = dmi_usable_size(block);
    dmi_free(block);
    return PyLong_FromSize_t(usable);
}
static PyObject *allocate(PyObject *self, PyObject *heap) {
    (void)self;
    return PyLong_FromVoidPtr(dmi_heap_malloc(PyLong_AsVoidPtr(heap), 100));
}
static PyObject *release(PyObject *self, PyObject *block) {
    (void)self;
    dmi_free(PyLong_AsVoidPtr(block));
    Py_RETURN_NONE;
}
static PyMethodDef methods[] = {
    {"works", works, METH_NOARGS, NULL},
    {"allocate", allocate, METH_O, NULL},
    {"free", release, METH_O, NULL},
    {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "NAME", NULL, -1, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit_NAME(void) {
    IMPORT
    return PyModule_Create(&definition);
}
"""


def extension(site: Site, name: str, header: str, imports: bool = True) -> None:
    """Compile a module against a table that some other version of dmi would have had."""
    folder = site.folder / f"against-{name}"
    include = Path(site.ask("dmi.get_include()"))
    shutil.copytree(include, folder / "include")
    (folder / "include" / "dmi" / "capi.h").write_text(header)
    source = MODULE.replace("NAME", name)
    line = "if (dmi_import() < 0) return NULL;" if imports else ""
    (folder / "module.c").write_text(source.replace("IMPORT", line))
    headers = site.ask("__import__('sysconfig').get_path('include')")
    target = site.ask("__import__('sysconfig').get_path('platlib')")
    suffix = site.ask("__import__('sysconfig').get_config_var('EXT_SUFFIX')")
    run(
        "gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-I", folder / "include",
        "-I", headers, folder / "module.c", "-o", Path(target) / f"{name}{suffix}",
    )  # fmt: skip


def installed_header(site: Site) -> str:
    return (Path(site.ask("dmi.get_include()")) / "dmi" / "capi.h").read_text()


CONTAINERS = """
#include <dmi/dmi.hpp>
#include <map>
#include <vector>
int uses(void *heap);
int uses(void *heap) {
    dmi::heap_resource resource(heap);
    std::pmr::map<int, int> words(&resource);
    std::vector<int, dmi::allocator<int>> numbers(dmi::allocator<int>{heap}), copy(numbers);
    return words[1] + numbers.empty() + (numbers == copy);
}
"""


# What a strict standard hides, and Python.h brings back where it comes first.
SYSTEM = """
#include <string.h>
char *copy(const char *text);
char *copy(const char *text) { return strdup(text); }
"""


STRICT = ("-pedantic", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror")


@pytest.mark.parametrize(
    ("compiler", "flags", "more"),
    [
        ("gcc", "-std=c99", SYSTEM),
        ("gcc", "-std=c17 -DPy_LIMITED_API=0x030B0000", ""),
        ("g++", "-std=c++11", ""),
        ("g++", "-std=c++20", CONTAINERS),
        ("g++", "-std=c++17 -fno-rtti", CONTAINERS),
    ],
)
def test_the_headers_fit_into_strict_builds(
    site: Site, compiler: str, flags: str, more: str
) -> None:
    source = site.folder / f"strict.{'cpp' if compiler == 'g++' else 'c'}"
    source.write_text(
        "#include <dmi/capi.h>\nvoid *get(size_t size);\n"
        f"void *get(size_t size) {{ return dmi_import() ? NULL : dmi_malloc(size); }}\n{more}"
    )
    run(
        compiler, *flags.split(), *STRICT, "-I", site.ask("dmi.get_include()"),
        "-isystem", site.ask("__import__('sysconfig').get_path('include')"),
        "-c", source, "-o", source.with_suffix(".o"),
    )  # fmt: skip


def test_two_modules_in_one_binary_have_their_tables_each(site: Site) -> None:
    folder = site.folder / "twins"
    folder.mkdir()
    include = site.ask("__import__('sysconfig').get_path('include')")
    flags = ("-fPIC", "-O1", "-I", site.ask("dmi.get_include()"), "-I", include)
    for name in ("first", "second"):
        text = MODULE.replace("NAME", name).replace("IMPORT", "if (dmi_import() < 0) return NULL;")
        (folder / f"{name}.c").write_text(text)
        run("gcc", *flags, f"-DDMI_CAPI_SYMBOL=table_of_{name}", "-c", folder / f"{name}.c",
            "-o", folder / f"{name}.o")  # fmt: skip
    binary = folder / "twins.so"
    run("gcc", "-shared", folder / "first.o", folder / "second.o", "-o", binary)
    site.run(f"""
        import importlib.util
        for name in ("first", "second"):
            spec = importlib.util.spec_from_file_location(name, {str(binary)!r})
            assert importlib.util.module_from_spec(spec).works() >= 100
    """)


def test_an_extension_with_an_older_table_works(site: Site) -> None:
    # The table as it was before its last five entries came.
    text = installed_header(site)
    entries = re.compile(r"    X\([^)]*\(.*?\)\)\s*\\?\n", re.DOTALL)
    table = text[text.index("#define DMI_CAPI_FUNCTIONS") : text.index("/* clang-format on */")]
    last = [match.group() for match in entries.finditer(table)][-5:]
    older = table
    for entry in last:
        older = older.replace(entry, "")
    header = text.replace(table, older.rstrip().rstrip("\\").rstrip() + "\n")
    assert header.count("    X(") == text.count("    X(") - 5
    extension(site, "older", header)
    assert int(site.run("import older; print(older.works())").stdout) >= 100


def test_an_extension_with_a_newer_table_is_refused_with_both_versions(site: Site) -> None:
    text = installed_header(site)
    end = text.index("/* clang-format on */")
    newer = text[:end].rstrip() + " \\\n    X(int, dmi_later, (void *heap))\n" + text[end:]
    newer = newer.replace(
        "#include <dmi/dmi.h>",
        '#include <dmi/dmi.h>\n#undef DMI_VERSION\n#define DMI_VERSION "7.8.9"',
    )
    extension(site, "newer", newer)
    done = site.run("import newer", check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    version = site.ask("dmi.__version__")
    assert last.startswith("ImportError: this module was compiled for dmi 7.8.9 ")
    assert f"but dmi {version} " in last
    assert last.endswith("update dmi-heap")


def test_another_abi_is_refused(site: Site) -> None:
    text = installed_header(site).replace("#define DMI_CAPI_ABI 1u", "#define DMI_CAPI_ABI 0u")
    extension(site, "ancient", text)
    done = site.run("import ancient", check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: this module was compiled for dmi ")
    assert "(C API 0," in last
    assert "(C API 1," in last
    assert last.endswith("compile the module again")


def test_without_dmi_it_is_said_what_to_install_and_no_other_reason_is_hidden(site: Site) -> None:
    extension(site, "lonely", installed_header(site))
    done = site.run("import sys; sys.modules['dmi'] = None; import lonely", check=False)
    last = done.stderr.splitlines()[-1]
    version = site.ask("dmi.__version__")
    assert last.startswith(f"ImportError: this module was compiled for dmi {version} and needs ")
    assert "dmi-heap" in last
    broken = site.folder / "broken" / "dmi"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('a library is missing')\n")
    done = site.run(
        f"import sys; sys.path.insert(0, '{broken.parent}'); import lonely", check=False
    )
    assert done.stderr.splitlines()[-1] == "ImportError: a library is missing"


def test_a_forgotten_import_says_so(site: Site) -> None:
    extension(site, "forgetful", installed_header(site), imports=False)
    done = site.run("import forgetful; forgetful.works()", check=False)
    assert done.returncode == -6
    assert "called before dmi_import() succeeded" in done.stderr


# ---- cymem ---------------------------------------------------------------------------------------

# One module, built against cymem and against dmi; what differs is the line that cimports.
POOLS = """
# cython: language_level=3
CIMPORT
from libc.stdlib cimport calloc, free as c_free
from cpython.mem cimport PyMem_Free, PyMem_Malloc

cdef struct Node:
    int value
    Node *next

cdef size_t handed, returned

cdef void *counting_malloc(size_t size) noexcept:
    global handed
    handed += 1
    return PyMem_Malloc(size)

cdef void counting_free(void *block) noexcept:
    global returned
    returned += 1
    PyMem_Free(block)

cdef class List:
    cdef Pool mem
    cdef Node *first

    def __cinit__(self, Pool mem=None):
        self.mem = Pool() if mem is None else mem
        self.first = NULL

    def push(self, int value):
        cdef Node *node = <Node *>self.mem.alloc(1, sizeof(Node))
        assert node.value == 0 and node.next == NULL
        node.value = value
        node.next = self.first
        self.first = node

    def pop(self):
        cdef Node *node = self.first
        value = node.value
        self.first = node.next
        self.mem.free(node)
        return value

def use(Pool mem):
    cdef List made = List(mem)
    cdef int *numbers = <int *>mem.alloc(10, sizeof(int))
    cdef size_t i
    for i in range(10):
        numbers[i] = i
    numbers = <int *>mem.realloc(numbers, 1000 * sizeof(int))
    for i in range(1000):
        assert numbers[i] == (i if i < 10 else 0)
    for i in range(100):
        made.push(i)
    assert [made.pop() for i in range(50)] == list(range(99, 49, -1))
    assert len(mem.addresses) == 51 and mem.size == sum(mem.addresses.values())
    assert mem.size == 1000 * sizeof(int) + 50 * sizeof(Node)
    assert mem.addresses[<size_t>numbers] == 1000 * sizeof(int)
    owned = object()
    assert mem.own_pyref(owned) is None and mem.refs == [owned]
    for wrong, error in ((KeyError, 0), (ValueError, 1)):
        try:
            if error:
                mem.realloc(<void *>made, 10)
            else:
                mem.free(<void *>made)
        except wrong:
            pass
        else:
            raise AssertionError(wrong)

def main():
    global handed, returned
    use(Pool())
    cdef Pool mem = Pool(WrapMalloc(counting_malloc), WrapFree(counting_free))
    use(mem)
    assert handed > 100 and returned >= 50
    assert mem.pymalloc.malloc == counting_malloc and mem.pyfree.free == counting_free
    del mem
    assert handed == returned, (handed, returned)
    mem = Pool(pymalloc=WrapMalloc(counting_malloc), pyfree=WrapFree(counting_free))
    mem.alloc(1, 100)
    mem = None
    assert handed == returned, (handed, returned)
    cdef Address address = Address(10, sizeof(double))
    cdef double *numbers = <double *>address.ptr
    assert address.addr == <size_t>numbers and numbers[9] == 0
    numbers[9] = 1
    address = None
    cdef PyMalloc with_malloc = Default_Malloc
    cdef PyFree with_free = Default_Free
    with_free.free(with_malloc.malloc(100))
    try:
        Pool().alloc(<size_t>1 << 62, 1)
    except MemoryError:
        pass
    else:
        raise AssertionError
"""


@pytest.mark.parametrize("package", ["cymem.cymem", "dmi.pool"])
def test_a_user_of_cymem_changes_two_lines(site: Site, package: str) -> None:
    name = package.replace(".", "_") + "_user"
    folder = site.folder / name
    folder.mkdir()
    if package.startswith("cymem"):
        site.pip("install", "cymem>=2")
    names = "Address, Pool, PyFree, PyMalloc, WrapFree, WrapMalloc"
    lines = f"from {package} cimport {names}\nfrom {package} import Default_Free, Default_Malloc"
    (folder / f"{name}.pyx").write_text(POOLS.replace("CIMPORT", lines))
    run(site.python, "-m", "Cython.Build.Cythonize", "-i", f"{name}.pyx", cwd=folder,
        env={"CFLAGS": f"-I{site.ask('dmi.get_include()')}"})  # fmt: skip
    run(site.python, "-c", f"import {name}; {name}.main()", cwd=folder)


# ---- types ---------------------------------------------------------------------------------------


def test_a_program_that_uses_every_public_name_is_typed(site: Site) -> None:
    site.pip("install", "mypy>=1.11", "numpy>=1.25", "types-cffi")
    program = Path(shutil.copy(ROOT / "tests" / "embed" / "typed.py", site.folder))
    used = set(re.findall(r"\bdmi\.(\w+)", program.read_text()))
    assert set(site.ask("*dmi.__all__").split()) <= used
    run(site.python, "-m", "mypy", "--strict", "--cache-dir", site.folder / "mypy", program,
        cwd=site.folder)  # fmt: skip


# ---- programs ------------------------------------------------------------------------------------

PROGRAM = """
#include <dmi/dmi.h>
#include <stdio.h>

int main(void) {
    void *heap = dmi_heap_create(NULL);
    void *block = dmi_heap_malloc(heap, 100);
    printf("%s %d\\n", dmi_version(), dmi_usable_size(block) >= 100);
    return dmi_heap_destroy(heap);
}
"""


def test_pkg_config_builds_a_program(site: Site) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is not installed")
    found = site.ask(
        "next(e.value for e in __import__('importlib.metadata').metadata"
        ".entry_points(group='pkg_config', name='dmi'))"
    )
    package = Path(site.ask("dmi.__path__[0]"))
    assert found == "dmi.pkgconfig"
    source = site.folder / "program.c"
    source.write_text(PROGRAM)
    done = run("env", f"PKG_CONFIG_PATH={package / 'pkgconfig'}", "pkg-config", "--cflags",
               "--libs", "dmi")  # fmt: skip
    run("gcc", source, *done.stdout.split(), "-o", site.folder / "program")
    version = site.ask("dmi.__version__")
    assert run(site.folder / "program").stdout == f"{version} 1\n"
    modversion = run("env", f"PKG_CONFIG_PATH={package / 'pkgconfig'}", "pkg-config",
                     "--modversion", "dmi")  # fmt: skip
    assert modversion.stdout.strip() == version


def test_cmake_builds_a_program(site: Site) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    package = Path(site.ask("dmi.__path__[0]"))
    folder = site.folder / "cmake"
    folder.mkdir()
    (folder / "main.c").write_text(PROGRAM)
    version = site.ask("dmi.__version__")
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.15)\nproject(example C)\n"
        f"find_package(dmi {version} REQUIRED CONFIG)\n"
        "add_executable(example main.c)\ntarget_link_libraries(example dmi::dmi)\n"
    )
    run("cmake", "-S", folder, "-B", folder / "build", f"-DCMAKE_PREFIX_PATH={package}")
    run("cmake", "--build", folder / "build")
    assert run(folder / "build" / "example").stdout == f"{version} 1\n"
