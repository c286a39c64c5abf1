"""Entries of elastic and of rigid pools against plain arrays, over sequences of calls."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from kvpool.layout import Packing
from tests.support.elastic_machine import STEPS, machine

pytestmark = pytest.mark.no_cover

CASES: list[tuple[str, bool, Packing]] = [
    ("mmap", True, "head"),
    ("mmap", True, "token"),
    ("ctypes", True, "head"),
    ("ctypes", True, "layer"),
    ("numpy", False, "head"),
    ("mmap", False, "layer"),
    ("ctypes", False, "token"),
]


@pytest.mark.parametrize(("backend", "elastic", "packing"), CASES)
def test_any_sequence_of_calls(backend: str, elastic: bool, packing: Packing) -> None:
    run_state_machine_as_test(
        machine(backend, elastic, packing),
        settings=settings(max_examples=20, stateful_step_count=STEPS),
    )
