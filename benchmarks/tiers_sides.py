"""The sides of the comparison of tiers: ways to write keys and values, and to read them again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.tiers_stores import Client
from kvpool import KVCacheEntry, KVLayout, MemoryPool
from kvpool.prefix import Identity, root_name, token_bytes
from kvpool.tiers import Chunk, TierStore, chunks_of

__all__ = ["CHUNK", "LAYOUT", "Payload", "PoolSide", "RawPoolSide", "Side", "ValueSide"]

CHUNK = 64  # tokens
LAYOUT = KVLayout(layers=30, kv_heads=3, head_dim=64, dtype="float16")
BATCH = 11  # values of a call

_numbers = count()


class Side(Protocol):
    """A way to write the payload and to read it again, several times."""

    def put(self) -> float:
        """Write what is not there; return bytes per second."""

    def get(self) -> float:
        """Read what was written last; return bytes per second."""

    def clear(self) -> None:
        """Remove what was written last."""


class Payload:
    """Keys and values of some chunks: in an entry of a pool, and as values of a store.

    Attributes
    ----------
    entry : KVCacheEntry
    sinks : tuple of KVCacheEntry
        What each side reads into.
    values : list of bytes
    tokens, nbytes : int
    """

    def __init__(self, chunks: int) -> None:
        self.tokens = chunks * CHUNK
        self.nbytes = self.tokens * LAYOUT.bytes_per_token
        draws = np.random.default_rng(0)
        self._pool = MemoryPool(3 * self.nbytes + (16 << 20))
        self.entry = self._entry("source")
        for layer in range(LAYOUT.layers):
            with self.entry.writing(layer, self.tokens) as (keys, values):
                for array in (keys, values):
                    array[:] = draws.standard_normal(array.shape).astype(np.float16)
        self.sinks = self._sink("ours"), self._sink("theirs")
        self.values = [
            chunk_array(self.entry, chunk).tobytes() for chunk in chunks_of_payload("", self.tokens)
        ]

    def _entry(self, name: str) -> KVCacheEntry:
        return KVCacheEntry.create(self._pool, LAYOUT, self.tokens, name)

    def _sink(self, name: str) -> KVCacheEntry:
        """Return an empty entry whose memory was written before."""
        entry = self._entry(name)
        entry.extend(self.entry.keys(), self.entry.values())
        entry.truncate(0)
        return entry

    def check(self, entry: KVCacheEntry) -> None:
        """Raise unless an entry holds the payload, to the bit."""
        for ours, theirs in (
            (entry.keys(), self.entry.keys()),
            (entry.values(), self.entry.values()),
        ):
            if not np.array_equal(ours.view(np.uint16), theirs.view(np.uint16)):
                raise AssertionError("what was read is not what was written")


def identity(model: str) -> Identity:
    """Return the identity of a payload; another one has other names."""
    return Identity(model, "", LAYOUT)


def tokens_of(count: int) -> bytes:
    """Return tokens, as names are made from them."""
    return token_bytes(list(range(count)))


def chunks_of_payload(model: str, tokens: int) -> list[Chunk]:
    """Return the chunks of a payload."""
    return list(chunks_of(identity(model), tokens_of(tokens), CHUNK))


def chunk_array(entry: KVCacheEntry, chunk: Chunk) -> NDArray[Any]:
    """Return keys and values of a chunk as one array."""
    data = chunk.empty()
    place = np.s_[:, :, chunk.start : chunk.start + chunk.tokens]
    data[:, 0], data[:, 1] = entry.keys()[place], entry.values()[place]
    return data


def batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield the items of each call."""
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


class ValueSide:
    """Writes values that are there as bytes, and copies what it reads into one array."""

    def __init__(self, client: Client, payload: Payload) -> None:
        self._client, self._payload = client, payload
        self._keys: list[bytes] = []
        self._into = np.zeros((len(payload.values), len(payload.values[0])), np.uint8)

    def put(self) -> float:
        """Write all values; return bytes per second."""
        self.clear()
        self._keys = [b"c/%032d" % next(_numbers) for _ in self._payload.values]
        calls = list(batches(list(zip(self._keys, self._payload.values, strict=True))))
        start = time.perf_counter()
        for items in calls:
            self._client.write(items)
        return self._payload.nbytes / (time.perf_counter() - start)

    def get(self) -> float:
        """Read all values; return bytes per second."""
        self._into[:] = 0
        calls = list(batches(list(enumerate(self._keys))))
        start = time.perf_counter()
        for items in calls:
            with self._client.read([key for _, key in items]) as found:
                for (place, _), value in zip(items, found, strict=True):
                    self._into[place] = np.frombuffer(value, np.uint8)
                del found, value
        took = time.perf_counter() - start
        for place, value in enumerate(self._payload.values):
            if self._into[place].tobytes() != value:
                raise AssertionError("what was read is not what was written")
        return self._payload.nbytes / took

    def clear(self) -> None:
        """Remove the values."""
        if self._keys:
            self._client.remove(self._keys)
            self._keys = []


