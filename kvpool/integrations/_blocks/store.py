"""`BlockStore`: values of an engine under its keys, in a bounded pool and in tiers."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kvpool._checks import check_number
from kvpool._closing import Closing
from kvpool.cache_key import CacheKey
from kvpool.errors import InvalidArgumentError, InvalidTierError, KVPoolError
from kvpool.integrations._blocks.clearing import remove_chunks
from kvpool.manager import KVCacheManager
from kvpool.tiers import Chunk, Level, TierEvent, TierStore

__all__ = ["BlockStats", "BlockStore"]

_log = logging.getLogger("kvpool.blocks")

_BATCH: Final = 16 << 20

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class BlockStats:
    """What a store of blocks has done.

    Parameters
    ----------
    pool_hits, tier_hits, misses : int
        Blocks that were asked for, by where they came from.
    kept : int
        Blocks that were given and are in the pool or on the way to a tier, or were there before.
    shed : int
        Blocks that were given and not kept, as there was no room for them.
    """

    pool_hits: int
    tier_hits: int
    misses: int
    kept: int
    shed: int


class _BlockKey(CacheKey):
    """The key of a block in the pool, which is also the name by which a policy knows it again."""

    __slots__ = ()

    @property
    def names(self) -> tuple[CacheKey]:
        """The names of the parts of what has this key: itself alone."""
        return (self,)


class BlockStore(Closing):
    """Keeps blocks of bytes that an engine names, and gives them back as they were or not at all.

    Parameters
    ----------
    identity : str
        All that the bytes of a block depend on besides its key: engine, version, model, types,
        layout, part of the model. Blocks of another identity are not found.
    manager : KVCacheManager, optional
        The pool that holds blocks in memory. Its policy says which ones leave it.
    tiers : TierStore, optional
        Where blocks are kept beyond the pool, and looked for in the order of its levels.
    namespace : str, default "blocks"
        Namespace of the keys in the pool, for listings and receipts.
    load_budget : float, default 5.0
        Seconds that one `load` may take. What is loaded by then counts.
    owned : bool, default False
        Whether `close` closes manager and tiers as well.
    drain : float, default 10.0
        Seconds that `close` may write what is queued.

    Raises
    ------
    InvalidArgumentError
        An argument is of another type, or there is neither a manager nor a store of tiers.
    InvalidTierError
        A level has a codec that changes the values.

    Notes
    -----
    A key stands for one value: the first one that is kept stays.

    In a tier, a block is a chunk of one token, with a digest and a header. So breakers, codecs,
    metrics, ``kvpool tiers`` and ``kvpool fsck`` are those of chunks. A value that is damaged, or
    that is not the one of its key, is removed and counts as missing.

    *Errors.* A tier that fails never raises here: its blocks are missing, and its stores are shed.

    *Threads.* Any method may be called from any thread.
    """

    def __init__(
        self,
        identity: str,
        *,
        manager: KVCacheManager | None = None,
        tiers: TierStore | None = None,
        namespace: str = "blocks",
        load_budget: float = 5.0,
        owned: bool = False,
        drain: float = 10.0,
    ) -> None:
        for name, text in ("identity", identity), ("namespace", namespace):
            if not isinstance(text, str):
                raise InvalidArgumentError(f"{name} must be a str, not {text!r}")
        if manager is None and tiers is None:
            raise InvalidArgumentError("blocks need a manager, a store of tiers, or both")
        check_number("load_budget", load_budget, above=0)
        check_number("drain", drain, at_least=0)
        self._levels = () if tiers is None else tiers.levels
        for level in self._levels:
            if not level.codec.is_lossless:
                raise InvalidTierError(
                    f"the codec {level.codec.name!r} of {level.name!r} changes values, and blocks "
                    "of an engine have to come back as they were"
                )
        self._identity = identity
        self._manager, self._tiers = manager, tiers
        self._namespace, self._load_budget = namespace, load_budget
        self._owned, self._drain = owned, drain
        self._lock = threading.Lock()  # guards what follows
        self._writing: set[bytes] = set()  # names of blocks whose bytes in the pool are not whole
        self._counts: Counter[str] = Counter()

    @property
    def manager(self) -> KVCacheManager | None:
        """The pool, if there is one."""
        return self._manager

    @property
    def tiers(self) -> TierStore | None:
        """The tiers, if there are any."""
        return self._tiers

    def stats(self) -> BlockStats:
        """Return what was done."""
        with self._lock:
            counts = self._counts
            return BlockStats(*(counts[name] for name in BlockStats.__slots__))

    # -- storing -----------------------------------------------------------------------------

    def put(self, items: Sequence[tuple[bytes, Any]]) -> list[bool]:
        """Keep blocks: in the pool now, and in the tiers behind.

        Parameters
        ----------
        items : sequence of tuple of bytes and bytes-like
            Keys and values, those of a prompt in its order: to the policy of the pool, the first
            one counts as used last. The values are copied before the call returns.

        Returns
        -------
        list of bool
            Whether each block is kept. One that neither the pool nor the queue of a tier has room
            for is not.
        """
        given = [(self._chunk(key, value.nbytes), value) for key, value in _viewed(items)]
        # To a full queue the first ones matter most, and to a pool they are to be used last.
        order = slice(None, None, 1 if self._manager is None else -1)
        kept = [self._put(chunk, value) for chunk, value in given[order]][order]
        self._count(kept=sum(kept), shed=len(kept) - sum(kept))
        return kept

    def _put(self, chunk: Chunk, value: Bytes) -> bool:
        held = self._keep(chunk, value)
        return self._store_in(self._levels, chunk, value, held) or held is not None

    def _store_in(
        self, levels: Sequence[Level], chunk: Chunk, value: Bytes, held: Bytes | None
    ) -> bool:
        """Have a block written behind in levels; return whether one has it or will have it."""
        lacking = [level for level in levels if not level.knows(chunk)]
        behind = len(lacking) < len(levels)
        if any(level.takes(chunk) for level in lacking):
            # What the pool holds is lent until it is written, and needs no copy.
            data = _padded(value) if held is None else held
            shaped = data.view(np.int8).reshape(chunk.shape)
            for level in lacking:
                behind |= level.store(chunk, shaped)
        return behind

    def _keep(self, chunk: Chunk, value: Bytes) -> Bytes | None:
        """Copy a block to the pool; return its memory there, None if the pool does not have it."""
        if self._manager is None:
            return None
        key = self._pool_key(chunk)
        data: Bytes | None = None
        is_ours = is_whole = False
        try:
            with self._lock:
                if chunk.name in self._writing:
                    return None
                is_ours = True  # before: an interrupt after `add` leaves no name behind
                self._writing.add(chunk.name)
            entry = self._manager.get_cache_entry(key) if key in self._manager else None
            if entry is None:
                data = self._manager.allocate_entry(key, chunk.nbytes).data()
                data[: value.nbytes] = value
                data[value.nbytes :] = 0
            else:
                data = entry.data()
            is_whole = data.nbytes == chunk.nbytes
        except KVPoolError as error:  # there is no room, or it was evicted between two calls
            _log.debug("a block of %d bytes is not kept in the pool: %s", chunk.nbytes, error)
        finally:
            if is_ours and not is_whole:  # also after an interrupt: its bytes are anything
                self._manager.remove_later(key)
            if is_ours:
                self._writing.discard(chunk.name)
        return data if is_whole else None

    # -- looking -----------------------------------------------------------------------------

    def contains(self, keys: Sequence[bytes]) -> list[bool]:
        """Return whether each block is there, without a use of it; False if no tier answers.

        It may be gone or turn out to be damaged when it is loaded.
        """
        chunks = [self._chunk(key, 1) for key in keys]
        found = [self._has(chunk) for chunk in chunks]
        for level in self._levels:
            lacking = [at for at, there in enumerate(found) if not there]
            for at in self._runs(level, lacking, chunks):
                found[at] = True
        return found

    def _has(self, chunk: Chunk) -> bool:
        manager = self._manager
        if manager is None or chunk.name in self._writing:
            return False
        try:
            return self._pool_key(chunk) in manager
        except KVPoolError:  # it is closed
            return False

    def _runs(self, level: Level, wanted: list[int], chunks: list[Chunk]) -> Iterator[int]:
        """Yield which of some chunks a level has."""
        while wanted:
            run = level.run([chunks[at] for at in wanted])
            if run is None:
                return
            yield from wanted[:run]
            wanted = wanted[run + 1 :]

    # -- loading -----------------------------------------------------------------------------

    def load(self, items: Sequence[tuple[bytes, Any]]) -> list[bool]:
        """Copy blocks to memory of the caller.

        Parameters
        ----------
        items : sequence of tuple of bytes and writable bytes-like
            Keys, those of a prompt in its order, and memory of the size of each value.

        Returns
        -------
        list of bool
            Whether each block is there now. The memory of the others is as it was.

        Notes
        -----
        What a tier had is kept in the pool as well, and in the levels before it.
        """
        wanted = list(_viewed(items))
        chunks = [self._chunk(key, target.nbytes) for key, target in wanted]
        targets = [target for _, target in wanted]
        both = list(zip(chunks, targets, strict=True))
        found = [self._copy(chunk, target) for chunk, target in reversed(both)][::-1]
        in_pool = sum(found)
        deadline = time.monotonic() + self._load_budget
        for number in range(len(self._levels)):
            lacking = [at for at, there in enumerate(found) if not there]
            for at in self._load_from(number, lacking, chunks, targets, deadline):
                found[at] = True
        there = sum(found)
        self._count(pool_hits=in_pool, tier_hits=there - in_pool, misses=len(found) - there)
        return found

    def _copy(self, chunk: Chunk, target: Bytes) -> bool:
        """Copy a block out of the pool; return False if the pool does not have it."""
        if self._manager is None or not self._has(chunk):
            return False
        try:
            entry = self._manager.get_cache_entry(self._pool_key(chunk))
            if entry is None or entry.size_bytes != chunk.nbytes:
                return False
            data = entry.data()
        except KVPoolError:  # it was evicted between two calls, or the manager is closed
            return False
        if chunk.name in self._writing:  # it was evicted, and another thread writes it anew
            return False
        target[:] = data[: target.nbytes]
        return True

    def _load_from(
        self,
        number: int,
        wanted: list[int],
        chunks: list[Chunk],
        targets: list[Bytes],
        deadline: float,
    ) -> Iterator[int]:
        """Load what one level has of some blocks; yield which ones."""
        level = self._levels[number]
        while wanted:
            if time.monotonic() >= deadline:
                level.note_misses("late", len(wanted))
                return
            batch = wanted[: max(1, _BATCH // max(chunks[wanted[0]].nbytes, 1))]
            count = self._load_batch(number, [chunks[at] for at in batch], targets, batch)
            if count is None:
                level.note_misses("unreachable", len(wanted))
                return
            yield from batch[:count]
            # The one behind them is not there, or was wrong.
            wanted = wanted[count + (count < len(batch)) :]

    def _load_batch(
        self, number: int, chunks: list[Chunk], targets: list[Bytes], places: list[int]
    ) -> int | None:
        """Load the leading run of a batch; return how many, None if the tier does not answer."""
        level, begun = self._levels[number], time.monotonic()
        fetched = level.fetch(chunks)
        if fetched is None:
            return None
        try:
            count = len(fetched.arrays)
            for chunk, at, array in zip(chunks, places, fetched.arrays, strict=False):
                value = array.reshape(-1).view(np.uint8)[: targets[at].nbytes]
                targets[at][:] = value
                self._hand_up(number, chunk, value)
            error = fetched.error
        finally:
            fetched.close()
        seconds = time.monotonic() - begun
        if count:
            level.note_loads(chunks[:count], count, seconds, fetched.queued)
            self._tell("loaded", level, chunks[:count], seconds)
        if count < len(chunks):
            level.note_misses("absent" if error is None else error.reason)
            level.forget(chunks[count])
        if error is not None:
            self._tell("wrong", level, [chunks[count]], 0.0, error.reason)
        return count

    def _hand_up(self, number: int, chunk: Chunk, value: Bytes) -> None:
        """Keep in the pool, and in the levels above it, what a level had."""
        self._store_in(self._levels[:number], chunk, value, self._keep(chunk, value))

    def _tell(
        self, kind: Any, level: Level, chunks: list[Chunk], seconds: float, reason: str = ""
    ) -> None:
        if self._tiers is not None:
            nbytes = sum(chunk.nbytes for chunk in chunks)
            name = chunks[0].name.hex()
            self._tiers.tell(
                TierEvent(kind, level.name, len(chunks), nbytes, seconds, reason, name)
            )

    def touch(self, keys: Sequence[bytes]) -> None:
        """Note a use of blocks that the pool has: the first one counts as used last."""
        if self._manager is None:
            return
        for chunk in [self._chunk(key, 1) for key in reversed(keys)]:
            if self._has(chunk):
                with contextlib.suppress(KVPoolError):
                    self._manager.get_cache_entry(self._pool_key(chunk))

    # -- the rest ----------------------------------------------------------------------------

    def remove(self, keys: Sequence[bytes]) -> None:
        """Remove blocks from the pool and from every tier that answers.

        What a tier's queue holds at this moment is written all the same.
        """
        chunks = [self._chunk(key, 1) for key in keys]
        for chunk in chunks:
            if self._manager is not None:
                self._manager.remove_later(self._pool_key(chunk))
        for level in self._levels:
            for chunk in chunks:
                level.forget(chunk)
            level.remove(chunks)

    def clear(self) -> bool:
        """Remove all blocks from the pool, and all chunks from the tiers.

        Chunks that other processes have stored are removed as well.

        What is queued for a tier is written before, in the seconds of `drain`.

        Returns
        -------
        bool
            Whether nothing is left. False if a tier does not answer, or is not written in time.
        """
        if self._manager is not None:
            for key in list(self._manager):
                if isinstance(key, _BlockKey) and key.namespace == self._namespace:
                    self._manager.remove_later(key)
        is_clear = not self.drain(self._drain)
        for level in self._levels:
            is_clear &= remove_chunks(level)
        return is_clear

    def drain(self, timeout: float) -> int:
        """Wait until what is queued for the tiers is written; return the bytes that are not."""
        return 0 if self._tiers is None else self._tiers.drain(timeout)

    def close(self) -> None:
        """Close manager and tiers if they belong to the store; what is queued is written before."""
        if not self._owned:
            return
        try:
            if self._tiers is not None:
                self._tiers.close(self._drain)
        finally:
            if self._manager is not None:
                self._manager.close()

    def _chunk(self, key: bytes, nbytes: int) -> Chunk:
        """Return a block as a chunk: one token with a key and a value of half of its bytes."""
        if not isinstance(key, bytes):
            raise InvalidArgumentError(f"the key of a block must be bytes, not {key!r}")
        about = self._identity.encode()
        digest = hashlib.sha256(b"kvpool block 1" + len(about).to_bytes(8, "little") + about + key)
        return Chunk(self._identity, 1, 1, (nbytes + 1) // 2, "int8", 0, 1, b"", digest.digest())

    def _pool_key(self, chunk: Chunk) -> CacheKey:
        return _BlockKey(self._namespace, f"b{chunk.name.hex()}")

    def _count(self, **counts: int) -> None:
        with self._lock:
            self._counts.update(counts)


def _viewed(items: Sequence[tuple[bytes, Any]]) -> Iterator[tuple[bytes, Bytes]]:
    """Yield keys, and memory as an array of bytes.

    Raises
    ------
    InvalidArgumentError
        A value is not contiguous memory, or it has no bytes.
    """
    for key, value in items:
        try:
            memory = value if isinstance(value, np.ndarray) else np.asarray(memoryview(value))
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"a block must be contiguous bytes: {error}") from None
        if not memory.flags.c_contiguous or not memory.nbytes:
            raise InvalidArgumentError("a block must be contiguous bytes, and at least one")
        yield key, memory.reshape(-1).view(np.uint8)


def _padded(value: Bytes) -> Bytes:
    """Return a copy that has an even number of bytes."""
    copied = np.zeros(value.nbytes + value.nbytes % 2, np.uint8)
    copied[: value.nbytes] = value
    return copied
