"""`Turns`: the calls of one manager, of which one at a time has its turn."""

from __future__ import annotations

import functools
import math
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, NoReturn, ParamSpec, Protocol, TypeVar, cast

from kvpool._process import ForkAware, current, forget_forks, in_child_of, watch_forks
from kvpool.cache_key import CacheKey
from kvpool.errors import ArenaError, KVPoolError, PoolClosedError, PoolExhaustedError
from kvpool.manager._sessions import Sessions
from kvpool.manager._tier_notes import TierNotes
from kvpool.manager._waiting import Waiters

if TYPE_CHECKING:
    from kvpool.events import EventQueue
    from kvpool.receipts import ReceiptStream

__all__ = ["Turns", "turn"]

P = ParamSpec("P")
T = TypeVar("T")


class Turns(ForkAware):
    """Gives each call its turn: the lock, what is due before it, and what is told behind it.

    All methods may be called by any thread.

    Parameters
    ----------
    sessions : Sessions
        What the calls work on.
    waiters : Waiters
        The calls that wait for room meanwhile.
    stream : ReceiptStream or None
    events : EventQueue or None
        Both deliver what they hold after each turn.
    notes : TierNotes or None
        Of which receipts are made before each turn.
    clock : callable
        Returns seconds.
    snapshot_interval : float
        Seconds between two receipts of the pool's state.
    next_snapshot : float
        When the first one of them is due.

    Attributes
    ----------
    lock : Lock
        Of the call whose turn it is.
    sessions : Sessions
    waiters : Waiters
    stream : ReceiptStream or None
    events : EventQueue or None
    is_closed : bool
        Whether no call has a turn any more: after `close`, or in a child of `os.fork`.
    """

    def __init__(
        self,
        sessions: Sessions,
        waiters: Waiters,
        stream: ReceiptStream | None,
        events: EventQueue | None,
        notes: TierNotes | None,
        clock: Callable[[], float],
        snapshot_interval: float,
        next_snapshot: float,
    ) -> None:
        self.sessions = sessions
        self.waiters = waiters
        self.stream = stream
        self.events = events
        self._notes = notes
        self._clock = clock
        self._snapshot_interval = snapshot_interval
        self._next_snapshot = next_snapshot
        self.lock = threading.Lock()  # guards the sessions and what follows
        self.is_closed = False
        # Most managers have none of what `_begin_all` does.
        self._has_more = notes is not None or events is not None or next_snapshot < math.inf
        self._owner = current.pid
        watch_forks(weakref.ref(self, forget_forks))

    def _enter_child(self) -> None:
        self.lock = threading.Lock()
        self.is_closed = True  # so that calls are refused, and what may be ignored is ignored

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a child of the one that made the manager."""
        return self._owner != current.pid

    def begin(self) -> list[CacheKey]:
        """Under the lock, before anything else: refuse if closed or inherited, do what is due.

        Returns
        -------
        list of CacheKey
            Entries that expired and were evicted.
        """
        if self.is_closed:
            self.refuse()
        return self._begin_all() if self._has_more else self.sessions.begin()

    def _begin_all(self) -> list[CacheKey]:
        notes = self._notes
        if notes:
            notes.settle()
        gone = self.sessions.begin()
        if notes:
            notes.emit()
        if self._next_snapshot < math.inf and self._clock() >= self._next_snapshot:
            self._next_snapshot = self._clock() + self._snapshot_interval
            self.sessions.emit_snapshot()
        if self.events is not None and self.events.wants_all:
            self.events.restart(self.sessions.ranking.tree.changes())
        return gone

    def pass_by(self) -> list[CacheKey]:
        """Do what is due, and nothing else; return the keys of entries that expired."""
        try:
            with self.lock:
                return self.begin()
        finally:
            if self.stream is not None:
                self.stream.deliver()
            if self.events is not None:
                self.events.deliver()

    def close(self) -> None:
        """Let all entries go and end the pool, in the last turn; a second call does nothing."""
        with self.lock:
            if self.is_closed:
                return
            if self._notes:
                self._notes.settle()
            try:
                self.sessions.close()
            except Exception as error:  # the pool is closed, unless it was one of these
                self.is_closed = not isinstance(error, ArenaError | MemoryError)
                raise
            self.is_closed = True  # last, so that a call after an interrupt goes on

    def tell_last(self) -> None:
        """Make receipts of what happened in the tiers while the manager was closed."""
        if self._notes is not None:
            with self.lock:
                self._notes.settle()
                if self._notes:
                    self._notes.emit()

    def refuse(self) -> NoReturn:
        """Raise the error of a call that comes after the last turn."""
        if self.is_inherited:
            raise in_child_of(self._owner, "manager")
        raise PoolClosedError("the manager is closed")


class _TakesTurns(Protocol):
    """An object whose calls are turns."""

    _turns: Turns


Taker = TypeVar("Taker", bound=_TakesTurns)


def turn(method: Callable[Concatenate[Taker, P], T]) -> Callable[Concatenate[Taker, P], T]:
    """Make a method one turn: under the lock of `_turns`, after what was due before.

    The lock is taken by a plain ``with``, so that an interrupt at any moment lets go of it.
    Receipts and events are delivered after the lock was released, so that no sink runs under it.

    A method that takes `timeout`, by keyword, is called again until it finds room in the pool.
    """

    @functools.wraps(method)
    def in_turn(self: Taker, /, *args: P.args, **kwargs: P.kwargs) -> T:
        turns = self._turns
        sessions = turns.sessions
        try:
            with turns.lock:
                turns.begin()
                sessions.in_step = True
                try:
                    result = method(self, *args, **kwargs)
                except Exception as error:
                    sessions.in_step = _is_half_done(error)
                    raise
                sessions.in_step = False
                return result
        except PoolExhaustedError as shortage:
            seconds = cast("float | None", kwargs.get("timeout"))
            if not seconds or not turns.waiters.can_help(shortage):
                raise
        finally:
            if turns.stream is not None:
                turns.stream.deliver()
            if turns.events is not None:
                turns.events.deliver()
        kwargs["timeout"] = None
        again: Callable[[], T] = functools.partial(in_turn, self, *args, **kwargs)
        return turns.waiters.retry(again, float(seconds))

    return in_turn


def _is_half_done(error: Exception) -> bool:
    """Tell whether a call that raised this may have left something half done.

    After an error of kvpool nothing has changed, unless an arena failed: then blocks may have
    ended for what it could not give. Any other error comes from the middle of a step: from a
    plugin, or because memory ran out.
    """
    return isinstance(error, ArenaError) or not isinstance(error, KVPoolError)
