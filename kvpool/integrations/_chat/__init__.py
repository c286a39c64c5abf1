"""The half of `kvpool chat` that knows models; see `kvpool.integrations.chat`."""

from __future__ import annotations
