"""Metrics: what is said of heaps, in the forms of Prometheus and OpenTelemetry."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import dmi
from dmi import cli, metrics
from dmi._cgroup import cgroup_of

prometheus_client = pytest.importorskip("prometheus_client")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "monitoring"


def values(text: str, name: str) -> dict[tuple[str, ...], float]:
    """Samples of a metric by the values of their labels."""
    from prometheus_client.parser import text_string_to_metric_families

    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sample.labels.values())] = float(sample.value)
    return found


def test_heaps_of_one_name_are_summed() -> None:
    with dmi.Heap("lazy", name="pool") as one, dmi.Heap("never", name="pool") as other:
        for heap in (one, other):
            for _ in range(1000):
                heap.malloc(500)
        text = metrics.text()
        expected = one.stats().busy + other.stats().busy
        assert values(text, "dmi_heap_busy_bytes")["pool",] == expected
        assert values(text, "dmi_heap_count")["pool",] == 2
        committed = values(text, "dmi_heap_committed_bytes")["pool",]
        assert values(text, "dmi_heap_retained_bytes")["pool",] == committed - expected
        policies = {key for key in values(text, "dmi_heap_info") if "pool" in key}
        assert policies == {("lazy", "pool"), ("never", "pool")}
        bound = values(text, "dmi_heap_page_bound_bytes")["pool",]
        assert 0 < bound <= committed
        reasons = values(text, "dmi_heap_retained_by_reason_bytes")
        assert sum(v for k, v in reasons.items() if "pool" in k) == committed - expected


def test_walks_keep_to_their_share() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0  # every look at the clock takes a second
        return now[0]

    def age() -> float:
        found = {m.name: m for m in source.metrics()}
        return found["dmi.heap.detail.age"].samples[0].value

    with dmi.Heap(name="aged"):
        source = metrics.OwnHeaps(share=0.01, clock=clock)
        assert age() == 1.0
        for _ in range(40):  # a walk took a second, so the next comes 100 seconds later
            last = age()
        assert last > 80
        now[0] += 100
        assert age() <= 2.0


def test_without_walks_nothing_is_made_up() -> None:
    with dmi.Heap(name="plain") as heap:
        heap.malloc(100)
        names = {m.name for m in metrics.OwnHeaps(share=0).metrics()}
    assert "dmi.heap.committed" in names
    assert not names & {"dmi.heap.page_bound", "dmi.heap.retained_by_reason", "dmi.heap.detail.age"}


@pytest.mark.parametrize("share", [-1, 2, "all", True])
def test_wrong_shares(share: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="share must be"):
        metrics.OwnHeaps(share=share)


def test_names_follow_the_conventions() -> None:
    with dmi.Heap(name="named") as heap:
        heap.malloc(100)
        found = metrics.OwnHeaps().metrics()
        text = metrics.text()
    for each in found:
        assert re.fullmatch(r"[a-z][a-z0-9_.]*", each.name)
        assert each.help
    assert "dmi_heap_decommit_bytes_total{" in text
    assert not re.search(r"_bytes_bytes|_total_total", text)


def test_registry_and_opentelemetry() -> None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(metrics.collector())
    with dmi.Heap(name="both") as heap:
        heap.malloc(1000)
        assert registry.get_sample_value("dmi_heap_busy_bytes", {"heap": "both"}) == 1000
        pytest.importorskip("opentelemetry.sdk.metrics")
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        reader = InMemoryMetricReader()
        provider = MeterProvider(metric_readers=[reader])
        metrics.instrument(provider.get_meter("test"))
        heap.malloc(1000)
        found = {
            metric.name: metric
            for resource in reader.get_metrics_data().resource_metrics  # type: ignore[union-attr]
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
        rows: Any = found["dmi.heap.busy"].data.data_points
        points = {point.attributes["heap"]: point.value for point in rows}
        assert points["both"] == 2000
        assert found["dmi.heap.busy"].unit == "By"
        provider.shutdown()


PROGRAM = """
import dmi, sys, time
heap = dmi.Heap("never", name="cache")
blocks = [heap.malloc(1000) for _ in range(20000)]
for block in blocks[100:]: heap.free(block)
print(heap.stats().busy, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def program() -> Any:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    process.busy = int(process.stdout.readline())  # type: ignore[attr-defined]
    yield process
    process.stdin.close()
    process.wait()
    process.stdout.close()


@pytest.mark.keeps
def test_another_process(program: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["metrics", "--pid", str(program.pid)]) == 0
    text = capsys.readouterr().out
    assert values(text, "dmi_heap_busy_bytes")["cache",] == program.busy
    assert values(text, "dmi_heap_retained_bytes")["cache",] > 15_000_000
    assert values(text, "dmi_process_resident_bytes")[()] > 15_000_000
    holders = values(text, "dmi_layer_holds_bytes")
    assert any(key[0].startswith("dmi heap") for key in holders)
    # What cannot be told from outside has no sample.
    assert all(value >= 0 for value in values(text, "dmi_layer_uses_bytes").values())


def test_a_process_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["metrics", "--pid", "4194000"]) == 2
    assert "4194000" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["metrics", "--pid", "1", "--listen", "here"])
    assert "not HOST:PORT" in capsys.readouterr().err


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_served_until_the_process_ends(program: Any) -> None:
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "dmi", "metrics", "--pid", str(program.pid), "--listen", str(port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    assert f"http://127.0.0.1:{port}/metrics" in server.stdout.readline()
    for _ in range(2):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            text = answer.read().decode()
        assert values(text, "dmi_heap_busy_bytes")["cache",] == program.busy
    program.stdin.close()
    program.wait()
    assert server.wait(timeout=20) == 0
    assert "has ended" in server.stdout.read()
    server.stdout.close()


def queries() -> set[str]:
    """The expressions of the dashboard and of the alerts."""
    board = json.loads((EXAMPLES / "dashboard.json").read_text())
    found = {target["expr"] for panel in board["panels"] for target in panel["targets"]}
    rules = (EXAMPLES / "alerts.yml").read_text()
    return found | set(re.findall(r"expr: \|\n((?: {10}.*\n)+)", rules))


def test_what_dashboard_and_alerts_ask_for_is_there(program: Any) -> None:
    with dmi.Heap(name="seen"):
        there = set(re.findall(r"^# TYPE (\w+) ", metrics.text(), re.MULTILINE))
    there |= set(re.findall(r"^# TYPE (\w+) ", metrics.text(program.pid), re.MULTILINE))
    there |= {"dmi_cgroup_limit_bytes", "dmi_cgroup_current_bytes", "dmi_cgroup_part_bytes"}
    asked = {name for query in queries() for name in re.findall(r"dmi_\w+", query)}
    assert len(asked) >= 10
    assert asked <= there


def test_docs_list_every_metric(program: Any) -> None:
    page = (EXAMPLES.parents[1] / "docs" / "metrics.md").read_text()
    with dmi.Heap(name="seen"):
        text = metrics.text() + metrics.text(program.pid)
    for name in set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE)):
        assert f"`{name.removesuffix('_total')}`" in page, name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's prometheus")
