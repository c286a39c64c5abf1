"""What Prometheus makes of the metrics of kvpool, and what its conventions ask of their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["families", "problems", "samples"]

# https://prometheus.io/docs/practices/naming, and what `promtool check metrics` looks for.
_ABBREVIATED = {"s", "ms", "us", "ns", "sec", "secs", "b", "kb", "mb", "gb", "bits", "percent"}
_LATER = {"minutes", "hours", "milliseconds", "microseconds", "kilobytes", "megabytes", "mebibytes"}
_RESERVED = ("_bucket", "_count", "_created", "_sum")
_KINDS = {"counter", "gauge", "histogram", "summary"}


def families(text: str) -> dict[str, Metric]:
    """Return the metrics of a text in the format of Prometheus, by name, counters with _total."""
    parsed: Iterable[Metric] = text_string_to_metric_families(text)
    return {_name(metric): metric for metric in parsed}


def samples(registry: CollectorRegistry) -> dict[str, dict[str, float]]:
    """Return the values of the metrics in a registry, by name, then by the values of labels."""
    found: dict[str, dict[str, float]] = {}
    text: bytes = generate_latest(registry)
    for metric in families(text.decode()).values():
        for sample in metric.samples:
            key = ",".join(sample.labels.values())
            found.setdefault(sample.name, {})[key] = sample.value
    return found


def problems(metrics: Iterable[Metric]) -> Iterator[str]:
    """Yield what the conventions of Prometheus have against metrics."""
    for metric in metrics:
        name, words = _name(metric), set(_name(metric).split("_"))
        if not re.fullmatch(r"kvpool(_[a-z]+)+", name):
            yield f"{name}: not kvpool_ and words in lower case"
        if (metric.type == "counter") != name.endswith("_total"):
            yield f"{name}: counters end with _total, and no others do"
        if name.endswith(_RESERVED):
            yield f"{name}: the suffix has a meaning of its own"
        if words & (_ABBREVIATED | _LATER):
            yield f"{name}: not a base unit, or one that is abbreviated"
        if words & _KINDS:
            yield f"{name}: the kind of a metric does not belong in its name"
        if not metric.documentation.endswith("."):
            yield f"{name}: the help is not a sentence"
        for label in {label for sample in metric.samples for label in sample.labels}:
            if not re.fullmatch(r"[a-z]+", label) or label in words:
                yield f"{name}: the label {label} is not one word that the name lacks"


def _name(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name
