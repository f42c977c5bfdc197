"""DWARF: the line of an address, and the functions that were inlined there."""

from __future__ import annotations

from bisect import bisect_right
from posixpath import join, normpath
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

from dmi.profile._demangle import demangled

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Code", "Dwarf"]

ENTRIES: Final = 3_000_000
"""Entries of the debugging information of one file that are looked at, and rows of its lines."""
_MOST_UNITS: Final = 50_000
_MOST_RANGES: Final = 4096
_MOST_DEPTH: Final = 64
_HOLDERS: Final = frozenset({
    "DW_TAG_subprogram", "DW_TAG_inlined_subroutine", "DW_TAG_lexical_block", "DW_TAG_namespace",
    "DW_TAG_class_type", "DW_TAG_structure_type", "DW_TAG_try_block", "DW_TAG_catch_block",
    "DW_TAG_module",
})  # fmt: skip
_CODE: Final = ("DW_TAG_subprogram", "DW_TAG_inlined_subroutine")


class Code(NamedTuple):
    """Where an address lies. Empty and 0 where it is not known; offset is into the function."""

    function: str = ""
    file: str = ""
    line: int = 0
    offset: int = 0


class _Body(NamedTuple):
    """Addresses of a function, or of one that was inlined."""

    start: int
    end: int
    depth: int
    entry: Any


class _Unit:
    """What is known of one compilation unit; filled when first asked for."""

    __slots__ = ("bodies", "cu", "files", "rows", "starts")

    def __init__(self, cu: Any) -> None:
        self.cu = cu
        self.starts: list[int] = []
        self.rows: list[tuple[int, int, int]] | None = None
        self.files: list[str] = []
        self.bodies: list[_Body] | None = None


