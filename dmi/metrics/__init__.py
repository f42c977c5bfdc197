"""Heaps as metrics: Prometheus and OpenTelemetry.

>>> from prometheus_client import REGISTRY
>>> REGISTRY.register(dmi.metrics.collector())

>>> dmi.metrics.instrument(opentelemetry.metrics.get_meter("dmi"))

``dmi.metrics.text(pid=N)`` and `dmi metrics --pid N` do the same for another process. What is not
known has no sample; it is never 0. docs/metrics.md lists the names. Needs the extra ``metrics``.
"""

from __future__ import annotations

from dmi.metrics._own import OwnHeaps
from dmi.metrics._process import OtherProcess
from dmi.metrics._sample import Metric, Sample
from dmi.metrics._write import collector, instrument, text

__all__ = ["Metric", "OtherProcess", "OwnHeaps", "Sample", "collector", "instrument", "text"]
