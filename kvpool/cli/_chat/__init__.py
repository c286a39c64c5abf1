"""``kvpool chat``: many conversations with a model, their caches in one bounded pool."""

from __future__ import annotations

from kvpool.cli._chat.command import chat

__all__ = ["chat"]
