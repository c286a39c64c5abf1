"""The errors of kvpool.

The tree, with the built-in exception that each class is as well::

    KVPoolError
      InvalidArgumentError              TypeError
      MissingExtraError                 ImportError
      ForkedProcessError
      NotCopyableError                  TypeError
      PluginError
        UnknownPluginError              LookupError
        PluginDisabledError
        PluginConflictError
        BrokenPluginError
      ArenaError
        InvalidOptionError              ValueError
        UnsupportedError
        ArenaFullError                  MemoryError
        ForkLimitError
      PoolError
        PoolExhaustedError              MemoryError
          AddressSpaceExhaustedError
        InvalidSizeError                ValueError
        InvalidAlignmentError           ValueError
        ForeignBlockError               ValueError
        StaleBlockError                 ValueError
          DoubleFreeError
        InvalidViewError                ValueError
        PoolClosedError
      EntryError
        InvalidLayoutError              ValueError
        InvalidTokensError              ValueError
        LayerIndexError                 IndexError
        LayerMismatchError              ValueError
        ContextOverflowError            ValueError
        EntryRemovedError               LookupError
        SharedTokensError               ValueError
        TokenFileError                  ValueError
        EntryExistsError                ValueError
          CacheInUseError
        EntryNotFoundError              KeyError
        EntryKindError                  TypeError
      InvalidTtlError                   ValueError
      UnbatchableModelError             TypeError
      TierError
        DamagedTierError
        InvalidTierError                ValueError
        ChunkError                      ValueError
      IntegrityError                    AssertionError

`kvpool.receipts.errors`, `kvpool.events` and `kvpool.replay` add errors of their own, below
`KVPoolError`.

Each class stands for one situation, and its text contains the numbers of that situation.
Because of the built-in base classes, code that does not know kvpool handles these errors too.
A call that raises one of them has changed nothing: the pool is as it was before the call.
"""

from __future__ import annotations

from typing import Self

__all__ = [
    "AddressSpaceExhaustedError",
    "ArenaError",
    "ArenaFullError",
    "BrokenPluginError",
    "CacheInUseError",
    "ChunkError",
    "ContextOverflowError",
    "DamagedTierError",
    "DoubleFreeError",
    "EntryError",
    "EntryExistsError",
    "EntryKindError",
    "EntryNotFoundError",
    "EntryRemovedError",
    "ForeignBlockError",
    "ForkLimitError",
    "ForkedProcessError",
    "IntegrityError",
    "InvalidAlignmentError",
    "InvalidArgumentError",
    "InvalidLayoutError",
    "InvalidOptionError",
    "InvalidSizeError",
    "InvalidTierError",
    "InvalidTokensError",
    "InvalidTtlError",
    "InvalidViewError",
    "KVPoolError",
    "LayerIndexError",
    "LayerMismatchError",
    "MissingExtraError",
    "NotCopyableError",
    "PluginConflictError",
    "PluginDisabledError",
    "PluginError",
    "PoolClosedError",
    "PoolError",
    "PoolExhaustedError",
    "SharedTokensError",
    "StaleBlockError",
    "TierError",
    "TokenFileError",
    "UnbatchableModelError",
    "UnknownPluginError",
    "UnsupportedError",
]


class KVPoolError(Exception):
    """Base class of all errors raised by kvpool."""


class InvalidArgumentError(KVPoolError, TypeError):
    """An argument is an object of the wrong type; the text names the argument and the object."""


class MissingExtraError(KVPoolError, ImportError):
    """An optional dependency is not installed; the text names the extra to install."""


class ForkedProcessError(KVPoolError):
    """The object belongs to the parent of this process, which `os.fork` made; the text says what.

    Make a new object in each child process.
    """


class NotCopyableError(KVPoolError, TypeError):
    """A pool, a manager or an entry was to be copied or pickled."""


# -- plugins -----------------------------------------------------------------------------


class PluginError(KVPoolError):
    """A plugin could not be chosen or used; the text names the plugin and the reason."""


class UnknownPluginError(PluginError, LookupError):
    """No plugin has this name; the text lists the available names."""


class PluginDisabledError(PluginError):
    """The plugin is disabled by an environment variable, which the text names."""


class PluginConflictError(PluginError):
    """Several distributions provide a plugin of this name; the text names them."""


class BrokenPluginError(PluginError):
    """The plugin cannot be imported or implements its hook wrongly; `__cause__` is the reason."""


# -- arenas ------------------------------------------------------------------------------


class ArenaError(KVPoolError):
    """The operating system refused to create or change an arena; the text names the reason."""


class InvalidOptionError(ArenaError, ValueError):
    """A backend option is unknown, or its value is not accepted."""


class UnsupportedError(ArenaError):
    """The arena does not have the capability that the call needs."""


class ArenaFullError(ArenaError, MemoryError):
    """The file system of an arena has no room for more pages; the text says how many bytes."""


class ForkLimitError(ArenaError):
    """An arena cannot be forked because of a limit of this process.

    Attributes
    ----------
    reason : str
        What ran out: ``"mappings"``, ``"descriptors"`` or ``"memory"``.
    """

    def __init__(self, message: str, reason: str) -> None:
        self.reason = reason
        super().__init__(message)

    def __reduce__(self) -> tuple[type[ForkLimitError], tuple[str, str]]:
        return type(self), (str(self), self.reason)


# -- pool --------------------------------------------------------------------------------


class PoolError(KVPoolError):
    """Base class of the errors of pools and blocks."""


