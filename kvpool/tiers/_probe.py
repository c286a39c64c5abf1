"""`probe_tier`: a short measurement of how fast a tier takes and gives values."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from kvpool._checks import whole_number
from kvpool.errors import InvalidTierError, TierError
from kvpool.tiers._base import Tier

__all__ = ["PROBE_PREFIX", "ProbeResult", "probe_tier"]

PROBE_PREFIX: Final = b"p/"
"""What the keys of the values begin with that a measurement writes, and removes at its end."""

_VALUE_BYTES: Final = 1 << 20
_ROUNDS: Final = 3


class ProbeResult(NamedTuple):
    """How fast a tier is.

    Parameters
    ----------
    nbytes : int
        Bytes that were written, and read, in the rounds together.
    write_bandwidth, read_bandwidth : float
        Bytes per second of the fastest round.
    latency : float
        Seconds of the fastest call that looks for one value.
    """

    nbytes: int
    write_bandwidth: float
    read_bandwidth: float
    latency: float


def probe_tier(tier: Tier, values: int = 8, value_bytes: int = _VALUE_BYTES) -> ProbeResult:
    """Write random values into a tier, read them, and remove them.

    Parameters
    ----------
    tier : Tier
        Asked itself, not through a `Breaker`. If it is full it evicts others to make room.
    values : int, default 8
        Values of a call. There are three rounds.
    value_bytes : int, default 1 MiB
        Bytes of a value: about those of a chunk.

    Raises
    ------
    TierError
        The tier cannot be read or written, or does not store the values.
    InvalidTierError
        A number is not a whole one of at least 1.

    Notes
    -----
    What was written a moment ago may be read from a cache of the system or of the server. Loads
    of what was used lately are as fast, others may be slower.
    """
    values = whole_number("values", values, InvalidTierError, least=1)
    value_bytes = whole_number("value_bytes", value_bytes, InvalidTierError, least=1)
    written: list[bytes] = []
    writes, reads, looks = [], list[float](), list[float]()
    target = memoryview(bytearray(values * value_bytes))
    try:
        for _ in range(_ROUNDS):
            keys = [PROBE_PREFIX + secrets.token_bytes(16) for _ in range(values)]
            content = os.urandom(value_bytes)
            written += keys
            begun = time.perf_counter()
            stored = tier.write([(key, [content]) for key in keys])
            writes.append(time.perf_counter() - begun)
            if stored < values:
                raise TierError(
                    f"the tier {tier.name!r} stored {stored} of {values} values of "
                    f"{value_bytes:,} bytes; it may be full, or open for reading alone"
                )
            looks.append(_look(tier, keys[0]))
            reads.append(_read(tier, keys, content, target))
    finally:
        tier.remove(written)
    nbytes = values * value_bytes
    return ProbeResult(nbytes * _ROUNDS, nbytes / min(writes), nbytes / min(reads), min(looks))


def _look(tier: Tier, key: bytes) -> float:
    begun = time.perf_counter()
    tier.contains([key])
    return time.perf_counter() - begun


def _read(tier: Tier, keys: list[bytes], content: bytes, target: memoryview) -> float:
    """Return how long it takes to read values and to copy them, as a load does.

    Raises
    ------
    TierError
        A value is not there, or is another one.
    """
    begun = time.perf_counter()
    with tier.read(keys) as values:
        _copy(values, target, len(content))
        seconds = time.perf_counter() - begun
        if None in values:
            raise TierError(f"the tier {tier.name!r} lost a value as soon as it had it")
    if bytes(target) != content * len(keys):
        raise TierError(f"the tier {tier.name!r} returned other bytes than it was given")
    return seconds


def _copy(values: Sequence[memoryview | None], target: memoryview, nbytes: int) -> None:
    """Copy the values that are there and have the right size, one behind the other."""
    for number, value in enumerate(values):
        if value is not None and value.nbytes == nbytes:
            target[number * nbytes : (number + 1) * nbytes] = value
