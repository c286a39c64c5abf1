"""Batches of events as msgpack, in the two forms that routers take."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from kvpool.events._types import Event, EventBatch

__all__ = ["Form", "decode_batch", "encode_batch"]

Form = Literal["map", "array"]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(EventBatch)


def encode_batch(batch: EventBatch, form: Form = "map") -> bytes:
    """Return a batch as msgpack.

    Parameters
    ----------
    batch : EventBatch
    form : {"map", "array"}, default "map"
        Of each event. ``"map"``: names and values, as vLLM sends them since version 0.26;
        ``"array"``: the values alone, in the order of the fields, as it sent them before. The batch
        is an array in both.
    """
    if form == "map":
        return _encoder.encode(batch)
    fields: list[Any] = [batch.ts, [_as_array(event) for event in batch.events]]
    if batch.data_parallel_rank is not None:
        fields.append(batch.data_parallel_rank)
    return _encoder.encode(fields)


def decode_batch(payload: bytes) -> EventBatch:
    """Return the batch that `encode_batch` made, in the form ``"map"``.

    Raises
    ------
    msgspec.DecodeError
        It is not such a batch.
    """
    return _decoder.decode(payload)


def _as_array(event: Event) -> list[Any]:
    """Return the tag of an event and its values, without those at the end that are not set."""
    values = [getattr(event, name) for name in event.__struct_fields__]
    if event.__struct_defaults__ and values[-1] is None:
        values.pop()
    return [type(event).__name__, *values]
