"""Another process, from outside: its dmi heaps and its layers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dmi.address import process_heaps
from dmi.metrics._own import heap_metrics
from dmi.metrics._sample import metric
from dmi.metrics._system import rollup, system_metrics
from dmi.process import layers

if TYPE_CHECKING:
    from collections.abc import Callable

    from dmi._layers import Layers
    from dmi.address import OutsideHeap
    from dmi.metrics._sample import Metric

__all__ = ["OtherProcess"]


class OtherProcess:
    """Process ``pid`` as a source of metrics. Not thread-safe.

    share  of wall time that looking at its address space may take. ProcessLookupError when it is
    gone, PermissionError when its memory may not be read.
    """

    def __init__(
        self, pid: int, *, share: float = 0.01, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.pid = pid
        self._share = share
        self._clock = clock
        self._layers: Layers | None = None
        self._heaps: list[OutsideHeap] = []
        self._taken = -1.0
        self._cost = 0.0
        self._rollup: dict[str, int] = {}

    def metrics(self) -> list[Metric]:
        """What can be said now."""
        begin = self._clock()
        if self._layers is None or (begin - self._taken) * self._share >= self._cost:
            self._layers = layers(self.pid)
            self._heaps = process_heaps(self.pid)
            self._rollup = rollup(self.pid)
            self._taken = self._clock()
            self._cost = self._taken - begin
        rows: dict[str, dict[str, int]] = {}
        for each in self._heaps:
            row = rows.setdefault(each.name or "unnamed", {})
            for name, value in (
                ("reserved", each.reserved),
                ("committed", each.committed),
                ("busy", each.busy),
                ("retained", each.committed - each.busy),
                ("busy_blocks", each.busy_blocks),
            ):
                row[name] = row.get(name, 0) + value
        found = heap_metrics(rows, {})
        for what, text in (
            ("holds", "what an allocator took from the system"),
            ("uses", "what of it is handed out"),
            ("retains", "the difference"),
        ):
            samples = [
                ({"layer": layer.number, "holder": part.name}, getattr(part, what))
                for layer in self._layers.layers
                for part in layer.parts
            ]
            found.append(metric(f"dmi.layer.{what}", "gauge", "By", text, samples))
        found.append(
            metric("dmi.process.detail.age", "gauge", "s", "how old heaps and layers are",
                   [({}, max(0.0, self._clock() - self._taken))])
        )  # fmt: skip
        return [
            *(each for each in found if each is not None),
            *system_metrics(self.pid, self._rollup),
        ]
