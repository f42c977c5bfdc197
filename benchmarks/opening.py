"""How long a browser takes to open reports: from the start of the navigation to the second frame
that is drawn after the page's scripts have run and the map is there, by the browser's own clock.

    python -m benchmarks.opening [--times 10] [FILE.html …]

Without files: the report of the recorded Redis, and that of a heap of 10^6 blocks. Each opening is
in the same browser, after one that does not count. Needs chromium, and the extras report and trace.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import dmi
from tools.browser import Browser

OPENED = """new Promise(done => {
  const drawn = () => document.readyState === "complete"
    && (document.querySelector("canvas[data-ready]") || !document.querySelector("canvas"));
  const look = () => drawn()
    ? requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())))
    : requestAnimationFrame(look);
  look();
})"""
PAINTED = """performance.getEntriesByType("paint")
  .filter(each => each.name === "first-contentful-paint").map(each => each.startTime)[0]"""


def made(folder: Path) -> list[Path]:
    """The two reports."""
    redis = folder / "redis.html"
    dmi.report.report(Path(dmi.get_examples()) / "redis-peak.dmi.zst").save(redis)
    million = folder / "million.html"
    with dmi.Heap("never", name="million") as heap:
        # Sizes and frees by chance: a list of equal blocks would fold into nothing.
        chance = random.Random(1)
        blocks = [heap.malloc(int(chance.expovariate(1 / 120)) + 1) for _ in range(2_000_000)]
        chance.shuffle(blocks)
        for block in blocks[1_000_000:]:
            heap.free(block)
        dmi.report.report([dmi.snapshot(True)]).save(million)
    return [redis, million]


def main() -> None:
    parser = argparse.ArgumentParser(description="How long a browser takes to open reports.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.html")
    parser.add_argument("--times", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        files = given.files or made(folder)
        print(f"{'':24}{'MB':>8}{'painted, ms':>16}{'opened, ms':>12}{'slowest':>10}")
        with Browser(folder / "profile") as browser:
            for file in files:
                found = []
                for _ in range(given.times + 1):
                    browser.open(file.resolve().as_uri(), 1280, 900)
                    opened = browser.run(OPENED)
                    found.append((opened, browser.run(PAINTED) or opened))
                opened = sorted(each for each, _ in found[1:])
                painted = sorted(each for _, each in found[1:])
                size = file.stat().st_size / 1e6
                print(
                    f"{file.name:24}{size:8.2f}{painted[len(painted) // 2]:16.0f}"
                    f"{opened[len(opened) // 2]:12.0f}{opened[-1]:10.0f}"
                )


if __name__ == "__main__":
    main()
