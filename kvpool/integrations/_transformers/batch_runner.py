"""`BatchRunner`: how one model is called with the tokens of many sessions in one row."""

from __future__ import annotations

import inspect
import operator
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from kvpool.errors import InvalidTokensError, UnbatchableModelError
from kvpool.integrations._transformers.batch_attention import attending_by
from kvpool.integrations._transformers.layers import EmptyLayer
from kvpool.integrations._transformers.measuring import cache_argument, measure
from kvpool.integrations._transformers.ragged import Member, RaggedStep

__all__ = ["BatchRunner", "runner_of"]


class BatchRunner:
    """How to call a model with the tokens of many sessions.

    Parameters
    ----------
    model : PreTrainedModel

    Attributes
    ----------
    measured : MeasuredModel
        What the model keeps of each token.

    Raises
    ------
    InvalidLayoutError
        A pool cannot hold what the model keeps.
    UnbatchableModelError
        The model does not take the position of each token.
    """

    def __init__(self, model: Any) -> None:
        self.measured = measure(model)
        self._name = type(model).__name__
        taken = inspect.signature(model.forward).parameters
        if "position_ids" not in taken:
            raise self._refusal("does not take the positions of tokens (position_ids)")
        self._words = model.get_input_embeddings().num_embeddings
        self._cache_argument = cache_argument(model)
        self._check_positions(model)
        self._keeps_logits = "logits_to_keep" in taken
        self._rope = _Rope(model)
        self._attends = False  # whether a step has shown that attention comes here

    def _check_positions(self, model: Any) -> None:
        """Refuse a model that does not do with positions what it does without them.

        Some count them otherwise, from behind the number of the padding token, and some take no
        notice of those that they are given. Both can be seen of a sequence alone, to the bit.
        """
        counted, given, others = (
            self._alone(model, positions) for positions in (None, [0, 1, 2, 3], [0, 1, 2, 5])
        )
        if not torch.equal(counted, given):
            raise self._refusal("counts the positions of tokens otherwise than from 0")
        if torch.equal(given, others):
            raise self._refusal("takes no notice of the positions that it is given")

    def _alone(self, model: Any, positions: list[int] | None) -> Any:
        """Return the logits of a sequence of four tokens, in two steps."""
        cache, logits = DynamicCache(), []
        tokens = torch.arange(4)[None] % self._words
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for part in (slice(0, 2), slice(2, 4)):
                options = {self._cache_argument: cache}
                if positions is not None:
                    options["position_ids"] = torch.tensor([positions[part]])
                output = model.forward(input_ids=tokens[:, part], use_cache=True, **options)
                logits.append(output.logits)
        return torch.cat(logits, 1)

    def row_of(self, tokens: Any, session: str) -> list[int]:
        """Return the new tokens of a session.

        Raises
        ------
        InvalidTokensError
            There are none, or they are of several sequences, or the model knows no such tokens.
        """
        if isinstance(tokens, torch.Tensor):
            shape = tuple(tokens.shape)
            if len(shape) == 2 and shape[0] == 1:
                tokens = tokens[0]
            elif len(shape) != 1:
                raise InvalidTokensError(
                    f"the next tokens of session {session!r} must have the shape (tokens,) or "
                    f"(1, tokens), not {shape}"
                )
            tokens = tokens.tolist()
        try:
            row = [operator.index(token) for token in tokens]
        except TypeError:
            raise InvalidTokensError(
                f"the next tokens of session {session!r} must be whole numbers, not {tokens!r}"
            ) from None
        if not row:
            raise InvalidTokensError(f"session {session!r} gets no tokens, it needs at least one")
        for token in row:
            if not 0 <= token < self._words:
                raise InvalidTokensError(
                    f"session {session!r} gets the token {token}: {self._name} knows those from "
                    f"0 to {self._words - 1}"
                )
        return row

    def check_length(self, length: int, session: str) -> None:
        """Refuse a session that the model can only run alone, at that length."""
        if self._rope.alone_from is not None and length >= self._rope.alone_from:
            raise UnbatchableModelError(
                f"session {session!r} would hold {length} tokens: from {self._rope.alone_from} on "
                f"the position embedding of {self._name} ('dynamic') depends on the longest "
                "sequence of a call, so run it alone"
            )

    def run(self, model: Any, members: Sequence[Member]) -> list[Any]:
        """Return the logits of the last token of each session, and have all tokens written.

        Raises
        ------
        UnbatchableModelError
            The model computes attention otherwise than by its attention function.
        """
        logits: list[Any] = [None] * len(members)
        for group in self._rope.groups([member.start + member.count for member in members]):
            found = self._run(model, [members[index] for index in group])
            for index, one in zip(group, found, strict=True):
                logits[index] = one
        return logits

    def _run(self, model: Any, members: Sequence[Member]) -> list[Any]:
        ids = [token for one in members for token in one.row]
        positions = [at for one in members for at in range(one.start, one.start + one.count)]
        step = RaggedStep(members, members[0].session.layout, self._refusal)
        options: dict[str, Any] = {self._cache_argument: self._cache(step)}
        ends = torch.tensor([one.count for one in members]).cumsum(0) - 1
        if self._keeps_logits:
            options["logits_to_keep"] = ends
        try:
            with torch.no_grad(), attending_by(step, model):
                output = model(
                    input_ids=torch.tensor([ids]),
                    position_ids=torch.tensor([positions]),
                    use_cache=True,
                    **options,
                )
        except UnbatchableModelError:
            raise
        except Exception as error:
            if self._attends or step.has_attended:
                raise
            raise self._refusal("attends by code of its own") from error
        if not step.is_complete:
            raise self._refusal("attends by code of its own")
        self._attends = True
        logits = output.logits[0]
        return list(logits if len(logits) == len(members) else logits[ends])

    def _refusal(self, reason: str) -> UnbatchableModelError:
        return UnbatchableModelError(
            f"{self._name} {reason}, so it cannot run several sessions in one step: run each alone"
        )

    def _cache(self, step: RaggedStep) -> Cache:
        numbers = iter(range(len(self.measured.kinds)))
        return Cache(
            layers=[
                RaggedLayer(step, next(numbers), kind.window) if kind.is_cached else EmptyLayer()
                for kind in self.measured.kinds
            ]
        )


