"""Draw what `dmi replay --json` measured: committed over the recording's time, a line a policy.

    dmi replay FILE --decommit never,eager,lazy,threshold --json > replay.json
    python tools/plot_replay.py replay.json docs/redis-peak.svg

Needs matplotlib (the extra `plot`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "dmi"
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)

MIB = 1024 * 1024


def draw(runs: list[dict[str, Any]], title: str, path: Path) -> None:
    """One line of committed MiB for each run, above what is busy; and the page bound at the end."""
    figure, axes = plt.subplots(figsize=(8, 4.2))
    for run in runs:
        timeline = run["timeline"]
        seconds = [state["seconds"] for state in timeline]
        axes.plot(seconds, [state["committed"] / MIB for state in timeline], label=run["decommit"])
    timeline = runs[0]["timeline"]
    seconds = [state["seconds"] for state in timeline]
    busy = [state["busy"] / MIB for state in timeline]
    axes.fill_between(seconds, busy, color="0.85", label="busy")
    bound = min(run["page_bound"]["end"] for run in runs) / MIB
    axes.axhline(bound, color="0.4", linestyle=":", label="page bound at the end")
    axes.set_xlabel("seconds of the recording")
    axes.set_ylabel("committed, MiB")
    axes.set_title(title)
    axes.set_xlim(left=0, right=seconds[-1])
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Read, draw."""
    parser = argparse.ArgumentParser(description="Draw a replay.")
    parser.add_argument("replay", type=Path, help="what `dmi replay --json` wrote")
    parser.add_argument("picture", type=Path, help="an SVG file to write")
    parser.add_argument(
        "--title", default="A recorded Redis: load, peak, deletes, eight idle seconds"
    )
    arguments = parser.parse_args()
    document = json.loads(arguments.replay.read_text())
    draw(document["runs"], arguments.title, arguments.picture)


if __name__ == "__main__":
    main()
