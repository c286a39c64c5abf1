"""`PooledBatch`: many sessions of one model in one step, without padding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from kvpool.errors import (
    CacheInUseError,
    EntryKindError,
    EntryNotFoundError,
    InvalidArgumentError,
    KVPoolError,
)
from kvpool.integrations._transformers.arguments import CacheParts
from kvpool.integrations._transformers.batch_runner import BatchRunner, runner_of
from kvpool.integrations._transformers.cache import PooledCache
from kvpool.integrations._transformers.ragged import Member
from kvpool.layout import KVLayout

__all__ = ["BatchStep", "PooledBatch"]


class BatchStep(NamedTuple):
    """What came of one step of a `PooledBatch`.

    Parameters
    ----------
    logits : list of (Tensor of shape (vocabulary,), or None)
        Of the last new token of each cache; None for one that failed.
    errors : list of (Exception or None)
        Why a cache failed. Its session is as it was before the step.
    """

    logits: list[Any]
    errors: list[Exception | None]


class PooledBatch:
    """Any number of `PooledCache` objects, whose sessions go on together.

    The new tokens of all sessions go through the model in one row, so that its weights are read
    once. The tokens of each session are written behind those that it holds, and attend to these
    alone. Sessions may have any lengths: there is no padding, and no token is copied.

    Parameters
    ----------
    caches : iterable of PooledCache, default ()
        Of one model and one manager, each of one sequence.

    Raises
    ------
    InvalidArgumentError
        One of them is not a `PooledCache`, or is of another manager or another model than the
        others.
    CacheInUseError
        A session is given twice.

    Notes
    -----
    *Between steps* caches may join (`add`), leave (`remove`) and be used alone.

    *Logits* are those of each session alone up to rounding: the linear layers add up the numbers of
    one row and of several rows in another order.

    *Threads.* A batch, and its caches, belong to one thread at a time.
    """

    def __init__(self, caches: Iterable[PooledCache] = ()) -> None:
        self._caches: list[PooledCache] = []
        for cache in caches:
            self.add(cache)

    @property
    def caches(self) -> tuple[PooledCache, ...]:
        """The caches, in the order in which `step` takes their tokens."""
        return tuple(self._caches)

    def __len__(self) -> int:
        return len(self._caches)

    def __iter__(self) -> Iterator[PooledCache]:
        return iter(self.caches)

    def __contains__(self, cache: object) -> bool:
        return any(one is cache for one in self._caches)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} sessions>"

    # -- who takes part ------------------------------------------------------------------

    def add(self, cache: PooledCache) -> None:
        """Let a cache join, behind the others.

        Raises
        ------
        InvalidArgumentError
            It is not a `PooledCache`, holds several sequences, or is of another manager or model
            than the others.
        CacheInUseError
            Its session is in the batch already.
        """
        if not isinstance(cache, PooledCache):
            raise InvalidArgumentError(f"a batch is made of PooledCache objects, not of {cache!r}")
        session, parts = cache.parts
        if session.rows != 1:
            raise InvalidArgumentError(
                f"{cache!r} holds {session.rows} sequences, a batch needs one in each session"
            )
        for other in self._caches:
            if other.key == cache.key and other.parts[0].manager is session.manager:
                raise CacheInUseError(f"session {cache.key!s} is in the batch already")
        if self._caches:
            first, first_parts = self._caches[0].parts
            if first.manager is not session.manager:
                raise InvalidArgumentError(f"{cache!r} is of another manager than the batch")
            if not _are_of_one_model(first_parts, parts):
                raise InvalidArgumentError(f"{cache!r} is of another model than the batch")
        self._caches.append(cache)

    def remove(self, cache: PooledCache) -> None:
        """Let a cache leave; it and its session stay as they are.

        Raises
        ------
        EntryNotFoundError
            It is not in the batch.
        """
        for index, one in enumerate(self._caches):
            if one is cache:
                del self._caches[index]
                return
        raise EntryNotFoundError(f"{cache!r} is not in the batch")

    # -- a step --------------------------------------------------------------------------

    def step(self, model: Any, tokens: Sequence[Any]) -> BatchStep:
        """Send the next tokens of every session through the model, all in one call.

        Parameters
        ----------
        model : PreTrainedModel
            In host memory, as its caches.
        tokens : sequence of (sequence of int, or Tensor of shape (tokens,) or (1, tokens))
            For each cache its next tokens, at least one: the last one that was sampled, or a part
            of a prompt. Their numbers may differ.

        Returns
        -------
        BatchStep
            A session that fails, for example with `PoolExhaustedError` or `ContextOverflowError`,
            has its error there and stays as it was. The others go on, bit for bit as without it.
            The cache stays in the batch.

        Raises
        ------
        InvalidArgumentError
            `tokens` is not a sequence, or there are not as many as caches.
        UnbatchableModelError
            The model cannot run several sessions in one step.
        InvalidLayoutError
            A pool cannot hold what the model keeps.
        EntryKindError
            The caches are of another model.

        Notes
        -----
        Room is made for the new tokens of all sessions before the model runs. If the call raises,
        all sessions are as they were. No gradient flows through a batch.
        """
        if not hasattr(tokens, "__len__"):
            raise InvalidArgumentError(
                f"a step takes a sequence with the tokens of each cache, not {tokens!r}"
            )
        if len(tokens) != len(self):
            raise InvalidArgumentError(
                f"a step takes the tokens of each of the {len(self)} caches, not of {len(tokens)}"
            )
        result = BatchStep([None] * len(tokens), [None] * len(tokens))
        if not self._caches:
            return result
        model = getattr(model, "_orig_mod", model)  # a compiled graph attends in its own way
        runner = runner_of(model)
        self._check_model(runner)
        taken: dict[int, Member] = {}
        try:
            self._take(runner, tokens, taken, result.errors)
            if taken:
                logits = runner.run(model, list(taken.values()))
                for (index, member), one in zip(list(taken.items()), logits, strict=True):
                    try:
                        member.finish()
                    except KVPoolError as error:  # the session was removed meanwhile
                        del taken[index]
                        member.give_up()
                        result.errors[index] = _without_frames(error)
                    else:
                        result.logits[index] = one
        except BaseException:
            for member in taken.values():
                member.undo()
            raise
        return result

    def _take(
        self,
        runner: BatchRunner,
        tokens: Sequence[Any],
        taken: dict[int, Member],
        errors: list[Exception | None],
    ) -> None:
        """Take the room for the tokens of each session; note those that fail, and why."""
        leases = []
        try:
            for cache in self._caches:  # first: none is evicted for another one
                with contextlib.suppress(KVPoolError):  # it is met again below
                    leases.append(cache.parts[0].lease())
            for index, cache in enumerate(self._caches):
                session = cache.parts[0]
                try:
                    row = runner.row_of(tokens[index], str(cache.key))
                    runner.check_length(session.token_count + len(row), str(cache.key))
                    taken[index] = Member(session, row)  # first: an interrupt may come any time
                    taken[index].stage()
                except KVPoolError as error:
                    errors[index] = _without_frames(error)
                    if index in taken:
                        taken.pop(index).give_up()
        finally:
            leases.clear()  # a traceback that is kept must not keep them

    def _check_model(self, runner: BatchRunner) -> None:
        measured = runner.measured
        layout = self._caches[0].parts[1].layout  # `add` has seen that it is the one of all
        fits = _shape(measured.layout(layout.dtype)) == _shape(layout)
        for cache in self._caches:
            if not fits or cache.parts[1].weights not in {None, measured.weights}:
                raise EntryKindError(f"{cache!r} is not of the model that the batch is to run")


def _without_frames(error: Exception) -> Exception:
    """Return an error that is to be kept, without what would keep the leases of all sessions."""
    one: BaseException | None = error
    while one is not None:
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
    return error


def _shape(layout: KVLayout) -> tuple[object, ...]:
    return layout.layers, layout.kv_heads, layout.head_dim, layout.dtype


def _are_of_one_model(one: CacheParts, other: CacheParts) -> bool:
    return (
        one.layout == other.layout
        and list(one.kinds) == list(other.kinds)
        and (one.weights == other.weights or None in {one.weights, other.weights})
    )