class RaggedLayer(CacheLayerMixin):
    """One layer of all sessions in a step, as the model sees its cache.

    Parameters
    ----------
    step : RaggedStep
    index : int
        The layer of the entries.
    window : int or None
    """

    is_compileable = False
    is_croppable = False

    def __init__(self, step: RaggedStep, index: int, window: int | None) -> None:
        self._step = step
        self._index = index
        self._window = window
        self.is_sliding = window is not None
        self.is_initialized = True
        self.keys = self.values = None

    def lazy_initialization(self, *_states: Any) -> None:
        """Do nothing: there are entries."""

    def update(self, key_states: Any, value_states: Any, *_args: Any, **_options: Any) -> Any:
        """Write the tokens; attention finds the others of each session by itself."""
        return self._step.write(self._index, self._window, key_states, value_states)

    def get_seq_length(self) -> int:
        """Return 0: the positions are given, and are of several sessions."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return sizes that nothing is made of: every session gets a mask of its own."""
        return query_length, 0

    def get_max_length(self) -> int:
        """Return -1: there is no maximum."""
        return -1

    def get_max_cache_shape(self) -> int:
        """Return `get_max_length`, which older versions of transformers call so."""
        return -1


class _Rope:
    """What the position embedding of a model takes from the longest sequence of a call.

    Attributes
    ----------
    alone_from : int or None
        Tokens from which on a session is to be run alone: the embedding changes with its length.
    """

    def __init__(self, model: Any) -> None:
        self.alone_from: int | None = None
        self._long_from: int | None = None  # from here on there is one other embedding
        for part in model.modules():
            types = getattr(part, "rope_type", None)
            named = types.items() if isinstance(types, dict) else [(None, types)]
            for layer_type, name in named:
                if not isinstance(name, str):
                    continue
                if "dynamic" in name:
                    self.alone_from = _least(self.alone_from, part.original_max_seq_len)
                elif name == "longrope":
                    parameters = part.config.rope_parameters
                    parameters = parameters if layer_type is None else parameters[layer_type]
                    limit = parameters["original_max_position_embeddings"]
                    self._long_from = _least(self._long_from, limit + 1)

    def groups(self, lengths: Sequence[int]) -> Iterable[list[int]]:
        """Return which sessions may be run in one call: their indexes."""
        limit = self._long_from
        if limit is None:
            return [list(range(len(lengths)))]
        short = [index for index, length in enumerate(lengths) if length < limit]
        long = [index for index, length in enumerate(lengths) if length >= limit]
        return [group for group in (short, long) if group]


def _least(one: int | None, other: int) -> int:
    return other if one is None else min(one, other)


_runners: weakref.WeakKeyDictionary[Any, BatchRunner] = weakref.WeakKeyDictionary()


def runner_of(model: Any) -> BatchRunner:
    """Return how to call a model; each model is looked at once."""
    found = _runners.get(model)
    if found is None:
        found = _runners[model] = BatchRunner(model)
    return found
