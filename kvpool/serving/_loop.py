"""`Loop`: what an engine's thread does, turn by turn."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING

from kvpool.errors import KVPoolError, PoolClosedError, PoolExhaustedError
from kvpool.manager import KVCacheManager
from kvpool.prefix import common_bytes
from kvpool.serving._answers import Answers
from kvpool.serving._errors import EngineClosedError, ModelFailedError
from kvpool.serving._generation import FinishReason
from kvpool.serving._job import Job
from kvpool.serving._queue import WaitingJobs, shares
from kvpool.serving._sessions import JobSessions
from kvpool.serving._stats import Meter

if TYPE_CHECKING:
    from kvpool.serving._model import ServedModel

__all__ = ["Loop"]

_POLL = 0.02
"""Seconds until a job that found no room tries again, if nothing else happens."""

_WORTH_WAITING = 32
"""Tokens in common for which a job waits until another one has computed them."""

_MEASURED_TOKENS = 16
"""Tokens of a prompt in a step, at least, to tell how fast prompts are computed."""

_TOKEN = 8  # bytes of a token id


class Loop:
    """Serves jobs, one step of the model after another.

    Parameters
    ----------
    model : ServedModel
    manager : KVCacheManager
    meter : Meter
    max_sessions : int
    prefill_tokens : int
    budget : int
        Bytes that the sessions under way may grow to, all together.
    room_timeout : float

    Attributes
    ----------
    lock : threading.Lock
        Guards `waiting` and `running`, which only the loop's thread changes, but for `accept`.
    bell : queue.SimpleQueue
        Wakes the loop. To put something in takes no lock that a signal handler could find taken.
    failure : BaseException or None
        What ended the loop, if it did not end well.
    """

    def __init__(
        self,
        model: ServedModel,
        manager: KVCacheManager,
        meter: Meter,
        max_sessions: int,
        prefill_tokens: int,
        budget: int,
        room_timeout: float,
    ) -> None:
        self._model = model
        self._manager = manager
        self._meter = meter
        self._max_sessions = max_sessions
        self._prefill_tokens = prefill_tokens
        self._budget = budget
        self._room_timeout = room_timeout
        self.lock = threading.Lock()
        self.bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.waiting = WaitingJobs()
        self.running: list[Job] = []
        self.is_closing = False  # accept nothing, end when nothing is left
        self.is_stopping = False  # end now
        self.failure: BaseException | None = None
        self._is_pressed = False  # a job was preempted, and none has finished since
        self._answers = Answers(model, meter)
        self._sessions = JobSessions(model, manager, self.wake)

    # -- from other threads --------------------------------------------------------------

    def wake(self) -> None:
        """Have the loop look around."""
        self.bell.put(None)

    @property
    def promised(self) -> int:
        """Bytes that the sessions under way may grow to."""
        return sum(job.cost for job in self.running)

    # -- the thread ----------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the engine closes, or something breaks."""
        try:
            self._turn_until_the_end()
        except BaseException as error:
            self.failure = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._end_all()

    def _turn_until_the_end(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Do what is due, and a step; return False at the end."""
        self._end_unwanted()
        if self.is_stopping:
            return False
        self._take_loaded()
        self._admit()
        if any(job.cache is not None for job in self.running):
            self._step()
        elif self.running or self.waiting:  # a load that ends rings
            self._sleep(_POLL)
        elif self.is_closing:
            return False
        else:
            self._sleep(None)
        return True

    def _sleep(self, seconds: float | None) -> None:
        with contextlib.suppress(queue.Empty):
            self.bell.get(timeout=seconds)
            while True:  # all that rang is served by the next turn
                self.bell.get_nowait()

    def _end_unwanted(self) -> None:
        """End the jobs that were cancelled, and those whose time is up."""
        now = time.monotonic()
        with self.lock:
            jobs = [*self.running, *self.waiting]
        for job in jobs:
            if job.is_cancelled:
                self._finish(job, "cancelled")
            elif now >= job.deadline:
                self._finish(job, "deadline")

    def _end_all(self) -> None:
        """End all jobs that are left: cancelled, or with what ended the loop."""
        with self.lock:
            self.is_closing = True
            jobs = [*self.running, *self.waiting]
        for job in jobs:
            if self.failure is None:
                self._finish(job, "cancelled")
            else:
                error = EngineClosedError(f"the engine has failed: {self.failure!r}")
                error.__cause__ = self.failure
                self._fail(job, error)

    # -- admission -----------------------------------------------------------------------

    def _admit(self) -> None:
        """Begin or resume jobs, the first in rank first; without room, no job overtakes another."""
        if self._is_pressed and self.running:
            return
        self._is_pressed = False
        with self.lock:
            firsts = list(self.waiting.firsts())
        busy = self._sessions.busy(self.running)
        for job in firsts:
            if len(self.running) >= self._max_sessions:
                return
            if job.key in busy or self._waits_for_another(job):
                continue
            if self.running and self.promised + job.cost > self._budget:
                return
            if not self._begin(job):
                return
            if job.key is not None:
                busy.add(job.key)

    def _waits_for_another(self, job: Job) -> bool:
        """Tell whether a job loads or computes what this one begins with as well.

        One that computes it is told.
        """
        if job.waits_for is not None and job.waits_for.is_reading:
            return True
        job.waits_for = None
        for other in self.running:
            if not other.is_reading or other.request.salt != job.request.salt:
                continue
            mine, theirs = (one.tokens[: one.prompt_length].tobytes() for one in (job, other))
            new = common_bytes(mine, theirs, 0) // _TOKEN - other.reused
            if new >= _WORTH_WAITING:
                if other.opening is None:  # else it is known later what there is to compute
                    job.waits_for = other
                    other.is_awaited = True
                return True
        return False

    def _begin(self, job: Job) -> bool:
        """Begin or resume a job; return False if there is no room for it, or for those behind."""
        try:
            if job.short_since is not None and not self.running:
                # A session that shares pages with another one may need more than one that does
                # not. With this much room it fits, whatever it begins with.
                self._manager.make_room(job.cost)
            self._open(job)
            if job.cache is not None:
                self._answers.prepare(job)
        except PoolClosedError:
            raise
        except PoolExhaustedError as shortage:
            if not self.running:
                self._note_shortage(job, shortage)
            return False
        except Exception as error:
            self._fail(job, _failure("the settings of a request", error))
        return True

    def _open(self, job: Job) -> None:
        """Open the session of a job with what the pool holds of its tokens, or the tiers."""
        self._sessions.begin(job)
        with self.lock:
            if job not in self.running:
                self.waiting.remove(job)
                self.running.append(job)
                job.is_preempted = False

    def _take_loaded(self) -> None:
        """Go on with the jobs whose loads have ended."""
        for job in list(self.running):
            if job.opening is None or not job.opening.is_ready:
                continue
            try:
                self._sessions.take(job)
                self._answers.prepare(job)
            except PoolClosedError:
                raise
            except PoolExhaustedError as shortage:
                self._give_place_up(job, shortage)
            except Exception as error:
                self._fail(job, _failure("the settings of a request", error))

    def _note_shortage(self, job: Job, shortage: PoolExhaustedError) -> None:
        """Note that a job has no room although it is alone; fail it if that is so for long."""
        now = time.monotonic()
        if job.short_since is None:
            job.short_since = now
        elif now - job.short_since >= self._room_timeout:
            self._fail(job, shortage)

    # -- steps ---------------------------------------------------------------------------

    def _step(self) -> None:
        """Compute the next tokens of all that run."""
        jobs = [job for job in self.running if job.cache is not None]
        counts = shares([job.left for job in jobs], self._prefill_tokens)
        caches = [job.cache for job in jobs if job.cache is not None]
        tokens = [
            job.tokens[job.held : job.held + count] for job, count in zip(jobs, counts, strict=True)
        ]
        begun = time.monotonic()
        try:
            step = self._model.step(caches, tokens)
        except PoolClosedError:
            raise
        except Exception as error:
            for job in jobs:
                self._fail(job, _failure("the model", error))
            return
        self._meter.stepped()
        if max(counts) >= _MEASURED_TOKENS:
            self._manager.note_compute(sum(counts), time.monotonic() - begun)
        shortage: PoolExhaustedError | None = None
        for job, count, logits, failed in zip(jobs, counts, step.logits, step.errors, strict=True):
            if failed is None:
                self._computed(job, count, logits)
            elif isinstance(failed, PoolExhaustedError):
                shortage = failed
            elif isinstance(failed, PoolClosedError):
                raise failed
            else:
                self._fail(job, _failure("the model", failed))
        if shortage is not None:
            self._yield_room(shortage)

    def _computed(self, job: Job, count: int, logits: object) -> None:
        """Take what a step gave to a job."""
        was_reading = job.is_reading
        job.held += count
        job.short_since = None
        if job.left:
            return
        self._choose(job, logits)
        if was_reading and job.is_awaited and job.cache is not None:
            self._show(job)

    def _choose(self, job: Job, logits: object) -> None:
        """Choose the next token of a job, and send what is complete."""
        try:
            reason, text = self._answers.add_token(job, logits)
        except Exception as error:
            self._fail(job, _failure("the sampling of a request", error))
            return
        if reason is not None:
            self._finish(job, reason, text)
        elif text:
            self._answers.send(job, text)

    def _show(self, job: Job) -> None:
        """Let others begin with the prompt of a job, which goes on."""
        job.is_awaited = False
        self._close(job)
        if job.stream.error is not None:
            self._finish(job, "error")
            return
        try:
            self._open(job)
        except PoolExhaustedError:
            self._preempt(job)
        except PoolClosedError:
            raise
        except Exception as error:
            self._fail(job, _failure("the end of a session", error))

    # -- losing a place ------------------------------------------------------------------

    def _yield_room(self, shortage: PoolExhaustedError) -> None:
        """Have the last in rank give its room up, for those before it."""
        last = max(self.running, key=lambda job: job.rank, default=None)
        if last is None:
            return
        self._give_place_up(last, shortage)
        self._is_pressed = last in self.waiting
        if not self.running:
            self._sleep(_POLL)

    def _give_place_up(self, job: Job, shortage: PoolExhaustedError) -> None:
        """Have a job wait for room; one that is alone fails if it has waited for long."""
        if len(self.running) == 1:
            self._note_shortage(job, shortage)
        if job in self.running:
            self._preempt(job)

    def _preempt(self, job: Job) -> None:
        """Take the place of a job. Its tokens stay in the pool until their bytes are needed."""
        self._close(job)
        if job.stream.error is not None:
            self._finish(job, "error")
            return
        job.is_preempted = True
        with self.lock:
            self.running.remove(job)
            self.waiting.add(job)
        self._meter.preempted()

    # -- ends ----------------------------------------------------------------------------

    def _close(self, job: Job) -> None:
        """Close the session of a job. An error there becomes that of the job."""
        try:
            self._sessions.close(job)
        except Exception as error:
            job.stream.error = _failure("the end of a session", error)

    def _fail(self, job: Job, error: Exception) -> None:
        job.stream.error = error
        self._finish(job, "error")

    def _finish(self, job: Job, reason: FinishReason, text: str = "") -> None:
        """End a job; its session is closed before its last piece is sent."""
        self._close(job)
        if job.stream.error is not None:
            reason = "error"
        with self.lock:
            if job in self.running:
                self.running.remove(job)
            else:
                self.waiting.remove(job)
        self._is_pressed = False
        self._answers.end(job, reason, text)


def _failure(what: str, error: Exception) -> KVPoolError:
    """Return what a job is told that failed with an error; those of kvpool say enough."""
    if isinstance(error, KVPoolError):
        return error
    failure = ModelFailedError(f"{what} failed ({type(error).__name__}: {error})")
    failure.__cause__ = error
    return failure
