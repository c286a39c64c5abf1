"""The tokens that a replay writes, from an endless tape, and how they are checked."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from kvpool.entry import KVCacheEntry
from kvpool.layout import KVLayout
from kvpool.replay._request import TraceRequest

__all__ = ["Span", "TokenTape", "request_spans", "split"]

_LONGEST_PERIOD = 8191  # tokens; like all periods odd, so that blocks of 2**n fall everywhere
_SHORTEST_PERIOD = 251
_LARGEST_TAPE = 256 << 20  # bytes
_STRIDE = 7919  # tokens from the start of one request to that of the next: a prime


class Span(NamedTuple):
    """Tokens that follow each other on the tape.

    Attributes
    ----------
    start : int
        Position on the tape, which is endless: any number from 0 on.
    length : int
        Tokens.
    """

    start: int
    length: int


def split(spans: Iterable[Span], count: int) -> tuple[list[Span], list[Span]]:
    """Return the spans of the first `count` tokens, and those of the rest."""
    head, tail = [], []
    for span in spans:
        taken = min(span.length, count)
        count -= taken
        if taken:
            head.append(Span(span.start, taken))
        if span.length > taken:
            tail.append(Span(span.start + taken, span.length - taken))
    return head, tail


def joined(spans: Iterable[Span]) -> list[Span]:
    """Return spans with those made one that follow each other on the tape."""
    result: list[Span] = []
    for span in spans:
        if result and result[-1].start + result[-1].length == span.start:
            result[-1] = Span(result[-1].start, result[-1].length + span.length)
        elif span.length:
            result.append(span)
    return result


def request_spans(
    request: TraceRequest, number: int, hash_block_tokens: int | None
) -> tuple[list[Span], list[Span]]:
    """Return the stretches of the tape that a request writes.

    Parameters
    ----------
    request : TraceRequest
    number : int
        Of the request; those next to each other write different tokens.
    hash_block_tokens : int or None
        Tokens of the blocks that the request names. The content of a block follows from its
        id alone, so prompts with ids in common have tokens in common.

    Returns
    -------
    prompt, generated : list of Span
    """
    start = number * _STRIDE
    if hash_block_tokens is None:
        prompt = [Span(start, request.prompt_tokens)]
        return prompt, [Span(start + request.prompt_tokens, request.generated_tokens)]
    blocks = (Span(block * hash_block_tokens, hash_block_tokens) for block in request.hash_blocks)
    prompt, _ = split(joined(blocks), request.prompt_tokens)
    return prompt, [Span(start, request.generated_tokens)]


class TokenTape:
    """An endless tape of tokens with random keys and values, the same for every equal layout.

    Parameters
    ----------
    layout : KVLayout
    budget : int, default 8 MiB
        Bytes of tokens before the tape repeats itself, about: between 251 and 8191 tokens.

    Attributes
    ----------
    period : int
        Tokens after which the tape repeats itself.

    Notes
    -----
    The tape lies in memory twice, end to end, so nearly every span is one slice of it.
    """

    def __init__(self, layout: KVLayout, budget: int = 8 << 20) -> None:
        self.layout = layout
        wanted = min(budget // layout.bytes_per_token, _LONGEST_PERIOD)
        # Fewer tokens only of a layout so large that even the shortest tape were a burden.
        shortest = min(_SHORTEST_PERIOD, max(_LARGEST_TAPE // layout.bytes_per_token | 1, 3))
        self.period = period = max(wanted | 1, shortest)
        lead = (2, layout.layers, layout.kv_heads)
        width = layout.head_dim * layout.dtype.itemsize
        self._bytes = np.empty((*lead, 2 * period, width), np.uint8)
        noise = np.random.default_rng(20231116).bytes(self._bytes.nbytes // 2)
        self._bytes[..., :period, :] = np.frombuffer(noise, np.uint8).reshape(*lead, period, width)
        self._bytes[..., period:, :] = self._bytes[..., :period, :]
        self._tokens: NDArray[Any] = self._bytes.view(layout.dtype)
        keys, values = self._tokens
        self._singles = [
            (keys[:, :, at : at + 1], values[:, :, at : at + 1]) for at in range(period)
        ]

    def tokens(self, spans: Iterable[Span]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return keys and values of some spans, at least one token.

        Returns
        -------
        keys, values : ndarray, shape (layers, kv_heads, tokens, head_dim)
            A part of the tape if the tokens lie in one piece there, and else a copy.
        """
        pieces = [self._tokens[..., start:end, :] for start, end in self._pieces(spans)]
        keys, values = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=3)
        return keys, values

    def singles(self, spans: Iterable[Span]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Yield keys and values of one token after the other, each as `tokens` returns it."""
        doubled = self._singles
        period = self.period
        return itertools.chain.from_iterable(
            doubled[start:end] if end <= period else doubled[start:] + doubled[: end - period]
            for start, end in self._pieces(spans)
        )

    def faults(self, entry: KVCacheEntry, spans: Iterable[Span]) -> list[str]:
        """Read an entry through its views and compare it with the expected tokens.

        The bytes of each head's span, and those of the same tokens on the tape, are reduced
        to a checksum (XXH3, 64 bits) each.

        Returns
        -------
        list of str
            Which layers and heads differ; empty if all is well.

        Raises
        ------
        EntryRemovedError
        """
        pieces = list(self._pieces(spans))
        return [
            f"{name} of layer {layer}, head {head}"
            for layer in range(self.layout.layers)
            for region, name, view in (
                (0, "keys", entry.key(layer)),
                (1, "values", entry.value(layer)),
            )
            for head, span in enumerate(view.view(np.uint8))
            if _digest(span) != self._checksum((region, layer, head), pieces)
        ]

    def _checksum(self, row: tuple[int, int, int], pieces: list[tuple[int, int]]) -> int:
        tape = self._bytes[row]
        state = xxhash.xxh3_64()
        for start, end in pieces:
            state.update(tape[start:end])
        return state.intdigest()

    def _pieces(self, spans: Iterable[Span]) -> Iterator[tuple[int, int]]:
        """Yield spans as slices of the array, whose start lies in the first of its two copies."""
        period = self.period
        for span in spans:
            start, left = span.start % period, span.length
            while left > 0:
                end = min(start + left, 2 * period)
                yield start, end
                left -= end - start
                start = 0  # the second copy ends where the first begins


def _digest(span: NDArray[np.uint8]) -> int:
    # The tokens of a head are contiguous except in other packings, where they are copied.
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(span).data)
