"""One load: chunks that levels have, level by level and batch by batch, into an entry."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from kvpool.entry import StagedTokens
from kvpool.errors import ContextOverflowError, PoolExhaustedError
from kvpool.tiers._chunk import Chunk, ChunkBuffer
from kvpool.tiers._fetched import Fetched, close_fetched
from kvpool.tiers._job import Job
from kvpool.tiers._level import Level

__all__ = ["Load", "TierEvent", "TokenSink"]

_BATCH: Final = 8 << 20  # bytes; two of them are in the cache of the processor at a time
_ENDS: Final = {"cancelled", "late", "room"}  # reasons that are those of every level


class TokenSink(Protocol):
    """What tokens are loaded into: a `kvpool.entry.KVCacheEntry`."""

    @property
    def token_count(self) -> int:
        """Tokens that every layer holds."""

    def stage(self, count: int) -> StagedTokens:
        """Take the room for the next tokens of all layers."""

    def extend_staged(self, staged: StagedTokens) -> int:
        """Count the tokens that were written where `stage` said."""

    def truncate(self, token_count: int) -> None:
        """Drop the tokens from a position on."""


@dataclass(frozen=True, slots=True)
class TierEvent:
    """Something that happened between a store and a tier.

    Parameters
    ----------
    kind : {"loaded", "wrong"}
        "loaded": tokens came into an entry. "wrong": a chunk was not what it should be.
    level : str
        The name of the tier.
    tokens, nbytes : int
        How much.
    seconds : float
    reason : str
        Of a chunk that was wrong; see `ChunkError`.
    name : str
        The first chunk, in hexadecimal digits.
    """

    kind: Literal["loaded", "wrong"]
    level: str
    tokens: int
    nbytes: int
    seconds: float
    reason: str
    name: str

    def with_more(self, event: TierEvent) -> TierEvent:
        """Return this event with what another one of the same kind and tier tells as well."""
        return replace(
            self,
            tokens=self.tokens + event.tokens,
            nbytes=self.nbytes + event.nbytes,
            seconds=self.seconds + event.seconds,
        )


class Load:
    """One load of chunks into an entry.

    Parameters
    ----------
    levels : sequence of Level
        The first one is asked first, and gets what a later one had.
    chunks : list of Chunk
        Chunks that follow one another. The entry holds the tokens before the first one.
    sink : TokenSink
        The entry.
    stop : int
        The most tokens that the entry shall hold.
    deadline : float
        When the load ends, by `time.monotonic`.
    seconds_to_compute : callable
        Takes a number of tokens, returns how long the model takes for them.
    tell : callable
        Takes each `TierEvent`.
    is_wanted : callable, optional
        Returns whether the load is to go on.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        chunks: list[Chunk],
        sink: TokenSink,
        *,
        stop: int,
        deadline: float,
        seconds_to_compute: Callable[[int], float],
        tell: Callable[[TierEvent], None],
        is_wanted: Callable[[], bool] | None = None,
    ) -> None:
        self._levels, self._chunks, self._sink = levels, chunks, sink
        self._stop, self._deadline = stop, deadline
        self._seconds_to_compute, self._tell_event = seconds_to_compute, tell
        self._is_wanted = is_wanted

    def run(self) -> str:
        """Load as much as there is; return why it ended."""
        ended: dict[Level, tuple[int, str]] = {}  # where the run of a level ended last, and why
        at = 0
        while at < len(self._chunks):
            count = 0
            for number, level in enumerate(self._levels):
                if level not in ended or ended[level][0] != at:
                    count, reason = self._load_from(number, level, at)
                    at += count
                    ended[level] = at, reason
                    if count or reason in _ENDS:
                        break
            if not count or reason in _ENDS:
                reasons = [why for where, why in ended.values() if where == at]
                return next((why for why in reasons if why != "absent"), "absent")
        return "done"

    def _load_from(self, number: int, level: Level, at: int) -> tuple[int, str]:
        """Load the run that a level has; return how many chunks, and why it ended."""
        # The level is not asked first what it has: in a store of objects that is a request for each
        # chunk. And whether to load is faster than to compute is the same for any run.
        wanted = self._chunks[at:]
        nbytes = sum(chunk.nbytes for chunk in wanted)
        tokens = min(wanted[-1].start + wanted[-1].tokens, self._stop) - self._sink.token_count
        if level.declines(nbytes, self._seconds_to_compute(tokens)):
            done, reason = 0, "declined"
        else:
            done, reason = self._load_run(number, level, wanted)
        if done < len(wanted):
            level.note_misses(reason)
            level.note_misses("behind", len(wanted) - done - 1)
            level.forget(wanted[done])
        return done, reason

    def _load_run(self, number: int, level: Level, chunks: list[Chunk]) -> tuple[int, str]:
        """Load chunks batch by batch; return how many, and why it ended.

        While one batch is written into the entry, another thread fetches and checks the next one.
        """
        size = max(1, _BATCH // chunks[0].nbytes)
        batches = [chunks[at : at + size] for at in range(0, len(chunks), size)]
        ahead: list[Future[Fetched | None]] = []  # one at most
        try:
            return self._load_batches(number, level, batches, ahead)
        finally:
            if ahead:
                ahead[0].add_done_callback(close_fetched)

    def _load_batches(
        self,
        number: int,
        level: Level,
        batches: list[list[Chunk]],
        ahead: list[Future[Fetched | None]],
    ) -> tuple[int, str]:
        """Load batches; return how many chunks, and why it ended."""
        done = 0
        for batch, following in zip(batches, [*batches[1:], []], strict=True):
            begun, reason = time.monotonic(), self._end()
            if reason is not None:
                return done, reason
            fetched = ahead[0].result() if ahead else level.fetch(batch)
            ahead.clear()
            if fetched is None:
                return done, "unreachable"
            try:
                if self._is_unwanted:
                    return done, "cancelled"
                if following and len(fetched.arrays) == len(batch):
                    ahead += level.fetch_ahead(following)
                count, why = self._load_batch(number, level, batch, fetched, begun)
            finally:
                fetched.close()
            done += count
            if why != "done":
                return done, why
        return done, "absent"  # the chunk behind them is

    def _load_batch(
        self, number: int, level: Level, batch: list[Chunk], fetched: Fetched, begun: float
    ) -> tuple[int, str]:
        """Load what was fetched of a batch; return how many chunks, and why it ended."""
        chunks = batch[: len(fetched.arrays)]
        tokens = self._write(chunks, fetched) if chunks else 0
        if tokens is None:
            return 0, "room"
        seconds = time.monotonic() - begun
        self._hand_up(number, chunks, fetched)
        if chunks:
            level.note_loads(chunks, tokens, seconds, fetched.queued)
            nbytes = sum(chunk.nbytes for chunk in chunks)
            self._tell("loaded", level, chunks[0], tokens, nbytes, seconds)
        if fetched.error is not None:
            bad, reason = batch[len(chunks)], fetched.error.reason
            level.remove_wrong(bad, reason)
            self._tell("wrong", level, bad, bad.tokens, bad.nbytes, 0.0, reason)
            return len(chunks), reason
        return len(chunks), "done" if len(chunks) == len(batch) else "absent"

    @property
    def _is_unwanted(self) -> bool:
        return self._is_wanted is not None and not self._is_wanted()

    def _end(self) -> str | None:
        """Return why no further call of a tier is made; None if it is."""
        if self._is_unwanted:
            return "cancelled"
        return "late" if time.monotonic() >= self._deadline else None

    def _tell(
        self,
        kind: Literal["loaded", "wrong"],
        level: Level,
        chunk: Chunk,
        tokens: int,
        nbytes: int,
        seconds: float,
        reason: str = "",
    ) -> None:
        name = chunk.name.hex()
        self._tell_event(TierEvent(kind, level.name, tokens, nbytes, seconds, reason, name))

    def _write(self, chunks: list[Chunk], fetched: Fetched) -> int | None:
        """Write keys and values into the entry; return its new tokens, None if it has no room."""
        sink = self._sink
        held = sink.token_count
        end = min(chunks[-1].start + chunks[-1].tokens, self._stop)
        try:
            self._write_staged(chunks, fetched, held, end)
        except (PoolExhaustedError, ContextOverflowError):
            return None  # nothing was staged
        except BaseException as error:
            # The frames of the traceback have a lease, for as long as someone keeps it.
            traceback.clear_frames(error.__traceback__)
            sink.truncate(held)  # and with it the pages of what was staged go
            raise
        return end - held

    def _write_staged(self, chunks: list[Chunk], fetched: Fetched, held: int, end: int) -> None:
        """Write the tokens from `held` to `end` where the entry has room for them."""
        staged = self._sink.stage(end - held)
        target = staged.geometry.full_view(staged.root, staged.start, staged.count)
        for chunk, array in zip(chunks, fetched.arrays, strict=True):
            skipped = max(0, held - chunk.start)
            there = chunk.start + skipped - held
            count = min(chunk.start + chunk.tokens, end) - chunk.start - skipped
            source = array[:, :, :, skipped : skipped + count]
            # One assignment of all layers, because the thread that checks the next batch can go on
            # meanwhile: NumPy lets go of the interpreter for it.
            target[:, :, :, there : there + count] = source.swapaxes(0, 1)
        self._sink.extend_staged(staged)

    def _hand_up(self, number: int, chunks: list[Chunk], fetched: Fetched) -> None:
        """Have the levels above this one get what it had."""
        for chunk, array in zip(chunks, fetched.arrays, strict=True):
            for level in self._levels[:number]:
                if level.takes(chunk):
                    buffer = ChunkBuffer(chunk)
                    buffer.data[...] = array
                    level.put(Job.of(chunk, buffer))
