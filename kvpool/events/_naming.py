"""`Naming`: from changes of a prefix tree to events that name chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from kvpool.events._types import AllBlocksCleared, BlockHash, BlockRemoved, BlockStored, Event
from kvpool.prefix import (
    TOKEN_BYTES,
    Change,
    Gone,
    Held,
    Identity,
    Segment,
    Split,
    names_behind,
    root_name,
)

__all__ = ["Naming"]


@dataclass(slots=True)
class _Run:
    """What is known of a segment: the names of the chunks that end in it.

    Attributes
    ----------
    identity : Identity
    names : list of bytes
    last : bytes
        The name of the last whole chunk up to the end of the segment; `root_name` if none is.
    rest : bytes
        The tokens behind that chunk, up to the end of the segment.
    """

    identity: Identity
    names: list[bytes]
    last: bytes
    rest: bytes


class Naming:
    """Names the chunks of a prefix tree from the changes of its segments alone.

    A chunk counts as part of the segment in which it ends. So a split changes nothing, and each
    chunk is stored once and removed once, however many sessions hold it. Not thread-safe.

    Parameters
    ----------
    hash_of : callable
        Returns the name of a chunk as events have it.
    medium : str or None
    base_model : str
        The `model_id` of sessions whose events have no `lora_name`.
    """

    def __init__(
        self, hash_of: Callable[[bytes], BlockHash], medium: str | None, base_model: str
    ) -> None:
        self._hash_of = hash_of
        self._medium = medium
        self._base_model = base_model
        self._runs: dict[Segment, _Run] = {}

    def events(self, changes: Iterable[Change]) -> list[Event]:
        """Return what some changes, in order, mean for chunks."""
        events: list[Event] = []
        removed: list[BlockHash] = []
        for change in changes:
            if isinstance(change, Gone):
                names = self._runs.pop(change.segment).names
                removed += map(self._hash_of, reversed(names))
                continue
            if isinstance(change, Held) and change.segment in self._runs:
                removed += self._shortened(change)
                continue
            if removed:  # those of many segments in one event
                events.append(BlockRemoved(removed, self._medium))
                removed = []
            if isinstance(change, Split):
                self._split(change)
            elif isinstance(change, Held):
                events += self._stored(change)
            else:
                self._runs.clear()
                events.append(AllBlocksCleared())
        if removed:
            events.append(BlockRemoved(removed, self._medium))
        return events

    def _before(self, before: Segment | Identity) -> _Run:
        if isinstance(before, Identity):
            return _Run(before, [], root_name(before), b"")
        return self._runs[before]

    def _stored(self, change: Held) -> list[Event]:
        before, size = self._before(change.before), change.segment.chunk_tokens
        tokens = before.rest + change.tokens
        names = list(names_behind(before.last, tokens, size))
        nbytes = len(names) * size * TOKEN_BYTES
        last = names[-1] if names else before.last
        identity = before.identity
        self._runs[change.segment] = _Run(identity, names, last, tokens[nbytes:])
        if not names:
            return []
        is_first = before.last == root_name(identity)
        salt = identity.salt
        model = identity.model_id.encode("utf-8", "backslashreplace").decode()  # any str may be one
        return [
            BlockStored(
                block_hashes=[self._hash_of(name) for name in names],
                parent_block_hash=None if is_first else self._hash_of(before.last),
                token_ids=np.frombuffer(tokens[:nbytes], np.int64).tolist(),
                block_size=size,
                lora_id=None,
                medium=self._medium,
                lora_name=None if model == self._base_model else model or None,
                extra_keys=[(root_name(identity).hex()[:16],)] * len(names) if salt else None,
            )
        ]

    def _shortened(self, change: Held) -> list[BlockHash]:
        """Drop the chunks behind the new end of a segment; return their names, the last first."""
        run, before = self._runs[change.segment], self._before(change.before)
        size = change.segment.chunk_tokens * TOKEN_BYTES
        tokens = before.rest + change.tokens
        count = len(tokens) // size
        gone = run.names[count:]
        del run.names[count:]
        run.last = run.names[-1] if run.names else before.last
        run.rest = tokens[count * size :]
        return [self._hash_of(name) for name in reversed(gone)]

    def _split(self, change: Split) -> None:
        """Give the head of a segment the names that end in it."""
        tail, before = self._runs[change.tail], self._before(change.before)
        size = change.head.chunk_tokens * TOKEN_BYTES
        tokens = before.rest + change.tokens
        count = len(tokens) // size
        names = tail.names[:count]
        last = names[-1] if names else before.last
        self._runs[change.head] = _Run(tail.identity, names, last, tokens[count * size :])
        del tail.names[:count]
