"""`PrefixTrace`: the prompts of a trace as paths in a tree of blocks."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from kvpool._checks import whole_number
from kvpool.replay import TraceReader, TraceRequest
from kvpool.sizing._errors import SizingError

__all__ = ["MAX_BLOCKS", "MAX_REFERENCES", "PrefixTrace"]

MAX_BLOCKS: Final = 1 << 24
"""Most distinct blocks of a trace, so that its tree has a place in memory: 2 to 3 GiB."""

MAX_REFERENCES: Final = 1 << 28
"""Most references to blocks in a trace: 1 GiB."""


@dataclass(frozen=True, eq=False)
class PrefixTrace:
    """The prompts of a trace as paths in a tree of blocks; outputs are not part of it.

    A block is a place in this tree: the same id behind another block is another block. So all
    blocks before a block that two prompts share are shared, too.

    Attributes
    ----------
    block_tokens : int
        Tokens per block. The last block of a prompt may have fewer; it counts as a whole one.
    parents : ndarray of int32, shape (blocks,)
        The block before each block, which has a smaller number; -1 for the first of a prompt.
    references : ndarray of int32, shape (references,)
        The blocks of all prompts, one prompt after the other, in file order.
    starts : ndarray of int64, shape (requests + 1,)
        Where the blocks of each request start in `references`.
    arrivals : ndarray of float64, shape (requests,)
        Seconds.
    """

    block_tokens: int
    parents: NDArray[np.int32]
    references: NDArray[np.int32]
    starts: NDArray[np.int64]
    arrivals: NDArray[np.float64]

    @classmethod
    def read(cls, trace: TraceReader, requests: Iterable[TraceRequest] | None = None) -> Self:
        """Return the prompts of a trace file.

        Parameters
        ----------
        trace : TraceReader
        requests : iterable of TraceRequest, optional
            What to take from `trace`, for example its first requests. By default all of them.

        Raises
        ------
        SizingError
            The trace has no ids of blocks, or more blocks than `MAX_BLOCKS` or `MAX_REFERENCES`.
        TraceError
            The trace cannot be read; see `TraceReader`.
        """
        if trace.hash_block_tokens is None:
            raise SizingError(
                f"{trace.path} does not say which prompts begin alike: it has no ids of blocks "
                "(hash_ids), as the traces of Mooncake have, so no reuse can be counted. "
                f"This trace is of the format {trace.trace_format.value}"
            )
        return cls.from_requests(trace if requests is None else requests, trace.hash_block_tokens)

    @classmethod
    def from_requests(cls, requests: Iterable[TraceRequest], block_tokens: int) -> Self:
        """Return the prompts of some requests.

        Parameters
        ----------
        requests : iterable of TraceRequest
            In the order in which they are served.
        block_tokens : int
            Tokens per block.

        Raises
        ------
        SizingError
            `block_tokens` is not a whole number of at least 1, no request has a block, or there
            are more blocks than `MAX_BLOCKS` or `MAX_REFERENCES`.
        """
        block_tokens = whole_number("block_tokens", block_tokens, SizingError, least=1)
        tree = _Tree()
        references, starts, arrivals = array("i"), array("q", [0]), array("d")
        for request in requests:
            references.extend(tree.path(request.hash_blocks))
            starts.append(len(references))
            arrivals.append(request.arrival)
            if len(tree.parents) > MAX_BLOCKS or len(references) > MAX_REFERENCES:
                raise SizingError(
                    f"the first {len(arrivals):,} requests have {len(tree.parents):,} blocks and "
                    f"{len(references):,} references to them; at most {MAX_BLOCKS:,} and "
                    f"{MAX_REFERENCES:,} are supported: take fewer requests (--max-requests)"
                )
        if not references:
            raise SizingError(f"no block is in the prompts of these {len(arrivals):,} requests")
        return cls(
            block_tokens,
            np.array(tree.parents, np.int32),
            np.array(references, np.int32),
            np.array(starts, np.int64),
            np.array(arrivals, np.float64),
        )

    @property
    def request_count(self) -> int:
        """Requests, those without a block among them."""
        return len(self.arrivals)

    @property
    def block_count(self) -> int:
        """Distinct blocks."""
        return len(self.parents)

    @property
    def reference_count(self) -> int:
        """References to blocks, the first one of each block among them."""
        return len(self.references)

    @property
    def longest(self) -> int:
        """Blocks of the longest prompt."""
        return int(np.diff(self.starts).max())

    @property
    def requests(self) -> NDArray[np.int32]:
        """The request of each reference, from 0; shape (references,)."""
        return np.repeat(np.arange(self.request_count, dtype=np.int32), np.diff(self.starts))

    @property
    def positions(self) -> NDArray[np.int32]:
        """The place of each reference in its prompt, from 0; shape (references,)."""
        lengths = np.diff(self.starts)
        return (np.arange(self.reference_count) - np.repeat(self.starts[:-1], lengths)).astype(
            np.int32
        )

    def select(self, chosen: NDArray[np.bool_]) -> PrefixTrace:
        """Return the trace with these requests alone; blocks keep their order, not their numbers.

        Parameters
        ----------
        chosen : ndarray of bool, shape (requests,)
        """
        kept = self.references[chosen[self.requests]]
        used = np.unique(kept)
        number = np.full(self.block_count + 1, -1, np.int32)  # the last one is for the parent -1
        number[used] = np.arange(len(used), dtype=np.int32)
        lengths = np.diff(self.starts)[chosen]
        return PrefixTrace(
            self.block_tokens,
            number[self.parents[used]],
            number[kept],
            np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            self.arrivals[chosen],
        )


class _Tree:
    """Numbers the blocks of prompts, in the order in which they are met."""

    def __init__(self) -> None:
        self.parents = array("i")
        self._first: dict[int, int] = {}  # by id; nearly every id has one parent
        self._others: dict[tuple[int, int], int] = {}  # by parent and id

    def path(self, ids: Iterable[int]) -> list[int]:
        """Return the blocks of a prompt."""
        found, parent = [], -1
        for one in ids:
            block = self._first.get(one)
            if block is None:
                block = self._first[one] = self._new(parent)
            elif self.parents[block] != parent:
                other = self._others.get((parent, one))
                if other is None:
                    other = self._others[parent, one] = self._new(parent)
                block = other
            found.append(block)
            parent = block
        return found

    def _new(self, parent: int) -> int:
        self.parents.append(parent)
        return len(self.parents) - 1
