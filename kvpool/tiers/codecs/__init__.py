"""The codecs that kvpool ships, one module each; each is a plugin of ``kvpool.codecs``."""

from __future__ import annotations

__all__: list[str] = []
