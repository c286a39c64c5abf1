"""`Breaker`: a tier that never makes its caller wait longer than a budget."""

from __future__ import annotations

import enum
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

from kvpool._process import ForkAware, current, forget_forks, in_child_of, watch_forks
from kvpool.errors import (
    ForkedProcessError,
    InvalidArgumentError,
    InvalidTierError,
    TierError,
)
from kvpool.tiers._base import Item, Tier, TierStats, check_items, check_keys
from kvpool.tiers._helpers import Helpers, TooManyCallsError

__all__ = ["Breaker", "BreakerFigures", "BreakerState"]

T = TypeVar("T")

_MAX_CALLS: Final = 32
_MAX_WAIT: Final = 60.0
_KEYS_AT_ONCE: Final = 256
_MISTAKES: Final = (InvalidArgumentError, InvalidTierError, ForkedProcessError)
"""Errors of a caller, which say nothing about the store."""

_log = logging.getLogger("kvpool.tiers")


class BreakerState(enum.StrEnum):
    """Whether a tier is asked."""

    CLOSED = "closed"
    """It is asked."""
    OPEN = "open"
    """It is not asked, because it did not answer; all its values count as missing."""
    HALF_OPEN = "half-open"
    """One call is let through, to see whether it answers again."""


class BreakerFigures(NamedTuple):
    """What a breaker has counted.

    Parameters
    ----------
    errors : int
        Calls that ended with an error.
    timeouts : int
        Calls that took longer than the budget.
    refused : int
        Calls that were not made, because the tier does not answer.
    """

    errors: int = 0
    timeouts: int = 0
    refused: int = 0


class _FailedError(Exception):
    """The store did not answer, or was not asked."""


class _LateError(Exception):
    """The store has not answered within the budget."""


