"""A child that `os.fork` made can choose plugins, whatever other threads did at the fork."""

from __future__ import annotations

from collections.abc import Callable

from kvpool.arena import ArenaBackend
from kvpool.backends import registry
from kvpool.hookspecs import hookimpl
from kvpool.manager import KVCacheManager
from tests.support.children import Holder, in_child, needs_fork

pytestmark = needs_fork


class WaitingPlugin:
    """Waits while it is registered, under the lock of the registry."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait = wait

    @hookimpl
    def kvpool_arena_backend(self) -> ArenaBackend:
        self._wait()
        return registry.choose("numpy")


def test_a_child_makes_a_manager_while_another_thread_registers_a_plugin() -> None:
    def register(wait: Callable[[], None]) -> None:
        registry.register("waiting", WaitingPlugin(wait))
        registry.unregister("waiting")

    def act() -> None:
        with KVCacheManager(1 << 16, "numpy", receipts=False) as manager:
            manager.check_integrity()

    with Holder(register).in_the_middle():
        in_child(act)
