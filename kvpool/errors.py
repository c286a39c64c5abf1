"""Every error that kvpool raises, in one tree.

Each class is one situation; each text carries the numbers of that situation. The classes
also derive from the built-in exception that a caller would expect for such a mistake
(`ValueError`, `KeyError`, `MemoryError`, …), so code that does not know kvpool still
handles them. Raising one of them changes nothing: the pool is as it was before the call.
"""

from __future__ import annotations

__all__ = [
    "AddressSpaceExhaustedError",
    "ArenaError",
    "BrokenPluginError",
    "ContextOverflowError",
    "DoubleFreeError",
    "EntryError",
    "EntryExistsError",
    "EntryKindError",
    "EntryNotFoundError",
    "EntryRemovedError",
    "ForeignBlockError",
    "IntegrityError",
    "InvalidAlignmentError",
    "InvalidLayoutError",
    "InvalidOptionError",
    "InvalidSizeError",
    "InvalidTokensError",
    "InvalidTtlError",
    "InvalidViewError",
    "KVPoolError",
    "LayerIndexError",
    "LayerMismatchError",
    "MissingExtraError",
    "PluginConflictError",
    "PluginDisabledError",
    "PluginError",
    "PoolClosedError",
    "PoolError",
    "PoolExhaustedError",
    "StaleBlockError",
    "UnknownPluginError",
    "UnsupportedError",
]


class KVPoolError(Exception):
    """Base class of all errors raised by kvpool."""


class MissingExtraError(KVPoolError, ImportError):
    """An optional dependency is not installed; the text names the extra that has it."""


# -- plugins -----------------------------------------------------------------------------


class PluginError(KVPoolError):
    """A plugin could not be chosen or used; the text names the plugin and the reason."""


class UnknownPluginError(PluginError, LookupError):
    """No plugin of that name exists; the text lists the names that do."""


class PluginDisabledError(PluginError):
    """The plugin exists and was blocked by configuration."""


class PluginConflictError(PluginError):
    """Two distributions claim one plugin name; the text names both."""


class BrokenPluginError(PluginError):
    """The plugin does not import or implements the hooks wrongly; `__cause__` says why."""


# -- arenas ------------------------------------------------------------------------------


class ArenaError(KVPoolError):
    """The system refused to create or to change an arena; the text names option and reason."""


class InvalidOptionError(ArenaError, ValueError):
    """A backend option is unknown or has a value that the backend cannot take."""


class UnsupportedError(ArenaError):
    """The arena lacks the capability that the call needs."""


# -- pool --------------------------------------------------------------------------------


class PoolError(KVPoolError):
    """Base class of the errors of `MemoryPool` and of the blocks that it hands out."""


class PoolExhaustedError(PoolError, MemoryError):
    """No free range is large enough.

    Attributes
    ----------
    requested : int
        Bytes asked for, after rounding up to the allocation granule.
    free : int
        Bytes free in total, in ranges of any size.
    largest_free : int
        Bytes of the largest free range.
    """

    def __init__(self, requested: int, free: int, largest_free: int, detail: str = "") -> None:
        self.requested = requested
        self.free = free
        self.largest_free = largest_free
        self._detail = detail
        super().__init__(
            f"cannot allocate {requested} bytes: {free} bytes are free, "
            f"the largest free range has {largest_free}{detail}"
        )

    def __reduce__(self) -> tuple[type[PoolExhaustedError], tuple[int, int, int, str]]:
        return type(self), (self.requested, self.free, self.largest_free, self._detail)


class AddressSpaceExhaustedError(PoolExhaustedError):
    """No free range of an elastic pool's address space is large enough, whatever is committed."""


class InvalidSizeError(PoolError, ValueError):
    """A size in bytes is zero, negative or not an integer."""


class InvalidAlignmentError(PoolError, ValueError):
    """An alignment is not a power of two, or exceeds what the arena's base address has."""


class ForeignBlockError(PoolError, ValueError):
    """The block belongs to another pool."""


class StaleBlockError(PoolError, ValueError):
    """The block was deallocated; its bytes may already be another block's."""


class DoubleFreeError(StaleBlockError):
    """The block that is to be deallocated was deallocated before."""


class InvalidViewError(PoolError, ValueError):
    """A view is misaligned, reaches outside its block, or has an impossible shape."""


class PoolClosedError(PoolError):
    """The pool is closed."""


# -- entries -----------------------------------------------------------------------------


class EntryError(KVPoolError):
    """Base class of the errors of entries; texts name the session."""


class InvalidLayoutError(EntryError, ValueError):
    """A layout has a dimension below 1 or a dtype that no cache uses."""


class InvalidTokensError(EntryError, ValueError):
    """Keys or values have the wrong shape or dtype, or a token count is out of range."""


class LayerIndexError(EntryError, IndexError):
    """The layout has no layer of that number."""


class LayerMismatchError(EntryError, ValueError):
    """A layer appends other tokens than the other layers do; the text says which layers."""


class ContextOverflowError(EntryError, ValueError):
    """More tokens than the `max_context_length` that the entry was made for."""


class EntryRemovedError(EntryError, LookupError):
    """The entry was removed or evicted; its bytes may already be another session's."""


# -- manager -----------------------------------------------------------------------------


class EntryExistsError(EntryError, ValueError):
    """The key has an entry already."""


class EntryNotFoundError(EntryError, KeyError):
    """The key has no entry."""

    __str__ = Exception.__str__  # a KeyError would show its text in quotes


class InvalidTtlError(KVPoolError, ValueError):
    """A time to live is no positive number of seconds."""


class EntryKindError(EntryError, TypeError):
    """The key's entry has another layout, or is raw where a layout is needed."""


# -- invariants --------------------------------------------------------------------------


class IntegrityError(KVPoolError, AssertionError):
    """An invariant does not hold; the text says which. This is a bug in kvpool."""
