"""Metrics of a process, as Prometheus reads them.

Prints them once, for a textfile collector, or serves them under /metrics with --listen. Of a
process that runs on dmi the heaps are read from outside; of every process its layers, its physical
memory and its cgroup. What cannot be known has no sample. docs/metrics.md lists the names.
"""

from __future__ import annotations

import argparse
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmi.metrics import Metric, OtherProcess

NAME = "metrics"
HELP = "print or serve the metrics of a process for Prometheus"


def address(text: str) -> tuple[str, int]:
    """HOST:PORT, :PORT or PORT; of the loopback interface where no host is named."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise argparse.ArgumentTypeError(f"not HOST:PORT or PORT: {text!r}")
    return host, int(port)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--pid", type=int, metavar="N", required=True, help="the process")
    parser.add_argument(
        "--listen",
        type=address,
        metavar="ADDRESS",
        help="serve instead of printing: HOST:PORT, or PORT on the loopback interface",
    )


def run(args: argparse.Namespace) -> int:
    """Print or serve."""
    from dmi.metrics import OtherProcess, text

    source = OtherProcess(args.pid)
    if args.listen is None:
        print(text(source=source), end="")
        return 0
    return serve(source, args.listen)


def serve(source: OtherProcess, where: tuple[str, int]) -> int:
    """Answer scrapes until interrupted, or until the process ends."""
    from prometheus_client import CollectorRegistry, start_http_server

    from dmi.metrics import collector

    text_of(source)  # what is wrong is said now, not at the first scrape
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector(_Locked(source)))
    server, _thread = start_http_server(where[1], addr=where[0], registry=registry)
    host, port = server.server_address[:2]
    print(f"serving http://{host!s}:{port}/metrics", flush=True)
    try:
        while _alive(source.pid):
            threading.Event().wait(1)
    finally:
        server.shutdown()
    print(f"process {source.pid} has ended")
    return 0


def text_of(source: OtherProcess) -> str:
    """One reading as text."""
    from dmi.metrics import text

    return text(source=source)


def _alive(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))


class _Locked:
    """Scrapes come from several threads."""

    def __init__(self, source: OtherProcess) -> None:
        self._source = source
        self._lock = threading.Lock()

    def metrics(self) -> list[Metric]:
        with self._lock:
            try:
                return self._source.metrics()
            except ProcessLookupError:
                return []
