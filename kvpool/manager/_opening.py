"""`OpeningSession`: a session that is open as soon as its tokens are loaded."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from importlib import import_module

from kvpool._process import current, in_child_of
from kvpool.errors import EntryRemovedError
from kvpool.manager._reuse import OpenedSession
from kvpool.manager._tiers import Opener
from kvpool.manager._waiting import check_timeout

__all__ = ["Opening", "OpeningSession"]

_log = logging.getLogger(__name__)


class Opening:
    """The opening of one session: what the thread that loads its tokens knows of it.

    Parameters
    ----------
    opener : Opener
        Tells the manager whether a caller will have the session.

    Attributes
    ----------
    opened : OpenedSession or None
        Set when it is ready, unless it failed.
    error : BaseException or None
        What it failed with.
    held : int
        Tokens of the session that the pool held when it began.
    is_ready, is_cancelled : bool
    """

    # The thread owns the entry from `has_begun` on until `is_ready`, so the session stays open for
    # as long. `cancel` may be called at any moment, by a finalizer too, and takes no lock: each
    # side sets its own flag before it reads that of the other, so that one of both sees it.

    def __init__(self, opener: Opener) -> None:
        self.opener = opener
        self.opened: OpenedSession | None = None
        self.error: BaseException | None = None
        self.held = 0
        self.has_begun = self.is_ready = self.is_cancelled = False
        self._calls: deque[Callable[[], object]] = deque()

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be waited for."""
        return self.is_ready or self.is_cancelled

    def is_wanted(self) -> bool:
        """Return whether the session is to be opened still."""
        return not self.is_cancelled

    def run(self, load: Callable[[], OpenedSession]) -> None:
        """Load the tokens, and have the session ready."""
        self.has_begun = True
        if self.is_wanted():
            try:
                self.opened = load()
            except BaseException as error:
                self.error = error.with_traceback(None)  # its frames would keep leases
        self.finish()

    def finish(self) -> None:
        """Have the session ready, or let it go if no caller wants it any more."""
        self.is_ready = True
        if self.is_cancelled or self.error is not None:
            self.opener.has_failed = True
        self.tell()

    def cancel(self) -> None:
        """Let the session go, now or when its load has ended; nothing happens once it is taken."""
        if self.opener.is_done:
            return
        self.is_cancelled = True
        if self.is_ready or not self.has_begun:
            self.opener.has_failed = True

    def when_ready(self, call: Callable[[], object]) -> None:
        """Have a function called once it is ready or cancelled; at once if it is."""
        self._calls.append(call)
        if self.is_over:
            self.tell()

    def forget(self, call: Callable[[], object]) -> None:
        """Do not call a function any more."""
        with contextlib.suppress(ValueError):
            self._calls.remove(call)

    def tell(self) -> None:
        """Call what is to be called once it is ready."""
        for _ in range(len(self._calls)):
            with contextlib.suppress(IndexError):  # two threads tell at once
                _call(self._calls.popleft())


class OpeningSession:
    """A session that is being opened; `kvpool.KVCacheManager.begin_session` returns it.

    What the pool holds of its tokens is there. What the tiers have is loaded in the background.
    Take the session by `result` or `aresult`, or let it go by `cancel`. An object that nothing
    refers to any more lets its session go as well.

    Notes
    -----
    *Threads.* Any method may be called from any thread; `cancel` also from a finalizer and a signal
    handler. *Processes.* In a child of `os.fork`, `result` and `aresult` raise
    `ForkedProcessError`.
    """

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._owner = current.pid
        weakref.finalize(self, opening.cancel).atexit = False

    @property
    def is_ready(self) -> bool:
        """Whether `result` returns or raises at once."""
        return self._opening.is_over

    @property
    def held(self) -> int:
        """Tokens that the session begins with before anything is loaded: those in the pool."""
        return self._opening.held

    def cancel(self) -> None:
        """Let the session go, unless it was taken. It ends when its load does, at the latest.

        What was loaded by then may stay in the pool, for sessions that begin with the same tokens.
        """
        self._opening.cancel()
        self._opening.tell()

    def when_ready(self, call: Callable[[], object]) -> None:
        """Have a function called once `is_ready` is true; at once if it is.

        Parameters
        ----------
        call : callable
            Called without arguments, in any thread: be brief. What it raises is logged.
        """
        self._opening.when_ready(call)

    def result(self, timeout: float | None = None) -> OpenedSession:
        """Wait until the session is open, and take it.

        Parameters
        ----------
        timeout : float, optional
            Seconds. [default: as long as the load may take, see `kvpool.tiers.TierStore`]

        Returns
        -------
        OpenedSession
            As `kvpool.KVCacheManager.open_session` returns it.

        Raises
        ------
        TimeoutError
            It is not open in this time. The load goes on.
        EntryRemovedError
            `cancel` was called.
        InvalidTtlError
            `timeout` is not a number of at least 0.
        PoolClosedError
            The manager was closed meanwhile.
        PoolExhaustedError
            Another call loaded the same tokens, and there is no room for a session with them.
        KVPoolError
            Another error ended it.
        """
        check_timeout(timeout)
        self._check_process()
        if not self.is_ready:
            bell = threading.Lock()
            bell.acquire(blocking=False)
            self._wait(bell, None if timeout is None else time.monotonic() + timeout)
        opened = self._take()
        self._opening.opener.is_done = True  # last: no interrupt comes between this and the return
        return opened

    def _wait(self, bell: threading.Lock, deadline: float | None) -> None:
        self._opening.when_ready(bell.release)
        try:
            left = -1.0 if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not bell.acquire(timeout=min(left, threading.TIMEOUT_MAX)):
                raise TimeoutError("the session is not open yet: its tokens are being loaded")
        finally:
            self._opening.forget(bell.release)

    async def aresult(self) -> OpenedSession:
        """Wait in an event loop until the session is open, and take it; see `result`.

        Raises
        ------
        EntryRemovedError
            `cancel` was called.
        PoolClosedError
            The manager was closed meanwhile.
        PoolExhaustedError
            Another call loaded the same tokens, and there is no room for a session with them.
        KVPoolError
            Another error ended it.

        Notes
        -----
        A task that is cancelled here has taken nothing: the session goes with this object.
        """
        self._check_process()
        if not self.is_ready:
            bells = import_module("kvpool.manager._task_bell")  # asyncio is slow to import
            bell = bells.TaskBell()

            def wake() -> None:
                with contextlib.suppress(RuntimeError):  # the event loop is closed
                    bell.release()

            self._opening.when_ready(wake)
            try:
                await bell.wait(None)
            finally:
                self._opening.forget(wake)
        opened = self._take()
        self._opening.opener.is_done = True  # last: no interrupt comes between this and the return
        return opened

    def _take(self) -> OpenedSession:
        opening = self._opening
        if opening.error is not None:
            raise opening.error
        if opening.is_cancelled or opening.opened is None:
            raise EntryRemovedError("the opening of the session was cancelled: open it again")
        return opening.opened

    def _check_process(self) -> None:
        if self._owner != current.pid:
            raise in_child_of(self._owner, "manager")

    def __repr__(self) -> str:
        state = "cancelled" if self._opening.is_cancelled else "ready" if self.is_ready else "loads"
        return f"<{type(self).__name__}: {state}>"


def _call(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        _log.exception("a function that is called when a session is ready raised")
