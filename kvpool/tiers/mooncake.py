"""The tier ``mooncake``: the distributed store of a Mooncake cluster.

The extra ``kvpool[mooncake]`` brings the client, which runs over TCP without a GPU.
"""

from __future__ import annotations

from typing import Any

from kvpool._optional_imports import load
from kvpool.hookspecs import hookimpl
from kvpool.tiers._base import Tier, TierFactory

__all__ = ["kvpool_tier", "open_mooncake"]


def open_mooncake(url: str, **options: Any) -> Tier:
    """Open a `kvpool.tiers.mooncake_store.MooncakeTier` for a URL and the options in it.

    Raises
    ------
    MissingExtraError
        The client is not installed, or a library of the system that it needs.
    InvalidTierError
        The URL or an option is not valid.
    TierError
        The master does not answer.
    """
    module = load("kvpool.tiers.mooncake_store", "mooncake", "a tier in Mooncake Store")
    tier: Tier = module.open_url(url, **options)
    return tier


@hookimpl
def kvpool_tier() -> TierFactory:
    """Describe the tier to kvpool."""
    return TierFactory(
        open=open_mooncake,
        summary="Mooncake Store, a cluster that exists",
        options={
            "metadata": "URL of its metadata server [default: P2PHANDSHAKE, which needs none]",
            "host": "address of this machine for the other clients [default: 127.0.0.1]",
            "segment": "memory that this process gives to the cluster [default: 0]",
            "buffer": "memory for what is under way [default: 64MiB]",
            "protocol": "tcp or rdma [default: tcp]",
            "devices": "RDMA devices, separated by commas [default: chosen by the client]",
            "admin": "host and port of the master's HTTP service, to list keys [default: cannot]",
            "prefix": "what the names of all keys begin with [default: kvpool-]",
        },
        modules=("mooncake",),
        extra="kvpool[mooncake]",
    )
