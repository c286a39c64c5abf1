"""The words of a chat: what a tokenizer and its chat template make of a conversation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from kvpool.errors import KVPoolError
from kvpool.integrations._chat.token_text import TokenText

__all__ = ["ChatModelError", "ChatText", "Prompt", "first_line"]

Message = Mapping[str, str]

_PLAIN = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


class ChatModelError(KVPoolError, ValueError):
    """A directory holds no model that can be used, or the model cannot take a conversation."""


def first_line(error: Exception) -> str:
    """Return the first line of the text of an error, or the name of its type if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class Prompt(NamedTuple):
    """A conversation up to the answer that is wanted.

    Parameters
    ----------
    text : str
    tokens : list of int
    kept : int
        How many of its first tokens are those of the text before.
    """

    text: str
    tokens: list[int]
    kept: int


class ChatText:
    """Turns conversations into tokens, and tokens into text.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    name : str
        Of the model; shown in errors.

    Attributes
    ----------
    tokenizer, name
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer = tokenizer
        self.name = name

    def prompt(self, messages: Sequence[Message], text: str, tokens: Sequence[int]) -> Prompt:
        """Return the tokens of a conversation, beginning with known ones as far as it can.

        Parameters
        ----------
        messages : sequence of mapping
            Each with ``role`` and ``content``; the last one is the user's.
        text : str
            What the conversation was so far; empty for a new one.
        tokens : sequence of int
            The tokens of `text`, as they were computed.

        Raises
        ------
        ChatModelError
            The model's chat template refuses the conversation.

        Notes
        -----
        Text of which the tokens were sampled need not be tokenized to the same ones again, so
        only what follows it is. Where a template shows earlier messages otherwise than before,
        everything is tokenized, and what is the same at the beginning is kept.
        """
        rendered = self._render(messages)
        if tokens and rendered.startswith(text):
            new = self._encode(rendered[len(text) :])
            return Prompt(rendered, [*tokens, *new], len(tokens))
        whole = self._encode(rendered, add_special_tokens=not self.tokenizer.chat_template)
        pairs = zip(whole, tokens, strict=False)
        kept = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        return Prompt(rendered, whole, min(kept, len(whole) - 1))

    def text_of(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of tokens, with or without those that only mark something."""
        text: str = self.tokenizer.decode(
            list(tokens), skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )
        return text

    def token_text(self) -> TokenText:
        """Return what turns the tokens of an answer into text as they come."""
        return TokenText(self.text_of)

    def _render(self, messages: Sequence[Message]) -> str:
        template = None if self.tokenizer.chat_template else _PLAIN
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise ChatModelError(f"the chat template of {self.name} refuses: {error}") from error
        return text

    def _encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return tokens
