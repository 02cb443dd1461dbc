"""Metric families as plain values, and their Prometheus text with one ``process`` label per reporting process.

Families are built about once a second from plain counters; nothing here is called per token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST

Labels = dict[str, str]


class Family(msgspec.Struct, frozen=True):
    """One metric. ``kind`` is counter, gauge or histogram; samples are (name suffix, labels, value)."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, Labels, float]]


class Report(msgspec.Struct, frozen=True):
    """Everything one process counts, at one moment."""

    process: str
    families: list[Family]


def counter(name: str, text: str, values: Mapping[str, float] | float, *, label: str = "") -> Family:
    """A counter; with ``label``, one sample per key of ``values``. ``name`` goes without the ``_total`` suffix."""
    return Family(name, "counter", text, [("_total", labels, value) for labels, value in _labelled(values, label)])


def gauge(name: str, text: str, values: Mapping[str, float] | float, *, label: str = "") -> Family:
    """A gauge; with ``label``, one sample per key of ``values``."""
    return Family(name, "gauge", text, [("", labels, value) for labels, value in _labelled(values, label)])


def histogram(name: str, text: str, *, bounds: Sequence[float], counts: Sequence[int], total: float) -> Family:
    """A histogram from counts per bucket (not cumulative; one more than ``bounds``, the last one unbounded)."""
    samples: list[tuple[str, Labels, float]] = []
    running = 0
    for bound, count in zip([*map(str, bounds), "+Inf"], counts, strict=True):
        running += count
        samples.append(("_bucket", {"le": bound}, running))
    return Family(name, "histogram", text, [*samples, ("_count", {}, running), ("_sum", {}, total)])


def _labelled(values: Mapping[str, float] | float, label: str) -> list[tuple[Labels, float]]:
    if isinstance(values, Mapping):
        return [({label: key}, value) for key, value in sorted(values.items())]
    return [({}, values)]


def values_of(report: Report, name: str) -> dict[str, float]:
    """A counter's or gauge's values by its label's value, "" where it has none; empty when not reported."""
    families = [family for family in report.families if family.name == name]
    return {next(iter(labels.values()), ""): value for family in families for _, labels, value in family.samples}


def render(reports: Iterable[Report]) -> bytes:
    """Prometheus text of many processes' reports, each sample labelled with its process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(reports))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, reports: Iterable[Report]) -> None:
        self._metrics: dict[str, Metric] = {}
        for report in sorted(reports, key=lambda r: r.process):
            for family in report.families:
                self._add(report.process, family)

    def _add(self, process: str, family: Family) -> None:
        metric = self._metrics.setdefault(family.name, Metric(family.name, family.help, family.kind))
        for suffix, labels, value in family.samples:
            metric.add_sample(family.name + suffix, {**labels, "process": process}, value)

    def collect(self) -> Iterable[Metric]:
        return self._metrics.values()
