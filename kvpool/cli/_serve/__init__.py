"""``kvpool serve``: a local model behind OpenAI's API, over one bounded pool."""

from __future__ import annotations

from kvpool.cli._serve.command import serve

__all__ = ["serve"]
