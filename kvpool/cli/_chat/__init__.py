"""``kvpool chat``: chat with a local model, in many sessions that share one pool."""

from __future__ import annotations

from kvpool.cli._chat.command import chat
from kvpool.cli._chat.resume_option import ChatCommand

__all__ = ["ChatCommand", "chat"]
