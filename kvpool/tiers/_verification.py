"""`verify_tier`: a look at every value of a tier, whatever model or tenant it is of."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

from kvpool.errors import ChunkError
from kvpool.tiers._base import Tier
from kvpool.tiers._chunk import CHUNK_PREFIX, Chunk, read_chunk
from kvpool.tiers._codec import PLAIN, CodecChain
from kvpool.tiers._probe import PROBE_PREFIX
from kvpool.tiers._session import SESSION_PREFIX, read_session

__all__ = ["MAX_FINDINGS", "Finding", "TierReport", "remove_wrong", "verify_tier"]

MAX_FINDINGS: Final = 1000
"""Findings that a report describes; the others are counted."""

_AT_ONCE: Final = 256
_BYTES_AT_ONCE: Final = 32 << 20
_LOOKS: Final = 10
_PAUSE: Final = 0.001  # seconds
_UNREADABLE: Final = frozenset({"version", "codec", "key", "namespace"})
"""Reasons why a value cannot be judged: another version, codec or key may read it."""


class Finding(NamedTuple):
    """A value that is not right.

    Parameters
    ----------
    key : bytes
    nbytes : int
        Of the value.
    reason : str
        One word: a reason of `ChunkError`; ``"absent"`` if the key is listed and has no value;
        ``"probe"`` for what a measurement left; ``"namespace"`` if the key begins as none does.
    text : str
        What is wrong, as a sentence.
    is_wrong : bool
        Whether no reader could use it. False if the value cannot be judged, because a newer version
        of kvpool, another codec or another key may read it.
    """

    key: bytes
    nbytes: int
    reason: str
    text: str
    is_wrong: bool


@dataclass(slots=True)
class TierReport:
    """What `verify_tier` found.

    Attributes
    ----------
    chunks, sessions : int
        Values that are right.
    tokens : int
        Tokens of the chunks that are right.
    nbytes : int
        Bytes of all values that were read.
    models : Counter of str
        Chunks that are right, by model.
    wrong, unknown : int
        Values that are wrong, and values that could not be judged.
    reasons : Counter of str
        These, by the reason.
    findings : list of Finding
        The first `MAX_FINDINGS` of them.
    wrong_keys : list of bytes
        The keys of all that are wrong.
    gone : int
        Values that left while the tier was read.
    """

    chunks: int = 0
    sessions: int = 0
    tokens: int = 0
    nbytes: int = 0
    models: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    unknown: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    wrong_keys: list[bytes] = field(default_factory=list)
    gone: int = 0

    @property
    def values(self) -> int:
        """How many values were read."""
        return self.chunks + self.sessions + self.wrong + self.unknown

    @property
    def is_clean(self) -> bool:
        """Whether each value was judged, and is right."""
        return not self.wrong and not self.unknown

    def add(self, found: Finding) -> None:
        """Count a value that is not right."""
        self.reasons[found.reason] += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(found)
        if found.is_wrong:
            self.wrong += 1
            self.wrong_keys.append(found.key)
        else:
            self.unknown += 1


def verify_tier(
    tier: Tier,
    codec: CodecChain = PLAIN,
    progress: Callable[[int, int | None], object] | None = None,
) -> TierReport:
    """Look at all values of a tier: whether each is whole and of its key, and can be decoded.

    Parameters
    ----------
    tier : Tier
        Asked itself, not through a `Breaker`, whose misses would hide what is wrong.
    codec : CodecChain, optional
        The codec of the tier. A chunk of another one is decoded as well if that needs no key.
    progress : callable, optional
        Takes how many values were read, and how many there are or None, several times a second.

    Raises
    ------
    TierError
        The tier cannot be read.

    Notes
    -----
    That the keys and values of a chunk are those of its tokens cannot be seen: a name is the digest
    of tokens that are not stored.
    """
    report = TierReport()
    keys, total = tier.keys(), tier.stats().values
    at_once = 1
    while batch := list(islice(keys, at_once)):
        nbytes = _verify_batch(tier, batch, codec, report)
        mean = max(nbytes // len(batch), 1)
        at_once = min(2 * at_once, _AT_ONCE, max(_BYTES_AT_ONCE // mean, 1))
        if progress is not None:
            progress(report.values + report.gone, total)
    return report


def remove_wrong(tier: Tier, keys: Sequence[bytes], codec: CodecChain = PLAIN) -> int:
    """Look at values again, and remove those that are wrong; return how many were removed.

    Parameters
    ----------
    tier : Tier
    keys : sequence of bytes
        For example `TierReport.wrong_keys`.
    codec : CodecChain, optional
        As at `verify_tier`.

    Raises
    ------
    TierError
        The tier cannot be read or written.
    """
    report = TierReport()
    for key in keys:
        _verify_batch(tier, [key], codec, report)
    return tier.remove(report.wrong_keys) if report.wrong_keys else 0


def _verify_batch(tier: Tier, keys: Sequence[bytes], codec: CodecChain, report: TierReport) -> int:
    """Look at some values; return their bytes."""
    absent: list[bytes] = []
    read = 0
    with tier.read(keys) as values:
        for key, value in zip(keys, values, strict=True):
            if value is None:
                absent.append(key)
            else:
                read += value.nbytes
                _verify(key, value, codec, report)
    for key in absent:
        _note_absent(tier, key, report)
    report.nbytes += read
    return read


def _verify(key: bytes, value: memoryview, codec: CodecChain, report: TierReport) -> None:
    try:
        if key.startswith(CHUNK_PREFIX):
            _note_chunk(read_chunk(key, value, codec), report)
        elif key.startswith(SESSION_PREFIX):
            read_session(key, value, codec)
            report.sessions += 1
        elif key.startswith(PROBE_PREFIX):
            text = "a measurement of the bandwidth was killed before it could remove it"
            report.add(Finding(key, value.nbytes, "probe", text, is_wrong=True))
        else:
            text = "this version of kvpool has no values with such a key"
            report.add(Finding(key, value.nbytes, "namespace", text, is_wrong=False))
    except ChunkError as error:
        is_wrong = error.reason not in _UNREADABLE
        report.add(Finding(key, value.nbytes, error.reason, str(error), is_wrong))


def _note_chunk(chunk: Chunk, report: TierReport) -> None:
    report.chunks += 1
    report.tokens += chunk.tokens
    report.models[chunk.model_id] += 1


def _note_absent(tier: Tier, key: bytes, report: TierReport) -> None:
    """Count a key without a value: a value that left meanwhile is not listed any more.

    A value that comes and goes may be listed at one look and absent at the next, so it is looked
    for several times.
    """
    for _ in range(_LOOKS):
        listed: Iterator[bytes] = tier.keys(key)
        if key not in islice(listed, 1) or tier.contains([key]):
            report.gone += 1
            return
        time.sleep(_PAUSE)
    report.add(Finding(key, 0, "absent", "the key is listed and has no value", is_wrong=True))