def test_promtool_passes_the_rules() -> None:
    for command in ("check", "test"):
        file = {"check": "alerts.yml", "test": "alerts_test.yml"}[command]
        done = subprocess.run(
            ["promtool", command, "rules", file], cwd=EXAMPLES, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's prometheus")
def test_a_real_prometheus_scrapes(program: Any, tmp_path: Path) -> None:
    port, own = free_port(), free_port()
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: [{EXAMPLES / 'alerts.yml'}]\n"
        "scrape_configs:\n- job_name: dmi\n  static_configs:\n"
        f"  - targets: ['127.0.0.1:{port}']\n"
    )
    with (tmp_path / "log").open("w") as log:
        servers = [
            subprocess.Popen(command, stdout=log, stderr=log)
            for command in (
                [sys.executable, "-m", "dmi", "metrics", "--pid", str(program.pid),
                 "--listen", str(port)],
                ["prometheus", f"--config.file={tmp_path}/prometheus.yml",
                 f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{own}"],
            )
        ]  # fmt: skip
        try:
            assert until(own, "dmi_heap_busy_bytes") == {"cache": program.busy}, log_of(tmp_path)
            for query in queries():
                ask(own, re.sub(r"\$\w+", "1m", re.sub(r"\{job=~[^}]*\}", "", query)))
        finally:
            for server in servers:
                server.terminate()
                server.wait()


def ask(port: int, query: str) -> list[Any]:
    """The answer of a Prometheus, which refuses what it does not understand."""
    form = urllib.parse.urlencode({"query": query}).encode()
    with urllib.request.urlopen(
        f"http://127.0.0.1:{port}/api/v1/query", form, timeout=10
    ) as answer:
        found = json.load(answer)
    assert found["status"] == "success"
    return list(found["data"]["result"])


def until(port: int, query: str) -> dict[str, float]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            rows = ask(port, query)
        except OSError:
            rows = []
        if rows:
            return {row["metric"]["heap"]: float(row["value"][1]) for row in rows}
        time.sleep(0.3)
    return {}


def log_of(folder: Path) -> str:
    return (folder / "log").read_text()[-2000:]


# ---- cgroups, as containers have them ------------------------------------------------------------


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


STAT_V2 = "anon 700\nfile 200\nshmem 10\nslab 30\nsock 4\ninactive_file 150\n"


def test_cgroup_version_2(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/7/cgroup": "0::/kubepods/pod1/box\n",
            "sys/fs/cgroup/kubepods/pod1/box/memory.current": "1000\n",
            "sys/fs/cgroup/kubepods/pod1/box/memory.max": "max\n",
            "sys/fs/cgroup/kubepods/pod1/box/memory.stat": STAT_V2,
            "sys/fs/cgroup/kubepods/pod1/memory.max": "5000\n",
            "sys/fs/cgroup/kubepods/memory.high": "4000\n",
        },
    )
    group = cgroup_of(7, root)
    assert group is not None
    assert (group.current, group.limit, group.pressing) == (1000, 4000, 850)
    assert group.parts == {
        "anonymous": 700, "file": 200, "shared": 10, "slab": 30, "sockets": 4, "kernel": None,
        "inactive_file": 150,
    }  # fmt: skip


