"""`Pages`: the pages of a host pool of SGLang, as bytes under keys."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from kvpool.errors import InvalidArgumentError

__all__ = ["Bytes", "Pages", "bytes_of", "fill", "prefix_of"]

Bytes = NDArray[np.uint8]

_FORMAT: Final = (
    "layout",
    "page_size",
    "start_layer",
    "end_layer",
    "layer_num",
    "head_num",
    "head_dim",
    "v_head_dim",
    "kv_cache_dim",
)


class Pages:
    """The pages of a pool of SGLang in host memory.

    Parameters
    ----------
    pool : HostKVCache
    name : str
        Of the pool.
    shard : list of int
        From `shard_of`.

    Attributes
    ----------
    nbytes : int
        Of a page. A pool without memory of its own has pages of one byte, which only say that they
        were stored.

    Notes
    -----
    The bytes of a page are those that the pool calls a flat page. Its order is that of the layout
    of the pool, so layout, type and shape are part of each key.
    """

    def __init__(self, pool: Any, name: str, shard: list[int]) -> None:
        page = pool.get_dummy_flat_data_page()
        self._pool = pool
        self._dtype = page.dtype
        self._page_bytes = page.nbytes
        self._tokens = int(getattr(pool, "page_size", 1) or 1)
        self.nbytes = max(page.nbytes, 1)
        shape = {part: str(getattr(pool, part, None)) for part in _FORMAT}
        kind = f"{type(pool).__name__} {page.dtype} {page.nbytes}"
        self._prefix = prefix_of(name, shard, kind, shape)

    def key(self, page_hash: str) -> bytes:
        """Return the key of the page with a hash of SGLang."""
        return self._prefix + page_hash.encode()

    def places(self, page_hashes: list[str], host_indices: Any) -> list[int]:
        """Return where each page begins in the pool.

        Raises
        ------
        InvalidArgumentError
            There are not as many indices as the pages have tokens.
        """
        wanted = len(page_hashes) * self._tokens
        if host_indices is None or host_indices.numel() != wanted:
            found = 0 if host_indices is None else host_indices.numel()
            raise InvalidArgumentError(
                f"{len(page_hashes)} pages of {self._tokens} tokens need {wanted} host indices, "
                f"not {found}"
            )
        return [int(place) for place in host_indices.reshape(-1)[:: self._tokens].tolist()]

    def read(self, place: int) -> Bytes:
        """Return the bytes of the page that begins at an index of the pool.

        Raises
        ------
        InvalidArgumentError
            The pool does not have all of it.
        """
        page = self._pool.get_data_page(place, flat=True)
        if page.nbytes != self._page_bytes:
            raise InvalidArgumentError(
                f"a page has {self._page_bytes} bytes, and the one at index {place} has "
                f"{page.nbytes}"
            )
        return bytes_of(page)

    def write(self, place: int, page: Bytes) -> None:
        """Copy bytes to the page that begins at an index of the pool."""
        if self._page_bytes:
            self._pool.set_from_flat_data_page(place, torch.from_numpy(page).view(self._dtype))

    def flat_page(self) -> torch.Tensor:
        """Return a new flat page, of zeros."""
        page: torch.Tensor = self._pool.get_dummy_flat_data_page()
        return page


def prefix_of(name: str, shard: list[int], kind: str, shape: dict[str, str]) -> bytes:
    """Return what the keys of pages begin with: a hash of what all pages of a pool have in common.

    Parameters
    ----------
    name : str
        Of the pool.
    shard : list of int
        From `shard_of`.
    kind : str
        Of the pool, with type and size of a page; empty if that is not known.
    shape : dict of str to str
        Layout and shape of a page.
    """
    about = json.dumps([name, shard, kind, shape], sort_keys=True)
    return hashlib.sha256(about.encode()).digest()


def bytes_of(tensor: Any) -> Bytes:
    """Return the bytes of a tensor in host memory; one byte for a tensor without any."""
    flat: Bytes = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return flat if flat.nbytes else np.zeros(1, np.uint8)


def fill(tensor: Any, data: Bytes) -> None:
    """Copy bytes to a tensor, which may have any strides."""
    flat = torch.from_numpy(data[: tensor.nbytes]).view(tensor.dtype)
    tensor.copy_(flat.reshape(tensor.shape))
