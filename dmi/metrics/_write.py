"""Metrics in the forms of Prometheus and OpenTelemetry."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from dmi.metrics._own import OwnHeaps
from dmi.metrics._process import OtherProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dmi.metrics._sample import Metric, Source

__all__ = ["collector", "instrument", "prometheus_name", "text"]

_SUFFIXES = {"By": "_bytes", "s": "_seconds"}


def _extra(what: str) -> ImportError:
    return ImportError(f"{what} needs the extra 'metrics': pip install 'dmi-heap[metrics]'")


def prometheus_name(metric: Metric) -> str:
    """dmi.heap.committed in By becomes dmi_heap_committed_bytes, counters end with _total."""
    name = metric.name.replace(".", "_")
    suffix = _SUFFIXES.get(metric.unit, "")
    return name if name.endswith(suffix) else name + suffix


class _Collector:
    """What a registry of prometheus_client asks."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Iterable[Any]:
        """Nothing beforehand: the names follow from what is found."""
        return []

    def collect(self) -> Iterator[Any]:
        try:
            from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
        except ImportError:
            raise _extra("a Prometheus collector") from None
        for each in self._source.metrics():
            names = sorted({name for sample in each.samples for name in sample.labels})
            family = CounterMetricFamily if each.kind == "counter" else GaugeMetricFamily
            found = family(prometheus_name(each), each.help, labels=names)
            for sample in each.samples:
                found.add_metric([sample.labels.get(name, "") for name in names], sample.value)
            yield found


def collector(source: Source | None = None) -> Any:
    """A collector for prometheus_client's registries, of this process by default.

    ImportError, naming the extra, when it is asked and prometheus_client is not there.
    """
    return _Collector(OwnHeaps() if source is None else source)


def text(pid: int | None = None, *, source: Source | None = None) -> str:
    """The metrics of this process, or of process ``pid``, as Prometheus reads them."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest
    except ImportError:
        raise _extra("Prometheus text") from None
    if source is None:
        source = OwnHeaps() if pid is None else OtherProcess(pid)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector(source))
    return generate_latest(registry).decode()


def instrument(meter: Any, source: Source | None = None) -> list[Any]:
    """Observable instruments on an OpenTelemetry meter: gauges and counters, named dmi.heap.… with
    the attribute ``heap`` and others as of Prometheus. They are returned, and live as long as the
    meter. Of one collection all instruments report the same moment.
    """
    try:
        from opentelemetry.metrics import Observation
    except ImportError:
        raise _extra("OpenTelemetry") from None
    shared = _Shared(OwnHeaps() if source is None else source)

    def callback(name: str) -> Callable[[Any], list[Any]]:
        def observe(_options: Any) -> list[Any]:
            found = shared.take(name)
            return (
                []
                if found is None
                else [Observation(sample.value, dict(sample.labels)) for sample in found.samples]
            )

        return observe

    made = []
    for each in shared.known():
        make = (
            meter.create_observable_counter
            if each.kind == "counter"
            else meter.create_observable_gauge
        )
        made.append(
            make(each.name, callbacks=[callback(each.name)], unit=each.unit, description=each.help)
        )
    return made


class _Shared:
    """One reading for all callbacks of a collection: a callback that comes a second time begins
    the next one."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._found: dict[str, Metric] = {}
        self._asked: set[str] = set()

    def known(self) -> list[Metric]:
        return self._source.metrics()

    def take(self, name: str) -> Metric | None:
        with self._lock:
            if not self._found or name in self._asked:
                self._found = {each.name: each for each in self._source.metrics()}
                self._asked = set()
            self._asked.add(name)
            return self._found.get(name)
