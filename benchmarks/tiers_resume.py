"""A large session after a restart: loaded from the tier `disk`, beside `safetensors`."""

from __future__ import annotations

import gc
import importlib
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Ratio, Report, Target, UnavailableError, interleave, median
from kvpool import KVCacheEntry, KVLayout, MemoryPool
from kvpool.prefix import Identity, token_bytes
from kvpool.tiers import TierStore

__all__ = ["measure_resume"]

LAYOUT = KVLayout(layers=16, kv_heads=8, head_dim=128, dtype="float16")
IDENTITY = Identity("a model with 16 layers of 8 heads", "", LAYOUT)
BESIDE_SAFETENSORS = Target(1.2, at_most=True)
BACKENDS = ("mmap", "numpy")
THEIRS = "safetensors"

NOTES = """\
The session has 16 layers of 8 KV heads of 128 in 16 bits. `safetensors` loads the same tensors \
from one file into new memory; the tier is opened, checks its file, checks a digest of each chunk \
and fills a new session of a pool that nobody has used.
Memory that is used for the first time costs more than the copy into it: "used memory" is the same \
load into a session whose memory was written before."""


class Resumption:
    """A session on a disk, in a tier and in a file of safetensors."""

    def __init__(self, folder: Path, nbytes: int) -> None:
        try:
            self._safetensors: Any = importlib.import_module("safetensors.numpy")
        except ImportError as error:
            raise UnavailableError(f"safetensors cannot be imported: {error}") from error
        self._tokens = nbytes // LAYOUT.bytes_per_token
        self._names = token_bytes(list(range(self._tokens)))
        self._file = folder / "session.safetensors"
        self._level = f"disk:{folder / 'tier'}?capacity={2 * nbytes + (64 << 20)}&budget=none"
        draws = np.random.default_rng(0)
        shape = (LAYOUT.layers, LAYOUT.kv_heads, self._tokens, LAYOUT.head_dim)
        keys, values = (_random(draws, shape) for _ in range(2))
        self._sums = [int(array.view(np.uint16).sum()) for array in (keys, values)]
        tensors = {f"keys.{layer}": keys[layer] for layer in range(LAYOUT.layers)}
        tensors |= {f"values.{layer}": values[layer] for layer in range(LAYOUT.layers)}
        self._safetensors.save_file(tensors, self._file)
        with TierStore([self._level], queue_bytes=2 * nbytes) as store:
            store.put(IDENTITY, self._names, keys, values, hold=True)
            if left := store.drain(600):
                raise AssertionError(f"{left} bytes are not written")

    def load_file(self) -> float:
        """Load the file; return seconds."""
        gc.collect()
        start = time.perf_counter()
        tensors = self._safetensors.load_file(self._file)
        took = time.perf_counter() - start
        if len(tensors) != 2 * LAYOUT.layers:
            raise AssertionError("not all was loaded")
        return took

    def resume(self, backend: str, *, is_used: bool = False) -> float:
        """Open the tier, and load the session into a pool; return seconds."""
        gc.collect()
        nbytes = self._tokens * LAYOUT.bytes_per_token
        with MemoryPool(nbytes + (64 << 20), backend=backend) as pool:
            entry = KVCacheEntry.create(pool, LAYOUT, self._tokens, "resumed")
            if is_used:
                self._fill(entry)
            start = time.perf_counter()
            with TierStore([self._level], load_budget=600) as store:
                loaded = store.load(IDENTITY, self._names, entry)
                took = time.perf_counter() - start
            if loaded.tokens != self._tokens:
                raise AssertionError(f"not all was loaded: {loaded}")
            self._check(entry)
            del entry
            gc.collect()
        return took

    def _fill(self, entry: KVCacheEntry) -> None:
        for layer in range(LAYOUT.layers):
            with entry.writing(layer, self._tokens) as (keys, values):
                keys[:], values[:] = 1, 1
        entry.truncate(0)

    def _check(self, entry: KVCacheEntry) -> None:
        found = [int(array.view(np.uint16).sum()) for array in (entry.keys(), entry.values())]
        if found != self._sums:
            raise AssertionError("what was loaded is not what was written")


def measure_resume(report: Report, nbytes: int, rounds: int) -> None:
    """Load a session of this many bytes in every way, in turns; add the figures to the report.

    Raises
    ------
    UnavailableError
        safetensors is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="kvpool-bench-") as folder:
        resumption = Resumption(Path(folder), nbytes)
        sides: dict[str, Callable[[], float]] = {
            f"tier disk, {name}": partial(resumption.resume, name) for name in BACKENDS
        }
        used = "tier disk, mmap, used memory"
        sides[used] = partial(resumption.resume, "mmap", is_used=True)
        samples = interleave({**sides, THEIRS: resumption.load_file}, rounds)
    report.versions |= {THEIRS: metadata.version(THEIRS)}
    report.notes += NOTES.splitlines()
    what = f"a session of {nbytes >> 20:,} MiB after a restart"
    figures = {
        name: median(what, name, "ms", [took * 1e3 for took in taken])
        for name, taken in samples.items()
    }
    report.measurements += figures.values()
    for name in sides:
        quotients = [one / two for one, two in zip(samples[name], samples[THEIRS], strict=True)]
        value = median("", "", "", quotients).value
        target = None if name == used else BESIDE_SAFETENSORS
        ratio = Ratio(what, figures[name], figures[THEIRS], "times as long", value, target)
        report.ratios.append(ratio)


def _random(draws: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float16]:
    """Return numbers that are not the same in two layers."""
    one = draws.standard_normal(shape[1:], np.float32).astype(np.float16)
    return np.stack([one + np.float16(layer) for layer in range(shape[0])])
