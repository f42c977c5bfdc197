"""A web service through a day, with and without one line of dmi.python.

Flask under gunicorn with one worker. The day: requests, a report that reads a large answer at noon
(the peak), requests again, of which some fill a cache. Shown is what the worker holds after each
part and right after the first report, without dmi, with dmi.python.install(), and with a context
for each route.

    pip install flask gunicorn
    python examples/python_service.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

APP = """
import gc, json, flask
app = flask.Flask("service")
CACHE = {}

def answer(n):
    orders = [{"no": k, "sum": k * 1.5, "text": f"order {k} of {n}"} for k in range(20)]
    return {"id": n, "name": f"user {n}", "orders": orders}

@app.route("/user/<int:n>")
def user(n):
    found = answer(n)
    if n % 50 == 0: CACHE[n] = found
    return found

@app.route("/report")
def report():
    text = json.dumps([answer(n) for n in range(8000)])
    rows = json.loads(text)
    for row in rows[::400]: CACHE["report", row["id"]] = row["name"]
    return {"rows": len(rows)}
LINE
@app.route("/usage")
def usage():
    try:
        import dmi
        return [row.as_dict() for row in dmi.python.usage()]
    except Exception:
        return []
"""

LINES = {
    "without": "",
    "install": "import dmi; dmi.python.install()",
    "contexts": "import dmi; app.wsgi_app = dmi.python.middleware.WSGI("
    'app.wsgi_app, lambda environ: environ["PATH_INFO"].split("/")[1])',
}
# Requests and reports of the morning, noon, afternoon and evening.
PARTS = ((1500, 0), (200, 3), (1500, 0), (100, 0))


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) * 1024


def day(line: str) -> tuple[list[float], list[dict[str, object]]]:
    """MiB after each part, and the rows of usage() at the end."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "service.py").write_text(APP.replace("LINE", line))
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-w", "1", "-b", "127.0.0.1:0", "service:app"],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": f"{Path(__file__).resolve().parent.parent}"},
        )
        try:
            worker, port = 0, 0
            assert server.stderr is not None
            for said in server.stderr:
                if "Listening at" in said:
                    port = int(said.split(":")[-1].split()[0])
                if "Booting worker with pid" in said:
                    worker = int(said.split()[-1])
                    break

            def get(path: str) -> object:
                for _ in range(50):
                    try:
                        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as reply:
                            return json.load(reply)
                    except ConnectionError:
                        time.sleep(0.1)
                raise SystemExit(f"{path}: no answer")

            sizes = []
            number = 0
            for requests, reports in PARTS:
                for _ in range(requests):
                    number += 1
                    get(f"/user/{number}")
                for report in range(reports):
                    get("/report")
                    if report == 0:
                        sizes.append(resident(worker) / 2**20)
                time.sleep(3)
                sizes.append(resident(worker) / 2**20)
            rows = get("/usage")
            assert isinstance(rows, list)
            return sizes, rows
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(20)


def main() -> None:
    names = ["morning", "at noon", "after noon", "afternoon", "evening"]
    print(f"{'resident, MiB':14}" + "".join(f"{name:>12}" for name in names))
    for way, line in LINES.items():
        sizes, rows = day(line)
        print(f"{way:14}" + "".join(f"{size:12.1f}" for size in sizes))
        for row in rows:
            kib = [int(str(row[key])) / 1024 for key in ("busy", "retained", "page_bound")]
            print(
                f"    {row['name'] or '-':12} busy {kib[0]:8,.0f} KiB, retained {kib[1]:8,.0f}, "
                f"page bound {kib[2]:8,.0f}, {row['count']:,} blocks"
            )


if __name__ == "__main__":
    main()
