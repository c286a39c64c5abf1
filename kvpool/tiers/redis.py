"""The tiers ``redis``, ``rediss``, ``valkey`` and ``valkeys``: a server, or a cluster of them.

The extra ``kvpool[redis]`` brings the client, which works with Valkey and Redis alike.
"""

from __future__ import annotations

from typing import Any

from kvpool._optional_imports import load
from kvpool.hookspecs import hookimpl
from kvpool.tiers._base import Tier, TierFactory

__all__ = ["kvpool_tier", "open_redis"]


def open_redis(url: str, **options: Any) -> Tier:
    """Open a `kvpool.tiers.redis_client.RedisTier` for a URL and the options in it.

    Raises
    ------
    MissingExtraError
        The client is not installed.
    InvalidTierError
        The URL or an option is not valid.
    TierError
        The server does not answer, or refuses the user.
    """
    module = load("kvpool.tiers.redis_client", "redis", "a tier in Valkey or Redis")
    tier: Tier = module.open_url(url, **options)
    return tier


@hookimpl
def kvpool_tier() -> TierFactory:
    """Describe the tier to kvpool."""
    return TierFactory(
        open=open_redis,
        summary="Valkey or Redis, one server or a cluster",
        options={
            "cluster": "yes if the server is one of a cluster [default: no]",
            "prefix": "what the names of all keys begin with [default: kvpool:]",
            "ttl": "seconds without a use after which a value expires [default: it does not]",
            "timeout": "seconds to wait for an answer [default: 2]",
            "ca": "file of certificates to trust, with rediss and valkeys [default: the system's]",
        },
        modules=("redis",),
        extra="kvpool[redis]",
    )
