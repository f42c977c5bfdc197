"""The rule of the tower: a C file includes only from its own floor and from those below it.

Run from the repository's root; prints each breach and exits 1 if there is one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FLOORS = (
    "include",
    "os",
    "segment",
    "block",
    "decommit",
    "heap",
    "inspect",
    "profile",
    "preload",
    "replay",
    "foreign",
)
# Floors that stand beside each other rather than on each other.
BARRED = {("replay", "preload"), ("foreign", "preload"), ("foreign", "replay")}
# Only these may ask the compiler which platform it is building for.
PLATFORM_FLOORS = {"os", "preload", "include"}

_INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<(dmi/[^>]+)>)', re.MULTILINE)
_PLATFORM = re.compile(
    r"^\s*#\s*(?:if|ifdef|ifndef|elif)\b.*\b(_WIN32|__linux__|__APPLE__|__MINGW\w*|_MSC_VER)\b",
    re.MULTILINE,
)


def resolve(root: Path, source: Path, name: str, public: bool) -> Path | None:
    """The file that an include means, or None for one that is not the project's."""
    folders = [root / "include"] if public else [source.parent, root, root / "include"]
    for folder in folders:
        path = (folder / name).resolve()
        if path.is_file() and path.is_relative_to(root):
            return path
    return None


def breaches(root: Path) -> list[str]:
    """One line for each include that climbs, and for each platform test out of place."""
    found: list[str] = []
    root = root.resolve()
    for source in sorted((*root.rglob("*.c"), *root.rglob("*.h"))):
        floor = source.relative_to(root).parts[0]
        shown = source.relative_to(root.parent)
        if floor not in FLOORS:
            found.append(f"{shown}: {floor} is no floor; the floors are {', '.join(FLOORS)}")
            continue
        text = source.read_text()
        for match in _INCLUDE.finditer(text):
            name = match[1] or match[2]
            line = text.count("\n", 0, match.start()) + 1
            target = resolve(root, source, name, match[2] is not None)
            if target is None:
                if match[1] is not None or match[2] is not None:
                    found.append(f"{shown}:{line}: {name} is not in the tree")
                continue
            other = target.relative_to(root).parts[0]
            if FLOORS.index(other) > FLOORS.index(floor) or (floor, other) in BARRED:
                found.append(
                    f"{shown}:{line}: {floor} includes {name} from {other}, which is above"
                )
        if floor not in PLATFORM_FLOORS:
            for match in _PLATFORM.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{shown}:{line}: asks for the platform ({match[1]}) outside os/")
    return found


def main(argv: list[str]) -> int:
    """Check the folder named, csrc by default."""
    root = Path(argv[1] if len(argv) > 1 else "csrc")
    found = breaches(root)
    for line in found:
        print(line)
    checked = sum(1 for _ in (*root.rglob("*.c"), *root.rglob("*.h")))
    if not checked:
        print(f"{root}: no C files found")
        return 1
    if not found:
        print(f"floors: {checked} files, no include climbs")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
