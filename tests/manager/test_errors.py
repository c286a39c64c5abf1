"""What a manager refuses, and that nothing has changed then: no figure, no order, no byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from kvpool.entry import KVCacheEntry, PoolEntry
from kvpool.errors import (
    ContextOverflowError,
    EntryExistsError,
    EntryKindError,
    EntryNotFoundError,
    InvalidLayoutError,
    InvalidOptionError,
    InvalidSizeError,
    InvalidTokensError,
    InvalidTtlError,
    LayerMismatchError,
    PoolExhaustedError,
    UnknownPluginError,
)
from kvpool.eviction.lru import LruPolicy
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from tests.support.sessions import LAYOUT, Clock, key_of, random_tokens

CONTEXT = 8
NBYTES = LAYOUT.geometry(CONTEXT).nbytes
OTHER = KVLayout(1, 1, 8, "int8")


class Policy(LruPolicy):
    """The policy of the manager, and the entries that the test has made with it."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[PoolEntry] = []


@pytest.fixture
def policy() -> Policy:
    return Policy()


@pytest.fixture
def manager(backend: str, policy: Policy) -> Iterator[KVCacheManager]:
    """A manager with a half-full entry, one in a step, a raw one, and a pinned one."""
    with KVCacheManager(
        8 * NBYTES, backend, LAYOUT, policy=policy, clock=Clock(), elastic=False
    ) as manager:
        half, step = (manager.create_cache_entry(key_of(id_), CONTEXT) for id_ in ("half", "step"))
        half.extend(*random_tokens(LAYOUT, 4))
        step.append(1, *random_tokens(LAYOUT, 2).layer(1))
        raw = manager.allocate_entry(key_of("raw"), 100)
        other = manager.create_cache_entry(key_of("other"), CONTEXT, layout=OTHER)
        manager.pin(key_of("other"))
        policy.entries = [half, step, raw, other]
        yield manager
        manager.check_integrity()


def state(manager: KVCacheManager, policy: Policy) -> list[object]:
    """Return all that can be seen of a manager, without a use of anything."""
    found: list[object] = [manager.get_stats(), list(policy.victims()), manager.session_keys()]
    for entry in policy.entries:
        root = manager.pool.lease(entry.block)
        found.append((entry.session_id, entry.block, root.tobytes()))
        found.append((entry.created_at, entry.last_accessed, entry.last_use))
        if isinstance(entry, KVCacheEntry):
            found.append((entry.token_count, entry.max_context_length))
    return found


Call = Callable[[KVCacheManager], object]
REFUSED: dict[str, tuple[Call, type[Exception], str]] = {
    "create what exists": (
        lambda m: m.create_cache_entry(key_of("half"), CONTEXT),
        EntryExistsError,
        "chat/half has an entry",
    ),
    "allocate what exists": (
        lambda m: m.allocate_entry(key_of("half"), 64),
        EntryExistsError,
        "chat/half has an entry",
    ),
    "no room to create": (
        lambda m: m.create_cache_entry(key_of("new"), 1 << 40),
        PoolExhaustedError,
        "the whole pool has",
    ),
    "no room to get or create": (
        lambda m: m.get_or_create_cache(key_of("new"), 1 << 40),
        PoolExhaustedError,
        "the whole pool has",
    ),
    "no room to grow": (
        lambda m: m.get_or_create_cache(key_of("half"), 1 << 40),
        PoolExhaustedError,
        "the whole pool has",
    ),
    "no room to grow beside itself": (
        lambda m: m.get_or_create_cache(key_of("half"), 8 * CONTEXT),
        PoolExhaustedError,
        "evicting all 2 blocks that may go",
    ),
    "no room for a raw one": (
        lambda m: m.allocate_entry(key_of("new"), 1 << 40),
        PoolExhaustedError,
        "the whole pool has",
    ),
    "no room to make": (
        lambda m: m.evict_lru_entries(8 * NBYTES),
        PoolExhaustedError,
        "evicting all 3 blocks that may go",
    ),
    "a raw one as a cache": (
        lambda m: m.get_or_create_cache(key_of("raw"), CONTEXT),
        EntryKindError,
        "chat/raw is raw",
    ),
    "another layout": (
        lambda m: m.get_or_create_cache(key_of("half"), CONTEXT, layout=OTHER),
        EntryKindError,
        "2 x 3 x 5 float32, not 1 x 1 x 8 int8",
    ),
    "another layout than the manager's": (
        lambda m: m.get_or_create_cache(key_of("other"), CONTEXT),
        EntryKindError,
        "1 x 1 x 8 int8, not 2 x 3 x 5 float32",
    ),
    "tokens for a raw one": (
        lambda m: m.update_cache(key_of("raw"), *random_tokens(LAYOUT, 1)),
        EntryKindError,
        "chat/raw is raw",
    ),
    "tokens for nobody": (
        lambda m: m.update_cache(key_of("new"), *random_tokens(LAYOUT, 1)),
        EntryNotFoundError,
        "no entry for chat/new",
    ),
    "wrong tokens": (
        lambda m: m.update_cache(key_of("half"), *random_tokens(OTHER, 1)),
        InvalidTokensError,
        "int8",
    ),
    "too many tokens": (
        lambda m: m.update_cache(key_of("half"), *random_tokens(LAYOUT, 5)),
        ContextOverflowError,
        "holds 4 tokens, 5 more",
    ),
    "tokens within a step": (
        lambda m: m.update_cache(key_of("step"), *random_tokens(LAYOUT, 2)),
        LayerMismatchError,
        "layer 1 .* holds 2 tokens",
    ),
    "pin nobody": (lambda m: m.pin(key_of("new")), EntryNotFoundError, "chat/new"),
    "unpin nobody": (lambda m: m.unpin(key_of("new")), EntryNotFoundError, "chat/new"),
    "unpin the unpinned": (lambda m: m.unpin(key_of("raw")), EntryNotFoundError, "chat/raw"),
}


