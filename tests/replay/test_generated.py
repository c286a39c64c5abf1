from __future__ import annotations

from itertools import pairwise

from kvpool.replay._generated import HASH_BLOCK_TOKENS, conversations


def test_the_same_seed_gives_the_same_requests() -> None:
    assert list(conversations(50, seed=1)) == list(conversations(50, seed=1))
    assert list(conversations(50, seed=1)) != list(conversations(50, seed=2))


def test_requests_are_whole_and_in_order() -> None:
    requests = list(conversations(300))
    assert len(requests) == 300
    for request in requests:
        assert request.prompt_tokens > 0
        assert request.generated_tokens > 0
        assert len(request.hash_blocks) == -(-request.prompt_tokens // HASH_BLOCK_TOKENS)
        assert len(set(request.hash_blocks)) == len(request.hash_blocks)
    assert all(one.arrival < two.arrival for one, two in pairwise(requests))


def test_an_id_stands_for_its_block_and_all_before() -> None:
    before: dict[int, tuple[int, ...]] = {}
    for request in conversations(300):
        for at, block in enumerate(request.hash_blocks):
            assert before.setdefault(block, request.hash_blocks[:at]) == request.hash_blocks[:at]
    lengths = {len(blocks) for blocks in before.values()}
    assert len(lengths) > 50
