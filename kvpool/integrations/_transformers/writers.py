"""Which model computed the tokens of an entry, so that no other model goes on from them."""

from __future__ import annotations

import weakref

from kvpool.entry import KVCacheEntry

__all__ = ["differ", "note", "of"]

_weights: weakref.WeakKeyDictionary[KVCacheEntry, int] = weakref.WeakKeyDictionary()


def note(entry: KVCacheEntry, weights: int | None) -> None:
    """Note the weights of the model that writes to an entry; None if the model is not known."""
    if weights is None:
        _weights.pop(entry, None)
    else:
        _weights[entry] = weights


def of(entry: KVCacheEntry) -> int | None:
    """Return the weights that were noted for an entry; None if none were."""
    return _weights.get(entry)


def differ(entry: KVCacheEntry, weights: int | None) -> bool:
    """Return whether an entry has tokens that a model with other weights computed."""
    noted = of(entry)
    return bool(entry.token_count) and None not in {noted, weights} and noted != weights
