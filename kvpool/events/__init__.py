"""Events: which chunks of tokens a pool holds, told to routers and other programs.

A name is imported when it is first used: a manager without events loads no module of it.
"""

from __future__ import annotations

import typing

from kvpool import _first_use

if typing.TYPE_CHECKING:
    from kvpool.events._encoding import decode_batch, encode_batch
    from kvpool.events._errors import EndpointError
    from kvpool.events._queue import EventQueue
    from kvpool.events._types import (
        AllBlocksCleared,
        BlockHash,
        BlockRemoved,
        BlockStored,
        Event,
        EventBatch,
    )
    from kvpool.events._zmq import ZmqPublisher

__all__ = [
    "AllBlocksCleared",
    "BlockHash",
    "BlockRemoved",
    "BlockStored",
    "EndpointError",
    "Event",
    "EventBatch",
    "EventQueue",
    "ZmqPublisher",
    "decode_batch",
    "encode_batch",
]

_HOMES = {
    "AllBlocksCleared": "_types",
    "BlockHash": "_types",
    "BlockRemoved": "_types",
    "BlockStored": "_types",
    "EndpointError": "_errors",
    "Event": "_types",
    "EventBatch": "_types",
    "EventQueue": "_queue",
    "ZmqPublisher": "_zmq",
    "decode_batch": "_encoding",
    "encode_batch": "_encoding",
}

if not typing.TYPE_CHECKING:  # a type checker knows the names from above, and no others
    __getattr__, __dir__ = _first_use.on_first_use(
        __name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()}
    )
