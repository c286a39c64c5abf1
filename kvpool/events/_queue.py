"""`EventQueue`: the events of one manager, until a program takes them."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

from kvpool._checks import whole_number
from kvpool._process import ForkAware, current, forget_forks, watch_forks
from kvpool.errors import InvalidArgumentError
from kvpool.events._naming import Naming
from kvpool.events._types import BlockHash, Event
from kvpool.prefix import Change, Cleared

__all__ = ["EventQueue", "Hashes", "check_text"]

Hashes = Literal["int", "bytes"]

_log = logging.getLogger(__name__)


class EventQueue(ForkAware):
    """Takes what changes in a manager's prefix tree, and returns it as events.

    Calls of the manager only note what happened. The chunks are named when the events are taken,
    by the thread that takes them.

    Parameters
    ----------
    hashes : {"int", "bytes"}, default "int"
        How chunks are named: by the last 64 bits of their names, as vLLM does unless it is
        configured otherwise, or by the names as `kvpool.prefix.chunk_names` gives them.
    medium : str or None, default "CPU"
        What events say about where keys and values are.
    base_model : str, default ""
        The `model_id` of sessions whose events have no `lora_name`. In the events of all other
        sessions their `model_id` is the `lora_name`, so that a router keeps them apart.
    limit : int, default 100,000
        Changes that may wait. If there are more, all are dropped. When the events are taken next,
        the manager is asked to tell all that it holds: `AllBlocksCleared`, then everything again.

    Raises
    ------
    InvalidArgumentError
        An option is not one of those above.

    Notes
    -----
    *Order.* The events are those of all calls of the manager, in the order in which the calls
    changed the tree. A set to which stored chunks are added, and from which removed ones are taken,
    is the set of whole chunks that the tree holds.

    *After an interrupt*, of a call of the manager or of `take`, and after a policy that raises, the
    next events are `AllBlocksCleared` and all that is held.

    *Threads.* Any thread may take events at any time. One queue belongs to one manager.

    *Processes.* In a child that `os.fork` made there are no events.
    """

    def __init__(
        self,
        *,
        hashes: Hashes = "int",
        medium: str | None = "CPU",
        base_model: str = "",
        limit: int = 100_000,
    ) -> None:
        if hashes not in _HASHES:
            raise InvalidArgumentError(f"hashes must be 'int' or 'bytes', not {hashes!r}")
        if medium is not None:
            check_text("medium", medium)
        check_text("base_model", base_model)
        self._limit = whole_number("limit", limit, InvalidArgumentError, least=1)
        self._most = self._limit
        self._naming = Naming(_HASHES[hashes], medium, base_model)
        self._changes: deque[Change] = deque()
        self._is_lost = False  # nothing is noted until the manager tells all
        self._is_asked = False  # the manager is to tell all
        self._has_owner = False
        self._has_failed = False
        self._waking: set[int] = set()  # threads that run `wake`
        self._lock = threading.Lock()  # held by the thread that takes
        self._owner_pid = current.pid
        watch_forks(weakref.ref(self, forget_forks))

    def _enter_child(self) -> None:
        self._lock = threading.Lock()
        self._is_lost = self._is_asked = True  # nobody is woken for what never comes
        self._changes = deque()

    # -- for those who want the events ---------------------------------------------------

    def take(self) -> list[Event]:
        """Return the events since the last call, in order; an empty list if there are none."""
        try:
            with self._lock:
                if self._is_lost:
                    self._is_asked = True
                    return []
                return self._naming.events(_taken(self._changes))
        except BaseException:  # an interrupt: some changes are not in the queue any more
            self._is_lost = True
            raise

    def resend(self) -> None:
        """Have the manager tell all that it holds with its next call, for those who came late.

        The next events are then `AllBlocksCleared`, and all chunks that the pool holds.
        """
        self._is_lost = True
        self._is_asked = True

    def wake(self) -> None:
        """Do nothing; a subclass may tell a thread or a loop that there are events to take.

        Called after a call of the manager that changed something, without the manager's lock, by
        the thread that made the call, which waits for it. What it raises is logged.
        """

    def close(self) -> None:
        """Do nothing: events can be taken still. The manager calls it when it is closed."""

    # -- for the manager -----------------------------------------------------------------

    @property
    def wants_all(self) -> bool:
        """Whether the manager is to tell all that it holds."""
        return self._is_asked

    @property
    def is_attached(self) -> bool:
        """Whether a manager uses the queue."""
        return self._has_owner

    def attach(self) -> None:
        """Note that a manager uses the queue."""
        self._has_owner = True

    def put(self, change: Change) -> None:
        """Note a change, under the manager's lock."""
        if not self._is_lost and len(self._changes) < self._most:
            self._changes.append(change)
        elif isinstance(change, Cleared):  # what is lost is void, too
            self.restart(())
        else:
            self._is_lost = True
            self._changes.clear()

    def restart(self, changes: Iterable[Change]) -> None:
        """Note all segments anew, under the manager's lock, in place of what is queued."""
        anew: deque[Change] = deque((Cleared(), *changes))
        self._most = self._limit + len(anew)
        self._changes = anew
        self._is_asked = self._is_lost = False

    def deliver(self) -> None:
        """Call `wake` if there are events, or the reader has to ask for those that are lost."""
        if not self._changes and (self._is_asked or not self._is_lost):
            return
        me = threading.get_ident()
        if me in self._waking:  # `wake` calls the manager
            return
        try:
            self._waking.add(me)  # in here: an interrupt right after it must not leave it behind
            self.wake()
        except Exception:
            if not self._has_failed:
                self._has_failed = True
                _log.exception("%r failed; it is not reported again", self)
        finally:
            self._waking.discard(me)


def check_text(name: str, value: object) -> None:
    """Raise InvalidArgumentError unless a value is a str that can be sent."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} must be a str, not {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{name} {value!r} is not text: {error}") from None


def _taken(changes: deque[Change]) -> Iterator[Change]:
    """Take changes off a queue, one by one, until it is empty."""
    while True:
        try:
            change = changes.popleft()
        except IndexError:  # not `while changes`: the manager may drop them in between
            return
        yield change


def _number(name: bytes) -> int:
    return int.from_bytes(name[-8:], "big")


def _whole(name: bytes) -> bytes:
    return name


_HASHES: Final[dict[str, Callable[[bytes], BlockHash]]] = {"int": _number, "bytes": _whole}
