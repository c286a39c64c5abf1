"""The sinks that kvpool ships, one module each; each is a plugin of ``kvpool.sinks``."""

from __future__ import annotations

__all__: list[str] = []
