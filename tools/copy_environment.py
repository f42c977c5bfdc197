"""This tree's virtual environment, for a copy of the tree: python -m tools.copy_environment COPY.

To install the same packages again takes a minute. What names this tree in the environment names the
copy in the copy; the extensions are not in it, they are built there.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def copy_environment(copy: Path) -> None:
    """Make ``copy / .venv`` from the environment that runs this; one that is there stays."""
    source, target = Path(sys.prefix), copy / ".venv"
    if target.exists():
        return
    unfinished = copy / ".venv.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(source, unfinished, symlinks=True)
    packages = next((unfinished / "lib").glob("python*/site-packages"))
    naming = [
        *(path for path in (unfinished / "bin").iterdir() if not path.is_symlink()),
        *packages.glob("__editable__*"),
        *packages.glob("dmi_heap-*.dist-info/*"),
    ]
    for path in naming:
        if not path.is_file():
            continue
        text = path.read_bytes()
        if str(ROOT).encode() in text:
            path.write_bytes(text.replace(str(ROOT).encode(), str(copy).encode()))
    (unfinished / ".extensions").unlink(missing_ok=True)
    # Newer than the files of the copy: nothing is to be installed there.
    for stamp in unfinished.glob(".[a-z]*"):
        stamp.touch()
    unfinished.rename(target)


if __name__ == "__main__":
    copy_environment(Path(sys.argv[1]).resolve())
