"""Layouts and geometries refuse bad arguments with an error that names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kvpool.layout import EntryGeometry, KVLayout
from tests.support.bad_arguments import (
    BELOW_ZERO,
    NOT_WHOLE,
    WRONG_OBJECTS,
    Values,
    cases,
    check_all_refused,
    without,
)

LAYOUT = KVLayout(2, 2, 16, "float32")
NOT_A_COUNT = (*NOT_WHOLE, *BELOW_ZERO, 0)
HAVE_A_DTYPE = (np.float32(2),)

TABLE: dict[str, tuple[Callable[[Any], object], tuple[Any, ...]]] = {
    "layers": (lambda v: KVLayout(v, 2, 16), NOT_A_COUNT),
    "kv_heads": (lambda v: KVLayout(2, v, 16), NOT_A_COUNT),
    "head_dim": (lambda v: KVLayout(2, 2, v), NOT_A_COUNT),
    "dtype": (lambda v: KVLayout(2, 2, 16, v), without(WRONG_OBJECTS, *HAVE_A_DTYPE)),
    "packing": (lambda v: KVLayout(2, 2, 16, packing=v), WRONG_OBJECTS),
    "geometry": (LAYOUT.geometry, NOT_A_COUNT),
    "geometry, alignment": (lambda v: LAYOUT.geometry(8, v), (*NOT_A_COUNT, 3)),
    "EntryGeometry, layout": (lambda v: EntryGeometry(v, 8), WRONG_OBJECTS),
    "EntryGeometry": (lambda v: EntryGeometry(LAYOUT, v), NOT_A_COUNT),
    "EntryGeometry, alignment": (lambda v: EntryGeometry(LAYOUT, 8, v), (*NOT_A_COUNT, 3)),
}


@pytest.mark.parametrize(("act", "values"), cases(TABLE))
def test_a_bad_argument_is_named(act: Callable[[Any], object], values: Values) -> None:
    check_all_refused(act, values, lambda: None)
