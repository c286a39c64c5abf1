"""The pool inside of inference engines. Each integration needs an extra of its own."""

from __future__ import annotations

__all__: list[str] = []
