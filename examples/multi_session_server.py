"""A server's loop: many sessions, some threads, one model, one bounded pool.

Requests come as (session, text); sessions take turns. The one that was idle for the longest time is
evicted, and computed again when it continues. The model is tiny, with random weights.
"""

from __future__ import annotations

import queue
import threading
from collections import defaultdict, deque

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


class Server:
    """Answers requests; `ask` puts one in, `answers` gives (session, answer) out."""

    def __init__(self, model: LlamaForCausalLM, manager: KVCacheManager, threads: int = 2) -> None:
        self.answers: queue.Queue[tuple[str, bytes | Exception]] = queue.Queue()
        self._model = model
        self._manager = manager
        self._said: dict[str, list[int]] = defaultdict(list)  # all tokens of each session
        self._waiting: dict[str, deque[str]] = {}  # texts of sessions with something to do
        self._ready: queue.Queue[str | None] = queue.Queue()  # sessions that no thread has
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._serve) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def ask(self, session: str, text: str) -> None:
        """Take a request; a session that is at work already gets to it later."""
        with self._lock:
            if session not in self._waiting:
                self._ready.put(session)
            self._waiting.setdefault(session, deque()).append(text)

    def close(self) -> None:
        """Let the threads end; call it when all answers are there."""
        for _ in self._threads:
            self._ready.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (session := self._ready.get()) is not None:
            with self._lock:
                text = self._waiting[session].popleft()
            try:
                self.answers.put((session, self._answer(session, text)))
            except Exception as error:  # such as a full pool: an answer too, and the loop goes on
                self.answers.put((session, error))
            with self._lock:
                if self._waiting[session]:  # one request, then the others have their turn
                    self._ready.put(session)
                else:
                    del self._waiting[session]

    def _answer(self, session: str, text: str) -> bytes:
        tokens = torch.tensor([self._said[session] + list(text.encode())])
        with PooledCache.for_tokens(self._manager, tokens, session, model=self._model) as cache:
            made = self._model.generate(tokens, cache=cache, max_new_tokens=8)
            cache.close(made)
        self._said[session] = made[0].tolist()
        return bytes(self._said[session][tokens.shape[1] :])


def main() -> None:
    """Let five sessions have three turns each, in a pool with room for three."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).eval()
    with KVCacheManager("256KiB") as manager:
        server = Server(model, manager)
        for turn in range(3):
            for session in ("ada", "bo", "cy", "di", "eve"):
                server.ask(session, f"turn {turn} of {session}")
        for _ in range(15):
            session, answer = server.answers.get()
            print(f"{session:4}{answer!r}")
        server.close()
        stats = manager.get_stats()
        print(f"{stats.active_entries} sessions in the pool, {stats.evictions} evictions")


if __name__ == "__main__":
    main()
