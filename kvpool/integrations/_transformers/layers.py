"""The layers of a `PooledCache`: windows onto its session."""

from __future__ import annotations

from typing import Any, NoReturn

from transformers import cache_utils
from transformers.cache_utils import CacheLayerMixin

from kvpool.integrations._transformers.session import PooledSession

__all__ = ["EmptyLayer", "PooledLayer"]

# How transformers knows a layer without a cache; older versions have no such layers.
DummyLayer: Any = getattr(cache_utils, "DummyLayer", object)


class PooledLayer(CacheLayerMixin):
    """One layer that attends to all tokens, or to those in a sliding window or chunk.

    All tokens stay in the pool; a window only bounds what is handed out. So such a layer can
    be cropped past its window, which a layer that throws tokens away cannot.

    Parameters
    ----------
    session : PooledSession
    index : int
        The layer of the entry.
    window : int, optional
        Tokens that each one attends to, with itself.
    """

    is_compileable = False
    is_croppable = True

    def __init__(self, session: PooledSession, index: int, window: int | None = None) -> None:
        self._session = session
        self._index = index
        self.sliding_window = window
        self.is_sliding = window is not None

    def __repr__(self) -> str:
        window = "" if self.sliding_window is None else f", window {self.sliding_window}"
        return f"<{type(self).__name__} {self._index} of {self._session.key!s}{window}>"

    # -- what it holds -------------------------------------------------------------------

    @property
    def is_initialized(self) -> bool:
        """Whether there is an entry."""
        return self._session.entry is not None

    @property
    def keys(self) -> Any:
        """All keys held, over the bytes of the entry; None without an entry."""
        return self._session.view(self._index)[0] if self.is_initialized else None

    @property
    def values(self) -> Any:
        """All values held, as `keys`."""
        return self._session.view(self._index)[1] if self.is_initialized else None

    @property
    def batch_size(self) -> int:
        """Sequences in the batch; an `AttributeError` until there is one."""
        if not self.is_initialized:
            raise AttributeError("batch_size")
        return self._session.rows

    def get_seq_length(self) -> int:
        """Return the tokens held."""
        return self._session.held(self._index)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys the next `query_length` tokens attend to, and the first one."""
        held = self.get_seq_length()
        if self.sliding_window is None:
            return held + query_length, 0
        first = max(held - self.sliding_window + 1, 0)
        return held - first + query_length, first

    def get_max_length(self) -> int:
        """Return the tokens that there may be; -1 where the entry grows."""
        limit = self._session.max_context_length
        return -1 if limit is None else limit

    def get_max_cache_shape(self) -> int:
        """Return `get_max_length`, which older versions of transformers call so."""
        return self.get_max_length()

    # -- what may be done with it alone --------------------------------------------------

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Make the entry for a batch as these states are."""
        if not self.is_initialized:
            rows, _, tokens, _ = key_states.shape
            self._session.make(rows, value_states.dtype, max(tokens, 1))

    def update(
        self, key_states: Any, value_states: Any, *_args: Any, **_options: Any
    ) -> tuple[Any, Any]:
        """Append tokens; return the keys and values to attend to.

        Parameters
        ----------
        key_states, value_states : Tensor, shape (batch, kv_heads, tokens, head_dim)

        Returns
        -------
        keys, values : Tensor
            Over the bytes of the entry, without a copy.
        """
        return self._session.append(self._index, key_states, value_states, self.sliding_window)

    # -- what concerns all layers --------------------------------------------------------

    def reset(self) -> NoReturn:
        """Refuse: all layers hold the same tokens."""
        self._refuse("reset")

    def crop(self, tokens_to_remove: int) -> NoReturn:
        """Refuse, as `reset`."""
        self._refuse(f"crop({tokens_to_remove})")

    def reorder_cache(self, beam_idx: Any) -> NoReturn:
        """Refuse, as `reset`."""
        self._refuse(f"reorder_cache({beam_idx})")

    def batch_repeat_interleave(self, repeats: int) -> NoReturn:
        """Refuse, as `reset`."""
        self._refuse(f"batch_repeat_interleave({repeats})")

    def batch_select_indices(self, indices: Any) -> NoReturn:
        """Refuse, as `reset`."""
        self._refuse(f"batch_select_indices({indices})")

    def offload(self) -> NoReturn:
        """Refuse: a pool is in host memory already."""
        self._refuse("offload()")

    def _refuse(self, what: str) -> NoReturn:
        raise TypeError(f"{what} is for the whole cache: {self!r} holds what all layers hold")


class EmptyLayer(DummyLayer):
    """A layer that keeps nothing: without attention, or with the tokens of another layer."""

    is_compileable = True
    is_croppable = True
    is_sliding = False
    supports_early_init = False

    def __init__(self) -> None:
        self.is_initialized = True
        self.keys = self.values = None

    def update(self, *_states: Any, **_options: Any) -> NoReturn:
        """Refuse: there is nowhere to put tokens."""
        raise NotImplementedError("this layer of the model keeps no keys and values")

    def get_max_length(self) -> int:
        """Return -1: there is no maximum."""
        return -1