class PoolExhaustedError(PoolError, MemoryError):
    """There is no room for the bytes, whatever may be evicted.

    Attributes
    ----------
    requested : int
        Bytes asked for, after rounding up to the allocation granule.
    free : int
        Bytes free in total, in ranges of any size.
    largest_free : int
        Bytes of the largest free range.
    capacity : int
        Bytes of the pool; 0 if the caller is not to know. More than that can never be had:
        ``requested > capacity`` tells a request that is too large from a pool that is full now.
    leased : int
        Bytes of sessions that are not evicted because a view of them is alive.
    pinned : int
        Bytes of sessions that are not evicted because they are pinned, and have no view.
    task : str
        What cannot be done: ``"allocate 4096 bytes"``.
    """

    def __init__(
        self,
        requested: int,
        free: int,
        largest_free: int,
        detail: str = "",
        capacity: int = 0,
        leased: int = 0,
        pinned: int = 0,
        task: str = "",
    ) -> None:
        self.task = task or f"allocate {requested} bytes"
        self.requested = requested
        self.free = free
        self.largest_free = largest_free
        self.detail = detail
        self.capacity = capacity
        self.leased = leased
        self.pinned = pinned
        super().__init__(
            f"cannot {self.task}: {free} bytes are free, "
            f"the largest free range has {largest_free}{detail}"
        )

    def __reduce__(self) -> tuple[type[PoolExhaustedError], tuple[int | str, ...]]:
        figures = self.requested, self.free, self.largest_free, self.detail
        return type(self), (*figures, self.capacity, self.leased, self.pinned, self.task)

    def of_task(self, task: str) -> Self:
        """Return an equal error about something else that cannot be done."""
        figures = self.requested, self.free, self.largest_free, self.detail
        return type(self)(*figures, self.capacity, self.leased, self.pinned, task)


class AddressSpaceExhaustedError(PoolExhaustedError):
    """No free range in the address space of an elastic pool is large enough.

    Committing or decommitting pages does not help; a larger address space or fewer entries do.
    """


class InvalidSizeError(PoolError, ValueError):
    """A size in bytes is zero, negative or not an integer."""


class InvalidAlignmentError(PoolError, ValueError):
    """An alignment is not a power of two, or is larger than that of the arena's base address."""


class ForeignBlockError(PoolError, ValueError):
    """The block belongs to another pool, or is not a block."""


class StaleBlockError(PoolError, ValueError):
    """The block was deallocated; its bytes may already belong to another block."""


class DoubleFreeError(StaleBlockError):
    """The block was deallocated twice."""


class InvalidViewError(PoolError, ValueError):
    """A view is misaligned, reaches outside of its block, or has an impossible shape."""


class PoolClosedError(PoolError):
    """The pool is closed."""


# -- entries -----------------------------------------------------------------------------


class EntryError(KVPoolError):
    """Base class of the errors of entries; the text names the session."""


class InvalidLayoutError(EntryError, ValueError):
    """A layout has a dimension below 1 or an unsupported dtype."""


class InvalidTokensError(EntryError, ValueError):
    """Keys or values have the wrong shape or dtype, or a token count is out of range."""


class LayerIndexError(EntryError, IndexError):
    """The layer index is not between 0 and the number of layers."""


class LayerMismatchError(EntryError, ValueError):
    """The layers of an entry have different numbers of tokens; the text names the layers."""


class ContextOverflowError(EntryError, ValueError):
    """An entry would have more tokens than its `max_context_length`."""


class EntryRemovedError(EntryError, LookupError):
    """The entry was removed or evicted; its bytes may already belong to another session."""


class SharedTokensError(EntryError, ValueError):
    """Tokens were to be changed in place that the entry shares with its parent or with a fork."""


# -- manager -----------------------------------------------------------------------------


class TokenFileError(EntryError, ValueError):
    """A file of keys and values cannot be read or written; the text names the file."""


class EntryExistsError(EntryError, ValueError):
    """An entry with this key already exists."""


class CacheInUseError(EntryExistsError):
    """The session is open already: another user of it has to close it first."""


class EntryNotFoundError(EntryError, KeyError):
    """No entry has this key."""

    __str__ = Exception.__str__  # KeyError would show the text in quotes


class InvalidTtlError(KVPoolError, ValueError):
    """A time to live is not a number of seconds above 0, or a timeout not one of at least 0."""


class EntryKindError(EntryError, TypeError):
    """The entry of this key has another layout, or has no layout although one is needed."""


class UnbatchableModelError(KVPoolError, TypeError):
    """A model cannot run the tokens of several sessions in one step; the text says why."""


# -- tiers -------------------------------------------------------------------------------


class TierError(KVPoolError):
    """A tier could not be opened, read or written; the text says what was tried."""


class DamagedTierError(TierError):
    """The structure of a store is damaged, so that nothing in it can be trusted."""


class InvalidTierError(TierError, ValueError):
    """A tier does not take a URL, an option, a key or a value; the text names it."""


class ChunkError(TierError, ValueError):
    """A stored value is not the chunk that was asked for.

    Attributes
    ----------
    reason : str
        What is wrong with it, as one word for statistics, such as ``"digest"``.
    """

    def __init__(self, message: str, reason: str) -> None:
        self.reason = reason
        super().__init__(message)

    def __reduce__(self) -> tuple[type[ChunkError], tuple[str, str]]:
        return type(self), (str(self), self.reason)


# -- invariants --------------------------------------------------------------------------


class IntegrityError(KVPoolError, AssertionError):
    """An invariant does not hold; the text names it. This is a bug in kvpool: please report it."""
