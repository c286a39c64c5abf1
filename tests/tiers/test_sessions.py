"""Sessions that tiers keep by their names."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import ChunkError, TierError
from kvpool.layout import KVLayout
from kvpool.prefix import Identity, token_bytes
from kvpool.tiers import (
    SESSION_PREFIX,
    Item,
    Level,
    StoredSession,
    TierStore,
    open_codec,
    remove_wrong,
    verify_tier,
)
from kvpool.tiers._frame import Kind, seal
from kvpool.tiers._session import encode_session, read_session, session_keys, session_name
from kvpool.tiers.memory import MemoryTier

LAYOUT = KVLayout(2, 2, 16, "float16")
IDENTITY = Identity("model", "salt", LAYOUT)
KEY = CacheKey("chat", "a/b\\1")
OTHERS = [
    IDENTITY._replace(model_id="other"),
    IDENTITY._replace(salt="other"),
    IDENTITY._replace(layout=KVLayout(2, 2, 16, "float32")),
]


def tokens(count: int) -> bytes:
    return token_bytes(list(range(count)))


@pytest.fixture(params=["none", "zstd", "int8,zstd", "aes-gcm"])
def codec(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "zstd" or request.param.endswith(",zstd"):
        pytest.importorskip("backports.zstd")
    if request.param != "aes-gcm":
        return str(request.param)
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "key").chmod(0o600)
    return f"aes-gcm;key={tmp_path / 'key'}"


@pytest.fixture
def url(tmp_path: Path, codec: str) -> str:
    return f"disk:{tmp_path / 'kv'}?capacity=8MiB&codec={codec}"


@pytest.fixture
def store(url: str) -> Iterator[TierStore]:
    with TierStore([url]) as opened:
        yield opened


def found(store: TierStore, identity: Identity = IDENTITY, key: CacheKey = KEY) -> bytes | None:
    session = store.find_session(identity, key)
    return None if session is None else session.tokens.tobytes()


def put(store: TierStore, count: int, key: CacheKey = KEY) -> None:
    assert store.put_session(IDENTITY, key, tokens(count)) == len(store.levels)
    assert store.drain(60) == 0


def test_the_last_record_is_found_also_by_another_process(url: str) -> None:
    with TierStore([url]) as store:
        assert found(store) is None
        for count in (5, 70, 3, 200):
            put(store, count)
            assert found(store) == tokens(count)
        assert store.stats().levels[0].sessions == 4
        assert len(list(store.levels[0].breaker.keys(SESSION_PREFIX))) == 2
    with TierStore([url]) as again:
        session = again.find_session(IDENTITY, KEY)
        assert session is not None
        assert (session.key, session.model_id, session.dtype) == (KEY, "model", "float16")
        assert session.tokens.tobytes() == tokens(200)
        assert not session.tokens.flags.writeable


class HeldTier(MemoryTier):
    """Waits for an event before it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on, self.has_begun = threading.Event(), threading.Event()

    def write(self, items: Sequence[Item], /) -> int:
        self.has_begun.set()
        assert self.go_on.wait(60)
        return super().write(items)


def test_a_session_that_waits_to_be_written_is_removed_at_once() -> None:
    tier, other = HeldTier(), CacheKey("chat", "other")
    with TierStore([Level(tier, budget=None)]) as store:
        store.put_session(IDENTITY, other, tokens(9))
        assert tier.has_begun.wait(60)
        store.put_session(IDENTITY, KEY, tokens(5))
        store.put_session(IDENTITY, KEY, tokens(6))
        assert store.remove_session(session_name(IDENTITY, KEY))
        assert not tier.go_on.is_set()
        assert found(store) is None
        tier.go_on.set()
        assert store.drain(60) == 0
        assert (found(store), found(store, key=other)) == (None, tokens(9))
        assert store.stats().levels[0].queued_nbytes == 0