class Breaker(Tier, ForkAware):
    """Asks a tier in another thread, and no longer than a budget; leaves it alone while it fails.

    Parameters
    ----------
    tier : Tier
        Belongs to the breaker from now on, which closes it.
    budget : float or None, default 1.0
        Seconds that a call may take. Then its values count as missing, and nothing as stored.
        None: calls are made in the thread of the caller, without a limit.
    failures : int, default 3
        This many failed calls in a row, by an error or by their time, open the breaker.
    retry_after : float, default 1.0
        Seconds after which one call is let through to an open breaker. Each time that it fails
        they double, up to a minute.
    clock : callable, default `time.monotonic`
        Returns seconds.

    Notes
    -----
    What an error would be is a miss here: `read` has None for each key, and `write` and `contains`
    return 0. `remove`, `keys` and `stats` have no such answer, so they raise `TierError`: 0 values
    that were removed would be values that are not there.

    Each change of state is one line of the log ``kvpool.tiers``.
    """

    def __init__(
        self,
        tier: Tier,
        budget: float | None = 1.0,
        *,
        failures: int = 3,
        retry_after: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if budget is not None and not (budget > 0 and math.isfinite(budget)):
            raise InvalidTierError(f"budget must be a number of seconds above 0, not {budget!r}")
        self._tier, self._budget = tier, budget
        self._failures, self._retry_after, self._clock = failures, retry_after, clock
        self._pid = current.pid
        self._is_closed = False
        self._helpers = Helpers(_MAX_CALLS, f"kvpool {tier.name}")
        self._lock = threading.Lock()  # guards what follows
        self._state = BreakerState.CLOSED
        self._in_a_row = 0
        self._wait = retry_after
        self._retry_at = 0.0
        self._errors = self._timeouts = self._refused = 0
        watch_forks(weakref.ref(self, forget_forks))

    def _enter_child(self) -> None:
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """What messages and tables call the tier."""
        return self._tier.name

    @property
    def tier(self) -> Tier:
        """The tier that is asked."""
        return self._tier

    @property
    def state(self) -> BreakerState:
        """Whether the tier is asked."""
        return self._state

    @property
    def evictions(self) -> int:
        """How many values the tier has evicted to make room, as far as it can tell."""
        return self._tier.evictions

    @property
    def is_due(self) -> bool:
        """Whether the next call of an open breaker is made, to see whether the tier answers."""
        return self._clock() >= self._retry_at

    @property
    def figures(self) -> BreakerFigures:
        """What was counted."""
        with self._lock:
            return BreakerFigures(self._errors, self._timeouts, self._refused)

    # -- calls -------------------------------------------------------------------------------

    def call(
        self,
        ask: Callable[[Tier], T],
        missing: T,
        discard: Callable[[T], object] | None = None,
        budget: float | None = None,
    ) -> T:
        """Call a function with the tier, in the budget.

        Parameters
        ----------
        ask : callable
            Takes the tier. May run in another thread, also after this call has returned.
        missing : T
            What to return if the tier fails or is not asked.
        discard : callable, optional
            Takes what `ask` returned after the budget, to release it.
        budget : float, optional
            Seconds, if the call may take longer than others.

        Raises
        ------
        TierError
            The breaker is closed.
        ForkedProcessError
            It belongs to the parent of this process.
        """
        try:
            return self._call(ask, discard, budget)
        except _FailedError:
            return missing

    def count(
        self, ask: Callable[[Tier], int], most: int, budget: float | None = None
    ) -> int | None:
        """Call a function with the tier that counts values, in the budget.

        Parameters
        ----------
        ask : callable
            Takes the tier. May run in another thread, also after this call has returned.
        most : int
            The most that it can count. An answer that is not a number from 0 to `most` is an error
            of the tier, like any other.
        budget : float, optional
            Seconds, if the call may take longer than others.

        Returns
        -------
        int or None
            None if the tier fails or is not asked.

        Raises
        ------
        TierError
            The breaker is closed.
        ForkedProcessError
            It belongs to the parent of this process.
        """
        return self.call(lambda tier: _checked_count(ask(tier), most), None, budget=budget)

    def _call(
        self,
        ask: Callable[[Tier], T],
        discard: Callable[[T], object] | None = None,
        budget: float | None = None,
    ) -> T:
        self._check_open()
        if self._budget is not None:
            budget = max(self._budget, budget or 0.0)
        begun = time.monotonic()
        if not self._may_ask():
            raise _FailedError(f"the tier {self.name!r} does not answer")
        try:
            result = self._ask(ask, discard, budget)
        except _MISTAKES:
            self._note_success()  # the store has nothing to do with it
            raise
        except _LateError as error:
            self._note_failure(f"no answer in {budget} s", is_late=True)
            raise _FailedError(f"the tier {self.name!r} gave no answer in {budget} s") from error
        except TooManyCallsError as error:
            self._note_failure(f"{_MAX_CALLS} calls hang", is_late=True)
            raise _FailedError(
                f"the tier {self.name!r} has {_MAX_CALLS} calls that hang"
            ) from error
        except Exception as error:
            self._check_open()  # closed meanwhile
            self._note_failure(str(error) or type(error).__name__)
            raise _FailedError(str(error)) from error
        except BaseException:  # an interrupt of the caller
            self._note_interrupt()
            raise
        if self._budget is not None and time.monotonic() - begun > self._budget:
            self._note_slow()
        else:
            self._note_success()
        return result

    def _ask(
        self, ask: Callable[[Tier], T], discard: Callable[[T], object] | None, budget: float | None
    ) -> T:
        if self._budget is None:
            return ask(self._tier)
        future: Future[T] = self._helpers.start(lambda: _answer(ask, self._tier))
        try:
            return future.result(budget)
        except BaseException as error:
            if discard is not None:
                future.add_done_callback(lambda done: _release(done, discard))
            if isinstance(error, TimeoutError) and not future.done():
                raise _LateError from error
            raise

    def _check_open(self) -> None:
        if self._pid != current.pid:
            raise in_child_of(self._pid, "tier")
        if self._is_closed:
            raise TierError(f"the tier {self.name!r} is closed")

    # -- the state ---------------------------------------------------------------------------

    def _may_ask(self) -> bool:
        """Return whether a call may be made; the first one after the wait is the probe.

        A probe that has told nothing for `_MAX_WAIT` seconds does not count any more: an interrupt
        can end it before it tells.
        """
        with self._lock:
            if self._state is BreakerState.CLOSED:
                return True
            now = self._clock()
            if now < self._retry_at:
                self._refused += 1
                return False
            self._state, self._retry_at = BreakerState.HALF_OPEN, now + _MAX_WAIT
        _log.info("tier %s: one call is made to see whether it answers", self.name)
        return True

    def _note_success(self) -> None:
        with self._lock:
            self._in_a_row = 0
            if self._state is BreakerState.OPEN:
                return
            self._wait, before = self._retry_after, self._state
            self._state = BreakerState.CLOSED
        if before is BreakerState.HALF_OPEN:
            _log.warning("tier %s: answers again", self.name)

    def _note_slow(self) -> None:
        """Note a success that took longer than other calls may, as a large write can.

        It tells nothing of those: so it does not excuse calls that were late before, and if it was
        the probe, the next late call opens the breaker again, for longer.
        """
        with self._lock:
            if self._state is not BreakerState.HALF_OPEN:
                return
            self._state, self._wait = BreakerState.CLOSED, min(2 * self._wait, _MAX_WAIT)
            self._in_a_row = self._failures - 1
        _log.warning("tier %s: answers again", self.name)

    def _note_failure(self, why: str, *, is_late: bool = False) -> None:
        with self._lock:
            self._in_a_row += 1
            if is_late:
                self._timeouts += 1
            else:
                self._errors += 1
            is_probe = self._state is BreakerState.HALF_OPEN
            if not is_probe and (
                self._state is BreakerState.OPEN or self._in_a_row < self._failures
            ):
                return
            if is_probe:
                self._wait = min(2 * self._wait, _MAX_WAIT)
            self._state, wait = BreakerState.OPEN, self._wait
            self._retry_at = self._clock() + wait
        _log.warning(
            "tier %s: does not answer (%s); it is not asked for %g s, and its chunks count as "
            "missing",
            self.name,
            why,
            wait,
        )

    def _note_interrupt(self) -> None:
        """Let the next call be the probe, if an interrupt ended this one."""
        with self._lock:
            if self._state is BreakerState.HALF_OPEN:
                self._state, self._retry_at = BreakerState.OPEN, self._clock()

    # -- the tier ----------------------------------------------------------------------------

    @contextmanager
    def read(self, keys: Sequence[bytes], /) -> Iterator[Sequence[memoryview | None]]:
        """Return the values of some keys, for a ``with`` block; None for all if the tier fails."""
        check_keys(keys)
        opened = self.call(lambda tier: _open(tier, keys), None, _close)
        if opened is None:
            yield [None] * len(keys)
            return
        try:
            yield opened.values
        finally:
            opened.close()

    def write(self, items: Sequence[Item], /) -> int:
        """Store values, and return how many of them are there now; 0 if the tier fails."""
        check_items(items)
        return self.count(lambda tier: tier.write(items), len(items)) or 0

    def contains(self, keys: Sequence[bytes], /) -> int:
        """Return how many values are there, from the first key on; 0 if the tier fails."""
        check_keys(keys)
        return self.count(lambda tier: tier.contains(keys), len(keys)) or 0

    def remove(self, keys: Sequence[bytes], /) -> int:
        """Remove values; return how many of them were there.

        Raises
        ------
        TierError
            The tier fails. Some values may have been removed.
        """
        check_keys(keys)
        return self._must(
            "remove values", lambda tier: _checked_count(tier.remove(keys), len(keys))
        )

    def keys(self, prefix: bytes = b"", /) -> Iterator[bytes]:
        """Return an iterator of the keys that begin with some bytes.

        Raises
        ------
        TierError
            The tier fails.
        """
        keys = self._must("list keys", lambda tier: tier.keys(prefix))
        while page := self._must("list keys", lambda _: list(islice(keys, _KEYS_AT_ONCE))):
            yield from page

    def stats(self) -> TierStats:
        """Return what the tier holds.

        Raises
        ------
        TierError
            The tier fails.
        """
        return self._must("count values", lambda tier: tier.stats())

    def _must(self, what: str, ask: Callable[[Tier], T]) -> T:
        """Call a function with the tier.

        Raises
        ------
        TierError
            The tier fails or is not asked.
        """
        try:
            return self._call(ask)
        except _FailedError as error:
            raise TierError(f"cannot {what}: {error}") from error

    def close(self) -> None:
        """Close the tier. One that does not end in the budget is left to end with the process."""
        if self._pid != current.pid:
            return
        self._is_closed = True
        if self._budget is None:
            self._tier.close()
            return
        try:
            self._ask(lambda tier: tier.close(), None, max(self._budget, 1.0))
        except (_LateError, TooManyCallsError):
            _log.warning("tier %s: does not close, and is left as it is", self.name)
        finally:
            self._helpers.close()


class _Opened:
    """Values of a tier inside of the ``with`` block of their own."""

    def __init__(self, block: AbstractContextManager[Sequence[memoryview | None]]) -> None:
        self._block = block
        self.values = block.__enter__()

    def close(self) -> None:
        """Leave the block."""
        self._block.__exit__(None, None, None)


def _open(tier: Tier, keys: Sequence[bytes]) -> _Opened | None:
    return _Opened(tier.read(keys))


def _close(opened: _Opened | None) -> None:
    if opened is not None:
        opened.close()


def _answer(ask: Callable[[Tier], T], tier: Tier) -> T:
    """Call a function with a tier, in a thread that no signal interrupts.

    Raises
    ------
    TierError
        The tier raised what is not an `Exception`: it would end a thread that asks.
    """
    try:
        return ask(tier)
    except Exception:
        raise
    except BaseException as error:
        raise TierError(f"the tier {tier.name!r} raised {error!r}") from error


def _checked_count(answer: Any, most: int) -> int:
    """Return how many values a tier has counted.

    Raises
    ------
    TierError
        It is not a number that can be.
    """
    if not isinstance(answer, int) or not 0 <= answer <= most:
        raise TierError(f"the tier counted {answer!r} values, not a number from 0 to {most}")
    return int(answer)


def _release(done: Future[Any], discard: Callable[[Any], object]) -> None:
    """Release what a call returned that no caller waits for any more."""
    if done.exception() is None:
        discard(done.result())
