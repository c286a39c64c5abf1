"""A kind of plugin that only these tests have."""

from __future__ import annotations

from dataclasses import dataclass

from kvpool.hookspecs import hookspec

__all__ = ["Greeting", "GreetingSpec"]


@dataclass
class Greeting:
    """What the hook provides."""

    text: str


class GreetingSpec:
    """The hook."""

    @hookspec
    def kvpool_greeting(self) -> Greeting:
        """Greet."""
        raise AssertionError("a hook specification is never called")
