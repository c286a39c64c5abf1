"""Answers as OpenAI's API has them, whole and in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from kvpool.__about__ import __version__
from kvpool.serving import Completion, FinishReason, TokenLogprob, TokenPiece, Usage

__all__ = ["Answer", "ChatAnswer", "TextAnswer"]

# A deadline cuts an answer off, as a limit of its length does; the API has no word for it.
_REASONS: dict[FinishReason, str] = {"stop": "stop", "length": "length", "deadline": "length"}
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Answer:
    """One answer; the base class of both kinds.

    Parameters
    ----------
    model : str
        Its name.
    """

    prefix = ""
    whole_object = ""
    chunk_object = ""

    def __init__(self, model: str) -> None:
        self._own = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"kvpool-{__version__}",
        }

    def whole(self, completion: Completion) -> dict[str, Any]:
        """Return the answer as one object."""
        piece = TokenPiece(
            completion.text, completion.token_ids, completion.finish_reason, completion.logprobs
        )
        choice = self._choice(piece, self._message(completion.text))
        own = {"object": self.whole_object, "choices": [choice], "usage": _usage(completion.usage)}
        return self._own | own

    def opening(self) -> list[dict[str, Any]]:
        """Return the chunks before the first piece."""
        return []

    def chunks(self, piece: TokenPiece) -> list[dict[str, Any]]:
        """Return the chunks of a piece; none for one that has nothing to show."""
        if not (piece.text or piece.logprobs or piece.finish_reason):
            return []
        return [self._chunk([self._choice(piece, self._delta(piece.text))])]

    def closing(self, usage: Usage) -> dict[str, Any]:
        """Return the chunk that tells the usage, after the last piece."""
        return self._chunk([]) | {"usage": _usage(usage)}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._own | {"object": self.chunk_object, "choices": choices}

    def _choice(self, piece: TokenPiece, text: dict[str, Any]) -> dict[str, Any]:
        reason = piece.finish_reason
        logprobs = self._logprobs(piece.logprobs) if piece.logprobs else None
        finish = None if reason is None else _REASONS[reason]
        return {"index": 0, **text, "logprobs": logprobs, "finish_reason": finish}

    def _message(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _delta(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        raise NotImplementedError


class ChatAnswer(Answer):
    """An answer of `/v1/chat/completions`."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self) -> list[dict[str, Any]]:
        """Return the chunk with the role."""
        first = {"delta": {"role": "assistant", "content": ""}}
        return [self._chunk([self._choice(TokenPiece(""), first)])]

    def _message(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _delta(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        content = [
            _token(one) | {"top_logprobs": [_token(other) for other in one.alternatives]}
            for one in tokens
        ]
        return {"content": content, "refusal": None}


class TextAnswer(Answer):
    """An answer of `/v1/completions`."""

    prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._offset = 0  # characters of the tokens before

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        offsets = []
        for one in tokens:
            offsets.append(self._offset)
            self._offset += len(one.text)
        return {
            "tokens": [one.text for one in tokens],
            "token_logprobs": [one.logprob for one in tokens],
            "top_logprobs": [
                {other.text: other.logprob for other in one.alternatives} for one in tokens
            ],
            "text_offset": offsets,
        }


def _token(one: TokenLogprob) -> dict[str, Any]:
    # What is shown as a replacement are some of the bytes of a character, which are not known here.
    known = None if _REPLACEMENT in one.text else list(one.text.encode())
    return {"token": one.text, "logprob": one.logprob, "bytes": known}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
