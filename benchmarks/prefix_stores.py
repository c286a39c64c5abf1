"""What holds prompts for `benchmarks.prefix`: kvpool's tree, and what the peers have for it."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers import sglang_radix_cache, vllm_blocks
from kvpool.cache_key import CacheKey
from kvpool.eviction.lru import LruPolicy
from kvpool.layout import KVLayout
from kvpool.prefix import TOKEN_BYTES, Identity, Ranking, token_bytes

__all__ = [
    "BLOCK",
    "LEAF",
    "KvpoolTree",
    "SGLangTree",
    "Store",
    "Tokens",
    "VLLMBlocks",
    "kvpool_pass",
    "sglang_pass",
]

Tokens = npt.NDArray[np.int64]

LEAF = 64  # tokens of a leaf, of which one is evicted
BLOCK = 16  # tokens of a page of SGLang's, and of a block of vLLM's
IDENTITY = Identity("model", "", KVLayout(layers=1, kv_heads=1, head_dim=2, dtype="float16"))


class Store(ABC):
    """What holds prompts. Each call takes many, so that the benchmark's own loop costs little."""

    @abstractmethod
    def prompt(self, tokens: Tokens) -> Any:
        """Return tokens in the form in which a request has them before it comes here."""

    @abstractmethod
    def match(self, prompts: Sequence[Any]) -> None:
        """Look each prompt up."""

    @abstractmethod
    def insert(self, prompts: Sequence[Any]) -> None:
        """Hold each prompt."""

    @abstractmethod
    def forget(self, prompts: Sequence[Any], kept: Sequence[Any]) -> None:
        """Undo the insertion of some prompts; `kept` are all that were there before."""

    @abstractmethod
    def evict(self, leaves: int) -> None:
        """Evict this many leaves of `LEAF` tokens, one by one."""

    def refill(self, prompts: Sequence[Any]) -> None:
        """Hold these prompts in place of what was evicted."""
        self.insert(prompts)


class KvpoolTree(Store):
    """kvpool's tree, with the ranking of its segments. A prompt is an array of token ids."""

    def __init__(self, chunk: int = LEAF) -> None:
        self.ranking = Ranking(LruPolicy(), chunk)
        self._numbers = itertools.count()

    def prompt(self, tokens: Tokens) -> tuple[CacheKey, Tokens]:
        return CacheKey("session", next(self._numbers)), tokens

    def match(self, prompts: Sequence[tuple[CacheKey, Tokens]]) -> None:
        tree = self.ranking.tree
        for _, tokens in prompts:
            tree.match(IDENTITY, token_bytes(tokens))

    def insert(self, prompts: Sequence[tuple[CacheKey, Tokens]]) -> None:
        tree = self.ranking.tree
        for key, tokens in prompts:
            tree.hold(key, IDENTITY, token_bytes(tokens))

    def forget(
        self, prompts: Sequence[tuple[CacheKey, Tokens]], kept: Sequence[tuple[CacheKey, Tokens]]
    ) -> None:
        del kept
        for key, _ in prompts:
            self.ranking.tree.drop(key)

    def evict(self, leaves: int) -> None:
        ranking, tree = self.ranking, self.ranking.tree
        for _ in range(leaves):
            for step in ranking.plan(LEAF, len, _always, by_tokens=True) or ():
                if not isinstance(step, CacheKey):
                    for key in tree.cut(step)[1]:
                        ranking.remove(key)


def _always(_key: CacheKey) -> bool:
    return True


class SGLangTree(Store):
    """SGLang's `RadixCache` in Python. A prompt is an array of token ids, and one of places."""

    def __init__(self, page: int = BLOCK, fetch: bool = True) -> None:
        self.module: Any = sglang_radix_cache(fetch)
        self.cache: Any = self.module.RadixCache.create_simulated(
            page_size=page, mock_allocator=NoPages()
        )

    def prompt(self, tokens: Tokens) -> tuple[array[int], Places]:
        return array("q", tokens.tolist()), np.arange(len(tokens)).view(Places)

    def match(self, prompts: Sequence[tuple[array[int], Places]]) -> None:
        look, params, key = (
            self.cache.match_prefix,
            self.module.MatchPrefixParams,
            self.module.RadixKey,
        )
        for tokens, _ in prompts:
            look(params(key=key(tokens)))

    def insert(self, prompts: Sequence[tuple[array[int], Places]]) -> None:
        insert, params, key = self.cache.insert, self.module.InsertParams, self.module.RadixKey
        for tokens, places in prompts:
            insert(params(key=key(tokens), value=places))

    def forget(
        self,
        prompts: Sequence[tuple[array[int], Places]],
        kept: Sequence[tuple[array[int], Places]],
    ) -> None:
        del prompts
        self.cache.reset()
        self.insert(kept)

    def evict(self, leaves: int) -> None:
        params = self.module.EvictParams(num_tokens=LEAF)
        for _ in range(leaves):
            self.cache.evict(params)


class Places(np.ndarray[tuple[int], np.dtype[np.int64]]):
    """Where tokens lie, instead of a tensor: the tree slices and copies it, and no more."""

    clone = np.ndarray.copy


class NoPages:
    """An allocator of pages which has none to take back."""

    device = "cpu"

    def free_segment(self, places: Places, start_pos: int) -> None:
        """Take back nothing."""


