"""What a signal handler may do to a manager, in the middle of any call of the manager."""

from __future__ import annotations

import signal
import sys
from collections.abc import Hashable, Iterator
from types import FrameType

import pytest

from kvpool.eviction.lru import LruPolicy
from kvpool.manager import KVCacheManager
from tests.support.sessions import key_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGUSR1")


class SignallingPolicy(LruPolicy):
    """Sends this process a signal while the manager, or its pool too, holds its lock."""

    def touch(self, key: Hashable, /) -> None:
        signal.raise_signal(signal.SIGUSR1)
        super().touch(key)

    def victims(self) -> Iterator[Hashable]:
        signal.raise_signal(signal.SIGUSR1)
        yield from super().victims()


def test_a_handler_may_call_remove_later(backend: str) -> None:
    policy = SignallingPolicy()
    handled: list[int] = []
    with KVCacheManager(1024, backend, policy=policy, receipts=False, elastic=False) as manager:

        def handler(number: int, _frame: FrameType | None) -> None:
            manager.remove_later(key_of(1))
            handled.append(number)

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            for number in (1, 2):
                manager.allocate_entry(key_of(number), 64)
            manager.get_cache_entry(key_of(2))
            assert len(handled) == 1
            assert manager.session_keys() == [key_of(2)]
            manager.allocate_entry(key_of(1), 64)
            manager.make_room(1024)
            assert len(handled) == 2
            manager.check_integrity()
            assert len(manager) == 0
        finally:
            signal.signal(signal.SIGUSR1, before)
