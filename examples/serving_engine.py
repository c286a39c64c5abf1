"""Many users, one model, one bounded pool: answers stream side by side.

The users share a system prompt, which is computed once. The model is tiny, with random weights.
"""

from __future__ import annotations

import asyncio

from kvpool import KVCacheManager
from kvpool.integrations.chat import ChatModel
from kvpool.serving import Engine, Request, Sampling

SYSTEM = {"role": "system", "content": "You are the assistant of a public library. Be brief. " * 8}
USERS = ("ada", "bo", "cy", "di", "eve")


async def converse(engine: Engine, user: str) -> None:
    """Ask twice; each turn goes on from the one before."""
    messages = [SYSTEM]
    for turn in range(2):
        messages.append({"role": "user", "content": f"{user} asks for book {turn}"})
        request = Request(
            messages=messages, session=user, max_tokens=12, sampling=Sampling(seed=turn)
        )
        async with engine.submit(request) as generation:
            answer = "".join([piece.text async for piece in generation])
        messages.append({"role": "assistant", "content": answer})
        usage = generation.usage
        print(f"{user:4}{usage.cached_tokens} of {usage.prompt_tokens} tokens reused:{answer}")


async def main() -> None:
    """Let all users converse at once, in a pool of 2 MiB."""
    chat = ChatModel.tiny()
    with (
        KVCacheManager(2 << 20) as manager,
        Engine(chat.model, chat.tokenizer, manager) as engine,
    ):
        await asyncio.gather(*(converse(engine, user) for user in USERS))
        stats = engine.stats()
        print(f"{stats.completion_tokens} tokens in {stats.steps} steps of the model")


if __name__ == "__main__":
    asyncio.run(main())
