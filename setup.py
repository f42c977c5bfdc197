"""Builds the native parts: libdmi.so inside the package, then the extensions that link it.

How the libraries are built stands in tools/native.py. On Windows there is libdmi.dll, made with gcc
of mingw-w64, and no preload library. Everything else about the project stands in pyproject.toml.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# A build frontend does not put the project's folder on the path.
sys.path.insert(0, str(ROOT))

from tools import native  # noqa: E402

WINDOWS = sys.platform == "win32"
# Every .pyx of the package is an extension of its own; dmi.python is for Linux.
EXTENSIONS = sorted(
    path for path in (ROOT / "dmi").rglob("*.pyx") if not (WINDOWS and path.parent.name == "python")
)
HEADERS = sorted((ROOT / "csrc" / "include" / "dmi").glob("*.h*"))
# What any extension may include; a change of the library itself needs no new link.
SHARED = [*HEADERS, *sorted((ROOT / "dmi").rglob("*.pxd"))]
# Where shells look for what completes the words of a command.
COMPLETIONS = {
    "bash": ("share/bash-completion/completions", "dmi"),
    "zsh": ("share/zsh/site-functions", "_dmi"),
    "fish": ("share/fish/vendor_completions.d", "dmi.fish"),
}
# What running the examples leaves behind.
MADE = shutil.ignore_patterns("__pycache__", "build", "*.so", "*.o", "*.egg-info")


class BuildNative(build_ext):
    """Builds the libraries first, because the extensions link them."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if WINDOWS:
            # The core is written with gcc's builtins and attributes, which MSVC does not have.
            self.compiler = "mingw32"
        self.parallel = self.parallel or os.cpu_count()
        if self.editable_mode or self.inplace:
            # A folder that stays, and the same one for both, so that each build finds what the last
            # one made.
            build = ROOT / "build" / f"editable-{self.plat_name}-{sys.implementation.cache_tag}"
            self.build_temp = str(build / "temp")
            self.build_lib = str(build / "lib")

    def build_extensions(self) -> None:
        package = self.package_dir()
        native.install(native.build(), package)
        native.copy_headers(package)
        if not (self.editable_mode or self.inplace):
            # In the source tree they are where they are.
            target = package / "examples"
            shutil.copytree(ROOT / "examples", target, dirs_exist_ok=True, ignore=MADE)
        self.forget_rpath()
        for extension in self.extensions:
            extension.library_dirs.insert(0, str(package))
        super().build_extensions()
        if not (self.editable_mode or self.inplace or WINDOWS):
            self.write_words()

    def write_words(self) -> None:
        """Manual pages and what shells complete, from the command line that was just built.

        Where it cannot run here, because it was built for another machine, there are none.
        """
        share = Path(self.build_temp) / "share"
        (share / "man").mkdir(parents=True, exist_ok=True)
        dmi = [sys.executable, "-m", "dmi"]
        where = os.environ | {"PYTHONPATH": str(Path(self.build_lib).resolve())}
        made: dict[str, list[str]] = {}
        try:
            subprocess.run(
                [*dmi, "man", "--to", "man"], cwd=share, env=where, check=True, capture_output=True
            )
            for shell, (folder, name) in COMPLETIONS.items():
                words = subprocess.run(
                    [*dmi, "completion", shell],
                    cwd=share,
                    env=where,
                    check=True,
                    capture_output=True,
                )
                (share / shell).mkdir(exist_ok=True)
                (share / shell / name).write_bytes(words.stdout)
                made[folder] = [str(share / shell / name)]
        except (OSError, subprocess.CalledProcessError) as error:
            self.warn(f"no manual pages and no completions: {getattr(error, 'stderr', error)!r}")
            return
        made["share/man/man1"] = sorted(str(page) for page in (share / "man").iterdir())
        self.distribution.data_files = list(made.items())

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
            native.install([path], (ROOT / "dmi" / path.relative_to(self.package_dir())).parent)

    def made(self) -> list[str]:
        """What the libraries and headers are in the package."""
        package = self.package_dir()
        names = ["libdmi.dll"] if WINDOWS else ["libdmi.so", "libdmi_malloc.so"]
        names += [f"include/dmi/{header.name}" for header in HEADERS]
        return [str(package / name) for name in names]

    def get_outputs(self) -> list[str]:
        outputs = super().get_outputs()
        if self.inplace or self.editable_mode:
            return outputs
        examples = self.package_dir() / "examples"
        found = [str(path) for path in sorted(examples.rglob("*")) if path.is_file()]
        return outputs + self.made() + found


def extension(path: Path) -> Extension:
    """An extension that links the library beside it, and carries the floor of its own name, if
    any.
    """
    source = path.relative_to(ROOT)
    folder = Path("csrc") / path.stem.removeprefix("_")
    own = [] if path.stem not in native.CARRIED else sorted((ROOT / folder).glob("*.c"))
    depth = len(source.parts) - 2
    return Extension(
        ".".join(source.with_suffix("").parts),
        [source.as_posix(), *(found.relative_to(ROOT).as_posix() for found in own)],
        include_dirs=[
            "csrc/include",
            # Headers of the package's own lie beside the source.
            *([source.parent.as_posix()] if depth else []),
            *(["csrc"] if own else []),
        ],
        libraries=["dmi"],
        # Windows looks beside the module by itself.
        runtime_library_dirs=[] if WINDOWS else ["/".join(["$ORIGIN", *[".."] * depth])],
        define_macros=[
            # Each interpreter gets its own copy of what the module keeps.
            ("CYTHON_USE_MODULE_STATE", "1"),
            # cdmi.pxd means the library itself here, not the table of _core.
            ("DMI_CAPI_LINKED", "1"),
        ],
        extra_compile_args=["-O2", "-Wno-unreachable-code"],
        extra_link_args=["-static-libgcc"] if WINDOWS else [],
        depends=[
            str(each)
            for each in (
                *SHARED,
                *path.parent.glob("*.h"),
                *((ROOT / folder).glob("*.h") if own else ()),
            )
        ],
    )


setup(
    ext_modules=cythonize(  # type: ignore[no-untyped-call,unused-ignore]
        [extension(path) for path in EXTENSIONS],
        compiler_directives={"language_level": "3"},
        # The generated C belongs to the build, not to the source tree.
        build_dir="build/cython",
    ),
    cmdclass={"build_ext": BuildNative},
)
