"""The bytes of events, read as vLLM and the routers made for it read them."""

from __future__ import annotations

from types import GenericAlias
from typing import Any, Literal

import msgspec
import pytest

from benchmarks.peers import PeerUnavailableError, vllm_events
from kvpool.events import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    EventBatch,
    decode_batch,
    encode_batch,
)

BATCH = EventBatch(
    ts=1789095808.5,
    events=[
        BlockStored([2**64 - 1, 7], None, [1, 2, 3, 4], 2, None, "CPU", None),
        BlockStored([8], 7, [5, 6], 2, None, "CPU", "tuned", [("9f",)]),
        BlockRemoved([8, 7], "CPU"),
        AllBlocksCleared(),
    ],
    data_parallel_rank=3,
)
NAMED = EventBatch(0.5, [BlockStored([b"\x01" * 32], b"\x02" * 32, [9], 1, None, None, None)])


# As the engines define them, by the names and in the order of the fields that are on the wire.


class MapEvent(msgspec.Struct, omit_defaults=True, gc=False, tag=True):
    """vLLM since 0.26."""


class ArrayEvent(msgspec.Struct, array_like=True, omit_defaults=True, gc=False, tag=True):
    """vLLM before, and SGLang."""


STORED: list[Any] = [
    ("block_hashes", list[int | bytes]),
    ("parent_block_hash", int | bytes | None),
    ("token_ids", list[int]),
    ("block_size", int),
    ("lora_id", int | None),
    ("medium", str | None),
    ("lora_name", str | None),
    ("extra_keys", list[tuple[Any, ...] | None] | None, None),
    ("group_idx", int | None, None),
]
REMOVED: list[Any] = [
    ("block_hashes", list[int | bytes]),
    ("medium", str | None),
    ("group_idx", int | None, None),
]


def decoder_of(base: type[msgspec.Struct]) -> msgspec.msgpack.Decoder[Any]:
    """Return a decoder of batches with events of one form."""
    options: dict[str, Any] = {"bases": (base,), "tag": True}
    stored = msgspec.defstruct("BlockStored", STORED, **options)
    removed = msgspec.defstruct("BlockRemoved", REMOVED, **options)
    cleared = msgspec.defstruct("AllBlocksCleared", [], **options)
    events = GenericAlias(list, (stored | removed | cleared,))
    fields: list[Any] = [
        ("ts", float),
        ("events", events),
        ("data_parallel_rank", int | None, None),
    ]
    return msgspec.msgpack.Decoder(msgspec.defstruct("KVEventBatch", fields, array_like=True))


def told(batch: Any) -> list[Any]:
    """Return what a batch says: rank, kinds of the events, and the values that are not None."""
    events = [
        (type(event).__name__, {k: v for k, v in msgspec.structs.asdict(event).items() if v})
        for event in batch.events
    ]
    return [batch.ts, batch.data_parallel_rank, events]


@pytest.mark.parametrize("batch", [BATCH, NAMED])
@pytest.mark.parametrize(("form", "base"), [("map", MapEvent), ("array", ArrayEvent)])
def test_engines_and_routers_read_them(
    batch: EventBatch, form: Literal["map", "array"], base: type[msgspec.Struct]
) -> None:
    read = decoder_of(base).decode(encode_batch(batch, form))
    assert told(read) == told(batch)


@pytest.mark.parametrize("batch", [BATCH, NAMED])
def test_vllm_itself_reads_them_and_writes_the_same(batch: EventBatch) -> None:
    try:
        vllm = vllm_events(fetch=False)
    except PeerUnavailableError as error:
        pytest.skip(str(error))
    payload = encode_batch(batch)
    read = msgspec.msgpack.Decoder(vllm.KVEventBatch).decode(payload)
    assert told(read) == told(batch)
    assert [type(event) for event in read.events] == [
        getattr(vllm, type(event).__name__) for event in batch.events
    ]
    written = msgspec.msgpack.encode(read)
    assert msgspec.msgpack.decode(written) == msgspec.msgpack.decode(payload)


def test_the_bytes_of_the_form_of_arrays() -> None:
    """Values that are not set are left out at the end, and are nil before it."""
    assert msgspec.msgpack.decode(encode_batch(BATCH, "array")) == [
        1789095808.5,
        [
            ["BlockStored", [2**64 - 1, 7], None, [1, 2, 3, 4], 2, None, "CPU", None],
            ["BlockStored", [8], 7, [5, 6], 2, None, "CPU", "tuned", [["9f"]]],
            ["BlockRemoved", [8, 7], "CPU"],
            ["AllBlocksCleared"],
        ],
        3,
    ]
    assert len(msgspec.msgpack.decode(encode_batch(NAMED, "array"))) == 2


def test_a_batch_is_read_back() -> None:
    assert decode_batch(encode_batch(BATCH)) == BATCH
    assert decode_batch(encode_batch(NAMED)) == NAMED
    with pytest.raises(msgspec.DecodeError):
        decode_batch(encode_batch(BATCH, "array"))
