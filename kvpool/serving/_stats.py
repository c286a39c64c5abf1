"""What an engine tells of itself: `EngineStats` when asked, `EngineObserver` as it happens."""

from __future__ import annotations

import bisect
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kvpool.serving._generation import FinishReason, Usage

__all__ = ["BOUNDS", "REASONS", "EngineObserver", "EngineStats", "Histogram", "Meter"]

_log = logging.getLogger(__name__)

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper ends in seconds of the classes of times; the last class has no end."""

REASONS: tuple[FinishReason, ...] = ("stop", "length", "cancelled", "deadline", "error")


class EngineObserver:
    """Hears what an engine does. Derive from it, and override what is of interest.

    All methods but `on_queued` are called by the engine's thread, between two steps: be brief. What
    they raise is logged, and changes nothing.
    """

    def on_queued(self) -> None:
        """Note that a request was accepted."""

    def on_first_token(self, seconds: float) -> None:
        """Note the first token of a request, and the seconds since the request was accepted."""

    def on_token(self, seconds: float) -> None:
        """Note another token of a request, and the seconds since the one before."""

    def on_preempted(self) -> None:
        """Note that a generation lost its place, and waits to go on."""

    def on_finished(self, reason: FinishReason, usage: Usage) -> None:
        """Note that a generation is finished."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often something took how long.

    Attributes
    ----------
    count : int
    total : float
        Seconds.
    bounds : tuple of float
        Upper ends of the classes in seconds, each with its end.
    counts : tuple of int
        One for each class, and the last for what was longer than all bounds.
    """

    count: int = 0
    total: float = 0.0
    bounds: tuple[float, ...] = BOUNDS
    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)

    @property
    def mean(self) -> float:
        """``total / count``; 0 without any."""
        return self.total / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The figures of an engine, from `Engine.stats`.

    Attributes
    ----------
    queued : int
        Requests that wait, those that were preempted included.
    running : int
        Generations under way.
    loading : int
        Of those, the ones whose first tokens are being loaded from tiers.
    preempted : int
        Of the requests that wait, the ones that lost their place.
    accepted, preemptions, steps : int
        Requests accepted, places lost, and steps of the model, so far.
    prompt_tokens, cached_tokens : int
        Tokens of the prompts of all generations that began; of those, the ones that were in the
        pool.
    completion_tokens : int
        Tokens generated.
    finished : mapping of str to int
        Generations by `FinishReason`.
    first_token, between_tokens : Histogram
        Seconds from a request to its first token, and from one token to the next.
    promised_bytes : int
        What the generations under way may grow to, all together.
    """

    queued: int = 0
    running: int = 0
    preempted: int = 0
    accepted: int = 0
    preemptions: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finished: Mapping[FinishReason, int] = field(default_factory=dict)
    first_token: Histogram = field(default_factory=Histogram)
    between_tokens: Histogram = field(default_factory=Histogram)
    promised_bytes: int = 0
    loading: int = 0


class _Times:
    """A histogram that grows."""

    def __init__(self) -> None:
        self.total = 0.0
        self.counts = [0] * (len(BOUNDS) + 1)

    def add(self, seconds: float) -> None:
        self.total += seconds
        self.counts[bisect.bisect_left(BOUNDS, seconds)] += 1

    def histogram(self) -> Histogram:
        return Histogram(sum(self.counts), self.total, BOUNDS, tuple(self.counts))


class Meter:
    """Counts what an engine does, and tells its observer. Any thread may call.

    Parameters
    ----------
    observer : EngineObserver
    """

    def __init__(self, observer: EngineObserver) -> None:
        self._observer = observer
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(
            ("accepted", "preemptions", "steps", "prompt_tokens", "cached_tokens"), 0
        )
        self._completion_tokens = 0
        self._finished: dict[FinishReason, int] = dict.fromkeys(REASONS, 0)
        self._first, self._between = _Times(), _Times()
        self._last_end = 0.0  # or since when there is something to do, if that is later
        self._pace = 1.0  # seconds between two ends, a moving average

    def accepted(self, now: float) -> None:
        """Count an accepted request, before it can be finished."""
        with self._lock:
            # Below it if Ctrl-C came between a request and this call.
            if self._counts["accepted"] <= sum(self._finished.values()):
                self._last_end = now  # while there was nothing to do, nothing could end
            self._counts["accepted"] += 1

    def queued(self) -> None:
        """Tell the observer of an accepted request."""
        self._tell(self._observer.on_queued)

    def began(self, usage: Usage) -> None:
        """Count the tokens of the prompt of a generation that begins."""
        self._count(prompt_tokens=usage.prompt_tokens, cached_tokens=usage.cached_tokens)

    def stepped(self) -> None:
        """Count a step of the model."""
        self._count(steps=1)

    def token(self, seconds: float, *, is_first: bool) -> None:
        """Count a token."""
        with self._lock:
            self._completion_tokens += 1
            (self._first if is_first else self._between).add(seconds)
        tell = self._observer.on_first_token if is_first else self._observer.on_token
        self._tell(tell, seconds)

    def preempted(self) -> None:
        """Count a lost place."""
        self._count(preemptions=1)
        self._tell(self._observer.on_preempted)

    def finished(self, reason: FinishReason, usage: Usage, now: float) -> None:
        """Count a generation that is finished."""
        with self._lock:
            self._finished[reason] += 1
            self._pace += 0.2 * (now - self._last_end - self._pace)
            self._last_end = now
        self._tell(self._observer.on_finished, reason, usage)

    @property
    def pace(self) -> float:
        """Seconds between the ends of two generations of late, without idle time; 1 at first."""
        return self._pace

    def stats(self, **now: int) -> EngineStats:
        """Return all figures; those of this moment are given."""
        with self._lock:
            return EngineStats(
                **self._counts,
                completion_tokens=self._completion_tokens,
                finished=MappingProxyType(dict(self._finished)),
                first_token=self._first.histogram(),
                between_tokens=self._between.histogram(),
                **now,
            )

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                self._counts[name] += number

    def _tell(self, method: Callable[..., None], *facts: Any) -> None:
        try:
            method(*facts)
        except Exception:
            _log.exception("the observer of an engine raised in %s", method.__name__)
