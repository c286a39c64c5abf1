"""Any sequence of calls of a manager with tiers that fail: every token that is served is right."""

from __future__ import annotations

import sys

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.tier_machine import TierMachine

pytestmark = pytest.mark.no_cover


class Rigid(TierMachine):
    is_elastic = False


class Elastic(TierMachine):
    is_elastic = True


@pytest.mark.parametrize("machine", [Rigid, Elastic])
def test_any_sequence_of_sessions_evictions_and_faults(machine: type[TierMachine]) -> None:
    if machine is Elastic and sys.platform != "linux":
        pytest.skip("elastic arenas are for Linux")
    before = TierMachine.loaded, TierMachine.stored
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=40))
    assert TierMachine.loaded > before[0]
    assert TierMachine.stored > before[1]
