"""The texts of system errors."""

from __future__ import annotations

import errno

__all__ = ["why"]


def why(error: OSError) -> str:
    """Return the reason of a system error with the name of its number, and what to do about it."""
    reason = f"{errno.errorcode.get(error.errno or 0, 'error')}: {error.strerror or error}"
    if error.errno == errno.EFBIG:
        reason += " (`ulimit -f` limits files, and memory that can be shared is one: raise it)"
    return reason
