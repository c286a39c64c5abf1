"""The prefix tree beside plain lists of tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvpool.cache_key import CacheKey
from kvpool.errors import BrokenPluginError, IntegrityError
from kvpool.eviction import EvictionPolicy
from kvpool.eviction.fifo import FifoPolicy
from kvpool.eviction.lfu import LfuPolicy
from kvpool.eviction.lru import LruPolicy
from kvpool.layout import KVLayout
from kvpool.prefix import Cut, Identity, PrefixTree, Ranking, Segment, token_bytes

LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=2, dtype="float16")
MODEL = Identity("model", "", LAYOUT)
OTHER = Identity("other", "", LAYOUT)
Ids = tuple[int, ...]


def key_of(number: int) -> CacheKey:
    return CacheKey("t", number)


class Held:
    """A ranking, and which session should hold which tokens."""

    def __init__(self, policy: EvictionPolicy | None = None, chunk_tokens: int = 4) -> None:
        self.ranking = Ranking(policy or LruPolicy(), chunk_tokens)
        self.tree = self.ranking.tree
        self.tokens: dict[CacheKey, Ids] = {}

    def hold(self, number: int, tokens: Sequence[int], used: int = 0) -> None:
        key = key_of(number)
        if key not in self.tokens:
            self.ranking.admit(key, 1)
        self.ranking.hold(key, MODEL, token_bytes(tokens), used)
        self.tokens[key] = tuple(tokens)
        self.check()

    def drop(self, key: CacheKey) -> None:
        self.ranking.remove(key)
        del self.tokens[key]

    def evict(self, need: int, busy: CacheKey | None = None) -> bool:
        nbytes = need * LAYOUT.bytes_per_token
        plan = self.ranking.plan(nbytes, lambda _: 1, lambda key: key != busy)
        before = self.tree.token_count
        for step in plan or ():
            assert isinstance(step, Cut)
            shortened, covered = self.tree.cut(step)
            for key in covered:
                self.drop(key)
            for key in shortened:
                self.tokens[key] = self.tokens[key][: step.end]
            self.check()
        assert plan is None or before - self.tree.token_count >= need
        return plan is not None

    @property
    def prefixes(self) -> set[Ids]:
        """All prefixes that are held: one for each token of the tree."""
        return {
            tokens[:length]
            for tokens in self.tokens.values()
            for length in range(1, len(tokens) + 1)
        }

    def longest(self, tokens: Ids) -> int:
        prefixes = self.prefixes
        return next(n for n in range(len(tokens), -1, -1) if not n or tokens[:n] in prefixes)

    def check(self) -> None:
        self.ranking.check_integrity(self.tokens.keys())
        assert self.tree.token_count == len(self.prefixes)
        for key, tokens in self.tokens.items():
            assert self.tree.tokens_of(key) == token_bytes(tokens)


TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=12).map(tuple)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(0, 5), TOKENS),
        st.tuples(st.just("drop"), st.integers(0, 5), TOKENS),
        st.tuples(st.just("evict"), st.integers(1, 9), TOKENS),
        st.tuples(st.just("touch"), st.integers(0, 5), TOKENS),
    ),
    max_size=40,
)


@pytest.mark.parametrize("policy", [LruPolicy, LfuPolicy])
@given(steps=STEPS, chunk_tokens=st.integers(1, 5))
@settings(deadline=None)
def test_the_tree_knows_what_lists_know(
    policy: type[EvictionPolicy], steps: Any, chunk_tokens: int
) -> None:
    held = Held(policy(), chunk_tokens)
    for what, number, tokens in steps:
        key = key_of(number)
        if what == "hold":
            held.hold(number, tokens)
        elif what == "evict":
            held.evict(number, busy=next(iter(held.tokens), None))
        elif key in held.tokens:
            if what == "drop":
                held.drop(key)
            else:
                held.ranking.touch(key)
        held.check()
        match = held.tree.match(MODEL, token_bytes(tokens))
        assert match.length == held.longest(tokens)
        if match.segment is not None:
            holder = held.tree.holder(match.segment)
            assert held.tokens[holder][: match.length] == tokens[: match.length]
    assert held.tree.match(OTHER, token_bytes((0, 1))).length == 0


def _lru_of_chunks(requests: Sequence[Ids], capacity: int) -> list[int]:
    """Hits of each request, with the chunks of one token by themselves; see `Held.serve`."""
    last: dict[Ids, tuple[int, int]] = {}
    hits = []
    for now, tokens in enumerate(requests):
        path = [tokens[:length] for length in range(1, len(tokens) + 1)]
        found = list(itertools.takewhile(lambda prefix: prefix in last, path))
        hits.append(len(found))
        for prefix in found:
            last[prefix] = now, -len(prefix)
        for prefix in path[len(found) :]:
            if len(last) >= capacity:
                victims = last.keys() - set(path)
                if not victims:
                    break
                del last[min(victims, key=lambda victim: last[victim])]
            last[prefix] = now, -len(prefix)
    return hits


def _lru_of_segments(requests: Sequence[Ids], capacity: int) -> list[int]:
    held, hits = Held(chunk_tokens=1), []
    for number, tokens in enumerate(requests):
        match = held.tree.match(MODEL, token_bytes(tokens))
        hits.append(match.length)
        if match.length:
            held.hold(number, tokens[: match.length])
        over = held.tree.token_count + len(tokens) - match.length - capacity
        fits = len(tokens) if over <= 0 or held.evict(over, key_of(number)) else match.length
        if fits:
            held.hold(number, tokens[:fits], used=match.length)
    return hits


@given(st.lists(TOKENS, max_size=30), st.integers(13, 30))
@settings(deadline=None)
def test_segments_are_evicted_as_chunks_would_be(requests: list[Ids], capacity: int) -> None:
    assert _lru_of_segments(requests, capacity) == _lru_of_chunks(requests, capacity)


def test_the_tail_goes_first_and_by_the_chunk() -> None:
    held = Held()
    held.hold(1, range(10))
    assert held.evict(1)
    assert held.tokens[key_of(1)] == tuple(range(8))
    assert held.evict(3)
    assert held.tokens[key_of(1)] == tuple(range(4))
    assert held.evict(4)
    assert not held.tokens
    assert not held.tree.segments


def test_what_others_continue_stays() -> None:
    held = Held()
    held.hold(1, [0, 1, 2, 3, 4, 5])
    held.hold(2, [0, 1, 2, 3, 8, 9])
    assert not held.evict(7, busy=key_of(2))
    assert held.evict(2, busy=key_of(2))
    assert held.tokens == {key_of(2): (0, 1, 2, 3, 8, 9)}
    assert held.evict(2)
    assert held.tokens == {key_of(2): (0, 1, 2, 3)}


def test_of_a_run_that_others_continue_the_oldest_continuation_is_dropped() -> None:
    """The policy offers the first tokens, which came first; they stay until the last moment."""
    held = Held(FifoPolicy(), chunk_tokens=1)
    held.hold(0, [7])
    for number in (1, 2, 3):
        held.hold(number, [7, number, number])
    assert held.evict(3)
    assert held.tokens == {key_of(0): (7,), key_of(2): (7, 2), key_of(3): (7, 3, 3)}


def test_nothing_is_planned_if_it_is_not_enough() -> None:
    held = Held()
    held.hold(1, [0, 1, 2])
    assert not held.evict(4)
    assert held.tokens == {key_of(1): (0, 1, 2)}


def test_names_do_not_depend_on_the_segments() -> None:
    whole, parts = Held(), Held()
    whole.hold(1, range(12))
    for end in (7, 3, 12, 9):
        parts.hold(end, range(end))
    (one,) = whole.tree.segments
    names = [name for part in sorted(parts.tree.segments, key=_start) for name in part.names]
    assert set(one.names) <= set(names)
    assert len(set(names)) == len(names) == 6  # 3, 4, 7, 8, 9 and 12 tokens
    other = PrefixTree(LruPolicy(), 4)
    other.hold(key_of(1), OTHER, token_bytes(range(12)))
    (foreign,) = other.segments
    assert not set(foreign.names) & set(names)


def _start(segment: Segment) -> int:
    return segment.start


def test_a_later_token_costs_more() -> None:
    held = Held()
    held.hold(1, [0] * 8)
    held.hold(2, [0] * 4)
    first, second = sorted(held.tree.segments, key=_start)
    assert first.token_count == second.token_count == 4
    assert 4 < first.cost < second.cost


def test_identities_without_tokens_are_forgotten() -> None:
    tree = PrefixTree(LruPolicy(), 4)
    for number in range(100):
        tree.hold(key_of(1), Identity(str(number), "", LAYOUT), token_bytes([1]))
        tree.match(Identity("asked", str(number), LAYOUT), token_bytes([1]))
        tree.drop(key_of(1))
    assert len(vars(tree)["_roots"]) == 0


class Inventing(LruPolicy):
    """Yields a segment of its own."""

    def victims(self) -> Any:
        yield Segment(None, b"", 1, 1)


class Odd(LruPolicy):
    """Yields what is neither a session nor a segment."""

    def victims(self) -> Any:
        yield "odd"


@pytest.mark.parametrize(
    ("policy", "error", "text"),
    [(Inventing, IntegrityError, "ranks 1 items"), (Odd, BrokenPluginError, "Odd yields odd")],
)
def test_a_policy_that_invents_is_named(
    policy: type[EvictionPolicy], error: type[Exception], text: str
) -> None:
    ranking = Ranking(policy(), 4)
    ranking.admit(key_of(1), 1)
    ranking.hold(key_of(1), MODEL, token_bytes([1, 2]))
    with pytest.raises(BrokenPluginError, match=policy.__name__):
        ranking.plan(1, lambda _: 1, lambda _: True)
    with pytest.raises(error, match=text):
        ranking.check_integrity({key_of(1)})


def _misplace(tree: PrefixTree) -> None:
    next(iter(tree.segments)).start += 1


def _rename_first(tree: PrefixTree) -> None:
    segment = max(tree.segments, key=_start)
    segment.tokens = token_bytes([99]) + segment.tokens[8:]


def _leave(tree: PrefixTree) -> None:
    max(tree.segments, key=_start).holders.clear()


def _double(tree: PrefixTree) -> None:
    for segment in tree.segments:
        segment.holders.append(key_of(1))


def _miscount(tree: PrefixTree) -> None:
    tree.token_count += 1


def _forget_segment(tree: PrefixTree) -> None:
    tree.segments.pop()


def _forget_session(tree: PrefixTree) -> None:
    tree.ends.clear()


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_misplace, "is not behind"),
        (_rename_first, "first token"),
        (_leave, "no session holds"),
        (_double, "two segments"),
        (_miscount, "are counted"),
        (_forget_segment, "other segments"),
        (_forget_session, "end elsewhere"),
    ],
)
def test_damage_is_found(damage: Any, text: str) -> None:
    held = Held()
    held.hold(1, range(6))
    held.hold(2, range(3))
    damage(held.tree)
    with pytest.raises(IntegrityError, match=text):
        held.tree.check_integrity()
