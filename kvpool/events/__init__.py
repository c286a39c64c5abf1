"""Events: which chunks of tokens a pool holds, told to routers and other programs.

A name is imported when it is first used: a manager without events loads no module of it.
"""

from __future__ import annotations

import importlib
import typing

from kvpool import _exports

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

if not typing.TYPE_CHECKING:  # whoever checks types knows the names from above, and no others

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
        exported: object = getattr(home, name)
        _exports.publish_as(__name__, exported)
        return exported

    def __dir__() -> list[str]:
        return [*globals(), *__all__]
