"""deploy/monitoring/prometheus-rule.yaml: the alerts once more, as the Prometheus Operator reads them."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

_ALERTS = Path(__file__).parents[2] / "deploy" / "monitoring" / "alerts.yml"
_HEAD = """\
# Made of alerts.yml by `make references`: do not edit.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: visual-search
spec:
"""


def manifest() -> str:
    """The whole file."""
    alerts = _ALERTS.read_text(encoding="utf-8")
    return _HEAD + indent(alerts[alerts.index("groups:") :], "  ")
