"""The kinds of tiers, and `open_tier`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from kvpool._sizes import parse_size
from kvpool.errors import InvalidTierError
from kvpool.hookspecs import TierSpec
from kvpool.plugins import PluginKind, PluginRegistry
from kvpool.tiers._base import Tier, TierFactory

__all__ = ["capacity_option", "open_tier", "path_of", "registry", "split_url", "without_secrets"]

_BUILTINS: Final = {
    "disk": "kvpool.tiers.disk",
    "memory": "kvpool.tiers.memory",
    "mooncake": "kvpool.tiers.mooncake",
    **dict.fromkeys(("redis", "rediss", "valkey", "valkeys"), "kvpool.tiers.redis"),
    **dict.fromkeys(("s3", "gs", "az", "file"), "kvpool.tiers.objects"),
}

registry = PluginRegistry(
    PluginKind(
        "tier",
        group="kvpool.tiers",
        hook="kvpool_tier",
        spec=TierSpec,
        provides=TierFactory,
        builtins=_BUILTINS,
        disabled_variable="KVPOOL_DISABLED_TIERS",
    )
)
"""The kinds of tiers of this process, by the schemes of their URLs."""


def open_tier(url: str, options: Mapping[str, str] | None = None) -> Tier:
    """Open a tier.

    Parameters
    ----------
    url : str
        ``scheme:place?option=value&…``, for example ``disk:/var/cache/kv?capacity=20GiB``. The
        scheme is the name of a plugin, and the options are those of the plugin.
    options : mapping of str to str, optional
        Further options.

    Raises
    ------
    PluginError
        No plugin has the name of the scheme, or it cannot be used; see `PluginRegistry.choose`.
    InvalidTierError
        It is not a URL, or the tier does not have an option or does not accept its value.
    TierError
        The store cannot be opened.

    Examples
    --------
    >>> with open_tier("memory:?capacity=64MiB") as tier:
    ...     tier.write([(b"key", [b"value"])])
    1
    """
    scheme, place, given = split_url(url)
    given |= options or {}
    factory = registry.choose(scheme)
    for name in given:
        if name not in factory.options:
            known = ", ".join(sorted(factory.options)) or "it has none"
            raise InvalidTierError(
                f"a tier of the kind {scheme!r} has no option {name!r}; its options: {known}"
            )
    return factory.open(place, **given)


def split_url(url: str) -> tuple[str, str, dict[str, str]]:
    """Return the scheme of a URL, the URL without its options, and the options.

    Raises
    ------
    InvalidTierError
        It is not a URL, or has an option without a name or twice.
    """
    if not isinstance(url, str):
        raise InvalidTierError(f"a tier is named by a URL such as 'disk:/path', not {url!r}")
    try:
        split = urlsplit(url)
        pairs = parse_qsl(split.query, keep_blank_values=True, strict_parsing=bool(split.query))
    except ValueError as error:
        raise InvalidTierError(f"{without_secrets(url)!r} is not a URL: {error}") from None
    if not split.scheme:
        raise InvalidTierError(
            f"{without_secrets(url)!r} has no scheme; a tier is named as in 'disk:/path'"
        )
    options = dict(pairs)
    if len(options) < len(pairs):
        raise InvalidTierError(f"an option stands twice in {without_secrets(url)!r}")
    # The URL is cut, not put together again: that would change how some paths are written.
    return split.scheme, url.partition("?")[0].partition("#")[0], options


def without_secrets(url: str) -> str:
    """Return a URL without what stands before the host, and without its options.

    Examples
    --------
    >>> without_secrets("redis://user:password@host:6379/0?ttl=60")
    'redis://host:6379/0'
    """
    scheme, slashes, rest = url.partition("?")[0].partition("//")
    return scheme + slashes + rest.rpartition("@")[2]


def path_of(url: str) -> Path:
    """Return the path that a URL such as ``disk:/path``, ``disk:path`` or ``disk:~/path`` names.

    Parameters
    ----------
    url : str
        Without options.

    Raises
    ------
    InvalidTierError
        The URL names a host, or no path.
    """
    split = urlsplit(url)
    if split.netloc:
        raise InvalidTierError(
            f"{url!r} names the host {split.netloc!r}; write {split.scheme}:/path for a path of "
            f"this machine, or {split.scheme}:path for one in the working directory"
        )
    if not split.path:
        raise InvalidTierError(f"{url!r} names no path; write {split.scheme}:/path")
    return Path(unquote(split.path)).expanduser()


def capacity_option(text: str | None) -> int | None:
    """Return the value of an option ``capacity`` in bytes; None if it is not given.

    Raises
    ------
    InvalidTierError
        The text is not a size of at least one byte.
    """
    if text is None:
        return None
    capacity = parse_size(text, InvalidTierError)
    if not capacity:
        raise InvalidTierError(f"the capacity of a tier must be at least one byte, not {text!r}")
    return capacity
