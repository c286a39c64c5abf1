from __future__ import annotations

from tests.support.managers import make_manager

__all__ = ["make_manager"]
