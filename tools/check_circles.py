"""The rule inside a floor: its files need each other in one direction.

Reads the objects of the C core with `nm`: which file defines a name, which files need it. Files of
one floor that need each other in a circle can only be understood together, so a circle must stand
in KNOWN, with the reason why it cannot be cut. Run it with the folder that holds the objects of the
floors:

    python tools/check_circles.py build/c/native/csrc

Prints each circle that is not known, and each known one that is gone, and exits 1 if there is one.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

# The files of a circle, as "floor/name", and why they need each other both ways.
KNOWN: dict[frozenset[str], str] = {
    frozenset({"os/attributes", "os/linux", "os/linux_fork", "os/lock", "os/os", "os/window"}): (
        "The backend remembers the names of mappings in a table under a lock, and the door which "
        "places are taken. A lock sleeps through the door of os.c, so that tests can give it "
        "another system, and the door leads to the backend."
    ),
    frozenset({"heap/cache", "heap/hard", "heap/take"}): (
        "The cache of a hardened heap takes and leaves its blocks through the quarantine, and what "
        "the quarantine lets go returns to that cache. The bad free of another thread's block is "
        "judged under that thread's lock, which is had by taking it; and a thread that hands its "
        "cache over, or is repaired, empties its quarantine first."
    ),
}

Graph = dict[str, set[str]]
# For each pair (who needs, who defines): the names.
Reasons = dict[tuple[str, str], set[str]]


def names(objects: list[Path]) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Who defines each external name, and which names each object needs."""
    text = subprocess.run(
        ["nm", "-A", "-g", *map(str, objects)], check=True, capture_output=True, text=True
    ).stdout
    defined: dict[str, str] = {}
    needed: dict[str, set[str]] = defaultdict(set)
    for line in text.splitlines():
        path, _, rest = line.partition(":")
        kind, name = rest.split()[-2:]
        if kind in "Uwv":
            needed[path].add(name)
        elif kind not in "WV":  # a weak name is not one file's
            defined[name] = path
    return defined, needed


def graph_of(floor: Path) -> tuple[Graph, Reasons]:
    """Which files of a floor need which others of it."""
    objects = sorted(floor.glob("*.o"))
    graph: Graph = {f"{floor.name}/{path.stem}": set() for path in objects}
    why: Reasons = defaultdict(set)
    if objects:
        defined, needed = names(objects)
        for path, wanted in needed.items():
            me = f"{floor.name}/{Path(path).stem}"
            for name in wanted & defined.keys():
                other = f"{floor.name}/{Path(defined[name]).stem}"
                if other != me:
                    graph[me].add(other)
                    why[me, other].add(name)
    return graph, why


def reachable(graph: Graph, start: str) -> set[str]:
    """Every file that `start` needs, directly or through others."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        for other in graph[todo.pop()] - seen:
            seen.add(other)
            todo.append(other)
    return seen


def circles(graph: Graph) -> set[frozenset[str]]:
    """The largest sets of files that all need each other."""
    reach = {name: reachable(graph, name) for name in graph}
    found = set()
    for name in graph:
        circle = {other for other in reach[name] if name in reach[other]}
        if circle:
            found.add(frozenset(circle))
    return found


def main(argv: list[str]) -> int:
    """Check the floors whose objects lie in the folder that is named."""
    root = Path(argv[1] if len(argv) > 1 else "build/c/native/csrc")
    floors = sorted(path.parent for path in root.glob("*/*.o"))
    if not floors:
        print(f"{root}: no objects found")
        return 1
    bad = False
    seen: set[frozenset[str]] = set()
    count = 0
    for floor in dict.fromkeys(floors):
        graph, why = graph_of(floor)
        count += len(graph)
        for circle in circles(graph):
            seen.add(circle)
            if circle in KNOWN:
                continue
            bad = True
            print(f"circle: {', '.join(sorted(circle))}")
            for me in sorted(circle):
                for other in sorted(graph[me] & circle):
                    print(f"    {me} needs {', '.join(sorted(why[me, other]))} of {other}")
    for circle in KNOWN.keys() - seen:
        bad = True
        print(f"no circle any more, take it out of the table: {', '.join(sorted(circle))}")
    if not bad:
        print(f"circles: {count} files, {len(KNOWN)} known circles and no other")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
