"""The documentation as a site: `make docs`, or `python -m tools.site FOLDER`.

The pages are those of docs/, the README, CONTRIBUTING, the changes and the references that
tools/reference.py generates. A link that leads nowhere fails: between pages and to their headings,
and to files of the source tree, which the site links where the project is published.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tools import reference

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
# Pages of the root, and what they are called in the site.
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
ELSEWHERE = {"csrc/README.md": "core.md"}


def place(source: Path) -> str | None:
    """Where a file of the tree stands in the site; None when it is no part of it."""
    name = source.relative_to(ROOT).as_posix()
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    return (TOP | ELSEWHERE).get(name)


def rewritten(source: Path, broken: list[str]) -> str:
    """The text of a page with its links as the site has them; those to nothing go to broken."""
    here = place(source)
    assert here is not None

    def one(match: re.Match[str]) -> str:
        target = match[2]
        if re.match(r"[a-z][a-z+.-]*:", target):
            return match[0]
        path = (source.parent / target).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            broken.append(f"{source.relative_to(ROOT)}: {target} leads nowhere")
            return match[0]
        there = place(path)
        if there is None:
            # The site does not show it; its name, which the text says, is enough to find it.
            return f"{match[1]}{os.path.relpath('source.md', Path(here).parent)})"
        return f"{match[1]}{os.path.relpath(there, Path(here).parent)}{match[3]}"

    return LINK.sub(one, source.read_text())


def gather(pages: Path) -> list[str]:
    """Lay out the pages; returns what is wrong with them."""
    broken: list[str] = []
    sources = [ROOT / name for name in TOP | ELSEWHERE]
    for source in [*sources, *sorted((ROOT / "docs").rglob("*"))]:
        if not source.is_file():
            continue
        target = pages / str(place(source))
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            target.write_text(rewritten(source, broken))
        else:
            shutil.copy2(source, target)
    (pages / "source.md").write_text(
        "# The source\n\nThe page that brought you here names a file of the source tree.\n"
    )
    missing = reference.write(pages / "reference")
    return broken + [f"{name} has no docstring" for name in missing]


def title(page: Path) -> str:
    found = re.search(r"^# (.+)$", page.read_text(), re.MULTILINE)
    return found[1] if found else page.stem


def settings(pages: Path, site: Path) -> dict[str, Any]:
    """What MkDocs is told. The order of the guide is the order of reading."""
    first = ["second-order-leak", "policies", "preload", "diagnosis", "recordings", "embedding"]
    names = [page.stem for page in sorted(pages.glob("*.md"))]
    within = ("architecture", "core", "vocabulary", "tuning", "contributing")
    shown = {"index", "changes", "source", *within}
    guide = [name for name in first if name in names]
    guide += [name for name in names if name not in shown and name not in guide]
    inside = [name for name in within if name in names]
    references = sorted((pages / "reference").glob("*.md"))

    def listed(paths: list[Path]) -> list[dict[str, str]]:
        return [{title(path): path.relative_to(pages).as_posix()} for path in paths]

    return {
        "site_name": "dmi",
        "docs_dir": str(pages),
        "site_dir": str(site),
        "theme": {"name": "readthedocs"},
        "plugins": ["search"],
        "nav": [
            {"dmi": "index.md"},
            {"Guide": listed([pages / f"{name}.md" for name in guide])},
            {"Reference": listed(references)},
            {"Inside": listed([pages / f"{name}.md" for name in inside])},
            {"Changes": "changes.md"},
        ],
        "not_in_nav": "source.md",
        "markdown_extensions": ["tables", "fenced_code", {"toc": {"permalink": True}}],
        "validation": {
            "nav": {"omitted_files": "warn", "not_found": "warn", "absolute_links": "warn"},
            "links": {
                "not_found": "warn",
                "anchors": "warn",
                "absolute_links": "warn",
                "unrecognized_links": "warn",
            },
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the documentation as a site.")
    parser.add_argument("folder", type=Path)
    site = parser.parse_args().folder.resolve()
    # Help texts are as wide on every machine, and plain.
    os.environ |= {"COLUMNS": reference.WIDTH, "NO_COLOR": "1"}
    pages = site.with_name(f"{site.name}-pages")
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    wrong = gather(pages)
    for line in wrong:
        print(line, file=sys.stderr)
    config = pages.with_suffix(".yml")
    config.write_text(yaml.safe_dump(settings(pages, site), sort_keys=False))
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", config],
        check=False,
        env=os.environ | {"DISABLE_MKDOCS_2_WARNING": "true", "NO_MKDOCS_2_WARNING": "1"},
    )
    if done.returncode == 0 and not wrong:
        print(f"{len(list(site.rglob('*.html')))} pages in {site}")
    return 1 if wrong else done.returncode


if __name__ == "__main__":
    sys.exit(main())
