"""Small traces of prompts that share prefixes, and what a pool does with them, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from hypothesis import strategies as st

from kvpool.replay import TraceRequest

__all__ = ["most_hits", "naive_lru_hits", "prompts", "requests_of"]

Prompts = Sequence[tuple[int, ...]]
Path = tuple[int, ...]

prompts = st.lists(st.lists(st.integers(0, 2), max_size=5).map(tuple), min_size=1, max_size=14)
"""Prompts of few ids, so that many share prefixes; an id may follow several others."""


def requests_of(paths: Prompts, seconds: float = 10.0) -> list[TraceRequest]:
    """Return one request for each prompt, one every `seconds`; a block is one token."""
    return [TraceRequest(number * seconds, len(path), 1, path) for number, path in enumerate(paths)]


def naive_lru_hits(paths: Prompts, size: int) -> int:
    """Serve prompts from a pool of this many blocks, with a list of them; return the hits.

    A block is a whole prefix. The last one of the list is the most recent.
    """
    resident: list[Path] = []
    hits = 0
    for path in paths:
        blocks = [path[: end + 1] for end in range(len(path))]
        run = next((at for at, one in enumerate(blocks) if one not in resident), len(blocks))
        hits += run
        resident = [one for one in resident if one not in blocks]
        resident = (resident + blocks[::-1])[-size:] if size else []
    return hits


def most_hits(paths: Prompts, size: int) -> int:
    """Return the most hits of any choice of what to keep between prompts, by trying all."""
    blocks = [frozenset(path[: end + 1] for end in range(len(path))) for path in paths]

    @cache
    def best(at: int, resident: frozenset[Path]) -> int:
        if at == len(paths):
            return 0
        path = paths[at]
        run = next((end for end in range(len(path)) if path[: end + 1] not in resident), len(path))
        known = resident | blocks[at]
        return run + max(best(at + 1, kept) for kept in _parts(known, size))

    return best(0, frozenset())


def _parts(blocks: frozenset[Path], size: int) -> list[frozenset[Path]]:
    """Return all largest parts of a set with at most `size` members."""
    if len(blocks) <= size:
        return [blocks]
    found = {frozenset[Path]()}
    for _ in range(size):
        found = {part | {one} for part in found for one in blocks - part}
    return list(found)
