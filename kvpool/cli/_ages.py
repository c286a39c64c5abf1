"""How long ago something was, in words."""

from __future__ import annotations

__all__ = ["age_text"]


def age_text(seconds: float) -> str:
    """Return a duration in words, as the time since an event.

    Examples
    --------
    >>> [age_text(seconds) for seconds in (2, 59, 3599, 7200, 200_000)]
    ['now', '59 s ago', '59 min ago', '2 h ago', '2 d ago']
    """
    if seconds < 5:
        return "now"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
