"""`ServedModel`: all that an engine asks of a model, its tokenizer and the cache of sessions.

The only part of an engine, with `Sampler`, that needs torch.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.errors import (
    EntryRemovedError,
    InvalidArgumentError,
    InvalidLayoutError,
    InvalidTokensError,
    KVPoolError,
    PoolClosedError,
    UnbatchableModelError,
)
from kvpool.integrations.chat import ChatText
from kvpool.integrations.transformers import (
    BatchStep,
    OpeningCache,
    PooledBatch,
    PooledCache,
    cache_argument,
    model_layout,
)
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.prefix import token_bytes
from kvpool.serving._request import Request
from kvpool.serving._sampling import Sampler
from kvpool.serving._text import AnswerText

__all__ = ["ServedModel"]


class ServedModel:
    """A model, its tokenizer, and the sessions that it computes in.

    Parameters
    ----------
    model : PreTrainedModel
        In evaluation mode.
    tokenizer : PreTrainedTokenizerBase
    manager : KVCacheManager
    model_id : str, optional
    settings : GenerationConfig, optional
        How it generates if a request says nothing. [default: the model's own]

    Attributes
    ----------
    layout : KVLayout
    context : int or None
        Tokens that it can attend to; None if its configuration does not say.
    ends : frozenset of int
        Tokens that end an answer.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        manager: KVCacheManager,
        model_id: str | None,
        settings: Any,
    ) -> None:
        if getattr(model, "training", False):
            raise InvalidArgumentError("the model is in training mode: call model.eval() first")
        self._model = model
        self._manager = manager
        self._model_id = model_id
        self._settings = model.generation_config if settings is None else settings
        self.layout = _layout(model, manager.layout)
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.context = limit if isinstance(limit, int) else None
        self._vocabulary: int = model.get_input_embeddings().num_embeddings
        ends = self._settings.eos_token_id
        self.ends = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
        self._batch = PooledBatch()
        self._is_batchable = True  # until the model says otherwise
        self._cache_argument = cache_argument(model)
        # A tokenizer is for one thread at a time: that of those who submit is guarded by a lock,
        # and the engine's thread has its own.
        self._asking = ChatText(tokenizer, type(model).__name__)
        self._asking_lock = threading.Lock()
        self._saying = ChatText(copy.deepcopy(tokenizer), type(model).__name__)

    # -- texts and tokens ----------------------------------------------------------------

    def prompt(self, request: Request) -> NDArray[np.int64]:
        """Return the tokens of a request; any thread may call.

        Raises
        ------
        InvalidArgumentError
            The request cannot be made into tokens, or into none.
        InvalidTokensError
            Tokens are not whole numbers, or the model does not know them.
        ChatModelError
            The chat template refuses the messages.
        """
        tokens = np.frombuffer(token_bytes(self._tokens_of(request)), np.int64)
        if not len(tokens):
            raise InvalidArgumentError("the prompt has no tokens: give at least one")
        odd = tokens[(tokens < 0) | (tokens >= self._vocabulary)]
        if len(odd):
            raise InvalidTokensError(
                f"the model has tokens from 0 to {self._vocabulary - 1}, and not {odd[0]}"
            )
        for token in request.sampling.logit_bias:
            if token >= self._vocabulary:
                raise InvalidTokensError(
                    f"logit_bias: the model has tokens from 0 to {self._vocabulary - 1}, "
                    f"and not {token}"
                )
        return tokens

    def _tokens_of(self, request: Request) -> Any:
        tokens = request.tokens
        if tokens is not None:
            is_tensor = isinstance(tokens, torch.Tensor)
            return tokens.detach().cpu().numpy() if is_tensor else tokens
        with self._asking_lock:
            try:
                if request.messages is not None:
                    return self._asking.prompt(request.messages, "", ()).tokens
                return self._asking.tokenizer.encode(request.prompt)
            except KVPoolError:
                raise
            except Exception as error:  # of a template or a tokenizer, which are not ours
                raise InvalidArgumentError(
                    f"the prompt cannot be made into tokens ({type(error).__name__}: {error})"
                ) from error

    def answer_text(self, stops: Sequence[str]) -> AnswerText:
        """Return what turns the tokens of an answer into text; for the engine's thread."""
        return AnswerText(self._saying.token_text(), stops)

    def text_of(self, token: int) -> str:
        """Return the text of one token; for the engine's thread."""
        return self._saying.text_of([token], special=True)

    # -- sessions ------------------------------------------------------------------------

    def begin(
        self, tokens: NDArray[np.int64], key: CacheKey | None, salt: str, room: int
    ) -> OpeningCache[PooledCache]:
        """Open a session with the tokens of it that the pool has; at least one is left.

        What tiers have of the others is loaded in the background.

        Parameters
        ----------
        tokens : ndarray of int64
        key : CacheKey or None
        salt : str
        room : int
            Tokens that the session may grow to.

        Raises
        ------
        PoolExhaustedError
            There is no room now.
        KVPoolError
        """
        return PooledCache.begin_for_tokens(
            self._manager,
            tokens,
            key,
            model=self._model,
            model_id=self._model_id,
            salt=salt,
            # In an elastic pool room costs nothing, and with enough of it a session never moves.
            max_context_length=None if self._manager.pool.is_elastic else room,
        )

    def sampler(self, request: Request, prompt: NDArray[np.int64], max_tokens: int) -> Sampler:
        """Return what chooses the tokens of an answer."""
        return Sampler(
            self._model, self._settings, request.sampling, prompt, max_tokens, request.logprobs
        )

    def close(self, cache: PooledCache, tokens: NDArray[np.int64]) -> None:
        """Close a session with its tokens, of which the pool keeps those that were computed.

        It may be gone: removed by its key, or with the whole pool. If it cannot be closed, it is
        removed, because no other caller would close it.

        Raises
        ------
        Exception
            An eviction policy raised.
        """
        if cache in self._batch:
            self._batch.remove(cache)
        try:
            with contextlib.suppress(EntryRemovedError, PoolClosedError):
                cache.close(tokens)
        except Exception:
            with contextlib.suppress(Exception):  # of the same policy
                self._manager.remove_cache_entry(cache.key)
            raise
        finally:
            cache.release()

    # -- computing -----------------------------------------------------------------------

    def step(self, caches: Sequence[PooledCache], tokens: Sequence[NDArray[np.int64]]) -> BatchStep:
        """Compute the next tokens of some sessions.

        Raises
        ------
        Exception
            The model raised. The sessions are as they were.
        """
        if not self._is_batchable:
            return self._alone(caches, tokens)
        for cache in caches:
            if cache not in self._batch:
                self._batch.add(cache)
        new = {id(cache): one for cache, one in zip(caches, tokens, strict=True)}
        try:
            done = self._batch.step(self._model, [new[id(cache)] for cache in self._batch])
        except UnbatchableModelError:
            self._is_batchable = False
            return self._alone(caches, tokens)
        found = dict(zip(map(id, self._batch), zip(*done, strict=True), strict=True))
        step = BatchStep([], [])
        for cache in caches:
            logits, error = found[id(cache)]
            if isinstance(error, UnbatchableModelError):  # at its length, for example
                (logits,), (error,) = self._alone([cache], [new[id(cache)]])
            step.logits.append(logits)
            step.errors.append(error)
        return step

    def _alone(
        self, caches: Sequence[PooledCache], tokens: Sequence[NDArray[np.int64]]
    ) -> BatchStep:
        """Compute the next tokens of some sessions, one after the other."""
        step = BatchStep([None] * len(caches), [None] * len(caches))
        for index, (cache, new) in enumerate(zip(caches, tokens, strict=True)):
            try:
                with torch.no_grad():
                    done = self._model(
                        input_ids=torch.tensor(new)[None],
                        use_cache=True,
                        **{self._cache_argument: cache},
                    )
                step.logits[index] = done.logits[0, -1]
            except Exception as error:  # a model may raise anything
                step.errors[index] = error.with_traceback(None)  # which would keep leases
                with contextlib.suppress(KVPoolError):  # the session was removed meanwhile
                    cache.crop(0)
        return step


def _layout(model: Any, own: KVLayout | None) -> KVLayout:
    """Return the layout of the sessions of a model; the manager says how tokens are packed."""
    if own is None:
        return model_layout(model)
    layout = model_layout(model, own.dtype)
    layout = KVLayout(
        layout.layers, layout.kv_heads, layout.head_dim, layout.dtype, packing=own.packing
    )
    if layout != own:
        raise InvalidLayoutError(f"the model has the layout {layout}, the manager has {own}")
    return layout
