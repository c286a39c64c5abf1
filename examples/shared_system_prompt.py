"""A system prompt that is computed once: each user's session begins with what the first computed.

The model is tiny and has random weights, so this runs anywhere and the answers are nonsense.
"""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kvpool import KVCacheManager
from kvpool.integrations.transformers import PooledCache

CONFIG = LlamaConfig(
    vocab_size=256,  # a token is a byte of text
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    eos_token_id=None,
)
SYSTEM = "You are the assistant of a library. Say where a book stands, and be brief. " * 12


def main() -> None:
    """Answer five users, each in a session of their own."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).eval()
    computed: list[int] = []
    model.register_forward_pre_hook(
        lambda _model, _args, options: computed.append(options["input_ids"].shape[1]),
        with_kwargs=True,
    )
    system = list(SYSTEM.encode())
    with KVCacheManager(64 << 20) as manager:
        for user in ("ada", "bo", "cy", "di", "eve"):
            computed.clear()
            question = f"Where is the book of {user}?".encode()
            tokens = torch.tensor([system + list(question)])
            with PooledCache.for_tokens(manager, tokens, session=user, model=model) as cache:
                made = model.generate(tokens, cache=cache, max_new_tokens=8)
                cache.close(made)
            answer = bytes(made[0, tokens.shape[1] :].tolist())
            print(f"{user}: {tokens.shape[1]} tokens asked, {computed[0]} computed, {answer!r}")
        print(f"{manager.get_stats().prefix.tokens_reused} tokens were reused")


if __name__ == "__main__":
    main()
