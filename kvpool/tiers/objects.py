"""The tiers ``s3``, ``gs``, ``az`` and ``file``: objects in a bucket, or files in a directory.

The extra ``kvpool[objects]`` brings the client. Credentials come from where the client looks for
them, for example the environment variables ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``.
"""

from __future__ import annotations

from typing import Any

from kvpool._optional_imports import load
from kvpool.hookspecs import hookimpl
from kvpool.tiers._base import Tier, TierFactory

__all__ = ["kvpool_tier", "open_objects"]


def open_objects(url: str, **options: Any) -> Tier:
    """Open a `kvpool.tiers.object_store.ObjectTier` for a URL and the options in it.

    Raises
    ------
    MissingExtraError
        The client is not installed.
    InvalidTierError
        The URL or an option is not valid.
    TierError
        The store refuses what the client tells it.
    """
    module = load("kvpool.tiers.object_store", "objects", "a tier in an object store")
    tier: Tier = module.open_url(url, **options)
    return tier


@hookimpl
def kvpool_tier() -> TierFactory:
    """Describe the tier to kvpool."""
    return TierFactory(
        open=open_objects,
        summary="S3, Google Cloud Storage, Azure, or a directory",
        options={
            "endpoint": "URL of the service, for one that is compatible with S3",
            "region": "region of the bucket [default: that of the environment]",
            "timeout": "seconds to wait for an answer [default: 5]",
            "requests": "requests at the same time [default: 16]",
        },
        modules=("obstore",),
        extra="kvpool[objects]",
    )
