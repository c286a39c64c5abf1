"""A small model with random weights: it says nothing, and runs anywhere."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import kvpool

__all__ = ["tiny_model"]

_START, _END = "<|start|>", "<|end|>"

_CHAT_TEMPLATE = (
    f"{{% for message in messages %}}{_START}{{{{ message['role'] }}}}\n"
    f"{{{{ message['content'] }}}}{_END}\n{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{_START}assistant\n{{% endif %}}"
)


def tiny_model(seed: int = 0) -> tuple[Any, Any]:
    """Return a Llama with random weights, and its tokenizer, which takes any text.

    Parameters
    ----------
    seed : int
        Of the weights; torch's own generator stays as it is.

    Returns
    -------
    model : LlamaForCausalLM
        Of float32. One token of its cache has 512 bytes. By default it samples, and it only says
        words that its tokenizer knows.
    tokenizer : PreTrainedTokenizerFast
        Byte-level; it has a chat template.
    """
    tokenizer = _tokenizer()
    end = tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    texts = {token: tokenizer.decode([token]) for token in range(len(tokenizer))}
    model.generation_config.update(
        do_sample=True,
        suppress_tokens=[token for token, text in texts.items() if not _is_word(text, token, end)],
    )
    return model, tokenizer


def _tokenizer() -> Any:
    """Return a tokenizer made of the bytes and of what is frequent in kvpool's own docstrings."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=768,
        special_tokens=[_START, _END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [getattr(kvpool, name).__doc__ or "" for name in kvpool.__all__]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=_END, pad_token=_END, chat_template=_CHAT_TEMPLATE
    )


def _is_word(text: str, token: int, end: int) -> bool:
    """Tell whether a token may be said: a word with a space in front, a sign, or the end."""
    letters = text.removeprefix(" ")
    is_word = text != letters and len(letters) > 2 and letters.isascii() and letters.islower()
    return token == end or text in {",", "."} or (is_word and letters.isalpha())
