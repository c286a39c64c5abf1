"""`ChatModel`: a causal language model that answers in the sessions of a pool."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from transformers.generation.stopping_criteria import StoppingCriteriaList

from kvpool.cache_key import CacheKey
from kvpool.integrations._chat.answering import Listener, StopWhen, TokenStreamer
from kvpool.integrations._chat.chat_text import ChatModelError, ChatText, Prompt, first_line
from kvpool.integrations._chat.tiny_model import tiny_model
from kvpool.integrations._transformers.arguments import cache_parts
from kvpool.integrations._transformers.cache import PooledCache
from kvpool.integrations._transformers.measuring import cache_argument, model_layout
from kvpool.integrations._transformers.turn import model_id_of
from kvpool.manager import KVCacheManager
from kvpool.prefix import Identity

__all__ = ["ChatModel", "quiet", "seed"]

PREFILL_TOKENS = 64
"""Tokens of a prompt that are computed in one step; it can be stopped between two."""


class ChatModel(ChatText):
    """A causal language model and its tokenizer.

    Parameters
    ----------
    model : PreTrainedModel
        In host memory.
    tokenizer : PreTrainedTokenizerBase
    name : str
    temperature : float, optional
        For sampling; 0 takes the likeliest token. By default as the model's own settings say.
    max_context_length : int, optional
        Tokens that a session gets room for at once; without it, its entry grows.

    Attributes
    ----------
    model, tokenizer, name
    settings : GenerationConfig
        How it answers.
    layout : KVLayout
        Of its cache.

    Raises
    ------
    InvalidLayoutError
        A layer of the model keeps other things than keys and values; the text names it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        *,
        temperature: float | None = None,
        max_context_length: int | None = None,
    ) -> None:
        super().__init__(tokenizer, name)
        self.model = model
        self.layout = model_layout(model)
        self._cache_argument = cache_argument(model)
        self._room = max_context_length
        if max_context_length is not None and self.max_context_length is not None:
            self._room = min(max_context_length, self.max_context_length)
        self.settings = _settings(model, temperature)

    @classmethod
    def load(cls, directory: Path, dtype: str | None = None, **options: Any) -> Self:
        """Return the model that a directory holds; nothing is fetched, no code of it is run.

        Parameters
        ----------
        directory : Path
        dtype : str, optional
            Data type of the model; by default that of the saved model.
        **options
            Keyword arguments of `ChatModel`.

        Raises
        ------
        ChatModelError
            It cannot be loaded; the text says why.
        """
        own = {"local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **own)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                directory, dtype=dtype or "auto", **own
            )
        except Exception as error:  # damaged files make it raise whatever comes
            reason = first_line(error)
            raise ChatModelError(f"cannot load a model from {directory}: {reason}") from error
        return cls(model.eval(), tokenizer, directory.resolve().name, **options)

    @classmethod
    def tiny(
        cls, directory: Path | None = None, dtype: str | None = None, seed: int = 0, **options: Any
    ) -> Self:
        """Return a small model with random weights.

        Parameters
        ----------
        directory : Path, optional
            Directory to save the model in.
        dtype : str, optional
            Data type of the model; by default float32.
        **options
            Keyword arguments of `ChatModel`.
        seed : int
            Seed of the weights.
        """
        model, tokenizer = tiny_model(seed)
        model = model.to(getattr(torch, dtype or "float32"))
        if directory is not None:
            model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
        return cls(model, tokenizer, "tiny", **options)

    @property
    def max_context_length(self) -> int | None:
        """Tokens that the model can attend to, as its configuration says; None if it does not."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit if isinstance(limit, int) else None

    def is_end(self, token: int) -> bool:
        """Tell whether a token ends an answer."""
        ends = self.settings.eos_token_id
        return token in (ends if isinstance(ends, list) else [ends])

    # -- tokens --------------------------------------------------------------------------

    def answer(
        self,
        manager: KVCacheManager,
        key: CacheKey,
        prompt: Prompt,
        max_new_tokens: int,
        listener: Listener,
    ) -> int:
        """Answer in a session; compute only the tokens that no session in the pool holds.

        Parameters
        ----------
        manager : KVCacheManager
        key : CacheKey
            Of the session. It is cut at the first token that differs from those of the prompt.
        prompt : Prompt
        max_new_tokens : int
        listener : Listener
            Takes the tokens of the answer.

        Returns
        -------
        int
            How many tokens of the prompt were in the pool.

        Raises
        ------
        PoolExhaustedError
            The session does not fit; it holds the tokens that all layers have.
        ChatModelError
            torch could not compute it; the session is as after `PoolExhaustedError`.
        """
        said: list[int] = []

        def take(token: int) -> None:
            said.append(token)
            listener.on_token(token)

        with self._open(manager, key, prompt.tokens) as cache:
            reused: int = cache.get_seq_length()
            tokens = torch.tensor([prompt.tokens])
            try:
                if self._read(tokens, cache, listener):
                    self._generate(tokens, cache, max_new_tokens, take, listener)
            except RuntimeError as error:  # of torch: no memory, or numbers that are none
                raise ChatModelError(f"{self.name} failed: {first_line(error)}") from error
            finally:
                cache.close([*prompt.tokens, *said])
        return reused

    def begin(self, manager: KVCacheManager, tokens: Sequence[int], key: CacheKey) -> None:
        """Let a session begin with tokens, as far as the pool and its tiers have them.

        They may be those of another session, which is forked. Nothing is computed.

        Raises
        ------
        CacheInUseError, ContextOverflowError, PoolExhaustedError
            Nothing has changed.
        """
        self._open(manager, key, tokens, min_left=0).close()

    def identity(self, manager: KVCacheManager) -> Identity:
        """Return what the sessions of this model have in common, of which tiers name them."""
        parts = cache_parts(manager, self.model, None, None)
        return Identity(model_id_of(None, parts), "", parts.layout)

    def _open(
        self, manager: KVCacheManager, key: CacheKey, tokens: Sequence[int], **options: Any
    ) -> PooledCache:
        own = {"model": self.model, "max_context_length": self._room}
        return PooledCache.for_tokens(manager, tokens, key, **own, **options)

    def _read(self, tokens: Any, cache: PooledCache, listener: Listener) -> bool:
        """Compute a prompt up to its last token; return False if that was stopped."""
        held, last = cache.get_seq_length(), tokens.shape[1] - 1
        listener.on_read(0, last + 1 - held)
        for start in range(held, last, PREFILL_TOKENS):
            if listener.should_stop():
                return False
            end = min(start + PREFILL_TOKENS, last)
            with torch.inference_mode():
                self.model(
                    input_ids=tokens[:, start:end], use_cache=True, **{self._cache_argument: cache}
                )
            listener.on_read(end - held, last + 1 - held)
        return not listener.should_stop()

    def _generate(
        self,
        tokens: Any,
        cache: PooledCache,
        max_new_tokens: int,
        take: Callable[[int], None],
        listener: Listener,
    ) -> None:
        self.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            **{self._cache_argument: cache},
            generation_config=self.settings,
            max_new_tokens=max_new_tokens,
            streamer=TokenStreamer(take),
            stopping_criteria=StoppingCriteriaList([StopWhen(listener.should_stop)]),
        )


def quiet() -> None:
    """Let transformers neither warn nor draw bars in a terminal that belongs to another."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def seed(number: int) -> None:
    """Let sampling repeat itself."""
    torch.manual_seed(number)


def _settings(model: Any, temperature: float | None) -> Any:
    """Return how a model generates: one sequence, into the cache that is given."""
    settings = copy.deepcopy(model.generation_config)
    settings.update(num_beams=1, num_return_sequences=1, cache_implementation=None, max_length=None)
    if settings.pad_token_id is None:
        ends = settings.eos_token_id
        settings.pad_token_id = ends[0] if isinstance(ends, list) else ends
    if temperature is not None:
        sampling = {"do_sample": True, "temperature": temperature}
        settings.update(**(sampling if temperature else {"do_sample": False, "temperature": None}))
    return settings