def check_refused(
    manager: KVCacheManager, policy: Policy, call: Call, error: type[Exception], text: str
) -> None:
    before = state(manager, policy)
    with pytest.raises(error, match=text):
        call(manager)
    assert state(manager, policy) == before


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_changes(manager: KVCacheManager, policy: Policy, name: str) -> None:
    check_refused(manager, policy, *REFUSED[name])


# A call that makes an entry, and one that finds it: both look at their arguments.
WITH_CONTEXT: dict[str, Callable[..., object]] = {
    "create": lambda m, **given: m.create_cache_entry(key_of("new"), **given),
    "miss": lambda m, **given: m.get_or_create_cache(key_of("new"), **given),
    "hit": lambda m, **given: m.get_or_create_cache(key_of("half"), **given),
}
WITH_TTL: dict[str, Callable[..., object]] = {
    "create": lambda m, **given: m.create_cache_entry(key_of("new"), 1, **given),
    "miss": lambda m, **given: m.get_or_create_cache(key_of("new"), 1, **given),
    "raw": lambda m, **given: m.allocate_entry(key_of("new"), 64, **given),
}
WITH_SIZE: dict[str, Callable[..., object]] = {
    "raw": lambda m, size: m.allocate_entry(key_of("new"), size),
    "evict": lambda m, size: m.evict_lru_entries(size),
}


@pytest.mark.parametrize("context", [0, -1, 2.5, "8", None])
@pytest.mark.parametrize("name", WITH_CONTEXT)
def test_a_bad_context_length(
    manager: KVCacheManager, policy: Policy, name: str, context: Any
) -> None:
    call = partial(WITH_CONTEXT[name], max_context_length=context)
    text = f"max_context_length must .* {context!r}$"
    check_refused(manager, policy, call, InvalidLayoutError, text)


@pytest.mark.parametrize("ttl", [0, -1, math.nan, "8"])
@pytest.mark.parametrize("name", WITH_TTL)
def test_a_bad_time_to_live(manager: KVCacheManager, policy: Policy, name: str, ttl: Any) -> None:
    call = partial(WITH_TTL[name], ttl=ttl)
    check_refused(manager, policy, call, InvalidTtlError, f"not {ttl!r}$")


@pytest.mark.parametrize("size", [0, -64, 0.5, "8", None])
@pytest.mark.parametrize("name", WITH_SIZE)
def test_a_bad_size(manager: KVCacheManager, policy: Policy, name: str, size: Any) -> None:
    check_refused(manager, policy, partial(WITH_SIZE[name], size=size), InvalidSizeError, f"{size}")


def test_no_layout_anywhere(backend: str, policy: Policy) -> None:
    with KVCacheManager(8 * NBYTES, backend, policy=policy, elastic=False) as manager:
        for call in (manager.create_cache_entry, manager.get_or_create_cache):
            check_refused(
                manager,
                policy,
                partial(lambda call, _: call(key_of(1), CONTEXT), call),
                InvalidLayoutError,
                "no layout for chat/1",
            )


def test_a_manager_that_cannot_be_made() -> None:
    with pytest.raises(InvalidTtlError, match="not -1"):
        KVCacheManager(1 << 20, "numpy", ttl=-1)
    with pytest.raises(UnknownPluginError, match="unknown eviction policy 'mru'"):
        KVCacheManager(1 << 20, "numpy", policy="mru")
    with pytest.raises(UnknownPluginError, match="unknown backend 'papyrus'"):
        KVCacheManager(1 << 20, "papyrus")
    with pytest.raises(InvalidSizeError, match="63"):
        KVCacheManager(63, "numpy")
    with pytest.raises(InvalidOptionError, match="'page'"):
        KVCacheManager(1 << 20, "numpy", page=4096)
