"""`ChatModel`: a model that answers in the sessions of a pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import PoolExhaustedError
from kvpool.manager import KVCacheManager
from tests.support.managers import MakeManager, entry_of

pytestmark = pytest.mark.transformers

KEY = CacheKey("chat", "main")
LONG = "a long message, which is read in more than one step. " * 20


# -- text --------------------------------------------------------------------------------


def test_the_tiny_model_takes_any_text(chatting: Any) -> None:
    model = chatting.tiny()
    text = "Zażółć gęślą jaźń,\n\t漢字 \N{GRINNING FACE} \x00 [bold] <|end|"
    assert model.text_of(model.prompt([chatting.a_message(text)], "", []).tokens).count(text) == 1


def test_what_the_tiny_model_says_are_words(chatting: Any, manager: KVCacheManager) -> None:
    model, heard = chatting.tiny(None), chatting.Heard()
    model.answer(manager, KEY, model.prompt([chatting.a_message("hello")], "", []), 50, heard)
    said = model.text_of(heard.tokens)
    assert len(heard.tokens) == 50
    assert set(said) <= set("abcdefghijklmnopqrstuvwxyz ,.")


def test_a_conversation_that_goes_on_keeps_its_tokens_as_they_are(chatting: Any) -> None:
    model = chatting.tiny()
    first = model.prompt([chatting.a_message("hello")], "", [])
    assert first.text == "<|start|>user\nhello<|end|>\n<|start|>assistant\n"
    assert first.kept == 0
    letters = [model.tokenizer.encode(letter)[0] for letter in "pool"]  # no tokenizer says so
    messages = [
        chatting.a_message("hello"),
        chatting.a_message("pool", "assistant"),
        chatting.a_message("more"),
    ]
    known = [*first.tokens, *letters]
    then = model.prompt(messages, first.text + "pool", known)
    assert then.kept == len(known)
    assert then.tokens[: then.kept] == known
    assert model.text_of(then.tokens[then.kept :], special=True) == (
        "<|end|>\n<|start|>user\nmore<|end|>\n<|start|>assistant\n"
    )


def test_where_a_template_shows_the_past_otherwise_what_is_the_same_is_kept(chatting: Any) -> None:
    model = chatting.tiny()
    messages = [chatting.a_message("hello"), chatting.a_message("changed", "assistant")]
    first = model.prompt(messages[:1], "", [])
    known = [*first.tokens, *model.tokenizer.encode("as it was")]
    then = model.prompt([*messages, chatting.a_message("more")], first.text + "as it was", known)
    assert then.kept == len(first.tokens)
    assert then.tokens == model.tokenizer.encode(then.text)


def test_the_last_token_is_never_kept_but_computed(chatting: Any) -> None:
    model = chatting.tiny()
    first = model.prompt([chatting.a_message("hello")], "", [])
    again = model.prompt([chatting.a_message("hello")], "other text", first.tokens)
    assert again.kept == len(first.tokens) - 1


def test_without_a_chat_template_it_is_plain_text(chatting: Any) -> None:
    tokenizer = chatting.tiny_tokenizer()
    tokenizer.chat_template = None
    model = chatting.ChatModel(chatting.tiny().model, tokenizer, "plain")
    messages = [chatting.a_message("one"), chatting.a_message("two", "assistant")]
    assert model.prompt(messages, "", []).text == "one\ntwo\n"


def test_a_template_that_refuses_is_named_with_its_reason(chatting: Any) -> None:
    tokenizer = chatting.tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    model = chatting.ChatModel(chatting.tiny().model, tokenizer, "strict")
    with pytest.raises(chatting.ChatModelError, match="strict refuses: no system role"):
        model.prompt([chatting.a_message("be kind", "system")], "", [])


def test_pieces_of_text_make_the_whole(chatting: Any) -> None:
    model, text = chatting.tiny(), "naïve 漢字 \N{GRINNING FACE} and words"
    pieces = model.token_text()
    parts = [pieces.add(token) for token in model.tokenizer.encode(text)]
    assert "".join(parts) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in part for part in parts)
    broken = model.tokenizer.encode("漢")[:1]
    assert pieces.add(broken[0]) == ""
    assert pieces.rest() == "\N{REPLACEMENT CHARACTER}"
    assert pieces.rest() == ""


def test_bytes_that_are_no_text_are_not_held_back_for_ever(chatting: Any) -> None:
    model = chatting.tiny()
    pieces, broken = model.token_text(), model.tokenizer.encode("漢")[0]
    assert any(pieces.add(broken) for _ in range(10))


# -- answers -----------------------------------------------------------------------------


def test_it_answers_as_without_a_pool_and_computes_each_token_once(
    chatting: Any, make_manager: MakeManager, backend: str
) -> None:
    model, manager = chatting.tiny(), make_manager(backend=backend)
    messages: list[dict[str, str]] = []
    tokens: list[int] = []
    text = ""
    with chatting.Computed(model.model) as computed:
        for said in ("hello", LONG, "and then?"):
            messages.append(chatting.a_message(said))
            prompt = model.prompt(messages, text, tokens)
            heard = chatting.Heard()
            model.answer(manager, KEY, prompt, 12, heard)
            tokens = prompt.tokens + heard.tokens
            assert computed.tokens == len(tokens) - 1  # the last one is not fed
            text = prompt.text + model.text_of(heard.tokens, special=True)
            messages.append(chatting.a_message(model.text_of(heard.tokens), "assistant"))
            assert entry_of(manager, KEY).token_count == len(tokens) - 1
    assert heard.tokens == chatting.continuation(model, prompt.tokens, 12)


def test_a_long_prompt_is_read_in_steps(chatting: Any, manager: KVCacheManager) -> None:
    model, heard = chatting.tiny(), chatting.Heard()
    prompt = model.prompt([chatting.a_message(LONG)], "", [])
    model.answer(manager, KEY, prompt, 1, heard)
    done = [step for step, _ in heard.steps]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, len(prompt.tokens) - 1)
    assert done[1] == chatting.PREFILL_TOKENS
    assert {total for _, total in heard.steps} == {len(prompt.tokens)}


def test_it_stops_between_two_steps_of_a_prompt(chatting: Any, manager: KVCacheManager) -> None:
    model, heard = chatting.tiny(), chatting.Heard(most_steps=2)
    prompt = model.prompt([chatting.a_message(LONG)], "", [])
    model.answer(manager, KEY, prompt, 5, heard)
    assert not heard.tokens
    assert entry_of(manager, KEY).token_count == 2 * chatting.PREFILL_TOKENS
    again = chatting.Heard()
    assert model.answer(manager, KEY, prompt, 5, again) == 2 * chatting.PREFILL_TOKENS
    assert again.tokens == chatting.continuation(model, prompt.tokens, 5)


def test_it_stops_behind_a_token(chatting: Any, manager: KVCacheManager) -> None:
    model, heard = chatting.tiny(), chatting.Heard(most_tokens=3)
    prompt = model.prompt([chatting.a_message("hello")], "", [])
    model.answer(manager, KEY, prompt, 50, heard)
    assert len(heard.tokens) in {3, 4}  # who listens is asked before or after a token is shown
    assert heard.tokens == chatting.continuation(model, prompt.tokens, len(heard.tokens))
    assert entry_of(manager, KEY).token_count == len(prompt.tokens) + len(heard.tokens) - 1


def test_a_pool_that_fills_up_leaves_whole_tokens(chatting: Any, make_manager: MakeManager) -> None:
    model, heard = chatting.tiny(), chatting.Heard()
    manager = make_manager(100 * model.layout.bytes_per_token)
    prompt = model.prompt([chatting.a_message("hello")], "", [])
    with pytest.raises(PoolExhaustedError):
        model.answer(manager, KEY, prompt, 1000, heard)
    held = entry_of(manager, KEY).token_count
    assert held == len(prompt.tokens) + len(heard.tokens) - 1
    assert heard.tokens == chatting.continuation(model, prompt.tokens, len(heard.tokens))
    assert manager.evict_lru_entries(100 * model.layout.bytes_per_token) == [KEY]  # not leased


def test_numbers_that_are_none_are_an_error_of_ours(chatting: Any, manager: KVCacheManager) -> None:
    model = chatting.ChatModel.tiny(temperature=1)
    model.model.lm_head.weight.data.fill_(float("nan"))
    prompt = model.prompt([chatting.a_message("hello")], "", [])
    with pytest.raises(chatting.ChatModelError, match="tiny failed: probability tensor"):
        model.answer(manager, KEY, prompt, 5, chatting.Heard())
    assert entry_of(manager, KEY).token_count == len(prompt.tokens)


def test_room_for_all_of_a_session_is_made_at_once(
    chatting: Any, make_manager: MakeManager
) -> None:
    model = chatting.tiny(0, 640)
    manager = make_manager(2000 * model.layout.bytes_per_token)
    prompt = model.prompt([chatting.a_message("hello")], "", [])
    model.answer(manager, KEY, prompt, 2, chatting.Heard())
    assert entry_of(manager, KEY).max_context_length == 640


def test_a_fork_answers_as_its_parent_would(chatting: Any, manager: KVCacheManager) -> None:
    model, fork = chatting.tiny(), CacheKey("chat", "fork")
    prompt = model.prompt([chatting.a_message(LONG)], "", [])
    first = chatting.Heard()
    model.answer(manager, KEY, prompt, 8, first)
    tokens = prompt.tokens + first.tokens
    model.begin(manager, tokens, fork)
    assert entry_of(manager, fork).token_count == entry_of(manager, KEY).token_count
    more = prompt._replace(tokens=tokens, kept=len(tokens))
    with chatting.Computed(model.model) as computed:
        answers = [chatting.Heard(), chatting.Heard()]
        for key, heard in zip((fork, KEY), answers, strict=True):
            model.answer(manager, key, more, 8, heard)
    assert computed.tokens == 2 * 8
    assert answers[0].tokens == answers[1].tokens == chatting.continuation(model, tokens, 8)


def test_what_differs_goes(chatting: Any, manager: KVCacheManager) -> None:
    model = chatting.tiny()
    prompt = model.prompt([chatting.a_message(LONG)], "", [])
    model.answer(manager, KEY, prompt, 8, chatting.Heard())
    other = prompt.tokens[:20] + model.tokenizer.encode("something else")
    heard = chatting.Heard()
    model.answer(manager, KEY, prompt._replace(tokens=other, kept=20), 8, heard)
    assert heard.tokens == chatting.continuation(model, other, 8)
    assert entry_of(manager, KEY).token_count == len(other) + 7


def test_a_system_prompt_is_computed_once_for_all_sessions(
    chatting: Any, make_manager: MakeManager, backend: str
) -> None:
    model, manager = chatting.tiny(), make_manager(backend=backend)
    system = chatting.a_message(LONG, "system")
    shared = len(model.prompt([system], "", []).tokens) - 10  # then comes what is asked
    for number, word in enumerate(("hello", "please", "why?")):
        prompt = model.prompt([system, chatting.a_message(word)], "", [])
        heard = chatting.Heard()
        reused = model.answer(manager, CacheKey("chat", number), prompt, 5, heard)
        assert reused == 0 if number == 0 else reused >= shared
        assert heard.tokens == chatting.continuation(model, prompt.tokens, 5)


# -- directories -------------------------------------------------------------------------


def test_a_tiny_model_that_is_kept_loads_again(chatting: Any, tmp_path: Path) -> None:
    made = chatting.ChatModel.tiny(tmp_path / "tiny", temperature=0)
    loaded = chatting.ChatModel.load(tmp_path / "tiny", temperature=0)
    prompt = made.prompt([chatting.a_message("hello")], "", [])
    assert loaded.prompt([chatting.a_message("hello")], "", []) == prompt
    assert chatting.continuation(loaded, prompt.tokens, 9) == chatting.continuation(
        made, prompt.tokens, 9
    )
    assert (loaded.name, loaded.max_context_length) == ("tiny", 4096)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_it_is_loaded_in_another_dtype(chatting: Any, tmp_path: Path, dtype: str) -> None:
    chatting.ChatModel.tiny(tmp_path)
    model = chatting.ChatModel.load(tmp_path, dtype)
    assert (
        str(model.layout.dtype) == dtype == str(chatting.ChatModel.tiny(None, dtype).layout.dtype)
    )


def test_a_directory_without_a_model_says_what_is_missing(chatting: Any, tmp_path: Path) -> None:
    with pytest.raises(chatting.ChatModelError, match="cannot load a model from") as raised:
        chatting.ChatModel.load(tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_damaged_file_is_an_error_of_ours(chatting: Any, tmp_path: Path) -> None:
    chatting.ChatModel.tiny(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(chatting.ChatModelError, match="cannot load a model from"):
        chatting.ChatModel.load(tmp_path)