def test_cgroup_version_1_in_a_container(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "9:cpu:/x\n8:memory:/docker/abc\n0::/docker/abc\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.stat": "cache 1\ntotal_cache 200\ntotal_rss 700\n",
        },
    )
    group = cgroup_of(None, root)
    assert group is not None
    assert (group.current, group.limit) == (1000, None)
    assert not group.limited
    assert group.parts["anonymous"] == 700
    assert group.parts["shared"] is None, "not said is not 0"
    assert group.pressing == 1000


def test_a_root_that_may_not_be_looked_into_has_no_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path, {"proc/7/cgroup": "8:memory:/docker/abc\n"})
    status = Path.stat

    def refuse(path: Path, **words: bool) -> os.stat_result:
        if "root" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return status(path, **words)

    monkeypatch.setattr(Path, "stat", refuse)
    assert cgroup_of(7, root) is None


@pytest.mark.parametrize(
    "lines", ["", "nonsense", "0::/", "1:memory", "0::/../../etc\n", "\0\xff:::", ":" * 5000]
)
def test_no_cgroup(tmp_path: Path, lines: str) -> None:
    root = tree(tmp_path, {"proc/self/cgroup": lines})
    assert cgroup_of(None, root) is None


def test_own_cgroup_is_bounded_by_the_machine() -> None:
    group = cgroup_of()
    if group is None:
        pytest.skip("no cgroup to be read here")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert group.current is None or 0 < group.current <= total
