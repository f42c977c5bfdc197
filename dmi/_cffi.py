"""dmi.ffi and dmi.lib: the C API through cffi, over the very library that dmi.Heap uses.

The declarations are those of the installed headers, so that nothing is stated twice. ABI mode: no
compiler is needed.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import cffi

__all__ = ["declarations", "ffi", "lib", "library_path"]

_PACKAGE = Path(__file__).resolve().parent

# Public headers in the order in which each may use those before it.
_HEADERS = ("stats.h", "dmi.h", "replay.h")
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_TABLE = re.compile(r"(\w+)\(X\)\s*(.*)", re.DOTALL)
_ENTRY = re.compile(r"\bX\(\s*(\w+)\s*,")
_FIELD = re.compile(r"(\w+)\((\w+)(?:,\s*\w+)*\)\s*(.*)", re.DOTALL)
_NUMBER = re.compile(r"(\w+)\s+(\(?-?(?:0[xX][0-9a-fA-F]+|\d+)[uUlL]*\)?)\s*$")


def declarations(*headers: Path) -> str:
    """What cffi can read of the headers: types, functions, integer constants, and no macros.

    The one kind of macro that is expanded is the table: NAME(X) lists X(field, ...) and
    NAME(FIELD) in a struct stands for FIELD of each.
    """
    tables: dict[str, list[str]] = {}
    fields: dict[str, tuple[str, str]] = {}
    lines: list[str] = []
    for header in headers:
        text = _COMMENT.sub(" ", header.read_text()).replace("\\\n", " ")
        for line in text.splitlines():
            stripped = line.strip()
            if not stripped.startswith("#"):
                lines.append(line)
                continue
            directive = stripped[1:].strip()
            if not directive.startswith("define "):
                continue
            body = directive.removeprefix("define ").strip()
            if number := _NUMBER.fullmatch(body):
                lines.append(f"#define {number[1]} {number[2].strip('()uUlL')}")
            elif table := _TABLE.fullmatch(body):
                tables[table[1]] = [entry[1] for entry in _ENTRY.finditer(table[2])]
            elif field := _FIELD.fullmatch(body):
                fields[field[1]] = (field[2], field[3])
    text = "\n".join(lines)
    for table_name, names in tables.items():
        for field_name, (parameter, replacement) in fields.items():
            expanded = " ".join(
                replacement.replace("##", "").replace(parameter, name)
                if "##" in replacement
                else re.sub(rf"\b{parameter}\b", name, replacement)
                for name in names
            )
            text = text.replace(f"{table_name}({field_name})", expanded)
    text = re.sub(r'extern\s+"C"\s*\{', "", text)
    text = text.replace("DMI_API ", "")
    return _without_stray_brace(text)


def _without_stray_brace(text: str) -> str:
    """Drop the braces that closed extern "C"."""
    kept: list[str] = []
    depth = 0
    for line in text.splitlines():
        depth += line.count("{") - line.count("}")
        if depth < 0:
            depth = 0
            continue
        kept.append(line)
    return "\n".join(kept)


def _load() -> tuple[Any, Any]:
    found = cffi.FFI()
    folder = _PACKAGE / "include" / "dmi"
    found.cdef(declarations(*(folder / name for name in _HEADERS if (folder / name).exists())))
    if sys.platform == "win32":
        return found, found.dlopen(str(_PACKAGE / "libdmi.dll"))
    # A copy in the global scope, preloaded or linked by the program, is the one that the calls of
    # the extension were bound to; libdmi.so may be loaded beside it, but it holds no heap.
    everyone = found.dlopen(None)
    if hasattr(everyone, "dmi_version"):
        return found, everyone
    return found, found.dlopen(str(_PACKAGE / "libdmi.so"))


def library_path() -> str:
    """The file that the library in use was loaded from. OSError when the loader does not know."""
    if sys.platform == "win32":
        return str(_PACKAGE / "libdmi.dll")  # found by its name, so there is no other one
    linker = cffi.FFI()
    linker.cdef(
        "typedef struct { const char *file; void *base; const char *symbol; void *at; } Dl_info;"
        "int dladdr(const void *address, Dl_info *info);"
    )
    info: Any = linker.new("Dl_info *")
    process: Any = linker.dlopen(None)
    address = linker.cast("void *", int(ffi.cast("uintptr_t", ffi.addressof(lib, "dmi_version"))))
    if not process.dladdr(address, info):
        raise OSError("the dynamic linker does not know where dmi was loaded from")
    return os.fsdecode(linker.string(info.file))


# What they hold is known to the headers only, hence Any.
ffi: Any
lib: Any
ffi, lib = _load()
