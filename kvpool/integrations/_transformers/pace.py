"""`Pace`: how fast a model computes prompts, as its cache sees it."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["MEASURED_TOKENS", "Pace"]

MEASURED_TOKENS = 16
"""Tokens of a step that is measured, at least: a step of decoding is slower per token."""


class Pace:
    """Measures steps of a model from when each layer hands over its keys and values.

    Parameters
    ----------
    layers : int
        That hand over keys and values, one after the other, in each step.
    note : callable
        Takes tokens, and the seconds that the model took for them.

    Notes
    -----
    The time from the first layer to the last one is that of all layers but one. So it is taken
    ``layers / (layers - 1)`` times, which leaves out the embedding and the logits of a step. Of a
    model of one layer nothing is measured.
    """

    def __init__(self, layers: int, note: Callable[[int, float], object]) -> None:
        self._last = layers - 1
        self._note = note
        self._count = 0  # tokens of the step under way
        self._begun = 0.0

    def passed(self, layer: int, count: int) -> None:
        """Note that a layer has computed keys and values of the next tokens."""
        if layer == 0:
            self._count, self._begun = count, time.monotonic()
        elif layer == self._last and count == self._count:
            self._count = 0
            seconds = time.monotonic() - self._begun
            self._note(count, seconds * (self._last + 1) / self._last)
