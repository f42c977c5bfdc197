"""The finished libraries, and what builds them: no flag but the project's reaches them, whichever
Python asks for the build, and what a program brings of its own comes before theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from elftools.elf.elffile import ELFFile

import dmi

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.reads

if sys.platform != "linux":
    pytest.skip("ELF and LD_PRELOAD", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = [Path(dmi.get_library_path()), Path(dmi.get_preload_path())]
DF_SYMBOLIC = 2
# Flags that gcc records and that neither the project nor a build by hand would give.
OTHERS = ("-fwrapv", "-flto", "-fstack-protector", "-D_FORTIFY", "-fdebug-prefix-map", "-O3")


@pytest.fixture(params=LIBRARIES, ids=lambda path: path.name)
def library(request: pytest.FixtureRequest) -> Iterator[ELFFile]:
    with request.param.open("rb") as file:
        yield ELFFile(file)


def entries(library: ELFFile) -> dict[str, int]:
    """The dynamic section: the last value of each tag."""
    section: Any = library.get_section_by_name(".dynamic")
    return {tag.entry.d_tag: tag.entry.d_val for tag in section.iter_tags()}


def resolved_by_the_loader(library: ELFFile) -> set[str]:
    """The symbols that the library asks for by name, at a call or by address."""
    names: set[str] = set()
    symbols: Any = library.get_section_by_name(".dynsym")
    sections: list[Any] = [library.get_section_by_name(name) for name in (".rela.plt", ".rela.dyn")]
    for section in filter(None, sections):
        for relocation in section.iter_relocations():
            if number := relocation["r_info_sym"]:
                names.add(symbols.get_symbol(number).name)
    return names


def defined(library: ELFFile) -> set[str]:
    table: Any = library.get_section_by_name(".dynsym")
    return {symbol.name for symbol in table.iter_symbols() if symbol["st_shndx"] != "SHN_UNDEF"}


def test_nothing_is_bound_to_the_library_itself(library: ELFFile) -> None:
    found = entries(library)
    assert "DT_SYMBOLIC" not in found
    assert not found.get("DT_FLAGS", 0) & DF_SYMBOLIC


def test_no_path_of_the_machine_that_built_it(library: ELFFile) -> None:
    assert not {"DT_RPATH", "DT_RUNPATH", "DT_TEXTREL"} & entries(library).keys()


def test_the_loader_decides_whose_malloc_and_new_are_called() -> None:
    """-Bsymbolic-functions leaves no mark but this: nobody is asked for the symbol."""
    with Path(dmi.get_preload_path()).open("rb") as file:
        found = ELFFile(file)
        assert {"malloc", "free", "_Znwm", "_Znam"} <= defined(found)
        assert {"malloc", "free", "_Znwm", "_Znam"} <= resolved_by_the_loader(found)


def test_the_core_is_compiled_with_the_flags_of_the_project(library: ELFFile) -> None:
    if not library.has_dwarf_info():
        pytest.skip("stripped")
    makers = set()
    for unit in library.get_dwarf_info().iter_CUs():
        attribute = unit.get_top_DIE().attributes.get("DW_AT_producer")
        if attribute is not None and b"GNU C" in attribute.value:
            makers.add(attribute.value.decode())
    if not makers:
        pytest.skip("not compiled by gcc")
    assert all(" -O2 " in maker for maker in makers)
    wrong = [flag for flag in OTHERS for maker in makers if f" {flag}" in maker]
    assert not wrong, makers


# ---- a program's own functions come first --------------------------------------------------------


def program(folder: Path, name: str) -> Path:
    compiler = shutil.which("g++" if name.endswith(".cpp") else "gcc")
    if compiler is None:
        pytest.skip("no compiler")
    target = folder / "program"
    source = ROOT / "tests" / "preload" / name
    subprocess.run([compiler, "-O1", "-pthread", source, "-o", target], check=True)
    return target


def preloaded(path: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "DMI_OPTIONS"}
    environment["LD_PRELOAD"] = dmi.get_preload_path()
    return subprocess.run(
        [path], env=environment, capture_output=True, text=True, check=True, timeout=60
    )


def test_a_program_with_its_own_malloc_is_told_that_dmi_serves_nothing(tmp_path: Path) -> None:
    done = preloaded(program(tmp_path, "own_malloc.c"))
    assert done.stdout == "own\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("dmi: libdmi_malloc.so serves no allocation here: another malloc")


def test_array_new_calls_the_operator_new_of_the_program(tmp_path: Path) -> None:
    done = preloaded(program(tmp_path, "own_new.cpp"))
    assert done.stdout == "after new[]: 1\nafter delete[]: 0\n"
    assert done.stderr == ""


# ---- the build -----------------------------------------------------------------------------------


class Tree:
    """A source tree of a few lines, with the project's own tools/native.py."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, text in {
            "csrc/include/dmi/dmi.h": "#define NUMBER 1\nint dmi_one(void);\n",
            "csrc/os/os.c": '#include <dmi/dmi.h>\n__attribute__((visibility("default"))) '
            "int dmi_one(void) { return NUMBER; }\n",
            "csrc/os/linux.c": "int _dmi_linux;\n",
            "csrc/os/windows.c": "#error another system\n",
            "csrc/os/fake.c": "#error for the tests\n",
            "csrc/room/inner/deep.c": "int _dmi_deep;\n",
            "csrc/preload/new.c": '__attribute__((visibility("default"))) int own(void) '
            '{ return 1; }\n__attribute__((visibility("default"))) int (*address)(void) = own;\n',
        }.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (root / "tools").mkdir()
        shutil.copy(ROOT / "tools" / "native.py", root / "tools")

    def build(self, **environment: str) -> list[str]:
        """What a build did, line by line; it must succeed."""
        done = self.run(**environment)
        assert done.returncode == 0, done.stderr
        return sorted(done.stdout.splitlines())

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if k not in ("CC", "CFLAGS", "LDFLAGS")}
        return subprocess.run(
            [sys.executable, "-m", "tools.native"],
            cwd=self.root,
            env=clean | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def change(self, name: str, text: str) -> None:
        """Write a file so that it is newer than what was built, on any file system."""
        for path in self.root.rglob("*"):
            before = path.stat().st_mtime - 10
            os.utime(path, (before, before))
        (self.root / name).write_text(text)

    @property
    def made(self) -> Path:
        return self.root / "dmi" / "libdmi_malloc.so"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    return Tree(tmp_path)


LINKED = ["linked libdmi.so", "linked libdmi_malloc.so"]


def test_a_build_makes_what_changed_and_nothing_else(tree: Tree) -> None:
    names = ["csrc/os/linux.c", "csrc/os/os.c", "csrc/preload/new.c", "csrc/room/inner/deep.c"]
    assert tree.build() == [f"compiled {name}" for name in names] + LINKED
    assert (tree.root / "dmi/include/dmi/dmi.h").is_file()
    assert tree.build() == []
    tree.change("csrc/preload/new.c", "int own;\n")
    assert tree.build() == ["compiled csrc/preload/new.c", LINKED[1]]
    tree.change("csrc/include/dmi/dmi.h", "#define NUMBER 2\nint dmi_one(void);\n")
    (tree.root / "csrc/include/dmi/more.h").touch()
    assert tree.build() == ["compiled csrc/os/os.c", *LINKED]
    assert (tree.root / "dmi/include/dmi/more.h").is_file()


def test_a_source_that_goes_leaves_the_library(tree: Tree) -> None:
    tree.build()
    (tree.root / "csrc/room/inner/deep.c").unlink()
    (tree.root / "csrc/include/dmi/old.h").touch()
    assert tree.build() == LINKED
    (tree.root / "csrc/include/dmi/old.h").unlink()
    assert tree.build() == []
    assert not (tree.root / "dmi/include/dmi/old.h").exists()


def test_other_flags_build_all_again(tree: Tree) -> None:
    tree.build()
    assert len(tree.build(CFLAGS="-DMORE=1")) == 6
    assert tree.build(CFLAGS="-DMORE=1") == []


def test_flags_that_would_bind_malloc_to_the_library_are_refused(tree: Tree) -> None:
    tree.build(LDFLAGS="-Wl,-Bsymbolic-functions -flto=auto", CFLAGS="-flto")
    with tree.made.open("rb") as file:
        assert "own" in resolved_by_the_loader(ELFFile(file))


def test_a_failure_is_named_and_leaves_the_library_as_it_was(tree: Tree) -> None:
    tree.build()
    before = tree.made.read_bytes()
    tree.change("csrc/os/os.c", "int dmi_one(void) { return missing; }\n")
    done = tree.run()
    assert done.returncode == 1
    assert "csrc/os/os.c" in done.stderr
    assert "missing" in done.stderr
    assert tree.made.read_bytes() == before
    assert tree.run().returncode == 1, "it must be tried again"
    done = tree.run(CC="no-such-compiler")
    assert done.returncode == 1
    assert "no-such-compiler" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_library_that_is_in_use_is_not_written_over(tree: Tree) -> None:
    tree.build()
    with tree.made.open("rb") as loaded:
        before = loaded.read()
        tree.change("csrc/preload/new.c", "int other_name_for_it(void) { return 2; }\n")
        tree.build()
        loaded.seek(0)
        assert loaded.read() == before
    assert tree.made.read_bytes() != before


def test_nothing_of_the_interpreter_reaches_the_libraries(tree: Tree) -> None:
    """Whatever its sysconfig says: the build asks for none of it."""
    text = (ROOT / "tools" / "native.py").read_text()
    assert "sysconfig" not in text
    assert "distutils" not in text
    tree.build()
    records = [path.read_text() for path in tree.root.rglob("*.made")]
    assert len(records) == 6
    own = set(" ".join(records).split())
    for variable in ("CFLAGS", "LDSHARED", "OPT", "PY_LDFLAGS"):
        for flag in str(sysconfig.get_config_var(variable) or "").split():
            if flag.startswith(("-Wl,", "-flto", "-fwrapv", "-fstack", "-specs", "-DNDEBUG")):
                assert flag not in own