def test_a_session_that_is_being_written_is_not_removed_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tier = HeldTier()
    with TierStore([Level(tier, budget=None)]) as store:
        store.put_session(IDENTITY, KEY, tokens(5))
        assert tier.has_begun.wait(60)
        with monkeypatch.context() as patch:
            patch.setattr("kvpool.tiers._store._REMOVE_SECONDS", 0.05)
            with pytest.raises(TierError, match="is writing the session; try again later"):
                store.remove_session(session_name(IDENTITY, KEY))
        tier.go_on.set()
        assert store.remove_session(session_name(IDENTITY, KEY))
        assert found(store) is None


def test_a_note_is_kept_beside_the_tokens(url: str, codec: str) -> None:
    note = b'{"said": "a secret"}'
    with TierStore([url]) as store:
        store.put_session(IDENTITY, KEY, tokens(5), note)
        assert store.drain(60) == 0
        (key,) = store.levels[0].breaker.keys(SESSION_PREFIX)
        with store.levels[0].breaker.read([key]) as (value,):
            assert value is not None
            assert (b"secret" in bytes(value)) == (codec in {"none", "int8,zstd", "zstd"})
    with TierStore([url]) as again:
        (session,) = again.sessions()
        assert (session.tokens.tobytes(), session.note) == (tokens(5), note)
        assert session.nbytes == len(tokens(5)) + len(note)
        again.put_session(IDENTITY, KEY, tokens(6))
        assert again.drain(60) == 0
        (session,) = again.sessions()
        assert (session.tokens.tobytes(), session.note) == (tokens(6), b"")


def test_a_record_from_before_there_were_notes_is_read() -> None:
    session = StoredSession.of(IDENTITY, KEY, tokens(9), 7)
    key = session_keys(session.name)[0]
    header = msgspec.msgpack.encode(
        (str(KEY), "model", 2, 2, 16, "float16", 9, 7, session.name, "none")
    )
    value = seal(Kind.SESSION, header, [tokens(9)]) + tokens(9)
    read = read_session(key, memoryview(value), open_codec("none"))
    assert (read.tokens.tobytes(), read.when, read.note) == (tokens(9), 7, b"")


@pytest.mark.parametrize("identity", OTHERS)
def test_another_model_salt_or_layout_has_another_session(
    store: TierStore, identity: Identity
) -> None:
    put(store, 10)
    assert found(store, identity) is None
    store.put_session(identity, KEY, tokens(20))
    store.drain(60)
    assert (found(store), found(store, identity)) == (tokens(10), tokens(20))


def test_a_damaged_record_leaves_the_one_before(store: TierStore) -> None:
    put(store, 10)
    put(store, 20)
    newest = max(store.levels[0].breaker.keys(SESSION_PREFIX))
    flip(store, newest)
    assert found(store) == tokens(10)
    put(store, 30)  # takes the place of the damaged one
    assert found(store) == tokens(30)
    report = verify_tier(store.levels[0].breaker, store.levels[0].codec)
    assert (report.sessions, report.is_clean) == (2, True)


def test_fsck_finds_and_removes_a_damaged_record(store: TierStore) -> None:
    put(store, 10)
    level = store.levels[0]
    (key,) = level.breaker.keys(SESSION_PREFIX)
    flip(store, key)
    report = verify_tier(level.breaker, level.codec)
    assert (report.sessions, report.wrong_keys) == (0, [key])
    assert remove_wrong(level.breaker, report.wrong_keys, level.codec) == 1
    assert found(store) is None


def flip(store: TierStore, key: bytes) -> None:
    """Change a byte of the tokens of a value."""
    tier = store.levels[0].breaker
    with tier.read([key]) as (value,):
        assert value is not None
        data = bytearray(value)
    data[-1] ^= 1
    assert tier.remove([key]) == 1
    assert tier.write([(key, [data])]) == 1


