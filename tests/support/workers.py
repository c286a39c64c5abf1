"""Threads whose errors are errors of the test that started them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

__all__ = ["Worker", "run_all"]


class Worker(threading.Thread, ABC):
    """A thread that counts what it does.

    Attributes
    ----------
    done : Counter of str
    error : BaseException or None
        What `work` raised.
    """

    def __init__(self, number: int) -> None:
        super().__init__(name=f"worker {number}")
        self.number = number
        self.done: Counter[str] = Counter()
        self.error: BaseException | None = None

    @abstractmethod
    def work(self) -> None:
        """Do all that is to be done."""

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.error = error


def run_all(workers: Sequence[Worker]) -> Counter[str]:
    """Let workers work at once; return what all have done, or raise what one of them raised."""
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for worker in workers:
        if worker.error is not None:
            raise worker.error
    return sum((worker.done for worker in workers), Counter[str]())
