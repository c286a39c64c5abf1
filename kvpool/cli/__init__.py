"""The command ``kvpool``: presentation only; everything it does is in the public library."""

from __future__ import annotations

from kvpool import _first_use
from kvpool._first_use import TYPE_CHECKING
from kvpool.cli._main import main

if TYPE_CHECKING:
    from kvpool.cli._app import app

__all__ = ["app", "main"]

if not TYPE_CHECKING:  # a type checker knows the names from above, and no others
    __getattr__, __dir__ = _first_use.on_first_use(__name__, {"app": "kvpool.cli._app"})

main.__module__ = __name__  # as `publish` does, which takes longer to import
