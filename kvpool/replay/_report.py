"""The report of a replay, and the meter that computes its averages."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from kvpool.stats import PoolStats

__all__ = ["ReplayReport", "Tally", "Utilization", "UtilizationMeter"]

_FAILURES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Utilization:
    """How well the pool was filled: averages over the time of the trace.

    What is there after a request counts for as long as the trace's clock stands until the
    next one. Where the clock never moves, each request counts once.

    Attributes
    ----------
    live_of_used : float
        Bytes of the tokens that sessions hold, of the bytes that the pool charged for them.
    live_of_whole_blocks : float
        Of the bytes of the blocks that the same sessions have: what they would be charged
        with where pages cannot be given back.
    live_of_paged_blocks : float
        Of the bytes of blocks of 16 tokens, as many as each session needs: what a paged
        cache would charge them with. This is arithmetic; nothing of the kind is run.
    used_of_capacity : float
        Bytes that the pool charged, of its capacity.
    peak_used : int
        Bytes; the most that was charged after a request.
    fragmentation : float
        ``1 - largest free range / free bytes``.
    """

    live_of_used: float
    live_of_whole_blocks: float
    live_of_paged_blocks: float
    used_of_capacity: float
    peak_used: int
    fragmentation: float


class _TimeMean:
    """The mean of a value over time, where each value lasts until the next one."""

    def __init__(self) -> None:
        self._held: float | None = None
        self._since = self._sum = self._seconds = self._plain = 0.0
        self._looks = 0

    def look(self, now: float, value: float | None) -> None:
        """Set the value from now on; None if there is no value."""
        if self._held is not None:
            self._sum += self._held * (now - self._since)
            self._seconds += now - self._since
        self._held, self._since = value, now
        if value is not None:
            self._plain += value
            self._looks += 1

    @property
    def mean(self) -> float:
        """The mean over time; over the values if no time has passed; 0 without values."""
        if self._seconds:
            return self._sum / self._seconds
        return self._plain / max(self._looks, 1)


class UtilizationMeter:
    """Averages the figures of a pool over time."""

    def __init__(self) -> None:
        self._peak = 0
        self._live_of_used, self._used_of_capacity = _TimeMean(), _TimeMean()
        self._live_of_whole, self._live_of_paged = _TimeMean(), _TimeMean()
        self._fragmentation = _TimeMean()

    def look(self, now: float, live: int, paged: int, stats: PoolStats) -> None:
        """Add the figures of one moment; an empty pool does not count for live bytes.

        Parameters
        ----------
        now : float
            Seconds.
        live, paged : int
            Bytes of the tokens held, and of those rounded up to paged blocks.
        stats : PoolStats
        """
        self._peak = max(self._peak, stats.used_memory)
        self._used_of_capacity.look(now, stats.utilization)
        self._fragmentation.look(now, stats.fragmentation)
        self._live_of_used.look(now, _share(live, stats.used_memory))
        self._live_of_whole.look(now, _share(live, stats.reserved_memory))
        self._live_of_paged.look(now, _share(live, paged))

    def result(self) -> Utilization:
        """Return the averages; 0 without values."""
        return Utilization(
            live_of_used=self._live_of_used.mean,
            live_of_whole_blocks=self._live_of_whole.mean,
            live_of_paged_blocks=self._live_of_paged.mean,
            used_of_capacity=self._used_of_capacity.mean,
            peak_used=self._peak,
            fragmentation=self._fragmentation.mean,
        )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@dataclass(slots=True)
class Tally:
    """The counters of a replay.

    Attributes
    ----------
    requests, rejected : int
        Requests read, and those of them that are larger than the pool, or than an entry.
    prompt_tokens, generated_tokens : int
        Of the requests that were served.
    reused_tokens : int
        Prompt tokens that the session held already.
    forkable_tokens : int
        Prompt tokens that were written although another session held the same ones.
    written_tokens, written_bytes : int
        Tokens that came to entries, and the bytes of those that were not only counted.
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
        """Return a copy that stays as it is."""
        return replace(self, first_failures=list(self.first_failures))

    def note_failures(self, failures: list[str]) -> None:
        """Count stretches of tokens that differ from what was written."""
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
        The statistics of the manager at the end.
    elastic : bool
        Whether the pool accounts by page; otherwise by whole block.
    max_context_length : int or None
        Tokens reserved for every entry; None if those of its request.
    written : bool
        Whether bytes were written and checked.
    committed_by_system : int or None
        Bytes of the arena of an elastic pool at the end, as the operating system counts them;
        None if it does not report them, or if nothing was written.
    used_in_arena : int
        Bytes that the pool counts, without private pages of forks, which are not in the arena:
        the expected value of `committed_by_system`.
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
    elastic: bool = False
    max_context_length: int | None = None
    written: bool = True
    committed_by_system: int | None = None
    used_in_arena: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as JSON values; a figure that does not apply is None."""
        stats, tally, sessions = self.stats, self.tally, self.names_sessions
        return {
            "backend": self.backend,
            "policy": self.policy,
            "layout": self.layout,
            "ttl_seconds": self.ttl,
            "capacity_bytes": stats.total_capacity,
            "elastic": self.elastic,
            "max_context_length": self.max_context_length,
            "bytes_are_written": self.written,
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
            "utilization": self._utilization(),
            "seconds": tally.seconds,
            "tokens_per_second": tally.tokens_per_second,
            "bytes_per_second": tally.bytes_per_second,
        }

    def _utilization(self) -> dict[str, Any]:
        use, stats = self.utilization, self.stats
        return {
            "live_of_used": use.live_of_used,
            "live_of_whole_blocks": use.live_of_whole_blocks,
            "live_of_paged_blocks": use.live_of_paged_blocks,
            "used_of_capacity": use.used_of_capacity,
            "peak_used_bytes": use.peak_used,
            "used_bytes_at_end": stats.used_memory,
            "reserved_bytes_at_end": stats.reserved_memory,
            "used_bytes_in_arena_at_end": self.used_in_arena,
            "committed_by_system_at_end": self.committed_by_system,
            "fragmentation": use.fragmentation,
            "fragmentation_at_end": stats.fragmentation,
        }
