"""The text of an answer as its tokens come: whole characters, and nothing of a stop text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvpool.serving._text import AnswerText


class Letters:
    """A decoder whose tokens are the code points of characters."""

    def add(self, token: int) -> str:
        return chr(token)

    def rest(self) -> str:
        return ""


def pieces(text: str, stops: Sequence[str]) -> tuple[list[str], bool]:
    """Return what is shown after each character, and at the end; and whether it is stopped."""
    answer = AnswerText(Letters(), stops)
    shown = [answer.add(ord(letter)) for letter in text]
    return [*shown, answer.rest()], answer.is_stopped


def cut(text: str, stops: Iterable[str]) -> tuple[str, bool]:
    """Return a text up to the first stop text to be complete, and whether there is one."""
    for end in range(len(text) + 1):
        found = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: min(found)], True
    return text, False


def test_what_may_begin_a_stop_text_is_held_back() -> None:
    shown, is_stopped = pieces("say END here", ["END."])
    assert shown == ["s", "a", "y", " ", "", "", "", "END ", "h", "e", "r", "e", ""]
    assert not is_stopped


def test_a_stop_text_is_not_shown() -> None:
    assert pieces("one\n\ntwo", ["\n\n"]) == (["o", "n", "e", "", "", "", "", "", ""], True)


def test_the_beginning_of_a_stop_text_is_shown_at_the_end() -> None:
    assert pieces("one\n", ["\n\n"]) == (["o", "n", "e", "", "\n"], False)


def test_a_token_may_hold_a_stop_text_and_more() -> None:
    class Words(Letters):
        def add(self, token: int) -> str:
            return ["I said ", "STOP and ", "go"][token]

    answer = AnswerText(Words(), ["STOP", "said S"])
    assert [answer.add(0), answer.add(1), answer.add(2), answer.rest()] == ["I ", "", "", ""]
    assert answer.is_stopped


LETTERS = st.text("ab", max_size=12)


@given(text=LETTERS, stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
@example(text="aab", stops=["ab"])
@example(text="abab", stops=["bb", "abb"])
def test_any_text_is_shown_up_to_its_first_stop_text(text: str, stops: list[str]) -> None:
    shown, is_stopped = pieces(text, stops)
    assert ("".join(shown), is_stopped) == cut(text, stops)


@given(text=LETTERS, stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_nothing_is_held_back_for_longer_than_needed(text: str, stops: list[str]) -> None:
    answer = AnswerText(Letters(), stops)
    whole = "".join(answer.add(ord(letter)) for letter in text)
    if not answer.is_stopped:
        held = text[len(whole) :]
        assert not held or any(stop.startswith(held) for stop in stops)


@pytest.mark.transformers
def test_any_characters_are_shown_whole(lab: Any) -> None:
    made = lab.tiny()

    @given(st.text(max_size=30))
    def check(text: str) -> None:
        answer = AnswerText(made.token_text(), ())
        shown = [answer.add(token) for token in made.tokenizer.encode(text)]
        assert "".join([*shown, answer.rest()]) == text
        assert "\N{REPLACEMENT CHARACTER}" in text or not any(
            "\N{REPLACEMENT CHARACTER}" in piece for piece in shown
        )

    check()
