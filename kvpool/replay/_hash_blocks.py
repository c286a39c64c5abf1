"""The size of a trace's hash blocks, inferred from how many ids its lines have."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from kvpool.replay._formats import MOONCAKE_HASH_BLOCK_TOKENS, LineError, mooncake_counts

__all__ = ["infer_hash_block_tokens"]

_SIZES = [MOONCAKE_HASH_BLOCK_TOKENS, *(1 << exponent for exponent in range(15))]


def infer_hash_block_tokens(lines: Iterable[bytes]) -> int | None:
    """Return the tokens per hash block of a Mooncake trace.

    A prompt of n tokens has n / size ids, rounded up, so each line bounds the size. 512 is taken
    if it fits all lines, else the smallest power of two that does, else the only size that does.
    Malformed lines do not count, and if no size fits all others, the one that fits the most is
    taken.

    Parameters
    ----------
    lines : iterable of bytes
        The first lines of the trace.

    Returns
    -------
    int or None
        None if no line has ids.

    Raises
    ------
    LineError
        Several sizes fit, but no power of two does.
    """
    counts = []
    for line in lines:
        with suppress(LineError, UnicodeDecodeError):
            counts.append(mooncake_counts(line.decode("utf-8").strip()))
    if counts and not any(ids for _, ids in counts):
        return None
    bounds = [_bounds(tokens, ids) for tokens, ids in counts if tokens and ids]
    fits = [sum(low <= size <= high for low, high in bounds) for size in _SIZES]
    likely = _SIZES[fits.index(max(fits))]
    low = max((low for low, _ in bounds), default=1)
    high = min((high for _, high in bounds), default=likely)
    if max(fits) == len(bounds) or low > high:
        return likely
    if low < high:
        raise LineError(
            f"its hash blocks may have any size from {low:,} to {high:,} tokens, by its first lines"
        )
    return low


def _bounds(tokens: int, ids: int) -> tuple[int, int]:
    """Return the smallest and the largest size of which a prompt needs that many blocks."""
    low = -(-tokens // ids)
    return low, (tokens - 1) // (ids - 1) if ids > 1 else max(low, _SIZES[-1])
