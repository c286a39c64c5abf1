"""``kvpool chat``: chat with a local model, in many sessions that share one pool."""

from __future__ import annotations

from kvpool.cli._chat.command import chat

__all__ = ["chat"]