class VLLMBlocks(Store):
    """vLLM's `BlockPool` and its chain of hashes. A prompt is a request with a list of tokens."""

    def __init__(self, blocks: int, fetch: bool = True) -> None:
        module, chain, functions = vllm_blocks(fetch)
        chain.init_none_hash(functions.sha256)  # vLLM's default
        self.hasher: Any = chain.get_request_block_hasher(BLOCK, functions.sha256)
        self.pool: Any = module.BlockPool(blocks + 1, enable_caching=True, hash_block_size=BLOCK)

    def prompt(self, tokens: Tokens) -> VLLMRequest:
        return VLLMRequest(tokens.tolist())

    def match(self, prompts: Sequence[VLLMRequest]) -> None:
        """Hash and look up all blocks of each prompt, take them in use, and give them back."""
        pool, hasher = self.pool, self.hasher
        for request in prompts:
            request.block_hashes = []
            request.block_hashes = hasher(request)
            found = self._cached(request)
            pool.touch(found)
            pool.free_blocks(reversed(found))

    def insert(self, prompts: Sequence[VLLMRequest]) -> None:
        """Hash each prompt, use the blocks that are there, and allocate and name all others."""
        pool, hasher = self.pool, self.hasher
        for request in prompts:
            request.block_hashes = []
            request.block_hashes = hasher(request)
            blocks = self._cached(request)
            pool.touch(blocks)
            hits, count = len(blocks), len(request.block_hashes)
            blocks += pool.get_new_blocks(count - hits)
            pool.cache_full_blocks(request, blocks, hits, count, BLOCK, 0)
            pool.free_blocks(reversed(blocks))

    def _cached(self, request: VLLMRequest) -> list[Any]:
        cached, found = self.pool.get_cached_block, []
        for block_hash in request.block_hashes:
            blocks = cached(block_hash, [0])
            if blocks is None:
                break
            found.append(blocks[0])
        return found

    def forget(self, prompts: Sequence[VLLMRequest], kept: Sequence[VLLMRequest]) -> None:
        for request in prompts:
            self.pool.evict_blocks({block.block_id for block in self._cached(request)})
        self.match(kept)  # so that they are the last to be evicted

    def evict(self, leaves: int) -> None:
        """Allocate blocks in which cached ones lie; they stay taken until `refill`."""
        pool = self.pool
        self._taken = [pool.get_new_blocks(LEAF // BLOCK) for _ in range(leaves)]

    def refill(self, prompts: Sequence[VLLMRequest]) -> None:
        for blocks in self._taken:
            self.pool.free_blocks(blocks)
        self.insert(prompts)


class VLLMRequest:
    """What vLLM's hashes and blocks ask of a request: text, without an adapter or a salt."""

    def __init__(self, tokens: list[int]) -> None:
        self.all_token_ids = tokens
        self.num_tokens = len(tokens)
        self.block_hashes: list[bytes] = []
        self.mm_features: tuple[object, ...] = ()
        self.lora_request = self.cache_salt = self.prompt_embeds = None


def kvpool_pass(prompts: Sequence[Tokens], tree: KvpoolTree, capacity: int) -> int:
    """Hold the prompts of a trace in kvpool's tree, in which a block is one token.

    What was found is held while the rest is made room for, and what is over is evicted.

    Returns
    -------
    int
        Blocks that were found.
    """
    ranking, held, hits = tree.ranking, tree.ranking.tree, 0
    key: CacheKey | None = None

    def may_end(other: CacheKey) -> bool:
        return other is not key

    for number, prompt in enumerate(prompts):
        key, tokens = CacheKey("session", number), token_bytes(prompt)
        segment, length = held.match(IDENTITY, tokens)
        hits += length
        if length:
            first = tokens[: length * TOKEN_BYTES]
            held.hold(key, IDENTITY, first, after=held.before(segment, length))
        over = held.token_count + len(prompt) - length - capacity
        if over > 0:
            for step in ranking.plan(over, len, may_end, by_tokens=True) or ():
                if not isinstance(step, CacheKey):
                    for gone in held.cut(step)[1]:
                        ranking.remove(gone)
        held.hold(key, IDENTITY, tokens, length, after=held.before(held.ends.get(key), length))
    return hits


def sglang_pass(prompts: Sequence[array[int]], tree: SGLangTree, capacity: int) -> int:
    """Do the same with SGLang's tree, which evicts whole leaves.

    What was found is locked while the rest is made room for.

    Returns
    -------
    int
        Blocks that were found.
    """
    cache, module, hits = tree.cache, tree.module, 0
    places = np.arange(max(map(len, prompts))).view(Places)
    for tokens in prompts:
        key = module.RadixKey(tokens)
        found = cache.match_prefix(module.MatchPrefixParams(key=key))
        cache.inc_lock_ref(found.last_device_node)
        length = found.device_prefix_len
        hits += length
        held = cache.evictable_size() + cache.protected_size()
        over = held + len(tokens) - length - capacity
        if over > 0:
            cache.evict(module.EvictParams(num_tokens=over))
        cache.insert(module.InsertParams(key=key, value=places[: len(tokens)]))
        cache.dec_lock_ref(found.last_device_node)
    return hits
