"""The texts of system errors."""

from __future__ import annotations

import errno

__all__ = ["why"]


def why(error: OSError) -> str:
    """Return the reason of a system error with the name of its number."""
    return f"{errno.errorcode.get(error.errno or 0, 'error')}: {error.strerror or error}"
