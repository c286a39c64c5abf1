"""`Request`: what is to be generated; `Sampling`: how tokens are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kvpool._checks import check_number, whole_number
from kvpool.cache_key import CacheKey
from kvpool.errors import InvalidArgumentError

__all__ = ["Request", "Sampling"]

_LARGEST_SEED = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the tokens of a generation are chosen.

    Parameters
    ----------
    temperature : float, optional
        0 takes the likeliest token, as ``generate(do_sample=False)``. [default: as the model's own
        settings say]
    top_p : float, optional
        Only the likeliest tokens with this probability together; above 0, at most 1.
    top_k : int, optional
        Only this many of the likeliest tokens; 0 for all.
    min_p : float, optional
        Only tokens at least this many times as likely as the likeliest; 0 to 1.
    repetition_penalty : float, optional
        Above 1, tokens of the prompt and of the answer become less likely.
    presence_penalty, frequency_penalty : float, default 0
        Taken from the logits of each token of the answer, once or as often as it is there.
    logit_bias : mapping of int to float
        Added to the logits of these tokens.
    seed : int, optional
        The same seed gives the same tokens, whatever else the engine does: those of ``generate``
        after ``torch.manual_seed(seed)``. [default: another one each time]

    Raises
    ------
    InvalidArgumentError
        A value is out of its range; the text names it.

    Notes
    -----
    What is not given is as the model's generation configuration says, and as transformers does
    where that says nothing: 50 for `top_k`. Tokens are sampled if `temperature` is above 0, or if
    `top_p`, `top_k` or `min_p` is given, or else if the model's own settings say so.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, at_least=0)
        check_number("top_p", self.top_p, above=0, at_most=1)
        check_number("min_p", self.min_p, at_least=0, at_most=1)
        check_number("repetition_penalty", self.repetition_penalty, above=0)
        for name in ("presence_penalty", "frequency_penalty"):
            check_number(name, _given(name, getattr(self, name)))
        if self.top_k is not None:
            whole_number("top_k", self.top_k, InvalidArgumentError, least=0)
        if self.seed is not None:
            whole_number("seed", self.seed, InvalidArgumentError, least=0, most=_LARGEST_SEED)
        if not isinstance(self.logit_bias, Mapping):
            raise InvalidArgumentError(
                f"logit_bias must be a mapping of token ids to numbers, not {self.logit_bias!r}"
            )
        for token, bias in self.logit_bias.items():
            whole_number("a token of logit_bias", token, InvalidArgumentError, least=0)
            check_number(f"logit_bias of token {token}", _given("logit_bias", bias))
        object.__setattr__(self, "logit_bias", MappingProxyType(dict(self.logit_bias)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What an engine is to generate. One of `prompt`, `messages` and `tokens` is given.

    Parameters
    ----------
    prompt : str, optional
        A text that is continued.
    messages : sequence of mapping, optional
        A conversation, as the model's chat template takes it: each with ``role`` and ``content``.
    tokens : sequence of int, optional
        Token ids of a prompt.
    max_tokens : int, optional
        Tokens to generate at most. [default: the engine's, or what is left of the context]
    sampling : Sampling
    stop : str or sequence of str
        Texts that end the generation. They are not part of the answer.
    session : str, int or CacheKey, optional
        The name of a conversation. Its requests are served one after the other. Without a name,
        the tokens that are computed serve any request.
    salt : str, default ""
        Requests with another one share no tokens: one for each tenant.
    priority : int, default 0
        Requests with a higher one are served earlier, see `Engine`; it may be below 0.
    deadline : float, optional
        Seconds after which the generation ends with what there is.
    logprobs : int, optional
        How many of the likeliest tokens are told beside each token that is chosen, with their
        log probabilities; 0 for that of the chosen one alone.

    Raises
    ------
    InvalidArgumentError
        Not exactly one of `prompt`, `messages` and `tokens` is given, or a value is of the wrong
        type or out of its range; the text names it.
    """

    prompt: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    tokens: Any = None
    max_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop: str | Sequence[str] = ()
    session: str | int | CacheKey | None = None
    salt: str = ""
    priority: int = 0
    deadline: float | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        self._check_prompt()
        for name, least in (("max_tokens", 1), ("logprobs", 0)):
            value = getattr(self, name)
            if value is not None:
                whole_number(name, value, InvalidArgumentError, least=least)
        if not isinstance(self.sampling, Sampling):
            raise InvalidArgumentError(f"sampling must be a Sampling, not {self.sampling!r}")
        object.__setattr__(self, "stop", _texts("stop", self.stop))
        if isinstance(self.session, bool) or not isinstance(
            self.session, str | int | CacheKey | None
        ):
            raise InvalidArgumentError(
                f"session must be a str, an int or a CacheKey, not {self.session!r}"
            )
        if not isinstance(self.salt, str):
            raise InvalidArgumentError(f"salt must be a str, not {self.salt!r}")
        whole_number("priority", self.priority, InvalidArgumentError)
        check_number("deadline", self.deadline, above=0)

    def _check_prompt(self) -> None:
        given = [one for one in ("prompt", "messages", "tokens") if getattr(self, one) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "nothing"
            raise InvalidArgumentError(f"give one of prompt, messages and tokens, not {found}")
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise InvalidArgumentError(f"prompt must be a str, not {self.prompt!r}")
        if self.messages is not None:
            _check_messages(self.messages)


def _check_messages(messages: Any) -> None:
    is_sequence = isinstance(messages, Sequence) and not isinstance(messages, str)
    if not is_sequence or not messages or not all(isinstance(one, Mapping) for one in messages):
        raise InvalidArgumentError(
            f"messages must be a sequence of at least one mapping, not {messages!r}"
        )


def _texts(name: str, value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(one, str) and one for one in texts):
        raise InvalidArgumentError(
            f"{name} must be one text or several, and not an empty one, unlike {value!r}"
        )
    return tuple(texts)


def _given(name: str, value: Any) -> Any:
    if value is None:
        raise InvalidArgumentError(f"{name} must be a number, not None")
    return value
