"""`Sampler`: chooses the tokens of one answer, by the logits processors of transformers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import LogitsProcessorList

from kvpool.serving._request import Sampling

__all__ = ["Choice", "Sampler"]


class Choice(NamedTuple):
    """A token that was chosen.

    Parameters
    ----------
    token : int
    logprob : float
        Of the token, as the model found it; 0 if it was not asked for.
    likeliest : list of (int, float)
        Tokens and their log probabilities, as many as were asked for.
    """

    token: int
    logprob: float = 0.0
    likeliest: Sequence[tuple[int, float]] = ()


class Penalties:
    """Makes tokens of the answer less likely, which transformers has no processor for.

    Parameters
    ----------
    presence, frequency : float
        Taken from the logits of a token that is in the answer: once, and for each time.
    begin : int
        Where the answer begins.
    """

    def __init__(self, presence: float, frequency: float, begin: int) -> None:
        self._presence = presence
        self._frequency = frequency
        self._begin = begin

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        counts = torch.zeros_like(scores)
        said = input_ids[:, self._begin :]
        counts.scatter_add_(1, said, torch.ones_like(said, dtype=scores.dtype))
        return scores - self._presence * (counts > 0) - self._frequency * counts


class Sampler:
    """Chooses the tokens of one answer.

    Parameters
    ----------
    model : PreTrainedModel
    settings : GenerationConfig
        What holds if the request says nothing else.
    sampling : Sampling
        Of the request.
    prompt : ndarray of int64
    max_tokens : int
    logprobs : int, optional
        How many of the likeliest tokens are told.

    Raises
    ------
    Exception
        transformers refuses the settings.
    """

    def __init__(
        self,
        model: Any,
        settings: Any,
        sampling: Sampling,
        prompt: Any,
        max_tokens: int,
        logprobs: int | None,
    ) -> None:
        self._logprobs = logprobs
        self._length = len(prompt)
        self._ids = torch.empty((1, len(prompt) + max_tokens), dtype=torch.long)
        self._ids[0, : len(prompt)] = torch.tensor(prompt)
        config = _config(settings, sampling, max_tokens)
        self._samples: bool = config.do_sample
        own = LogitsProcessorList()
        if sampling.presence_penalty or sampling.frequency_penalty:
            own.append(
                Penalties(sampling.presence_penalty, sampling.frequency_penalty, len(prompt))
            )
        self._processors = _processors(model, self._ids[:, : len(prompt)], config, own)
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def choose(self, logits: Any) -> Choice:
        """Return the next token, and note it.

        Parameters
        ----------
        logits : Tensor, shape (vocabulary,)
        """
        logits = logits.to(copy=True, dtype=torch.float32)[None]
        told = None if self._logprobs is None else torch.log_softmax(logits[0], dim=-1)
        scores = self._processors(self._ids[:, : self._length], logits)
        if self._samples:
            likely = torch.softmax(scores, dim=-1)
            chosen = torch.multinomial(likely, num_samples=1, generator=self._generator)
        else:
            chosen = torch.argmax(scores, dim=-1)
        token = int(chosen.item())
        if self._length < self._ids.shape[1]:
            self._ids[0, self._length] = token
            self._length += 1
        if told is None:
            return Choice(token)
        best = torch.topk(told, min(self._logprobs or 0, len(told)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return Choice(token, float(told[token]), list(pairs))


def _config(settings: Any, sampling: Sampling, max_tokens: int) -> Any:
    """Return a generation configuration with what a request asks for."""
    config = copy.deepcopy(settings)
    options: dict[str, Any] = {
        "num_beams": 1,
        "num_return_sequences": 1,
        "cache_implementation": None,
        "use_cache": False,
        "return_dict_in_generate": False,
        "max_length": None,
        "max_new_tokens": max_tokens,
    }
    warpers = ("top_p", "top_k", "min_p")
    for name in (*warpers, "repetition_penalty"):
        value = getattr(sampling, name)
        if value is not None:
            options[name] = value
    if sampling.temperature == 0:
        # transformers warns of others, also of those that the model's own settings have.
        options |= {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
        options.pop("min_p", None)
    elif sampling.temperature is not None:
        options |= {"do_sample": True, "temperature": float(sampling.temperature)}
    elif any(getattr(sampling, name) is not None for name in warpers):
        options["do_sample"] = True
    if sampling.logit_bias:
        own = config.sequence_bias or {}
        pairs = own.items() if isinstance(own, dict) else own  # it may be a list of pairs
        bias = {tuple(tokens): value for tokens, value in pairs}
        bias |= {(token,): float(value) for token, value in sampling.logit_bias.items()}
        options["sequence_bias"] = bias
    config.update(**options)
    return config


def _processors(model: Any, prompt: Any, config: Any, own: Any) -> Any:
    """Return the logits processors that ``generate`` would use, in its order.

    ``generate`` prepares everything, and then calls what it is given instead of its own loop.
    """

    def prepared(
        _model: Any, input_ids: Any, logits_processor: Any, **_options: Any
    ) -> Any:  # called by position and by these names
        del input_ids
        return logits_processor

    return model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        generation_config=config,
        logits_processor=own,
        custom_generate=prepared,
    )
