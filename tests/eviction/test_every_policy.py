"""Every built-in policy: the contract, random calls, and a trace of requests."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kvpool.eviction.registry import create_policy, registry
from kvpool.testing import PolicyConformance


class TestArc(PolicyConformance):
    policy = "arc"


class TestFifo(PolicyConformance):
    policy = "fifo"


class TestGdsf(PolicyConformance):
    policy = "gdsf"


class TestHitDensity(PolicyConformance):
    policy = "hit-density"


class TestS3Fifo(PolicyConformance):
    policy = "s3-fifo"


class TestSieve(PolicyConformance):
    policy = "sieve"


class TestSlru(PolicyConformance):
    policy = "slru"


class Run:
    """A run of parts of `size` bytes, in place of a segment of a prefix tree."""

    def __init__(self, names: list[int], size: int) -> None:
        self.names = names
        self.size = size
        self.is_busy = False

    @property
    def nbytes(self) -> int:
        return len(self.names) * self.size


class PolicyMachine(RuleBasedStateMachine):
    """Calls a policy as a prefix tree does, in any order, and knows what it must rank."""

    name: str

    def __init__(self) -> None:
        super().__init__()
        self.policy = create_policy(self.name)
        self.runs: list[Run] = []

    @rule(start=st.integers(0, 30), parts=st.integers(1, 8), size=st.integers(1, 3))
    def admit(self, start: int, parts: int, size: int) -> None:
        run = Run(list(range(start, start + parts)), size)
        self.policy.admit(run, run.nbytes)
        self.runs.append(run)

    @precondition(lambda self: self.runs)
    @rule(draw=st.data(), busy=st.booleans())
    def touch(self, draw: st.DataObject, busy: bool) -> None:
        run = draw.draw(st.sampled_from(self.runs))
        run.is_busy = busy
        self.policy.touch(run)

    @precondition(lambda self: any(len(run.names) > 1 for run in self.runs))
    @rule(draw=st.data())
    def split(self, draw: st.DataObject) -> None:
        run = draw.draw(st.sampled_from([run for run in self.runs if len(run.names) > 1]))
        parts = draw.draw(st.integers(1, len(run.names) - 1))
        head = Run(run.names[:parts], run.size)
        run.names = run.names[parts:]
        self.policy.split(run, head, run.nbytes, head.nbytes)
        self.policy.touch(head)
        self.runs.append(head)

    @precondition(lambda self: self.runs)
    @rule(draw=st.data())
    def resize(self, draw: st.DataObject) -> None:
        run = draw.draw(st.sampled_from(self.runs))
        self.policy.resize(run, run.nbytes + run.size)
        run.names = [*run.names, 99]

    @rule(parts=st.integers(1, 20))
    def evict(self, parts: int) -> None:
        while parts:
            run = next((run for run in self.ranked() if not run.is_busy), None)
            if run is None:
                return
            went = min(parts, len(run.names))
            if went < len(run.names):
                self.policy.resize(run, run.nbytes - went * run.size)
                run.names = run.names[:-went]
            else:
                self.policy.remove(run)
                self.runs.remove(run)
            parts -= went

    @precondition(lambda self: self.runs)
    @rule(draw=st.data())
    def remove(self, draw: st.DataObject) -> None:
        run = draw.draw(st.sampled_from(self.runs))
        self.policy.remove(run)
        self.runs.remove(run)

    def ranked(self) -> list[Run]:
        order = list(self.policy.victims())
        return [run for run in order if isinstance(run, Run)]

    @invariant()
    def exactly_what_is_there_is_ranked(self) -> None:
        order = list(self.policy.victims())
        assert len(order) == len(self.runs)
        assert set(order) == set(self.runs)


@pytest.mark.no_cover
@pytest.mark.parametrize("policy", registry.kind.builtins)
def test_random_calls(policy: str) -> None:
    machine = type(f"{policy}Machine", (PolicyMachine,), {"name": policy})
    run_state_machine_as_test(machine, settings=settings(max_examples=20, stateful_step_count=40))