class Dwarf:
    """The debugging information of one file. May raise anything on damage."""

    def __init__(self, info: Any, file: IO[bytes] | None) -> None:
        self.file = file
        self._info = info
        self._left = ENTRIES
        self._units: dict[int, _Unit] = {}
        self._ranges: list[tuple[int, int, int]] = []
        for cu in self._all_units():
            self._units[cu.cu_offset] = _Unit(cu)
            for start, end in self._ranges_of(cu.get_top_DIE()):
                self._ranges.append((start, end, cu.cu_offset))
        self._ranges.sort()
        self._starts = [start for start, _, _ in self._ranges]

    def _all_units(self) -> Iterator[Any]:
        for count, cu in enumerate(self._info.iter_CUs()):
            if count >= _MOST_UNITS:
                return
            yield cu

    def at(self, address: int, name: str) -> list[Code]:
        """The innermost function first; empty where no unit holds the address. ``name`` is what
        the symbols call the outermost one."""
        place = bisect_right(self._starts, address) - 1
        if place < 0 or address >= self._ranges[place][1]:
            return []
        unit = self._units[self._ranges[place][2]]
        file, line = self._line(unit, address)
        bodies = [b for b in self._bodies(unit) if b.start <= address < b.end]
        bodies.sort(key=lambda body: -body.depth)
        found: list[Code] = []
        for body in bodies:
            found.append(Code(self._name(body.entry), file, line))
            if body.entry.tag == "DW_TAG_subprogram":
                break
            file = self._file(unit, _number(body.entry, "DW_AT_call_file"))
            line = _number(body.entry, "DW_AT_call_line")
        if not found:
            found = [Code(name, file, line)]
        elif name and (not found[-1].function or "::" in name):
            found[-1] = found[-1]._replace(function=name)
        return found

    # ---- lines -------------------------------------------------------------------------------

    def _line(self, unit: _Unit, address: int) -> tuple[str, int]:
        if unit.rows is None:
            unit.rows = self._rows(unit)
            unit.starts = [row[0] for row in unit.rows]
        place = bisect_right(unit.starts, address) - 1
        if place < 0:
            return "", 0
        _, file, line = unit.rows[place]
        return self._file(unit, file), line

    def _rows(self, unit: _Unit) -> list[tuple[int, int, int]]:
        """(address, file, line) by address; file -1 where a sequence has ended."""
        program = self._info.line_program_for_CU(unit.cu)
        if program is None:
            return []
        unit.files = _files_of(unit.cu, program)
        rows: list[tuple[int, int, int]] = []
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            self._left -= 1
            if self._left < 0:
                break
            if state.end_sequence:
                rows.append((state.address, -1, 0))
            elif state.line:
                rows.append((state.address, state.file, state.line))
        # Where one sequence ends and the next begins, the beginning counts.
        rows.sort(key=lambda row: (row[0], row[1] != -1))
        return rows

    @staticmethod
    def _file(unit: _Unit, number: int) -> str:
        return unit.files[number] if 0 <= number < len(unit.files) else ""

    # ---- functions -----------------------------------------------------------------------------

    def _bodies(self, unit: _Unit) -> list[_Body]:
        if unit.bodies is None:
            unit.bodies = []
            stack = [(unit.cu.get_top_DIE(), 0)]
            while stack and self._left > 0:
                entry, depth = stack.pop()
                for child in entry.iter_children():
                    self._left -= 1
                    if self._left < 0:
                        break
                    if child.tag not in _HOLDERS:
                        continue
                    if child.tag in _CODE:
                        unit.bodies += [
                            _Body(start, end, depth, child) for start, end in self._ranges_of(child)
                        ]
                    if child.has_children and depth < _MOST_DEPTH and _may_hold_code(child):
                        stack.append((child, depth + 1))
        return unit.bodies

    def _ranges_of(self, entry: Any) -> list[tuple[int, int]]:
        low = entry.attributes.get("DW_AT_low_pc")
        high = entry.attributes.get("DW_AT_high_pc")
        if low is not None and high is not None:
            end = high.value if high.form == "DW_FORM_addr" else low.value + high.value
            return [(low.value, end)] if end > low.value else []
        ranges = entry.attributes.get("DW_AT_ranges")
        if ranges is None:
            return []
        lists = self._info.range_lists()
        if lists is None:
            return []
        base = entry.cu.get_top_DIE().attributes.get("DW_AT_low_pc")
        base_address = base.value if base is not None else 0
        found = []
        for each in lists.get_range_list_at_offset(ranges.value, cu=entry.cu)[:_MOST_RANGES]:
            if hasattr(each, "base_address"):
                base_address = each.base_address
                continue
            shift = 0 if getattr(each, "is_absolute", False) else base_address
            if each.end_offset > each.begin_offset:
                found.append((each.begin_offset + shift, each.end_offset + shift))
        return found

    @staticmethod
    def _name(entry: Any) -> str:
        for _ in range(4):
            for name in ("DW_AT_linkage_name", "DW_AT_MIPS_linkage_name", "DW_AT_name"):
                if (found := entry.attributes.get(name)) is not None:
                    return demangled(_text(found.value))
            for name in ("DW_AT_abstract_origin", "DW_AT_specification"):
                if name in entry.attributes:
                    entry = entry.get_DIE_from_attribute(name)
                    break
            else:
                break
        return ""


def _may_hold_code(entry: Any) -> bool:
    """A function that is only declared, or the form that inlined ones were made from, has none."""
    if entry.tag != "DW_TAG_subprogram":
        return True
    return "DW_AT_declaration" not in entry.attributes and "DW_AT_inline" not in entry.attributes


def _number(entry: Any, name: str) -> int:
    found = entry.attributes.get(name)
    return found.value if found is not None and isinstance(found.value, int) else 0


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _files_of(cu: Any, program: Any) -> list[str]:
    """The paths of a unit's files by the numbers that its lines have for them."""
    top = cu.get_top_DIE().attributes
    home = _text(top["DW_AT_comp_dir"].value) if "DW_AT_comp_dir" in top else ""
    folders = [_text(each) for each in program["include_directory"]]
    entries = program["file_entry"]
    if program["version"] < 5:
        own = _text(top["DW_AT_name"].value) if "DW_AT_name" in top else ""
        folders = [home, *folders]
        found = [normpath(join(home, own))]
    else:
        found = []
    for entry in entries:
        folder = folders[entry.dir_index] if 0 <= entry.dir_index < len(folders) else ""
        found.append(normpath(join(home, folder, _text(entry.name))))
    return found
