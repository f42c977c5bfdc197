"""Builds the native parts: libdmi.so inside the package, then the extension that links it.

On Windows it is libdmi.dll, made with gcc of mingw-w64, and there is no preload library. Everything
else about the project stands in pyproject.toml.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
FLOORS = ("os", "segment", "block", "decommit", "heap", "inspect", "replay")
WINDOWS = sys.platform == "win32"
# Files of the other systems and of the tests begin with these.
FOREIGN = ("linux" if WINDOWS else "windows", "fake")
INCLUDE_DIRS = ["csrc/include", "csrc"]
EXTENSIONS = sorted(path.stem for path in (ROOT / "dmi").glob("*.pyx"))
LIBRARY = "libdmi.dll" if WINDOWS else "libdmi.so"
PRELOAD = "libdmi_malloc.so"

COMPILE_ARGS = ["-std=gnu11", "-O2", "-g", "-fvisibility=hidden", "-Wall", "-Wextra"]
if WINDOWS:
    COMPILE_ARGS += ["-D__USE_MINGW_ANSI_STDIO=1"]
    LINK_ARGS = ["-static-libgcc", "-lsynchronization"]
else:
    COMPILE_ARGS += [
        "-fPIC",
        "-pthread",
        "-fno-semantic-interposition",
        "-ftls-model=initial-exec",
    ]
    LINK_ARGS = ["-pthread", "-ldl", "-Wl,-z,nodelete", "-Wl,-z,now", "-Wl,--no-undefined"]
# No landing pads: each is an instruction on every malloc and free.
PRELOAD_ARGS = ["-fcf-protection=none"] if platform.machine() == "x86_64" else []


def core_sources() -> list[str]:
    """Every C file of the library on this platform, floor by floor, relative to the root."""
    return [
        path.relative_to(ROOT).as_posix()
        for floor in FLOORS
        for path in sorted((ROOT / "csrc" / floor).glob("*.c"))
        if floor != "os" or not path.name.startswith(FOREIGN)
    ]


def preload_sources() -> list[str]:
    """The C files that only the preload library has; there is none on Windows."""
    if WINDOWS:
        return []
    folder = ROOT / "csrc" / "preload"
    return sorted(p.relative_to(ROOT).as_posix() for p in folder.glob("*.c"))


class BuildNative(build_ext):
    """Compiles the library first, because the extension links it."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if WINDOWS:
            # The core is written with gcc's builtins and attributes, which MSVC does not have.
            self.compiler = "mingw32"

    def build_extensions(self) -> None:
        package = self.package_dir()
        package.mkdir(parents=True, exist_ok=True)
        self.copy_headers(package)
        self.forget_rpath()
        self.build_library(package)
        # Any header or library change must relink the extension; setuptools does not know of them.
        self.force = True
        for extension in self.extensions:
            extension.library_dirs.insert(0, str(package))
        super().build_extensions()

    def forget_rpath(self) -> None:
        """Some Pythons link extensions with their own lib folder as a place to look for libraries.

        It is nothing to dmi, it is a path of the machine that builds, and it would come before
        $ORIGIN.
        """
        if WINDOWS:
            return
        words = [word for word in self.compiler.linker_so if not word.startswith("-Wl,-rpath")]
        self.compiler.set_executables(linker_so=words)

    def package_dir(self) -> Path:
        """Where the package is put together; an editable install copies from here."""
        return Path(self.build_lib) / "dmi"

    def copy_extensions_to_source(self) -> None:
        """Editable installs run from the source tree: bring all that was built there."""
        super().copy_extensions_to_source()
        for path in map(Path, self.made()):
            target = ROOT / "dmi" / path.relative_to(self.package_dir())
            target.parent.mkdir(parents=True, exist_ok=True)
            # Written over it would be changed under the programs that have it loaded.
            target.unlink(missing_ok=True)
            shutil.copy2(path, target)

    def copy_headers(self, package: Path) -> None:
        """Put the public headers where dmi.get_include() finds them."""
        target = package / "include" / "dmi"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(ROOT / "csrc" / "include" / "dmi", target)

    def compile(self, sources: list[str], extra: list[str], folder: str) -> list[str]:
        """Compile side by side; returns the object files in the order of the sources."""
        output = str(Path(self.build_temp) / folder)

        def one(source: str) -> list[str]:
            objects: list[str] = self.compiler.compile(
                [source],
                output_dir=output,
                include_dirs=INCLUDE_DIRS,
                extra_postargs=COMPILE_ARGS + extra,
            )
            return objects

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            return [name for names in pool.map(one, sources) for name in names]

    def build_library(self, package: Path) -> None:
        """Make libdmi.so and, where there is one, the preload library."""
        objects = self.compile(core_sources(), [], "core")
        self.link(objects, package / LIBRARY)
        sources = preload_sources()
        if sources:
            # It carries the core itself: a call into another library would cost more than it does.
            objects += self.compile(sources, PRELOAD_ARGS, "core")
            self.link(objects, package / PRELOAD)

    def link(self, objects: list[str], target: Path) -> None:
        name = [] if WINDOWS else [f"-Wl,-soname,{target.name}"]
        self.compiler.link_shared_object(
            objects, str(target), extra_postargs=[*LINK_ARGS, *name], target_lang="c"
        )

    def made(self) -> list[str]:
        """What build_library and copy_headers leave in the package."""
        package = self.package_dir()
        names = [LIBRARY] + ([PRELOAD] if preload_sources() else [])
        headers = (ROOT / "csrc" / "include" / "dmi").glob("*")
        names += [f"include/dmi/{header.name}" for header in sorted(headers)]
        return [str(package / name) for name in names]

    def get_outputs(self) -> list[str]:
        outputs = super().get_outputs()
        return outputs if self.inplace else outputs + self.made()


def extension(name: str) -> Extension:
    """An extension that links the library beside it."""
    return Extension(
        f"dmi.{name}",
        [f"dmi/{name}.pyx"],
        include_dirs=["csrc/include"],
        libraries=["dmi"],
        # Windows looks beside the module by itself.
        runtime_library_dirs=[] if WINDOWS else ["$ORIGIN"],
        define_macros=[
            # Each interpreter gets its own copy of what the module keeps.
            ("CYTHON_USE_MODULE_STATE", "1"),
            # cdmi.pxd means the library itself here, not the table of _core.
            ("DMI_CAPI_LINKED", "1"),
        ],
        extra_compile_args=["-O2", "-Wno-unreachable-code"],
        extra_link_args=["-static-libgcc"] if WINDOWS else [],
    )


setup(
    ext_modules=cythonize(  # type: ignore[no-untyped-call,unused-ignore]
        [extension(name) for name in EXTENSIONS],
        compiler_directives={"language_level": "3"},
        # The generated C belongs to the build, not to the source tree.
        build_dir="build/cython",
    ),
    cmdclass={"build_ext": BuildNative},
)
