"""The manager against the naive model, over sequences of calls, on every backend."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.manager_machine import ManagerMachine

pytestmark = pytest.mark.no_cover


class OnNumpy(ManagerMachine):
    backend = "numpy"


class OnMmap(ManagerMachine):
    backend = "mmap"


class OnCtypes(ManagerMachine):
    backend = "ctypes"


def test_any_sequence_of_calls(backend: str) -> None:
    (machine,) = (one for one in (OnNumpy, OnMmap, OnCtypes) if one.backend == backend)
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=50))
