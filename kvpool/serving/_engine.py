"""`Engine`: serves many conversations at once from one model and one pool."""

from __future__ import annotations

import atexit
import itertools
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from kvpool._checks import check_number, whole_number
from kvpool._closing import Closing
from kvpool._optional_imports import load
from kvpool._process import current, in_child_of
from kvpool.cache_key import CacheKey
from kvpool.errors import ContextOverflowError, InvalidArgumentError
from kvpool.manager import KVCacheManager
from kvpool.serving._errors import EngineClosedError, QueueFullError
from kvpool.serving._generation import Generation
from kvpool.serving._job import Job
from kvpool.serving._loop import Loop
from kvpool.serving._request import Request
from kvpool.serving._stats import EngineObserver, EngineStats, Meter

if TYPE_CHECKING:
    from kvpool.serving._model import ServedModel

__all__ = ["Engine"]

NAMESPACE = "serving"


class Engine(Closing):
    """Serves requests from one model and one pool: many at once, in one thread of its own.

    Each step of the model computes one token of every answer under way, and beside these a share
    of the prompts that are yet to be read.

    Parameters
    ----------
    model : PreTrainedModel
        In evaluation mode, in host memory.
    tokenizer : PreTrainedTokenizerBase
    manager : KVCacheManager
        Has the pool. Others may use it as well. It is not closed with the engine.
    max_sessions : int, default 32
        Generations under way at once.
    prefill_tokens : int, default 256
        Tokens of prompts that are computed in a step, all prompts together.
    max_queue : int, default 256
        Requests that may wait.
    default_max_tokens : int, default 256
        Tokens to generate at most, for requests that do not say.
    overcommit : float, default 1
        How many times the pool's bytes the generations under way may grow to, all together.
        Above 1 more run at once, and some may have to give their place up and resume later.
    priority_seconds : float, default 10
        What one more `Request.priority` is worth: the request is served as if it had been
        accepted this many seconds earlier. So every request is served in the end.
    room_timeout : float, default 30
        Seconds for which a request that is alone waits for room which others hold in the pool;
        then it fails with `kvpool.errors.PoolExhaustedError`.
    model_id : str, optional
        Names the weights, see `PooledCache.for_tokens`. [default: a hash of samples of them]
    generation_config : GenerationConfig, optional
        How tokens are chosen where a request says nothing. [default: the model's own]
    observer : EngineObserver, optional

    Raises
    ------
    InvalidArgumentError
        A number is out of its range, or the model is in training mode.
    InvalidLayoutError
        A pool cannot hold what the model keeps.
    MissingExtraError
        torch or transformers is not installed.

    Notes
    -----
    *Threads.* All methods may be called by any thread, except by the observer.

    *Lifetime.* An engine that nothing refers to any more stops. Its generations refer to it.

    *Processes.* An engine belongs to the process that made it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        manager: KVCacheManager,
        *,
        max_sessions: int = 32,
        prefill_tokens: int = 256,
        max_queue: int = 256,
        default_max_tokens: int = 256,
        overcommit: float = 1.0,
        priority_seconds: float = 10.0,
        room_timeout: float = 30.0,
        model_id: str | None = None,
        generation_config: Any = None,
        observer: EngineObserver | None = None,
    ) -> None:
        for name, value in (
            ("max_sessions", max_sessions),
            ("prefill_tokens", prefill_tokens),
            ("max_queue", max_queue),
            ("default_max_tokens", default_max_tokens),
        ):
            whole_number(name, value, InvalidArgumentError, least=1)
        check_number("overcommit", overcommit, above=0)
        check_number("priority_seconds", priority_seconds, at_least=0)
        check_number("room_timeout", room_timeout, at_least=0)
        parts = load("kvpool.serving._model", "transformers", "an engine")
        self._model: ServedModel = parts.ServedModel(
            model, tokenizer, manager, model_id, generation_config
        )
        self._manager = manager
        self._max_queue = max_queue
        self._default_max_tokens = default_max_tokens
        self._priority_seconds = priority_seconds
        self._meter = Meter(EngineObserver() if observer is None else observer)
        budget = int(manager.pool.capacity * overcommit)
        self._loop = Loop(
            self._model,
            manager,
            self._meter,
            max_sessions,
            prefill_tokens,
            budget,
            float(room_timeout),
        )
        self._numbers = itertools.count(1)
        self._owner = current.pid
        # The thread refers to the loop alone, so that an engine which is forgotten ends.
        self._thread = threading.Thread(target=self._loop.run, name="kvpool-engine", daemon=True)
        weakref.finalize(self, _stop, self._loop).atexit = False
        _open[self._loop] = self._thread
        self._thread.start()

    # -- requests ------------------------------------------------------------------------

    def submit(self, request: Request) -> Generation:
        """Accept a request; it does not wait for anything but its own tokenization.

        Parameters
        ----------
        request : Request

        Returns
        -------
        Generation

        Raises
        ------
        QueueFullError
            As many requests wait as may wait; `retry_after` says when to come again.
        ContextOverflowError
            Prompt and answer exceed the context of the model, or what the pool can hold at all.
        InvalidArgumentError
            `request` is not a `Request`, or cannot be made into tokens, or into none.
        InvalidTokensError
            Its tokens are not whole numbers, or the model does not know them.
        ChatModelError
            The chat template of the model refuses the messages.
        EngineClosedError
            The engine is closed, or has failed.
        """
        self._check_process()
        if not isinstance(request, Request):
            raise InvalidArgumentError(f"request must be a Request, not {request!r}")
        self._check_open()
        self._check_queue()
        prompt = self._model.prompt(request)
        max_tokens = self._most_tokens(request, len(prompt))
        total = len(prompt) + max_tokens
        now = time.monotonic()
        job = Job(
            request,
            prompt,
            max_tokens,
            _key_of(request),
            self._cost(total),
            next(self._numbers),
            now,
            now - request.priority * self._priority_seconds,
        )
        with self._loop.lock:
            self._check_open()
            self._check_queue()
            self._loop.waiting.add(job)
            self._meter.accepted(now)
        self._meter.queued()
        self._loop.wake()
        return Generation(self, job.stream, tuple(prompt.tolist()), job.cancel)

    def _most_tokens(self, request: Request, length: int) -> int:
        """Return how many tokens a request may generate."""
        context = self._model.context
        asked = request.max_tokens
        if context is None:
            return self._default_max_tokens if asked is None else asked
        if length + (asked or 1) > context:
            answer = "" if asked is None else f" and {asked} to generate"
            raise ContextOverflowError(
                f"{length} tokens of prompt{answer} exceed the {context} tokens of the model's "
                "context"
            )
        return min(self._default_max_tokens, context - length) if asked is None else asked

    def _cost(self, tokens: int) -> int:
        """Return what a session of some tokens costs."""
        pool = self._manager.pool
        geometry = self._model.layout.geometry(tokens, pool.granule)
        if not pool.could_hold(geometry, tokens):
            raise ContextOverflowError(
                f"{tokens} tokens of prompt and answer need {pool.cost(geometry, tokens)} bytes, "
                f"and the whole pool has {pool.capacity}"
            )
        return pool.cost(geometry, tokens)

    def _check_open(self) -> None:
        failure = self._loop.failure
        if failure is not None:
            raise EngineClosedError(f"the engine has failed: {failure!r}") from failure
        if self._loop.is_closing:
            raise EngineClosedError("the engine is closed")

    def _check_queue(self) -> None:
        waiting = len(self._loop.waiting)
        if waiting >= self._max_queue:
            raise QueueFullError(waiting, max(self._meter.pace, 0.1))

    # -- the whole -----------------------------------------------------------------------

    def stats(self) -> EngineStats:
        """Return the figures of the engine.

        Raises
        ------
        ForkedProcessError
            Another process made the engine.
        """
        self._check_process()
        with self._loop.lock:
            now = {
                "queued": len(self._loop.waiting),
                "running": len(self._loop.running),
                "loading": sum(job.opening is not None for job in self._loop.running),
                "preempted": sum(job.is_preempted for job in self._loop.waiting),
                "promised_bytes": self._loop.promised,
            }
        return self._meter.stats(**now)

    @property
    def is_closed(self) -> bool:
        """Whether it accepts no more requests."""
        return self._loop.is_closing

    def close(self, timeout: float | None = None, *, drain: bool = True) -> None:
        """Accept no more requests, and end the engine's thread; a second call does no harm.

        Parameters
        ----------
        timeout : float, optional
            Seconds for the generations that are left; then they are cancelled. [default: as long
            as they take]
        drain : bool, default True
            False: cancel all at once.

        Notes
        -----
        A call that is interrupted leaves the engine closing; call again with ``drain=False`` to
        end it.
        """
        if self._owner != current.pid:
            return
        with self._loop.lock:
            self._loop.is_closing = True
        if not drain:
            self._loop.is_stopping = True
        self._loop.wake()
        self._thread.join(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        self._loop.is_stopping = True
        self._loop.wake()
        self._thread.join()
        _open.pop(self._loop, None)

    def __exit__(self, kind: object = None, *_: object) -> None:
        self.close(drain=kind is None)

    def _check_process(self) -> None:
        if self._owner != current.pid:
            raise in_child_of(self._owner, "engine")

    def __repr__(self) -> str:
        running, waiting = len(self._loop.running), len(self._loop.waiting)
        state = "closed" if self.is_closed else f"{running} running, {waiting} waiting"
        return f"<{type(self).__name__}: {state}>"


def _key_of(request: Request) -> CacheKey | None:
    session = request.session
    if session is None or isinstance(session, CacheKey):
        return session
    return CacheKey(NAMESPACE, session)


def _stop(loop: Loop) -> None:
    """Have a loop end soon. It is called by finalizers, so it waits for nothing."""
    loop.is_closing = loop.is_stopping = True
    loop.wake()


_open: weakref.WeakKeyDictionary[Loop, threading.Thread] = weakref.WeakKeyDictionary()


@atexit.register
def _stop_all() -> None:
    """Stop all engines before the interpreter does: threads that compute must not outlive it."""
    for loop, thread in list(_open.items()):
        _stop(loop)
        if thread.is_alive():  # the system may have refused to start it
            thread.join()
