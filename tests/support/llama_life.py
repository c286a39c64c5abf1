"""One life of a process that answers with a real model: `python llama_life.py MODEL TIER PROMPT`.

It prints the words, and how many tokens were restored and loaded, as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from kvpool import KVCacheManager
from kvpool.integrations.llama_cpp import PooledLlama
from kvpool.tiers import TierStore

__all__ = ["OPTIONS", "main"]

OPTIONS: dict[str, Any] = {"n_ctx": 1536, "n_threads": 1, "n_threads_batch": 1, "verbose": False}


def main(model: str, tier: str, prompt: str) -> None:
    """Answer a prompt, with what earlier lives left in a tier."""
    with (
        TierStore([tier], chunk_tokens=1) as store,
        KVCacheManager("256MiB", backend="mmap") as manager,
    ):
        llama = PooledLlama(model, manager=manager, tiers=store, **OPTIONS)
        answer = llama.create_completion(prompt, max_tokens=8, temperature=0)
        told = {
            "words": answer["choices"][0]["text"],
            "tokens": len(llama.tokenize(prompt.encode())),
            "restored": llama.restored_tokens,
            "loaded": llama.loaded_tokens,
        }
        llama.close()
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
