"""Whatever is asked of an engine, in whatever pool: all ends well."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kvpool.cache_key import CacheKey
from kvpool.errors import ContextOverflowError, PoolExhaustedError
from kvpool.manager import KVCacheManager
from kvpool.serving import Engine, Generation, QueueFullError, Request

pytestmark = pytest.mark.transformers

BASES = ([2 + n * 11 % 97 for n in range(80)], [3 + n * 7 % 89 for n in range(80)])


@dataclass(frozen=True)
class Asked:
    """A request, and what becomes of it."""

    prompt: tuple[int, ...]
    max_tokens: int
    session: int | None
    salt: str
    priority: int
    deadline: float | None
    submitted: int  # before which step
    cancelled: int | None  # before which step

    @property
    def request(self) -> Request:
        return Request(
            tokens=self.prompt,
            max_tokens=self.max_tokens,
            session=self.session,
            salt=self.salt,
            priority=self.priority,
            deadline=self.deadline,
        )


PROMPTS = st.builds(
    lambda base, length, end: (*BASES[base][:length], *end),
    st.integers(0, 1),
    st.sampled_from([0, 1, 8, 33, 63, 64, 80]),
    st.lists(st.integers(2, 6), min_size=1, max_size=3),
)
ASKED = st.builds(
    Asked,
    prompt=PROMPTS,
    max_tokens=st.integers(1, 14),
    session=st.none() | st.integers(1, 2),
    salt=st.sampled_from(["", "", "a"]),
    priority=st.sampled_from([0, 0, 1]),
    deadline=st.none() | st.floats(1e-4, 0.05),
    submitted=st.sampled_from([0, 0, 0, 3, 9]),
    cancelled=st.none() | st.integers(0, 20),
)


@dataclass(frozen=True)
class Place:
    """An engine, and its pool."""

    backend: str
    tokens: int  # of the pool: in an elastic one, as pages
    max_sessions: int
    prefill_tokens: int
    overcommit: float
    max_queue: int

    def manager(self) -> KVCacheManager:
        size = self.tokens * 512 if self.backend == "numpy" else -(-self.tokens // 64) * 8 * 4096
        return KVCacheManager(size, self.backend, receipts=False, chunk_tokens=16)


PLACES = st.builds(
    Place,
    backend=st.sampled_from(["numpy", "mmap"]),
    tokens=st.sampled_from([100, 130, 200, 400]),
    max_sessions=st.integers(1, 5),
    prefill_tokens=st.sampled_from([1, 7, 40, 256]),
    overcommit=st.sampled_from([1, 4]),
    max_queue=st.sampled_from([3, 100]),
)
# What others do to the pool, before which step.
OTHERS = st.dictionaries(st.integers(0, 20), st.sampled_from(["evict", "fill"]), max_size=3)


class Course:
    """Submits and cancels requests at steps of the engine."""

    def __init__(self, engine: Engine, asked: Sequence[Asked], others: dict[int, str]) -> None:
        self._engine = engine
        self._waiting = list(asked)
        self._others = others
        self._step = 0
        self.begun: list[tuple[Asked, Generation]] = []
        self.refused = 0

    def before(self, manager: KVCacheManager, *_step: Any) -> None:
        """Do what is to be done before a step."""
        self.submit(self._step)
        for one, generation in self.begun:
            if one.cancelled == self._step:
                generation.cancel()
        match self._others.get(self._step):
            case "evict":
                with contextlib.suppress(PoolExhaustedError):
                    manager.make_room(manager.pool.capacity // 2)
            case "fill":
                with contextlib.suppress(PoolExhaustedError):
                    key = CacheKey("other", self._step)
                    manager.allocate_entry(key, manager.pool.capacity // 4)
        self._step += 1

    def submit(self, before: int) -> None:
        """Submit what is to be submitted before a step."""
        for one in [one for one in self._waiting if one.submitted <= before]:
            self._waiting.remove(one)
            try:
                self.begun.append((one, self._engine.submit(one.request)))
            except (ContextOverflowError, QueueFullError):
                self.refused += 1


@settings(
    max_examples=30,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a failure may take seconds
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(place=PLACES, asked=st.lists(ASKED, min_size=1, max_size=8), others=OTHERS)
def test_every_generation_ends_with_the_words_of_the_model(
    lab: Any, gate: Any, place: Place, asked: list[Asked], others: dict[int, str]
) -> None:
    with place.manager() as manager:
        engine = lab.make_engine(
            manager,
            max_sessions=place.max_sessions,
            prefill_tokens=place.prefill_tokens,
            overcommit=place.overcommit,
            max_queue=place.max_queue,
            room_timeout=60,
        )
        course = Course(engine, asked, others)
        gate.before = functools.partial(course.before, manager)
        course.submit(0)
        for one, generation in course.begun:
            end(lab, one, generation)
        engine.close()
        gate.before = None
        for one, generation in course.begun:
            end(lab, one, generation)
        lab.check(engine, manager)
        finished = engine.stats().finished
        assert sum(finished.values()) == len(course.begun)
        assert finished["error"] == 0


def end(lab: Any, one: Asked, generation: Generation) -> None:
    """Wait for the end of a generation, and check it."""
    done = generation.result(120)
    reasons = {"length"}
    if one.cancelled is not None:
        reasons.add("cancelled")
    if one.deadline is not None:
        reasons.add("deadline")
    assert done.finish_reason in reasons
    if done.finish_reason == "length":
        assert len(done.token_ids) == one.max_tokens
    assert len(done.token_ids) <= one.max_tokens
    assert lab.is_likeliest(one.prompt, done.token_ids)
    assert done.text == lab.text_of(done.token_ids)
    usage = done.usage
    assert usage.prompt_tokens == len(one.prompt)
    assert usage.completion_tokens == len(done.token_ids)
    assert 0 <= usage.cached_tokens < usage.prompt_tokens
