"""Metrics of a pool, of an engine that serves from it, and of tiers, for Prometheus.

Needs the extra ``kvpool[metrics]``; the guide is the page "server". `kvpool.integrations.otel` has
the same metrics for OpenTelemetry.
"""

from __future__ import annotations

from kvpool import _exports
from kvpool.integrations._metrics.prometheus import EngineCollector, PoolCollector, TierCollector

__all__ = ["EngineCollector", "PoolCollector", "TierCollector"]

_exports.publish(__name__)