def test_sessions_are_listed_the_newest_first_and_can_be_forgotten(store: TierStore) -> None:
    keys = [CacheKey("chat", number) for number in range(3)]
    for number, key in enumerate(keys):
        put(store, 10 + number, key)
        put(store, 20 + number, key)
    listed = store.sessions()
    assert [one.key for one in listed] == keys[::-1]
    assert [len(one.tokens) for one in listed] == [22, 21, 20]
    assert store.remove_session(listed[0].name)
    assert not store.remove_session(listed[0].name)
    assert [one.key for one in store.sessions()] == [keys[1], keys[0]]


class Unwilling(MemoryTier):
    """Cannot remove values, as long as that is so."""

    fails = True

    def remove(self, keys: Sequence[bytes], /) -> int:
        if self.fails:
            raise TierError("not now")
        return super().remove(keys)


def test_a_session_that_a_level_may_still_have_is_not_said_to_be_forgotten() -> None:
    tiers = MemoryTier(), Unwilling(), MemoryTier()
    with TierStore(tiers) as store:
        tiers[1].fails = False  # to write a record removes an older one
        put(store, 10)
        tiers[1].fails = True
        name = session_name(IDENTITY, KEY)
        with pytest.raises(TierError, match="cannot remove values: not now"):
            store.remove_session(name)
        assert [level.find_session(name) is None for level in store.levels] == [True, False, True]
        tiers[1].fails = False
        assert store.remove_session(name)
        assert not store.remove_session(name)


def test_the_newest_record_of_several_levels_counts(tmp_path: Path) -> None:
    urls = [f"disk:{tmp_path / name}?capacity=8MiB" for name in "ab"]
    with TierStore(urls[:1]) as first:
        put(first, 10)
    with TierStore(urls[1:]) as second:
        put(second, 20)
    with TierStore(urls) as both:
        assert found(both) == tokens(20)
        assert [len(one.tokens) for one in both.sessions()] == [20]
        put(both, 30)
    for url in urls:
        with TierStore([url]) as one:
            assert found(one) == tokens(30)


def test_a_clock_that_goes_back_does_not_hide_a_record(
    store: TierStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 10)
    monkeypatch.setattr("time.time_ns", lambda: 1)
    put(store, 20)
    put(store, 30)
    assert found(store) == tokens(30)


def test_a_closed_store_refuses(url: str) -> None:
    store = TierStore([url])
    store.close()
    for call in (
        lambda: store.find_session(IDENTITY, KEY),
        lambda: store.put_session(IDENTITY, KEY, tokens(1)),
        store.sessions,
        lambda: store.remove_session(session_name(IDENTITY, KEY)),
    ):
        with pytest.raises(TierError, match="closed"):
            call()


@pytest.mark.parametrize("ours", ["none", "zstd"])
def test_any_bytes_are_refused_or_right(ours: str) -> None:
    chain = open_codec(ours)
    session = StoredSession.of(IDENTITY, KEY, tokens(9), 7, b"a note")
    key = session_keys(session.name)[0]
    value = b"".join(bytes(part) for part in encode_session(session, chain))
    assert np.array_equal(read_session(key, memoryview(value), chain).tokens, session.tokens)
    for at in range(len(value)):
        wrong = bytearray(value)
        wrong[at] ^= 0x41
        with pytest.raises(ChunkError):
            read_session(key, memoryview(bytes(wrong)), chain)
        with pytest.raises(ChunkError):
            read_session(key, memoryview(value[:at]), chain)
    with pytest.raises(ChunkError, match="another key"):
        read_session(SESSION_PREFIX + bytes(33), memoryview(value), chain)


def test_a_session_that_cannot_be_stored_costs_nothing_else(
    store: TierStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.put_session(IDENTITY, CacheKey("chat", "\ud800"), tokens(5))  # not text in any encoding
    put(store, 5)
    assert found(store) == tokens(5)
    stats = store.stats().levels[0]
    assert (stats.sessions, stats.failed, stats.dropped) == (1, 1, 0)
    assert "a session cannot be encoded" in caplog.text
