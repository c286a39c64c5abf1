"""A limit on the size of files (`ulimit -f`), which memory that can be shared is as well."""

from __future__ import annotations

import sys

import pytest

from kvpool.backends import create_arena
from kvpool.errors import ArenaError
from tests.support.marks import elastic

if sys.platform == "linux":
    import resource

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="such memory is a file on Linux")


@elastic
def test_the_limit_is_named(backend: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(ArenaError, match=r"EFBIG.*`ulimit -f`"):
            create_arena(64 << 20, backend)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
