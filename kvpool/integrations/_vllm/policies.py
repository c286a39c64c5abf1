"""The eviction policies of kvpool, for the memory of vLLM's own offloading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from vllm.v1.kv_offload.cpu.policies.base import CachePolicy, order_request_keys

from kvpool.eviction import EvictionPolicy
from kvpool.eviction.registry import create_policy

__all__ = [
    "ArcChunks",
    "Chunks",
    "FifoChunks",
    "GdsfChunks",
    "HitDensityChunks",
    "LfuChunks",
    "LruChunks",
    "S3FifoChunks",
    "SieveChunks",
    "SlruChunks",
]


class _Item:
    """A chunk as a policy sees it: by its name, with what comes before it and after it.

    Attributes
    ----------
    names : tuple of bytes
        Its key, by which a policy knows it again when it comes back.
    parent : _Item or None
        The chunk before it, if it is there.
    children : set of _Item
        Those that are there of the chunks after it. Without this one they are of no use.
    """

    __slots__ = ("children", "chunk", "names", "parent")

    def __init__(self, key: bytes, chunk: Any) -> None:
        self.names = (key,)
        self.chunk = chunk
        self.parent: _Item | None = None
        self.children: set[_Item] = set()

    def follow(self, parent: _Item) -> None:
        """Note the chunk before this one."""
        if self.parent is None:
            self.parent = parent
            parent.children.add(self)

    def leave(self) -> None:
        """Part from the chunks before and after."""
        if self.parent is not None:
            self.parent.children.discard(self)
        for child in self.children:
            child.parent = None
        self.parent, self.children = None, set()


class Chunks(CachePolicy):
    """The chunks in the memory of vLLM's offloading, in the order of a policy of kvpool.

    vLLM makes one from the option ``eviction_policy``, for example ``"kvpool-hit-density"``.

    Parameters
    ----------
    cache_capacity : int
        Chunks that there is memory for.

    Attributes
    ----------
    name : str
        Of the policy, from the page "policies".

    Notes
    -----
    A request is one use of the chunks that it found. It is not a use of those that it brought: the
    policies count the arrival of a chunk themselves.
    """

    name: ClassVar[str]

    def __init__(self, cache_capacity: int) -> None:
        super().__init__(cache_capacity)
        self._items: dict[bytes, _Item] = {}
        self._new: dict[bytes, None] = {}  # those that the policy does not know yet
        self._policy: EvictionPolicy = create_policy(self.name)

    def get(self, key: bytes) -> Any:
        """Return a chunk; None if it is not there."""
        item = self._items.get(key)
        return None if item is None else item.chunk

    def insert(self, key: bytes, chunk: Any) -> None:
        """Add a new chunk. The policy is told at the end of the request, or when it is asked."""
        self._items[key] = _Item(key, chunk)
        self._new[key] = None

    def remove(self, key: bytes) -> None:
        """Remove a chunk that could not be stored."""
        item = self._items.pop(key)
        if key in self._new:
            del self._new[key]
        else:
            self._policy.remove(item)
        item.leave()

    def _admit(self) -> None:
        """Tell the policy of new chunks, the last one first: it is of use with the others alone."""
        for key in reversed(self._new):
            self._policy.admit(self._items[key], 1)
        self._new.clear()

    def touch(self, keys: Iterable[bytes], req_context: Any) -> None:
        """Note a use of chunks; the first one counts as used last."""
        del req_context
        for key in reversed(list(keys)):
            if key in self._items and key not in self._new:
                self._policy.touch(self._items[key])

    def on_store_miss(self, keys: Iterable[bytes], req_context: Any) -> None:
        """Do nothing: the chunks are about to be added."""

    def on_request_finished(
        self,
        key_groups: Sequence[Sequence[bytes]],
        insertion_only_keys: set[bytes],
        reused_keys: set[bytes],
        req_context: Any,
    ) -> None:
        """Note a use of the chunks that a request found, and the arrival of those it brought."""
        del insertion_only_keys
        for group in key_groups:
            there = [key for key in order_request_keys([group], req_context) if key in self._items]
            for before, after in pairwise(there):
                self._items[after].follow(self._items[before])
        ordered = order_request_keys(key_groups, req_context)
        reused = [key for key in ordered if key in reused_keys and key not in self._new]
        self._admit()  # before the uses: what the new chunks follow is to stay longer than they
        self.touch(reused, req_context)

    def evict(self, n: int, protected: set[bytes]) -> list[tuple[bytes, Any]] | None:
        """Remove chunks that are not in use; return None, and remove none, if they are too few."""
        self._admit()
        chosen: list[tuple[bytes, Any]] = []
        victims: Iterator[Any] = self._policy.victims() if n else iter(())
        for item in victims:
            (key,) = item.names
            if item.chunk.ref_cnt == 0 and key not in protected:
                chosen.append((key, item.chunk))
                if len(chosen) == n:
                    break
        if len(chosen) < n:
            return None
        for key, _ in chosen:
            self.remove(key)
        return chosen

    def clear(self) -> None:
        """Remove all chunks, and forget what was learned."""
        self._items.clear()
        self._new.clear()
        self._policy = create_policy(self.name)


class ArcChunks(Chunks):
    """In the order of the policy ``arc``."""

    name = "arc"


class FifoChunks(Chunks):
    """In the order of the policy ``fifo``."""

    name = "fifo"


class GdsfChunks(Chunks):
    """In the order of the policy ``gdsf``."""

    name = "gdsf"


class HitDensityChunks(Chunks):
    """In the order of the policy ``hit-density``."""

    name = "hit-density"


class LfuChunks(Chunks):
    """In the order of the policy ``lfu``."""

    name = "lfu"


class LruChunks(Chunks):
    """In the order of the policy ``lru``."""

    name = "lru"


class S3FifoChunks(Chunks):
    """In the order of the policy ``s3-fifo``."""

    name = "s3-fifo"


class SieveChunks(Chunks):
    """In the order of the policy ``sieve``."""

    name = "sieve"


class SlruChunks(Chunks):
    """In the order of the policy ``slru``."""

    name = "slru"
