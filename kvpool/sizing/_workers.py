"""Simulations in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from typing import NamedTuple

from kvpool.sizing._errors import SizingError
from kvpool.sizing._sampling import Sample
from kvpool.sizing._simulation import policy_hits

__all__ = ["LITTLE_WORK", "Case", "simulate"]

LITTLE_WORK = 1_000_000
"""References to simulate, below which it is not worth it to start a process: about a second."""


class Case(NamedTuple):
    """One simulation.

    Parameters
    ----------
    policy : str
    size : int
        Blocks of the pool that the sample stands for.
    sample : int
        The number of the sample.
    """

    policy: str
    size: int
    sample: int


def simulate(
    samples: Sequence[Sample], cases: Sequence[Case], workers: int
) -> Iterator[tuple[Case, float]]:
    """Yield the hits of each case in the whole trace, in the order in which they are known.

    Parameters
    ----------
    samples : sequence of Sample
    cases : sequence of Case
    workers : int
        The most processes; with 1, and if there is little to do, everything is done in this one.

    Raises
    ------
    SizingError
        A process was ended by the system.
    PluginError
        A policy is unknown or cannot be used.
    """
    references = sum(samples[case.sample].trace.reference_count for case in cases)
    if workers == 1 or references < LITTLE_WORK:
        for case in cases:
            yield case, _hits(samples[case.sample], case)
        return
    # A fork of this process would copy its threads' locks in any state.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    pool = ProcessPoolExecutor(
        min(workers, len(cases)) or 1,
        multiprocessing.get_context(method),
        _Worker.start,
        (list(samples),),
    )
    try:
        waiting = {pool.submit(_Worker.run, case): case for case in cases}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    except BrokenExecutor as error:
        raise SizingError(
            f"a process of the simulation ended early ({error}); fewer processes (--workers) need "
            "less memory"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _hits(sample: Sample, case: Case) -> float:
    size = max(sample.scaled(case.size), 1)
    return sample.all_hits(policy_hits(sample.trace, case.policy, size))


class _Worker:
    """What a process of the simulation keeps: the samples, which are sent once."""

    samples: Sequence[Sample] = ()

    @classmethod
    def start(cls, samples: Sequence[Sample]) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the simulations in their parent
        threading.Thread(target=_end_with_parent, daemon=True).start()
        cls.samples = samples

    @classmethod
    def run(cls, case: Case) -> float:
        return _hits(cls.samples[case.sample], case)


def _end_with_parent() -> None:
    """End this process when its parent has ended, however: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
