"""The pool over sequences of operations: what a view shows never changes under it."""

from __future__ import annotations

import gc
import sys
from typing import Any
from unittest import TestCase

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
)
from numpy.typing import NDArray

from kvpool.errors import DoubleFreeError, PoolExhaustedError, StaleBlockError
from kvpool.pool._block import MemoryBlock
from kvpool.pool._pool import MemoryPool
from kvpool.stats import MemoryStats
from tests.support.arenas import under_the_lock

pytestmark = pytest.mark.no_cover

CAPACITY = 64 * 64
DTYPES = [np.uint8, np.uint16, np.float32]


class Tenant:
    """A block as its owner sees it: what was written, and the views that are held."""

    def __init__(self, block: MemoryBlock) -> None:
        self.block = block
        self.content = np.zeros(block.size, np.uint8)
        self.views: list[tuple[NDArray[Any], int]] = []  # each with its offset in the block
        self.live = True


class PoolMachine(RuleBasedStateMachine):
    """Blocks come and go; every byte that can be seen is compared after every step."""

    backend = "numpy"
    tenants = Bundle("tenants")

    def __init__(self) -> None:
        super().__init__()
        self.pool = MemoryPool(CAPACITY, self.backend)
        self.known: list[Tenant] = []
        self.written = 0

    def teardown(self) -> None:
        self.pool.close()
        self.nothing_that_is_seen_has_changed()

    def holding(self) -> list[Tenant]:
        """Return the tenants whose bytes are theirs: live ones, and ones with a view."""
        self.known = [tenant for tenant in self.known if tenant.live or tenant.views]
        return self.known

    # -- rules -----------------------------------------------------------------------------

    @rule(target=tenants, nbytes=st.integers(1, 900), alignment=st.sampled_from([64, 256, 1024]))
    def allocate(self, nbytes: int, alignment: int) -> Any:
        before = self.pool.stats()
        try:
            block = self.pool.allocate(nbytes, alignment)
        except PoolExhaustedError as error:
            self.check_refusal(error, before, nbytes, alignment)
            return multiple()
        assert block.offset % alignment == 0
        tenant = Tenant(block)
        self.known.append(tenant)
        assert not self.pool.view(block, np.uint8, nbytes).any()
        self.write(tenant)
        return tenant

    def check_refusal(
        self, error: PoolExhaustedError, before: MemoryStats, nbytes: int, alignment: int
    ) -> None:
        assert self.pool.stats() == before
        assert error.requested == self.pool.charge(nbytes)
        assert (error.free, error.largest_free) == (before.free, before.largest_free)
        # With room for any padding it would have fitted.
        assert before.largest_free < error.requested + alignment - 64

    @rule(tenant=tenants)
    def write(self, tenant: Tenant) -> None:
        """Fill a live block with bytes that no other fill has used of late."""
        if tenant.live:
            self.written = self.written % 255 + 1
            tenant.content[:] = self.written
            self.pool.lease(tenant.block)[:] = tenant.content

    @rule(
        tenant=tenants, dtype=st.sampled_from(DTYPES), place=st.tuples(*[st.integers(0, 900)] * 2)
    )
    def look(self, tenant: Tenant, dtype: type[Any], place: tuple[int, int]) -> None:
        """Take a view of a part and hold a slice of it."""
        itemsize = np.dtype(dtype).itemsize
        items = tenant.block.size // itemsize
        if not items:
            return
        first, count = place[0] % items, place[1] % (items + 1)
        count = min(count, items - first)
        if not tenant.live:
            with pytest.raises(StaleBlockError):
                self.pool.view(tenant.block, dtype, count, first * itemsize)
        else:
            view = self.pool.view(tenant.block, dtype, count, first * itemsize)
            skipped = count // 2
            tenant.views.append((view[skipped:], (first + skipped) * itemsize))

    @rule(tenant=tenants, value=st.integers(0, 255))
    def write_through_a_view(self, tenant: Tenant, value: int) -> None:
        if tenant.views:
            view, offset = tenant.views[-1]
            view.view(np.uint8)[:] = value
            tenant.content[offset : offset + view.nbytes] = value

    @rule(tenant=tenants)
    def look_away(self, tenant: Tenant) -> None:
        if tenant.views:
            tenant.views.pop()

    @rule(tenant=tenants)
    def look_away_while_the_pool_is_busy(self, tenant: Tenant) -> None:
        if tenant.views:
            under_the_lock(self.pool, tenant.views.clear)

    @rule(tenant=tenants)
    def leave_the_views_to_the_collector(self, tenant: Tenant) -> None:
        gc.disable()  # so that the cycle is still young at its collection, which is then quick
        cycle: list[Any] = [tenant.views]
        cycle.append(cycle)
        tenant.views = []
        del cycle
        gc.collect(0)
        gc.enable()

    @rule(tenant=tenants)
    def deallocate(self, tenant: Tenant) -> None:
        if not tenant.live:
            with pytest.raises(DoubleFreeError):
                self.pool.deallocate(tenant.block)
        else:
            assert self.pool.is_leased(tenant.block) is bool(tenant.views)
            assert self.pool.deallocate(tenant.block) is not bool(tenant.views)
            tenant.live = False

    @rule(tenant=tenants)
    def reclaim(self, tenant: Tenant) -> None:
        if tenant.live:
            assert self.pool.reclaim(tenant.block) is not bool(tenant.views)
            tenant.live = bool(tenant.views)

    @rule(nbytes=st.integers(1, CAPACITY), order=st.randoms(use_true_random=False))
    def make_room(self, nbytes: int, order: Any) -> None:
        live = [tenant for tenant in self.holding() if tenant.live]
        order.shuffle(live)
        ranges = self.pool.ranges()
        try:
            gone = self.pool.make_room(nbytes, [tenant.block for tenant in live])
        except PoolExhaustedError:
            assert self.pool.ranges() == ranges
            return
        for tenant in live:
            if tenant.block in gone:
                assert not tenant.views
                tenant.live = False
        assert self.pool.stats().largest_free >= nbytes

    # -- invariants ------------------------------------------------------------------------

    @invariant()
    def nothing_that_is_seen_has_changed(self) -> None:
        for tenant in self.holding():
            for view, offset in tenant.views:
                seen = view.view(np.uint8)
                assert np.array_equal(seen, tenant.content[offset : offset + seen.size])

    @invariant()
    def the_blocks_hold_what_was_written(self) -> None:
        for tenant in self.holding():
            if tenant.live:
                assert np.array_equal(self.pool.lease(tenant.block), tenant.content)

    @invariant()
    def the_books_agree(self) -> None:
        self.pool.check_integrity()
        holding = self.holding()
        stats = self.pool.stats()
        live = [tenant.block for tenant in holding if tenant.live]
        assert stats.live_blocks == len(live)
        assert stats.parting_blocks == len(holding) - len(live)
        assert stats.used == sum(self.pool.charge(tenant.block.size) for tenant in holding)
        assert [block for *_, block in self.pool.ranges() if block] == sorted(
            live, key=lambda block: block.offset
        )

    @invariant()
    def no_two_overlap(self) -> None:
        end = 0
        for tenant in sorted(self.holding(), key=lambda tenant: tenant.block.offset):
            assert tenant.block.offset >= end
            end = tenant.block.offset + tenant.block.size


class MmapPoolMachine(PoolMachine):
    backend = "mmap"


class CtypesPoolMachine(PoolMachine):
    backend = "ctypes"


def case_of(machine: type[PoolMachine]) -> type[TestCase]:
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
    return machine.TestCase


TestNumpyPool = case_of(PoolMachine)
TestMmapPool = case_of(MmapPoolMachine)
if sys.platform == "linux":
    TestCtypesPool = case_of(CtypesPoolMachine)
