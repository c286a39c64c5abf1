"""Metrics of a pool, of an engine that serves from it, and of tiers, for OpenTelemetry.

Needs the extra ``kvpool[otel]``; the guide is the page "server". Where metrics go is the
application's choice, as always with OpenTelemetry: without a meter provider they go nowhere.
"""

from __future__ import annotations

from kvpool import _exports
from kvpool.integrations._metrics.opentelemetry import (
    TokenTimes,
    observe_engine,
    observe_pool,
    observe_tiers,
)

__all__ = ["TokenTimes", "observe_engine", "observe_pool", "observe_tiers"]

_exports.publish(__name__)
