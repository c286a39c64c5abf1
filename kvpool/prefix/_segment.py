"""`Segment`: a run of tokens with one history."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterator
from typing import Final

from kvpool.cache_key import CacheKey
from kvpool.prefix._tokens import TOKEN_BYTES

__all__ = ["Segment"]

_ATTENTION_TOKENS: Final = 32_768  # position at which attention costs as much as all the rest


class Segment:
    """A run of tokens with one history, in a radix tree.

    Accesses cover a prefix, and a segment is split where one ends inside of it. So all tokens
    of a segment were used at the same moments, and an eviction policy that ranks segments decides
    as one that ranks tokens would.

    Parameters
    ----------
    parent : Segment or None
        The segment before; None for a root, which has no tokens.
    tokens : bytes
        See `token_bytes`.
    token_nbytes : int
        Bytes of keys and values of one token.
    chunk_tokens : int
        Tokens per chunk. Chunks are counted from the start of the sequence.

    Attributes
    ----------
    start : int
        Position of the first token in the sequence.
    end : int
        Position behind the last token.
    children : dict of bytes to Segment
        The segments behind, by their first token.
    holders : list
        The keys of the sessions whose tokens end with this segment.
    """

    __slots__ = (
        "_checksum",
        "children",
        "chunk_tokens",
        "end",
        "holders",
        "parent",
        "start",
        "token_nbytes",
        "tokens",
    )

    def __init__(
        self, parent: Segment | None, tokens: bytes, token_nbytes: int, chunk_tokens: int
    ) -> None:
        self.parent = parent
        self.start: int = 0 if parent is None else parent.end
        self.end: int = self.start + len(tokens) // TOKEN_BYTES
        self.tokens = tokens
        self.token_nbytes = token_nbytes
        self.chunk_tokens = chunk_tokens
        self.children: dict[bytes, Segment] = {}
        self.holders: list[CacheKey] = []
        self._checksum: int | None = None  # of the sequence up to the end

    @classmethod
    def root(cls, identity: Hashable, token_nbytes: int, chunk_tokens: int) -> Segment:
        """Return the root of the sequences of one identity, whose names no other root has."""
        root = cls(None, b"", token_nbytes, chunk_tokens)
        root.note_checksum(zlib.crc32(repr(identity).encode()))
        return root

    @property
    def token_count(self) -> int:
        """Tokens of this segment."""
        return self.end - self.start

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return len(self.tokens) // TOKEN_BYTES * self.token_nbytes

    @property
    def cost(self) -> float:
        """The work to compute the tokens again; that of a byte at the start of a sequence is 1.

        A token attends to all before it. In a model of 8 billion parameters that is as much work as
        all the rest at a position of about 32,000.
        """
        count = len(self.tokens) // TOKEN_BYTES
        return self.nbytes * (1 + (self.start + count / 2) / _ATTENTION_TOKENS)

    @property
    def names(self) -> list[int]:
        """A number for each chunk that begins or goes on here, for policies that remember.

        It is a checksum of the sequence up to the end of the chunk, and that position: equal for
        equal sequences, whatever the segments are, and for others with the odds of 32 bits.
        """
        checksum = 0 if self.parent is None else self.parent.checksum
        names, at = [], self.start
        for end in self._chunk_ends():
            part = self.tokens[(at - self.start) * TOKEN_BYTES : (end - self.start) * TOKEN_BYTES]
            checksum = zlib.crc32(part, checksum)
            names.append(end << 32 | checksum)
            at = end
        self._checksum = checksum
        return names

    @property
    def checksum(self) -> int:
        """Checksum of the sequence up to the end of this segment."""
        if self._checksum is None:
            unknown = [one for one in self.path() if not one.knows_checksum]
            for one in reversed(unknown):  # not by recursion: a sequence may have many segments
                before = 0 if one.parent is None else one.parent.checksum
                one.note_checksum(zlib.crc32(one.tokens, before))
        return self._checksum or 0

    @property
    def knows_checksum(self) -> bool:
        """Whether `checksum` is at hand."""
        return self._checksum is not None

    def note_checksum(self, checksum: int) -> None:
        """Keep the checksum of the sequence up to the end of this segment."""
        self._checksum = checksum

    def cut(self, end: int) -> None:
        """Drop the tokens from a position on."""
        self.tokens = self.tokens[: (end - self.start) * TOKEN_BYTES]
        self.end = end
        self._checksum = None

    def path(self) -> Iterator[Segment]:
        """Yield this segment and those before it, the last first, without the root."""
        segment = self
        while segment.parent is not None:
            yield segment
            segment = segment.parent

    def _chunk_ends(self) -> Iterator[int]:
        size, end = self.chunk_tokens, self.end
        yield from range((self.start // size + 1) * size, end, size)
        if end > self.start:
            yield end

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of tokens {self.start} to {self.end}: "
            f"{len(self.children)} children, {len(self.holders)} holders>"
        )
