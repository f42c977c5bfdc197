"""The pictures of the docs, made anew: docs/report.png, docs/top.png, docs/dashboard.png.

    python tools/pictures.py [report] [top] [dashboard] [--folder docs] [--seconds 75]

The dashboard is not Grafana's: the panels of examples/monitoring/dashboard.json are drawn with
matplotlib from what a real Prometheus answers to their queries, after it scraped a program with
three heaps. Needs chromium, prometheus, and the extras metrics, plot, report, top and trace.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dmi

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.browser import Browser

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES: Final = Path(dmi.get_examples())
HEAPS: Final = (
    ("sessions", "lazy:delay=3", 1.0),
    ("cache", "threshold", 0.6),
    ("index", "eager", 0.4),
)


class Load:
    """Three heaps of three policies that fill, and empty but for a little."""

    def __init__(self) -> None:
        self.heaps = [(dmi.Heap(policy, name=name), share) for name, policy, share in HEAPS]
        self.chance = random.Random(1)
        self.kept: list[tuple[dmi.Heap, int]] = []

    def fill(self, count: int) -> None:
        """Blocks of 50 to 900 bytes."""
        for heap, share in self.heaps:
            self.kept += [
                (heap, heap.malloc(self.chance.randrange(50, 900)))
                for _ in range(int(count * share))
            ]

    def drop(self, part: float) -> None:
        """So much of what there is, by chance."""
        self.chance.shuffle(self.kept)
        count = int(len(self.kept) * part)
        for heap, address in self.kept[:count]:
            heap.free(address)
        del self.kept[:count]


def picture_of_report(folder: Path, browser: Browser) -> None:
    """The report of the recorded Redis, its top."""
    page = folder / "report.html"
    dmi.report.report(EXAMPLES / "redis-peak.dmi.zst").save(page)
    browser.open(page.as_uri(), 1100, 900)
    time.sleep(1)
    browser.picture(folder / "report.png", 1100, 900)


def picture_of_top(folder: Path, browser: Browser) -> None:
    """`dmi top` after a peak, as textual draws it."""
    asyncio.run(_top(folder / "top.svg"))
    svg = (folder / "top.svg").read_text()
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert found is not None
    width, height = 1300, round(1300 * float(found[2]) / float(found[1]))
    page = folder / "top.html"
    # The drawing asks for its font on the network; the system's own does as well.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    page.write_text(f'<meta charset="utf-8"><body style="margin:0">{svg}')
    browser.open(page.as_uri(), width, height)
    browser.run(f"document.querySelector('svg').setAttribute('width', {width})")
    browser.picture(folder / "top.png", width, height)


async def _top(path: Path) -> None:
    from dmi.top import OwnLook
    from dmi.top._app import Top

    load = Load()
    look = OwnLook()
    app = Top(look, 60)
    async with app.run_test(size=(178, 34)) as pilot:
        for step in range(60):
            if step < 25:
                load.fill(4000)
            elif step >= 30:
                load.drop(1 / 9)
            time.sleep(0.15)  # so that rates and delays are those of a program, not of a loop
            if step == 59:
                look._taken = -1.0  # a walk now: the figures of the picture are of one moment
            app.refresh_figures()
            await pilot.pause()
        path.write_text(app.export_screenshot(title="dmi top"))


def serve(port: int, seconds: float) -> None:
    """In a process of its own: the program that is watched, with its metrics on a port."""
    from prometheus_client import REGISTRY, start_http_server

    REGISTRY.register(dmi.metrics.collector())
    start_http_server(port, "127.0.0.1")
    load = Load()
    print("ready", flush=True)
    until = time.monotonic() + seconds
    step = 0
    while time.monotonic() < until:
        # A peak of 8 seconds in every 25.
        if step % 50 < 16:
            load.fill(6000)
        elif step % 50 < 30:
            load.drop(0.3)
        step += 1
        time.sleep(0.5)


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def picture_of_dashboard(folder: Path, seconds: float) -> None:
    """Its panels, as a real Prometheus answers their queries."""
    inside, outside, own = _port(), _port(), _port()
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\nscrape_configs:\n"
        f"- {{job_name: service, static_configs: [{{targets: ['127.0.0.1:{inside}']}}]}}\n"
        f"- {{job_name: outside, static_configs: [{{targets: ['127.0.0.1:{outside}']}}]}}\n"
    )
    with contextlib.ExitStack() as running:

        def start(*command: str) -> subprocess.Popen[str]:
            child = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            running.callback(child.wait)
            running.callback(child.kill)
            return child

        served = start(sys.executable, __file__, "--serve", str(inside), str(seconds + 30))
        assert served.stdout is not None
        served.stdout.readline()
        start(
            sys.executable, "-m", "dmi", "metrics", "--pid", str(served.pid),
            "--listen", f"127.0.0.1:{outside}",
        )  # fmt: skip
        start(
            "prometheus", f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{own}",
        )  # fmt: skip
        begin = time.time()
        time.sleep(seconds)
        _draw(folder / "dashboard.png", f"http://127.0.0.1:{own}", begin + 5, time.time())


def _answers(address: str, query: str, job: str, begin: float, end: float) -> list[Any]:
    for name, value in {"$job": job, "$instance": ".*", "$heap": ".*"}.items():
        query = query.replace(name, value)
    values = {
        "query": query.replace("$__rate_interval", "4s"),
        "start": f"{begin:.0f}", "end": f"{end:.0f}", "step": "1",
    }  # fmt: skip
    asked = f"{address}/api/v1/query_range?{urllib.parse.urlencode(values)}"
    with urllib.request.urlopen(asked, timeout=10) as answer:
        found: list[Any] = json.load(answer)["data"]["result"]
    return found


def _draw(path: Path, address: str, begin: float, end: float) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = json.loads((EXAMPLES / "monitoring" / "dashboard.json").read_text())["panels"]
    rows = -(-len(panels) // 2)
    figure, places = pyplot.subplots(rows, 2, figsize=(14, 3.4 * rows), layout="constrained")
    for panel, place in zip(panels, places.flat, strict=False):
        place.set_title(panel["title"], loc="left", fontsize=11, fontweight="bold")
        job = "outside" if "layer" in panel["targets"][0]["expr"] else "service"
        seen = 0
        for target in panel["targets"]:
            for row in _answers(address, target["expr"], job, begin, end):
                name = re.sub(
                    r"\{\{(\w+)\}\}",
                    lambda found, row=row: row["metric"].get(found[1], ""),  # type: ignore[misc]
                    target["legendFormat"],
                )
                times, values = zip(*row["values"], strict=True)
                sizes = [float(value) / 1048576 for value in values]
                place.plot([when - begin for when in times], sizes, label=name, linewidth=1.4)
                seen += 1
        if seen:
            place.set_ylim(bottom=0)
            place.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        else:
            place.text(0.5, 0.5, "no samples", ha="center", transform=place.transAxes, color="gray")
        unit = panel["fieldConfig"]["defaults"]["unit"]
        place.set_ylabel("MiB/s" if unit == "Bps" else "MiB", fontsize=8)
        place.tick_params(labelsize=8)
        place.grid(alpha=0.3)
    figure.savefig(path, dpi=80)


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), float(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description="The pictures of the docs.")
    parser.add_argument("names", nargs="*", default=[], metavar="report|top|dashboard")
    parser.add_argument("--folder", type=Path, default=Path("docs"))
    parser.add_argument("--seconds", type=float, default=75)
    given = parser.parse_args()
    makers: dict[str, Callable[[Path, Browser], None]] = {
        "report": picture_of_report,
        "top": picture_of_top,
        "dashboard": lambda folder, _browser: picture_of_dashboard(folder, given.seconds),
    }
    if unknown := set(given.names) - set(makers):
        parser.error(f"{unknown.pop()} is no picture: {', '.join(makers)}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with Browser(folder / "profile") as browser:
            for each in given.names or makers:
                makers[each](folder, browser)
                made = given.folder / f"{each}.png"
                made.write_bytes((folder / f"{each}.png").read_bytes())
                print(f"{made}: {made.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
