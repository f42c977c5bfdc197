"""A real redis-server after its peak: what stays resident on its own jemalloc and on dmi.

    python -m benchmarks.redis_live [--rounds 3] [--decommit lazy] [--lib NAME=PATH] [--json FILE]

The steps are those of the recording `examples/redis-peak.dmi.zst`: 10 MB of data that stay, a peak
of about 92 MB of strings, hashes, lists and sorted sets (values of a few KiB hold most of it), 93 %
of the peak's keys deleted in random order, then eight seconds of a trickle of requests. Every
server is a fresh process on a free port of 127.0.0.1; the allocators take turns within a round.
Resident is VmRSS of the whole server, program and buffers included, so it is what an operator
sees. Each allocator's figure is divided by that of the allocator that Debian's redis-server brings
(jemalloc) in the same round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import dmi

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 20261122
KIB = 1024
BASE_KEYS = 20_000
PEAK_KEYS = 46_000
KEPT_PERCENT = 7
IDLE_SECONDS = 8
BATCH = 1000
MOMENTS = ("start", "before", "peak", "deleted", "idle")


def command(*parts: str | bytes) -> bytes:
    """A request in Redis's wire format."""
    raw = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in raw)


def base(rng: random.Random) -> Iterator[bytes]:
    """Strings that stay for ever: about 10 MB with Redis's own structures."""
    for i in range(BASE_KEYS):
        yield command("SET", f"base:{i}", rng.randbytes(rng.randint(250, 350)))


def peak(rng: random.Random) -> Iterator[bytes]:
    """The peak's keys. Values of a few KiB hold most of the bytes, as in the recording."""
    for i in range(PEAK_KEYS):
        key = f"peak:{i}"
        if i % 4 == 0:
            yield command("SET", key, rng.randbytes(min(int(rng.lognormvariate(6.5, 1)), 64 * KIB)))
        elif i % 4 == 1:
            fields = (b"f%d" % j for j in range(rng.randint(5, 60)))
            yield command("HSET", key, *(x for f in fields for x in (f, rng.randbytes(40))))
        elif i % 4 == 2:
            for _ in range(rng.randint(1, 4)):
                yield command("RPUSH", key, *(rng.randbytes(60) for _ in range(rng.randint(5, 20))))
        else:
            # Every hundredth is long enough for a skip list: a block a member.
            members = rng.randint(200, 600) if i % 400 == 3 else rng.randint(5, 60)
            pairs = ((str(rng.random()), rng.randbytes(24)) for _ in range(members))
            yield command("ZADD", key, *(x for pair in pairs for x in pair))


def deletions(rng: random.Random) -> Iterator[bytes]:
    """93 % of the peak's keys, in random order."""
    keys = [i for i in range(PEAK_KEYS) if rng.randrange(100) >= KEPT_PERCENT]
    rng.shuffle(keys)
    for i in keys:
        yield command("DEL", f"peak:{i}")


class Server:
    """A redis-server of our own on a free local port."""

    def __init__(self, preload: str | None, decommit: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {
            k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "DMI_OPTIONS")
        }
        if preload is not None:
            environment["LD_PRELOAD"] = preload
            environment["DMI_OPTIONS"] = f"decommit={decommit}"
        arguments = ["--port", str(port), "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(
            ["redis-server", *arguments], env=environment, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                self.socket = socket.create_connection(("127.0.0.1", port))
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)
        self.replies: BinaryIO = self.socket.makefile("rb")

    def send(self, requests: Iterator[bytes]) -> int:
        """Send them in pipelines; returns how many there were. An error reply raises."""
        count = 0
        while True:
            batch = [request for _, request in zip(range(BATCH), requests, strict=False)]
            if not batch:
                return count
            self.socket.sendall(b"".join(batch))
            for _ in batch:
                reply = self.replies.readline()
                if reply[:1] == b"-":
                    raise RuntimeError(f"redis-server says {reply.decode().strip()}")
            count += len(batch)

    def resident(self) -> int:
        """VmRSS in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * KIB
        raise RuntimeError("no VmRSS")

    def used(self) -> int:
        """What Redis counts as used, in bytes."""
        self.socket.sendall(command("INFO", "memory"))
        text = self.replies.read(int(self.replies.readline()[1:]) + 2).decode()
        return next(
            int(line.split(":")[1]) for line in text.splitlines() if line.startswith("used_memory:")
        )

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.sendall(command("SHUTDOWN", "NOSAVE"))
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def run(preload: str | None, decommit: str) -> dict[str, int]:
    """The steps on a fresh server: resident bytes at each moment, and what Redis uses."""
    server = Server(preload, decommit)
    try:
        rng = random.Random(SEED)
        seen = {"start": server.resident()}
        server.send(base(rng))
        seen["before"] = server.resident()
        server.send(peak(rng))
        seen["peak"] = server.resident()
        seen["used_peak"] = server.used()
        server.send(deletions(rng))
        seen["deleted"] = server.resident()
        begin = time.monotonic()
        while time.monotonic() - begin < IDLE_SECONDS:
            # Requests whose replies are one line.
            key = f"base:{rng.randrange(BASE_KEYS)}"
            server.send(iter([command("STRLEN", key), command("INCR", "requests")]))
            time.sleep(0.05)
        seen["idle"] = server.resident()
        seen["used_idle"] = server.used()
        return seen
    finally:
        server.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decommit", default="lazy", help="policy of dmi (default: %(default)s)")
    parser.add_argument("--lib", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    if shutil.which("redis-server") is None:
        print("no redis-server on PATH (Debian: apt-get install redis-server)", file=sys.stderr)
        return 2
    allocators: dict[str, str | None] = {"its own": None, "dmi": dmi.get_preload_path()}
    allocators |= dict(lib.split("=", 1) for lib in given.lib)
    rounds: list[dict[str, dict[str, int]]] = []
    for _ in range(given.rounds):
        order = list(allocators.items())
        random.shuffle(order)
        rounds.append({name: run(path, given.decommit) for name, path in order})
    print(f"{'resident, MB':14}" + "".join(f"{m:>10}" for m in MOMENTS) + f"{'idle / its own':>26}")
    for name in allocators:
        cells = [statistics.median(r[name][m] for r in rounds) / 1e6 for m in MOMENTS]
        ratios = [r[name]["idle"] / r["its own"]["idle"] for r in rounds]
        spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]"
        print(f"{name:14}" + "".join(f"{cell:10.1f}" for cell in cells) + f"{spread:>26}")
    own = rounds[0]["its own"]
    print(
        f"Redis itself counts {own['used_peak'] / 1e6:.1f} MB at the peak and "
        f"{own['used_idle'] / 1e6:.1f} MB at the end ({given.rounds} rounds)"
    )
    if given.json:
        Path(given.json).write_text(json.dumps({"rounds": rounds}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
