"""The command ``kvpool``: presentation only; everything it does is in the public library."""

from __future__ import annotations

from kvpool import _exports
from kvpool.cli._app import app, main

__all__ = ["app", "main"]

_exports.publish(__name__)
