"""`Tier`: the contract of the stores beyond the pool."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from kvpool import _optional_imports
from kvpool._closing import Closing
from kvpool.errors import InvalidArgumentError, InvalidTierError

__all__ = [
    "MAX_KEY_BYTES",
    "Item",
    "Part",
    "Tier",
    "TierFactory",
    "TierStats",
    "check_items",
    "check_keys",
]

MAX_KEY_BYTES: Final = 255
"""The most bytes that a key may have; the fewest are 1."""

Part: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes: a part of a value. For an array, its attribute `data`, which is not copied."""

Item: TypeAlias = "tuple[bytes, Sequence[Part]]"
"""A key and its value; the value in parts, so that none is copied just to join them."""


@dataclass(frozen=True, slots=True)
class TierStats:
    """What a tier holds, and what it has done.

    Parameters
    ----------
    values : int or None
        Values that it holds; None if the store cannot tell cheaply.
    nbytes : int or None
        Bytes that they take in the store; None if the store cannot tell cheaply.
    capacity : int or None
        The most bytes that the tier may take; None without a limit of its own.
    evicted : int
        Values that this object removed to make room.
    refused : int
        Values that this object did not store, because there was no room.
    """

    values: int | None
    nbytes: int | None
    capacity: int | None
    evicted: int = 0
    refused: int = 0


class Tier(Closing):
    """A bounded store of immutable values under byte keys, beyond the pool.

    A key is made from what its value is computed from, so two values of one key are the same
    value: the first one that is stored stays. What a value means, and whether it is whole, is the
    business of the caller.

    Notes
    -----
    *Keys* have 1 to `MAX_KEY_BYTES` bytes of any kind. *Values* have at least one byte.

    *Room.* A tier that is full removes other values, or refuses the new one. Neither is an error:
    both are counted.

    *Errors.* Whatever goes wrong in the store is a `TierError`, whose text says what was tried. A
    value that is missing is not an error. Values of one `write` are independent: after an error
    some may be stored, and each of these is whole.

    *Secrets.* No name, error or log line contains a password.

    *Threads.* Any method may be called from any thread, also while another thread is in it.
    *Processes.* In a child that `os.fork` made, every call but `close` raises
    `ForkedProcessError`, and `close` leaves alone what belongs to the parent.

    The conformance suite `kvpool.testing.TierSuite` contains this contract as tests.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages and tables call the tier: its URL, without secrets and options."""

    @property
    def evictions(self) -> int:
        """How many values this object has evicted to make room, as far as it can tell.

        As `TierStats.evicted`, but the store is not asked. [default: 0]
        """
        return 0

    @abstractmethod
    def read(self, keys: Sequence[bytes], /) -> AbstractContextManager[Sequence[memoryview | None]]:
        """Return the values of some keys, for a ``with`` block.

        Parameters
        ----------
        keys : sequence of bytes

        Returns
        -------
        context manager of sequence of memoryview or None
            One for each key, in the same order: read-only bytes, or None if the store does not
            have the value. They are valid until the block ends, whatever else happens to the
            store; where it can, the store shows its own memory.

        Raises
        ------
        TierError
            The store cannot be read.
        InvalidArgumentError
            `keys` is not a sequence of bytes.
        InvalidTierError
            A key has no bytes or too many.
        """

    @abstractmethod
    def write(self, items: Sequence[Item], /) -> int:
        """Store values. A value whose key is there already is not written again.

        Parameters
        ----------
        items : sequence of tuple of bytes and sequence of bytes-like
            Keys and values, each value in one or more parts.

        Returns
        -------
        int
            How many of the items are there now, with those that were there before.

        Raises
        ------
        TierError
            The store cannot be written.
        InvalidArgumentError
            An item is not a key with parts of bytes.
        InvalidTierError
            A key or a value has no bytes, or too many.
        """

    @abstractmethod
    def contains(self, keys: Sequence[bytes], /) -> int:
        """Return how many values are there, from the first key on, without a gap.

        Raises
        ------
        TierError
            The store cannot be read.
        InvalidArgumentError
            `keys` is not a sequence of bytes.
        InvalidTierError
            A key has no bytes or too many.
        """

    @abstractmethod
    def remove(self, keys: Sequence[bytes], /) -> int:
        """Remove values; return how many of them were there.

        Raises
        ------
        TierError
            The store cannot be written.
        InvalidArgumentError
            `keys` is not a sequence of bytes.
        InvalidTierError
            A key has no bytes or too many.
        """

    @abstractmethod
    def keys(self, prefix: bytes = b"", /) -> Iterator[bytes]:
        """Yield the keys that begin with some bytes, in any order.

        A value that is stored or removed meanwhile may or may not be among them.

        Raises
        ------
        TierError
            The store cannot be read; also from within the iteration.
        """

    @abstractmethod
    def stats(self) -> TierStats:
        """Return what the tier holds.

        Raises
        ------
        TierError
            The store cannot be read.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the store. What it holds stays there, if it outlives the process.

        Waits for calls of other threads. Every later call but `close` raises `TierError`.
        """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


@dataclass(frozen=True, slots=True)
class TierFactory:
    """The description of a kind of tiers, which its plugin returns.

    Parameters
    ----------
    open : callable
        ``open(url, **options) -> Tier``. `url` is the URL without its options, and these are
        keyword arguments of type `str`. Raises `InvalidTierError` for what it does not accept,
        and `TierError` if the store is not to be had.
    summary : str
        One line for people who choose a tier.
    options : mapping of str to str
        What each option means.
    modules : tuple of str, optional
        Names of the modules that `open` imports and that may not be installed.
    extra : str, optional
        What installs them, for example ``"kvpool[redis]"``.
    """

    open: Callable[..., Tier]
    summary: str
    options: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    extra: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether the modules are there. Only the packages around them are imported for that."""
        return _optional_imports.are_installed(*self.modules)


def check_keys(keys: Any) -> None:
    """Raise unless all keys are such as a tier takes.

    Parameters
    ----------
    keys : sequence of bytes

    Raises
    ------
    InvalidArgumentError
        `keys` is one key, or one of them is not of the type `bytes`.
    InvalidTierError
        A key has no bytes or too many.
    """
    if isinstance(keys, bytes | str):
        raise InvalidArgumentError(f"keys must be a sequence of bytes, not {keys!r}")
    for key in keys:
        if not isinstance(key, bytes):
            raise InvalidArgumentError(f"a key must be bytes, not {key!r}")
        if not 1 <= len(key) <= MAX_KEY_BYTES:
            raise InvalidTierError(
                f"a key has 1 to {MAX_KEY_BYTES} bytes, not the {len(key)} of {key[:32]!r}"
            )


def check_items(items: Any) -> list[tuple[bytes, list[memoryview], int]]:
    """Return keys, the parts of each value as bytes, and the size of each value.

    Parameters
    ----------
    items : sequence of tuple of bytes and sequence of bytes-like

    Raises
    ------
    InvalidArgumentError
        An item is not a key with parts of bytes.
    InvalidTierError
        A key has no bytes or too many, or a value has none.
    """
    checked = []
    for item in items:
        try:
            key, parts = item
            views = [memoryview(part).cast("B") for part in parts]
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(
                f"an item must be a key and the parts of a value: {error}"
            ) from None
        check_keys((key,))
        nbytes = sum(view.nbytes for view in views)
        if not nbytes:
            raise InvalidTierError(f"the value of {key[:32]!r} has no bytes")
        checked.append((key, views, nbytes))
    return checked
