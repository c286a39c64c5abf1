"""`Answers`: what jobs say, token by token."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kvpool.serving._generation import FinishReason, TokenLogprob, TokenPiece
from kvpool.serving._job import Job
from kvpool.serving._stats import Meter

if TYPE_CHECKING:
    from kvpool.serving._model import ServedModel
    from kvpool.serving._sampling import Choice

__all__ = ["Answers"]


class Answers:
    """Chooses the tokens of answers, and sends their text; for the engine's thread alone.

    Parameters
    ----------
    model : ServedModel
    meter : Meter
    """

    def __init__(self, model: ServedModel, meter: Meter) -> None:
        self._model = model
        self._meter = meter

    def prepare(self, job: Job) -> None:
        """Make what the answer of a job needs, if it is new.

        Raises
        ------
        Exception
            The settings of the request do not suit the model.
        """
        if job.has_begun:
            return
        job.has_begun = True
        usage = job.stream.usage._replace(cached_tokens=job.held)
        job.stream.usage = usage
        self._meter.began(usage)
        prompt = job.tokens[: job.prompt_length]
        job.text = self._model.answer_text(tuple(job.request.stop))
        job.sampler = self._model.sampler(job.request, prompt, job.max_tokens)

    def add_token(self, job: Job, logits: object) -> tuple[FinishReason | None, str]:
        """Choose the next token of a job.

        Returns
        -------
        reason : FinishReason or None
            Why the answer ends with this token; None if it goes on.
        text : str
            What is complete now and not sent.

        Raises
        ------
        Exception
            The sampling raised.
        """
        if job.sampler is None or job.text is None:
            raise AssertionError(f"a job of {job.length} tokens was not prepared")
        choice = job.sampler.choose(logits)
        now = time.monotonic()
        since = job.accepted if job.last_token is None else job.last_token
        self._meter.token(now - since, is_first=job.last_token is None)
        job.last_token = now
        job.say(choice.token)
        if job.request.logprobs is not None:
            job.unsent_logprobs.append(self._logprob(choice))
        if choice.token in self._model.ends:
            return "stop", ""
        text = job.text.add(choice.token)
        if job.text.is_stopped:
            return "stop", text
        return ("length" if job.said >= job.max_tokens else None), text

    def _logprob(self, choice: Choice) -> TokenLogprob:
        text_of = self._model.text_of
        others = tuple(TokenLogprob(one, text_of(one), value) for one, value in choice.likeliest)
        return TokenLogprob(choice.token, text_of(choice.token), choice.logprob, others)

    def send(self, job: Job, text: str, reason: FinishReason | None = None) -> None:
        """Send a text with the tokens that are not sent yet."""
        piece = TokenPiece(text, tuple(job.unsent), reason, tuple(job.unsent_logprobs))
        job.unsent.clear()
        job.unsent_logprobs.clear()
        job.stream.put(piece)

    def end(self, job: Job, reason: FinishReason, text: str) -> None:
        """Send the last text of an answer, and why it ends."""
        if job.text is not None:
            text += job.text.rest()
            if reason == "length" and job.text.is_stopped:
                reason = "stop"
        self._meter.finished(reason, job.stream.usage, time.monotonic())
        self.send(job, text, reason)
