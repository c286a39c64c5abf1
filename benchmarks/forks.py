"""What forks cost: making one beside a copy, writing to it, and the memory of many.

A fork is made of a session of 64 MiB, and beside that its tokens are copied into a new entry.
Then 100 forks are made of a session of 256 MiB and write 16 tokens each. The last page of each
stripe of the session is half full, so that each fork has two pages of its own for each of 512
stripes: the boundary, and a new one. What the kernel says (Pss of the process, blocks of the
arena) stands beside what the pool says.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import (
    Measurement,
    Ratio,
    Report,
    Target,
    UnavailableError,
    interleave,
    median,
    seconds,
)
from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.layout import EntryGeometry, KVLayout
from kvpool.manager import KVCacheManager
from kvpool.pool import ElasticPool, MemoryBlock, MemoryPool

BACKENDS = ("mmap", "ctypes")
MIB = 1 << 20

SMALL = KVLayout(layers=8, kv_heads=8, head_dim=128, dtype="float16")
SMALL_TOKENS = 2_048  # 64 MiB
LARGE = KVLayout(layers=32, kv_heads=8, head_dim=128, dtype="float16")
LARGE_TOKENS = 2_056  # 257 MiB
CONTEXT = 131_072
STEP = 16  # tokens that each fork writes

FORK = f"fork of {SMALL_TOKENS:,} tokens, 64 MiB"
PARENT = CacheKey("fork", "parent")

PHASES = ("charge", "write", "trim the parent")

NOTES = (
    "charge: the accounts of the pool; write: the tokens, with the page faults that they take",
    "trim the parent: give back the pages that the kernel committed there before it copied them",
    "trimming punches a hole for each stripe; the kernel looks for it in the pages of every fork",
)


def run(quick: bool) -> Report:
    """Measure making, writing and the memory of forks."""
    if sys.platform != "linux":
        raise UnavailableError(f"arenas are forked on Linux only, and this is {sys.platform}")
    report = Report("forks", notes=list(NOTES))
    making(report, rounds=3 if quick else 31)
    for backend in BACKENDS:
        memory(report, backend, forks=10 if quick else 100)
    for others in (0, 99):
        writing(report, others, rounds=1 if quick else 15)
    return report


# -- making one --------------------------------------------------------------------------


def making(report: Report, rounds: int) -> None:
    """Measure a fork and a copy of the same session, in turns."""
    managers = {name: KVCacheManager(256 * MIB, name, SMALL) for name in BACKENDS}
    parents = {name: filled(manager, SMALL_TOKENS) for name, manager in managers.items()}
    subjects = {
        **{f"fork, {name}": partial(forked, managers[name], parents[name]) for name in BACKENDS},
        **{f"copy, {name}": partial(copied, managers[name], parents[name]) for name in BACKENDS},
    }
    samples = interleave(subjects, rounds)
    for name in BACKENDS:
        ours = median(FORK, f"fork, {name}", "µs", samples[f"fork, {name}"], at_most(100))
        theirs = median(FORK, f"copy, {name}", "µs", samples[f"copy, {name}"])
        report.measurements += [ours, theirs]
        faster = theirs.value / ours.value
        report.ratios.append(Ratio(FORK, ours, theirs, "times as fast", faster, at_least(100)))
        managers[name].check_integrity()
        managers[name].close()


def forked(manager: KVCacheManager, parent: KVCacheEntry, times: int = 10) -> float:
    """Return the microseconds of one fork."""
    keys = [CacheKey(PARENT.namespace, number) for number in range(times)]
    start = seconds()
    for key in keys:
        manager.fork_cache_entry(PARENT, key)
    took = seconds() - start
    assert not manager.get_stats().copied_forks, parent
    for key in keys:
        manager.remove_cache_entry(key)
    return took / times * 1e6


def copied(manager: KVCacheManager, parent: KVCacheEntry) -> float:
    """Return the microseconds of a new entry with the same tokens."""
    key = CacheKey(PARENT.namespace, "copy")
    start = seconds()
    entry = manager.create_cache_entry(key, CONTEXT)
    entry.extend(parent.keys(), parent.values())
    took = seconds() - start
    manager.remove_cache_entry(key)
    return took * 1e6


# -- the memory of many ------------------------------------------------------------------


def memory(report: Report, backend: str, forks: int) -> None:
    """Compare the pool's accounting of many forks with the kernel's."""
    keys, values = tokens(LARGE, STEP)
    with KVCacheManager(2 << 30, backend, LARGE) as manager:
        parent = filled(manager, LARGE_TOKENS)
        own = manager.get_stats().used_memory
        before = proportional_set_size()
        children = [parent.fork(f"fork-{number}") for number in range(forks)]
        idle = proportional_set_size()
        for child in children:
            child.extend(keys, values)
        written = proportional_set_size()
        charged = manager.get_stats().used_memory - own
        assert isinstance(manager.pool, ElasticPool)
        beyond = (manager.pool.committed_bytes() or 0) - own
        granule = manager.pool.granule
        touched = forks * 2 * stripes(LARGE) * granule
        manager.check_integrity()
    what = f"{forks} forks of {LARGE_TOKENS:,} tokens, 257 MiB"
    after = f"{what}, {STEP} tokens each"
    add = report.measurements.append
    add(one(f"{what}: Pss added", backend, "MiB", (idle - before) / MIB, at_most(1)))
    add(one(f"{after}: pages left in the parent", backend, "pages", beyond // granule, at_most(0)))
    kernel = one(f"{after}: added", f"Pss, {backend}", "MiB", (written - idle) / MIB)
    ours = one(f"{after}: added", f"get_stats, {backend}", "MiB", charged / MIB)
    pages = one(f"{after}: added", f"pages touched, {backend}", "MiB", touched / MIB)
    off = abs(kernel.value / ours.value - 1) * 100
    report.measurements += [kernel, ours, pages]
    add(one(f"{after}: between Pss and get_stats", backend, "%", off, at_most(5)))
    for other in (kernel, pages):
        share = ours.value / other.value
        report.ratios.append(Ratio(after, ours, other, "times as much", share))


def proportional_set_size() -> int:
    """Return the bytes of memory that the kernel counts for this process."""
    gc.collect()
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, *fields = line.split()
        if name == "Pss:":
            return int(fields[0]) << 10
    raise UnavailableError("/proc/self/smaps_rollup has no Pss")


# -- the first tokens --------------------------------------------------------------------


def writing(report: Report, others: int, rounds: int) -> None:
    """Measure the steps of the first write through a fork, by page that it needs."""
    beside = f"beside {others} others" if others else "the only one"
    what = f"first {STEP} tokens of a fork, {beside}, by page"
    for backend in BACKENDS:
        with forked_parent(backend, others) as (pool, parent, geometry):
            found = [first_write(pool, parent, geometry) for _ in range(rounds)]
        for index, step in enumerate(PHASES):
            samples = [took[index] for took in found]
            report.measurements.append(median(what, f"{step}, {backend}", "µs", samples))
        shares = [100 * took[2] / sum(took) for took in found]
        report.measurements.append(
            median(what, f"share of trimming the parent, {backend}", "%", shares)
        )


@contextmanager
def forked_parent(
    backend: str, others: int
) -> Iterator[tuple[MemoryPool, MemoryBlock, EntryGeometry]]:
    """Yield a pool with a session, `others` forks of it that have written, and its block."""
    keys, values = tokens(LARGE, STEP)
    with KVCacheManager(2 << 30, backend, LARGE) as manager:
        parent = filled(manager, LARGE_TOKENS)
        for number in range(others):
            parent.fork(f"other-{number}").extend(keys, values)
        yield manager.pool, parent.block, LARGE.geometry(CONTEXT, manager.pool.granule)


def first_write(
    pool: MemoryPool, parent: MemoryBlock, geometry: EntryGeometry
) -> tuple[float, float, float]:
    """Return the microseconds by page of charging, writing and trimming the parent."""
    start, end = LARGE_TOKENS * geometry.token_stride, (LARGE_TOKENS + STEP) * geometry.token_stride
    made = pool.fork(parent, start)
    assert isinstance(made, tuple), "there is room for one more fork"
    fork, _ = made
    target = geometry.full_view(pool.lease(fork), LARGE_TOKENS, STEP)
    begin = seconds()
    pool.commit(fork, None, start, end)
    charged = seconds()
    target[...] = 1
    written = seconds()
    pool.trim_parent(fork)
    trimmed = seconds()
    pages = fork.charged // pool.granule
    del target
    pool.deallocate(fork)
    times = (charged - begin, written - charged, trimmed - written)
    in_turn = [took / pages * 1e6 for took in times]
    return in_turn[0], in_turn[1], in_turn[2]


# -- what they share ---------------------------------------------------------------------


def filled(manager: KVCacheManager, count: int) -> KVCacheEntry:
    """Make a session that holds `count` tokens."""
    entry = manager.create_cache_entry(PARENT, CONTEXT)
    assert manager.layout is not None
    for done in range(0, count, 256):
        entry.extend(*tokens(manager.layout, min(256, count - done)))
    return entry


def tokens(layout: KVLayout, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return keys and values for all layers."""
    shape = (layout.layers, layout.kv_heads, count, layout.head_dim)
    return np.full(shape, 1, layout.dtype), np.full(shape, 2, layout.dtype)


def stripes(layout: KVLayout) -> int:
    """Return the stripes of an entry: one for the keys and one for the values of each head."""
    return 2 * layout.layers * layout.kv_heads


def one(
    what: str, subject: str, unit: str, value: float, target: Target | None = None
) -> Measurement:
    """Return a figure that was taken once."""
    return median(what, subject, unit, [value], target)


def at_most(limit: float) -> Target:
    return Target(limit, at_most=True)


def at_least(limit: float) -> Target:
    return Target(limit, at_most=False)
