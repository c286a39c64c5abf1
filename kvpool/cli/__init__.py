"""The command ``kvpool``: presentation only, over what the library offers to anyone."""

from __future__ import annotations

from kvpool.cli.app import main

__all__ = ["main"]
