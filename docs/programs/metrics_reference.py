"""The page of all Prometheus metrics, made from the collectors that the roles register."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import query_service.http.http_metrics
import query_service.metrics
import workers.signs.metrics

_INTRODUCTION = """# Metrics

Every Prometheus metric by the module that owns it. This page is written by `make references`; do not edit it. How
metrics are served, and which role fills which: [operations](operations.md#metrics). Alerts and a dashboard made of
them stand in `deploy/monitoring/`.
"""
_PLACES = {
    "Embed workers, aggregator, beat": workers.signs.metrics,
    "Query workers": query_service.metrics,
    "HTTP API": query_service.http.http_metrics,
}


def page() -> str:
    """The whole page."""
    lines = [_INTRODUCTION]
    for title, module in _PLACES.items():
        lines += [f"## {title}", "", "| metric | kind | labels | meaning |", "|---|---|---|---|", *_rows(module), ""]
    return "\n".join(lines)


def _rows(module: Any) -> Iterator[str]:
    for collector in vars(module).values():
        if hasattr(collector, "describe") and not isinstance(collector, type):
            (metric,) = collector.describe()
            name = f"`{metric.name}_total`" if metric.type == "counter" else f"`{metric.name}`"
            if metric.type == "histogram":
                name += " with `_bucket`, `_sum`, `_count`"
            labels = ", ".join(f"`{label}`" for label in collector._labelnames)  # noqa: SLF001 - nothing else tells them
            yield f"| {name} | {metric.type} | {labels} | {metric.documentation} |"
