"""A metric and its samples, before any system of monitoring names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Metric", "Sample", "Source", "metric"]

Kind = Literal["gauge", "counter"]


class Sample(NamedTuple):
    """A value and what it is of."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. name is dotted (``dmi.heap.committed``), unit "By", "1", "s" or "{block}"."""

    name: str
    kind: Kind
    unit: str
    help: str
    samples: tuple[Sample, ...]


class Source(Protocol):
    """What can be asked for metrics, again and again."""

    def metrics(self) -> list[Metric]: ...


def metric(
    name: str,
    kind: Kind,
    unit: str,
    text: str,
    samples: Iterable[tuple[Mapping[str, str], float | None]],
) -> Metric | None:
    """A metric without the samples that are not known; None when none is."""
    known = tuple(Sample(labels, value) for labels, value in samples if value is not None)
    return Metric(name, kind, unit, text, known) if known else None
