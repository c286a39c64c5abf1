"""`verify_tier`: what is wrong in a tier is found, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import TierError
from kvpool.layout import KVLayout
from kvpool.prefix import Identity, token_bytes
from kvpool.tiers import (
    PROBE_PREFIX,
    CodecChain,
    Item,
    StoredSession,
    Tier,
    encode_chunk,
    open_codec,
    probe_tier,
    remove_wrong,
    verify_tier,
)
from kvpool.tiers._session import encode_session, session_keys
from kvpool.tiers.codecs.aes_gcm import AesGcmCodec
from kvpool.tiers.memory import MemoryTier
from tests.support.stored_chunks import chunks, fill, value_of, with_format

CHUNKS = chunks(5)


@pytest.fixture
def tier() -> Iterator[MemoryTier]:
    with MemoryTier() as made:
        yield made


def put(tier: Tier, value: bytes, key: bytes = CHUNKS[0].key) -> bytes:
    assert tier.write([(key, [value])]) == 1
    return key


@pytest.mark.parametrize("codec", ["none", "zstd", "int8", "int4,zstd"])
def test_a_tier_that_is_right(tier: MemoryTier, codec: str) -> None:
    """Also with chunks of a codec that is not that of the tier."""
    fill(tier, CHUNKS, codec)
    session = StoredSession.of(
        Identity("", "", KVLayout(1, 1, 1)), CacheKey("chat", 1), token_bytes(range(5)), when=1
    )
    value = b"".join(map(bytes, encode_session(session, open_codec("none"))))
    put(tier, value, session_keys(session.name)[0])
    seen: list[tuple[int, int | None]] = []
    report = verify_tier(tier, progress=lambda done, total: seen.append((done, total)))
    assert report.is_clean
    assert (report.chunks, report.sessions, report.values) == (5, 1, 6)
    assert report.tokens == 5 * 16
    assert report.models == {"acme/model-7b": 5}
    assert report.nbytes == tier.stats().nbytes
    assert seen[-1] == (6, 6)


def test_a_flipped_byte_is_found_wherever_it_is(tier: MemoryTier) -> None:
    value = value_of(CHUNKS[0])
    for at in range(len(value)):
        damaged = bytearray(value)
        damaged[at] ^= 1 << at % 8
        put(tier, bytes(damaged))
        report = verify_tier(tier)
        assert (report.chunks, report.wrong + report.unknown) == (0, 1), at
        tier.remove([CHUNKS[0].key])


@pytest.mark.parametrize("cut", [1, 64, 1000])
def test_a_value_that_is_cut(tier: MemoryTier, cut: int) -> None:
    put(tier, value_of(CHUNKS[0])[:-cut])
    assert verify_tier(tier).reasons == {"length": 1}


def test_the_value_of_another_key(tier: MemoryTier) -> None:
    key = put(tier, value_of(CHUNKS[1]))
    report = verify_tier(tier)
    assert (report.reasons, report.wrong_keys) == ({"name": 1}, [key])
    assert repr(CHUNKS[1].key) in report.findings[0].text


def test_a_chunk_under_the_key_of_a_session(tier: MemoryTier) -> None:
    put(tier, value_of(CHUNKS[0]), b"s/" + bytes(32))
    assert verify_tier(tier).reasons == {"kind": 1}


def test_a_newer_format_is_not_judged_and_stays(tier: MemoryTier) -> None:
    key = put(tier, with_format(value_of(CHUNKS[0]), 2))
    report = verify_tier(tier)
    assert (report.wrong, report.unknown, report.wrong_keys) == (0, 1, [])
    assert not report.is_clean
    assert remove_wrong(tier, [key]) == 0
    assert tier.contains([key])


def test_a_key_that_begins_as_none_does_is_not_judged(tier: MemoryTier) -> None:
    put(tier, b"value", b"z/of a later version")
    report = verify_tier(tier)
    assert (report.unknown, report.reasons) == (1, {"namespace": 1})


def test_another_key_of_a_cipher_is_not_damage(tier: MemoryTier) -> None:
    ours, theirs = (CodecChain([AesGcmCodec(bytes([n]) * 16)]) for n in (1, 2))
    for chunk, codec in zip(CHUNKS, (ours, theirs), strict=False):
        put(tier, b"".join(encode_chunk(chunk, chunk.empty(), codec)), chunk.key)
    report = verify_tier(tier, ours)
    assert (report.chunks, report.unknown, report.reasons) == (1, 1, {"key": 1})


def test_a_codec_that_is_not_to_be_had_is_not_damage(
    tier: MemoryTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tier, CHUNKS, "zstd")
    monkeypatch.setenv("KVPOOL_DISABLED_CODECS", "zstd")
    report = verify_tier(tier, open_codec("none"))
    assert (report.chunks, report.reasons, report.wrong) == (0, {"codec": 5}, 0)


class Losing(MemoryTier):
    """Lists a key without a value, because it left or because the store is damaged."""

    def __init__(self, *, lists_again: bool) -> None:
        super().__init__()
        self._lists_again = lists_again
        self._times = 0

    def keys(self, prefix: bytes = b"", /) -> Iterator[bytes]:
        self._times += 1
        if self._times == 1 or self._lists_again:
            assert CHUNKS[4].key.startswith(prefix)
            yield CHUNKS[4].key


def test_a_value_that_leaves_meanwhile_is_not_wrong() -> None:
    with Losing(lists_again=False) as tier:
        report = verify_tier(tier)
    assert (report.gone, report.values, report.is_clean) == (1, 0, True)


def test_a_key_without_a_value_is_wrong() -> None:
    with Losing(lists_again=True) as tier:
        report = verify_tier(tier)
    assert (report.gone, report.reasons) == (0, {"absent": 1})


def test_what_is_wrong_is_removed_and_what_is_right_now_stays(tier: MemoryTier) -> None:
    fill(tier, CHUNKS[2:])
    keys = [put(tier, b"x" * 100, CHUNKS[number].key) for number in range(2)]
    report = verify_tier(tier)
    assert sorted(report.wrong_keys) == sorted(keys)
    tier.remove(keys[:1])
    fill(tier, CHUNKS[:1])  # another process has written it anew
    assert remove_wrong(tier, report.wrong_keys) == 1
    assert verify_tier(tier).chunks == 4


def test_findings_are_counted_beyond_those_that_are_described(tier: MemoryTier) -> None:
    for number in range(1100):
        put(tier, b"x", b"c/%032d" % number)
    report = verify_tier(tier)
    assert (len(report.findings), report.wrong) == (1000, 1100)
    assert remove_wrong(tier, report.wrong_keys) == 1100


# -- the measurement -------------------------------------------------------------------------


def test_a_probe_leaves_nothing(tier: MemoryTier) -> None:
    fill(tier, CHUNKS)
    result = probe_tier(tier, values=2, value_bytes=1000)
    assert result.nbytes == 3 * 2000
    assert min(result.write_bandwidth, result.read_bandwidth, result.latency) > 0
    assert tier.stats().values == 5


def test_a_tier_that_stores_nothing_cannot_be_measured() -> None:
    with MemoryTier(1000) as tier, pytest.raises(TierError, match=r"stored 0 of 2 values of 2,000"):
        probe_tier(tier, values=2, value_bytes=2000)


class Forgetful(MemoryTier):
    """Returns other bytes than it was given."""

    def write(self, items: Sequence[Item], /) -> int:
        return super().write([(key, [bytes(len(parts[0]))]) for key, parts in items])


def test_a_tier_with_other_bytes_cannot_be_measured() -> None:
    with Forgetful() as tier, pytest.raises(TierError, match="other bytes"):
        probe_tier(tier, values=1, value_bytes=1000)


def test_what_a_killed_probe_left_is_found(tier: MemoryTier) -> None:
    key = put(tier, b"random", PROBE_PREFIX + bytes(16))
    report = verify_tier(tier)
    assert (report.wrong_keys, report.reasons) == ([key], {"probe": 1})
