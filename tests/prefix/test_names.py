"""Names of chunks: equal for equal prefixes, and never across identities."""

from __future__ import annotations

import pytest

from kvpool import KVLayout
from kvpool.prefix import Identity, chunk_names, token_bytes

LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=2, dtype="float16")
IDENTITY = Identity("m", "s", LAYOUT)


def names(tokens: list[int], identity: Identity = IDENTITY, size: int = 4) -> list[bytes]:
    return list(chunk_names(identity, token_bytes(tokens), size))


def test_only_whole_chunks_have_names() -> None:
    assert [len(names(list(range(count)))) for count in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]
    assert names(list(range(11))) == names(list(range(8)))


def test_a_name_tells_of_all_tokens_before() -> None:
    one, other = names([1, 2, 3, 4, 5, 6, 7, 8]), names([9, 2, 3, 4, 5, 6, 7, 8])
    assert not set(one) & set(other)
    assert names([1, 2, 3, 4, 0, 0, 0, 0])[0] == one[0]


@pytest.mark.parametrize(
    "other",
    [
        Identity("n", "s", LAYOUT),
        Identity("m", "t", LAYOUT),
        Identity("s", "m", LAYOUT),
        Identity("ms", "", LAYOUT),
        Identity("m", "s", KVLayout(layers=1, kv_heads=1, head_dim=2, dtype="float32")),
        Identity("m", "s", KVLayout(layers=2, kv_heads=1, head_dim=2, dtype="float16")),
    ],
)
def test_other_identities_share_no_name(other: Identity) -> None:
    tokens = list(range(16))
    assert not set(names(tokens)) & set(names(tokens, other))