class PoolSide:
    """Writes from an entry and reads into one by a store of tiers."""

    def __init__(self, store: TierStore, payload: Payload) -> None:
        self._store, self._payload = store, payload
        self._tokens = tokens_of(payload.tokens)
        self._sink = payload.sinks[0]
        self._model = ""

    def put(self) -> float:
        """Have all chunks written, and wait for it; return bytes per second."""
        self.clear()
        self._model = f"model {next(_numbers)}"
        entry, name = self._payload.entry, identity(self._model)
        root_name(name)  # a process derives it once for each model and tenant
        start = time.perf_counter()
        queued = self._store.put(name, self._tokens, entry.keys(), entry.values(), hold=True)
        left = self._store.drain(600)
        took = time.perf_counter() - start
        if left or queued * CHUNK != self._payload.tokens:
            raise AssertionError(f"{queued} chunks were queued, {left} bytes are not written")
        return self._payload.nbytes / took

    def get(self) -> float:
        """Load all chunks; return bytes per second."""
        self._sink.truncate(0)
        name = identity(self._model)
        start = time.perf_counter()
        loaded = self._store.load(name, self._tokens, self._sink)
        took = time.perf_counter() - start
        if loaded.tokens != self._payload.tokens:
            raise AssertionError(f"not all was loaded: {loaded}")
        self._payload.check(self._sink)
        return self._payload.nbytes / took

    def clear(self) -> None:
        """Remove the chunks."""
        if self._model:
            chunks = chunks_of_payload(self._model, self._payload.tokens)
            self._store.levels[0].breaker.remove([chunk.key for chunk in chunks])


class RawPoolSide:
    """Does the same with NumPy and a raw client, without headers, digests and a queue."""

    def __init__(self, client: Client, payload: Payload) -> None:
        self._client, self._payload = client, payload
        self._sink = payload.sinks[1]
        self._chunks: list[Chunk] = []

    def put(self) -> float:
        """Write all chunks; return bytes per second."""
        self.clear()
        self._chunks = chunks_of_payload(f"model {next(_numbers)}", self._payload.tokens)
        start = time.perf_counter()
        for chunks in batches(self._chunks):
            arrays = [chunk_array(self._payload.entry, chunk) for chunk in chunks]
            values = [array.reshape(-1).view(np.uint8).data for array in arrays]
            keys = [chunk.key for chunk in chunks]
            self._client.write(list(zip(keys, values, strict=True)))
        return self._payload.nbytes / (time.perf_counter() - start)

    def get(self) -> float:
        """Read all chunks; return bytes per second."""
        self._sink.truncate(0)
        start = time.perf_counter()
        for chunks in batches(self._chunks):
            with self._client.read([chunk.key for chunk in chunks]) as found:
                self._write(chunks, found)
                del found
        took = time.perf_counter() - start
        self._payload.check(self._sink)
        return self._payload.nbytes / took

    def _write(self, chunks: Sequence[Chunk], found: Sequence[Any]) -> None:
        arrays = [
            np.frombuffer(value, np.float16).reshape(chunk.shape)
            for chunk, value in zip(chunks, found, strict=True)
        ]
        for layer in range(LAYOUT.layers):
            with self._sink.writing(layer, len(chunks) * CHUNK) as (keys, values):
                for number, array in enumerate(arrays):
                    place = np.s_[:, number * CHUNK : (number + 1) * CHUNK]
                    keys[place], values[place] = array[layer, 0], array[layer, 1]

    def clear(self) -> None:
        """Remove the chunks."""
        if self._chunks:
            self._client.remove([chunk.key for chunk in self._chunks])
            self._chunks = []
