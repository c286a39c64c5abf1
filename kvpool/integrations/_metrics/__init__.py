"""The parts of `kvpool.integrations.metrics` and `kvpool.integrations.otel`."""

from __future__ import annotations
