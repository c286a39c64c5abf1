"""What a replay found: the report, and the meter behind its averages."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from kvpool.pool_stats import PoolStats

__all__ = ["ReplayReport", "Tally", "Utilization", "UtilizationMeter"]

_FAILURES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Utilization:
    """How well the pool was filled: averages over the requests, looked at after each.

    Attributes
    ----------
    live_of_used : float
        Bytes of the tokens that sessions hold, of the bytes that the pool charged for them.
    used_of_capacity : float
        Bytes that the pool charged, of its capacity.
    peak_used : int
        Bytes; the most that was charged after a request.
    fragmentation : float
        ``1 - largest free range / free bytes``.
    """

    live_of_used: float
    used_of_capacity: float
    peak_used: int
    fragmentation: float


class UtilizationMeter:
    """Adds looks at a pool up."""

    def __init__(self) -> None:
        self._looks = self._filled_looks = self._peak = 0
        self._live_of_used = self._used_of_capacity = self._fragmentation = 0.0

    def look(self, live_bytes: int, stats: PoolStats) -> None:
        """Take the figures of one moment; an empty pool says nothing of live bytes."""
        self._looks += 1
        self._used_of_capacity += stats.utilization
        self._fragmentation += stats.fragmentation
        self._peak = max(self._peak, stats.used_memory)
        if stats.used_memory:
            self._filled_looks += 1
            self._live_of_used += live_bytes / stats.used_memory

    def result(self) -> Utilization:
        """Return the averages; 0 where there was nothing to look at."""
        looks = max(self._looks, 1)
        return Utilization(
            live_of_used=self._live_of_used / max(self._filled_looks, 1),
            used_of_capacity=self._used_of_capacity / looks,
            peak_used=self._peak,
            fragmentation=self._fragmentation / looks,
        )


@dataclass(slots=True)
class Tally:
    """What a replay has counted so far.

    Attributes
    ----------
    requests, rejected : int
        Requests read, and those of them that are larger than the pool.
    prompt_tokens, generated_tokens : int
        Of the requests that were served.
    reused_tokens : int
        Prompt tokens that the session held already.
    forkable_tokens : int
        Prompt tokens that were written although another session held the same ones.
    written_tokens, written_bytes : int
    verified_bytes : int
        Read back through views and compared; a byte counts each time.
    checksum_failures : int
        Runs of a head that were not what was written.
    first_failures : list of str
        Which, at most the first five.
    seconds : float
        Wall time of serving and checking, without reading the trace and showing progress.
    """

    requests: int = 0
    rejected: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    reused_tokens: int = 0
    forkable_tokens: int = 0
    written_tokens: int = 0
    written_bytes: int = 0
    verified_bytes: int = 0
    checksum_failures: int = 0
    first_failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def served(self) -> int:
        """Requests that were not rejected."""
        return self.requests - self.rejected

    @property
    def tokens_per_second(self) -> float:
        """Tokens written, by `seconds`."""
        return self.written_tokens / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Bytes written, by `seconds`."""
        return self.written_bytes / self.seconds if self.seconds else 0.0

    def copy(self) -> Tally:
        """Return one that does not count on."""
        return replace(self, first_failures=list(self.first_failures))

    def note_failures(self, failures: list[str]) -> None:
        """Count runs that were not what was written."""
        self.checksum_failures += len(failures)
        self.first_failures += failures[: _FAILURES_SHOWN - len(self.first_failures)]


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """The figures of a replay, complete or not.

    Attributes
    ----------
    backend, policy, layout : str
    ttl : float or None
        Seconds of the trace's clock.
    complete : bool
        Whether the sessions that were left at the end were read again, and all books checked.
    names_sessions : bool
        Whether the trace says which request continues which session. If not, each request
        is a session of its own and there is nothing to hit.
    tally : Tally
    utilization : Utilization
    stats : PoolStats
        The manager's own figures, at the end.
    """

    backend: str
    policy: str
    layout: str
    ttl: float | None
    complete: bool
    names_sessions: bool
    tally: Tally
    utilization: Utilization
    stats: PoolStats

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as what JSON can say; a figure that does not apply is None."""
        stats, tally, sessions = self.stats, self.tally, self.names_sessions
        return {
            "backend": self.backend,
            "policy": self.policy,
            "layout": self.layout,
            "ttl_seconds": self.ttl,
            "capacity_bytes": stats.total_capacity,
            "complete": self.complete,
            "requests": tally.requests,
            "rejected": tally.rejected,
            "tokens": {
                "prompt": tally.prompt_tokens,
                "generated": tally.generated_tokens,
                "written": tally.written_tokens,
                "reused": tally.reused_tokens if sessions else None,
                "forkable": tally.forkable_tokens if sessions else None,
            },
            "bytes": {"written": tally.written_bytes, "verified": tally.verified_bytes},
            "checksum_failures": tally.checksum_failures,
            "first_failures": list(tally.first_failures),
            "hits": stats.hits if sessions else None,
            "misses": stats.misses if sessions else None,
            "hit_rate": stats.hit_rate if sessions else None,
            "evictions": {str(reason): n for reason, n in stats.evictions_by_reason.items()},
            "active_entries": stats.active_entries,
            "utilization": {
                "live_of_used": self.utilization.live_of_used,
                "used_of_capacity": self.utilization.used_of_capacity,
                "peak_used_bytes": self.utilization.peak_used,
                "fragmentation": self.utilization.fragmentation,
                "fragmentation_at_end": stats.fragmentation,
            },
            "seconds": tally.seconds,
            "tokens_per_second": tally.tokens_per_second,
            "bytes_per_second": tally.bytes_per_second,
        }
