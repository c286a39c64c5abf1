"""The tier ``disk``: values in an LMDB database in a directory of this machine."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

from kvpool._checks import byte_count, check_flag
from kvpool._process import ForkAware, forget_forks, watch_forks
from kvpool.errors import InvalidTierError, TierError
from kvpool.hookspecs import hookimpl
from kvpool.tiers._base import Item, Tier, TierFactory, TierStats, check_items, check_keys
from kvpool.tiers._lmdb import Database, FullError
from kvpool.tiers._options import flag_option
from kvpool.tiers._registry import capacity_option, path_of

__all__ = ["DEFAULT_CAPACITY", "MIN_CAPACITY", "DiskTier", "Durability", "kvpool_tier"]

Durability = Literal["disk", "system"]
"""What a value that was written survives: "disk" the machine, "system" the process."""

DEFAULT_CAPACITY: Final = 10 << 30
"""Bytes."""
MIN_CAPACITY: Final = 1 << 20
"""Bytes."""

_SPARE: Final = 8  # one of this many parts of the file stays free: freed pages rest for two commits
_BATCH: Final = 32  # a transaction writes at most one of this many parts …
_MAX_BATCH: Final = 64 << 20  # … and no more than this, because it is in memory until the commit
_LARGEST: Final = 4  # a value is at most one of this many parts: its pages have to be in a row
_MAX_VALUE: Final = (1 << 32) - 1  # of LMDB
_PER_VALUE: Final = 1 << 10  # bytes beside a value, at most, until it is counted by its pages
_PAGE: Final = 4096
_NOTED_USES: Final = 1 << 16
_USES_PER_WRITE: Final = 1 << 12
_KEYS_AT_ONCE: Final = 256
_EVICTED_AT_ONCE: Final = 1 << 10
_TRIES: Final = 6
_PAUSE: Final = 0.005  # seconds; doubled with each try

_log = logging.getLogger("kvpool.tiers")

_Batch = list[tuple[bytes, list[memoryview], int]]


class DiskTier(Tier, ForkAware):
    """Keeps values in one file, and evicts the least recently used ones when it is full.

    Parameters
    ----------
    path : path
        The directory of the store. It is created for its owner only if it is missing.
    capacity : int, default 10 GiB
        The most bytes of the file, at least 1 MiB. An eighth of it stays free, so that pages that
        are freed can rest until no reader sees them.
    durability : {"disk", "system"}
        What a value that was written survives. "disk": a loss of power; each write waits for
        the disk. "system", the default: the end of the process, however it ends.
    readonly : bool, default False
        Whether nothing is written: then every new value is refused, and a use of a value does not
        keep it from being evicted by a process that writes.
    check : bool, default True
        Whether the structure of the file is checked when the first process opens it, which takes
        about 0.3 seconds for each GiB. A file that is damaged is set aside, and the store begins
        empty.

    Raises
    ------
    TierError
        The directory or the file cannot be used; the text says why.
    InvalidTierError
        `durability` is not one of the two.
    InvalidSizeError
        `capacity` is not a whole number of at least 1 MiB.

    Notes
    -----
    *Processes.* Any number of processes may read and write the same directory. If their
    capacities differ, the one with the smallest evicts down to it when it writes. A process can
    open a directory once.

    *Uses* are noted in memory and written with the next values, and on closing, so reading stays
    free of writes. A process that is killed forgets a few.
    """

    def __init__(
        self,
        path: Path | str,
        capacity: int = DEFAULT_CAPACITY,
        *,
        durability: Durability = "system",
        readonly: bool = False,
        check: bool = True,
    ) -> None:
        self._capacity = byte_count("capacity", capacity, least=MIN_CAPACITY) // _PAGE * _PAGE
        if durability not in {"disk", "system"}:
            raise InvalidTierError(f"durability must be 'disk' or 'system', not {durability!r}")
        check_flag("readonly", readonly)
        check_flag("check", check)
        self._is_readonly = readonly
        self._evicted = self._refused = 0
        self._is_short = False  # whether the last value found no page
        self._noted: dict[bytes, None] = {}  # used since the last write, the earliest first
        self._lock = threading.Lock()  # guards the attributes above
        self._closing = threading.Lock()
        self._store = Database(
            Path(path), self._capacity, sync=durability == "disk", readonly=readonly, check=check
        )
        watch_forks(weakref.ref(self, forget_forks))

    def _enter_child(self) -> None:
        self._lock, self._closing = threading.Lock(), threading.Lock()
        self._store.enter_child()

    @property
    def name(self) -> str:
        """What messages and tables call the tier."""
        return f"disk:{self._store.path}"

    @property
    def is_readonly(self) -> bool:
        """Whether nothing is written."""
        return self._is_readonly

    # -- reading -----------------------------------------------------------------------------

    @property
    def evictions(self) -> int:
        """How many values this object has evicted to make room."""
        return self._evicted

    @contextmanager
    def read(self, keys: Sequence[bytes], /) -> Iterator[Sequence[memoryview | None]]:
        """Return the values of some keys, for a ``with`` block; see `Tier.read`.

        They are shown where they lie in the mapped file: nothing is copied.
        """
        check_keys(keys)
        store = self._store
        with store.transaction("read") as txn:
            views: list[memoryview | None] = []
            try:
                with store.errors("read"):
                    views += [txn.get(key, db=store.values) for key in keys]
                self._note(key for key, view in zip(keys, views, strict=True) if view is not None)
                yield views
            finally:
                _release(view for view in views if view is not None)

    def contains(self, keys: Sequence[bytes], /) -> int:
        """Return how many values are there, from the first key on; see `Tier.contains`."""
        check_keys(keys)
        store = self._store
        with store.transaction("read") as txn, store.errors("read"):
            return next(
                (at for at, key in enumerate(keys) if txn.get(key, db=store.values) is None),
                len(keys),
            )

    def keys(self, prefix: bytes = b"", /) -> Iterator[bytes]:
        """Yield the keys that begin with some bytes, in their order."""
        start = prefix
        while page := self._page_of_keys(start, prefix):
            yield from page
            start = page[-1] + b"\0"  # the next key that there can be

    def _page_of_keys(self, start: bytes, prefix: bytes) -> list[bytes]:
        """Return the next keys; no transaction stays open while the caller looks at them."""
        store, found = self._store, list[bytes]()
        what = "list keys"
        with (
            store.transaction(what) as txn,
            store.errors(what),
            txn.cursor(store.uses) as cursor,
        ):
            if cursor.set_range(start) if start else cursor.first():
                for view in cursor.iternext(values=False):
                    key = bytes(view)
                    if len(found) == _KEYS_AT_ONCE or not key.startswith(prefix):
                        break
                    found.append(key)
        return found

    def stats(self) -> TierStats:
        """Return what the tier holds."""
        store = self._store
        what = "count values"
        with store.transaction(what) as txn, store.errors(what):
            values, nbytes = txn.stat(store.values)["entries"], store.used(txn)
        with self._lock:
            return TierStats(values, nbytes, self._capacity, self._evicted, self._refused)

    # -- writing -----------------------------------------------------------------------------

    def write(self, items: Sequence[Item], /) -> int:
        """Store values, and return how many of them are there now; see `Tier.write`."""
        checked = check_items(items)
        if self._is_readonly:
            return self._refuse(checked)
        return sum(map(self._write_batch, self._batches(checked)))

    def _refuse(self, items: _Batch) -> int:
        """Return how many of some values are there, and count the others."""
        there = sum(self.contains([key]) for key, _, _ in items)
        with self._lock:
            self._refused += len(items) - there
        return there

    def _batches(self, items: _Batch) -> Iterator[_Batch]:
        """Yield items in batches that one transaction writes."""
        most = min(_MAX_BATCH, self._capacity // _BATCH)
        batch: _Batch = []
        nbytes = 0
        for item in items:
            if batch and nbytes + item[2] > most:
                yield batch
                batch, nbytes = [], 0
            batch.append(item)
            nbytes += item[2]
        if batch:
            yield batch

    def _write_batch(self, batch: _Batch) -> int:
        """Store values in one transaction; after a lack of free pages in one after the other."""
        try:
            return self._try_batch(batch)
        except FullError as full:
            if len(batch) > 1:
                return sum(self._write_batch([item]) for item in batch)
            shortage = full
        for _ in self._retries(batch[0][2]):
            try:
                return self._try_batch(batch)
            except FullError as full:
                shortage = full
        with self._lock:
            self._refused += 1
            is_new, self._is_short = not self._is_short, True
        if is_new:
            _log.warning("tier %s: takes nothing more for now: %s", self.name, shortage)
        return 0

    def _retries(self, nbytes: int) -> Iterator[int]:
        """Free more and more bytes, and wait a moment for readers; give the number of each try.

        While the tier is short of pages, one try is enough: the next values would only wait for
        the same readers.
        """
        for number in range(1 if self._is_short else _TRIES):
            self._evict_more(nbytes << number)
            time.sleep(0.0 if self._is_short else _PAUSE * 2**number)
            yield number

    def _try_batch(self, batch: _Batch) -> int:
        """Store values in one transaction.

        Raises
        ------
        FullError
            There are not enough free pages in a row. Nothing has changed.
        """
        store, noted = self._store, self._take_noted()
        largest = min(self._capacity // _LARGEST, _MAX_VALUE)
        there = evicted = refused = 0
        try:
            with store.writing("write") as txn:
                clock = _Clock(store, txn)
                clock.note_uses(noted)
                for key, parts, nbytes in batch:
                    if txn.get(key, db=store.values) is not None:
                        clock.note_uses([key])
                        there += 1
                    elif nbytes > largest:
                        refused += 1
                    else:
                        evicted += self._make_room(txn, nbytes)
                        value = parts[0] if len(parts) == 1 else b"".join(parts)
                        txn.put(key, value, db=store.values)
                        clock.forget(key)  # a damaged page may have lost its value alone
                        clock.add(key)
                        there += 1
        except BaseException:
            self._note(noted)
            raise
        with self._lock:
            self._evicted += evicted
            self._refused += refused
            was_short, self._is_short = self._is_short, False
        if was_short:
            _log.warning("tier %s: takes values again", self.name)
        return there

    def _make_room(self, txn: Any, nbytes: int) -> int:
        """Evict until a value of this size fits into the budget; return how many were evicted."""
        budget = self._capacity - self._capacity // _SPARE - nbytes - _PER_VALUE - 2 * _PAGE
        return _evict_to(self._store, txn, budget)

    def _evict_more(self, nbytes: int) -> None:
        """Free this many bytes in a transaction of its own, and have them become usable."""
        store = self._store
        try:
            with store.writing("evict") as txn:
                evicted = _evict_to(store, txn, store.used(txn) - nbytes)
            store.let_pages_go()
        except FullError:  # not even a page for that; the next try may find some
            return
        with self._lock:
            self._evicted += evicted

    def remove(self, keys: Sequence[bytes], /) -> int:
        """Remove values; return how many of them were there.

        Raises
        ------
        TierError
            The store cannot be written, or was opened for reading alone.
        """
        check_keys(keys)
        if self._is_readonly:
            raise TierError(f"{self.name!r} is open for reading alone: nothing can be removed")
        store = self._store
        if not keys:
            store.check_open()
            return 0
        retries = self._retries(_PAGE)
        while True:
            try:
                with store.writing("remove values") as txn:
                    return sum(_remove(store, txn, key) for key in keys)
            except FullError as full:
                if next(retries, None) is None:
                    raise TierError(f"cannot remove values from {self.name!r}: {full}") from full

    # -- uses --------------------------------------------------------------------------------

    def _note(self, keys: Iterator[bytes] | Sequence[bytes]) -> None:
        """Note that values were used."""
        with self._lock:
            for key in keys:
                self._noted.pop(key, None)
                self._noted[key] = None
            for key in list(islice(self._noted, max(len(self._noted) - _NOTED_USES, 0))):
                del self._noted[key]

    def _take_noted(self) -> list[bytes]:
        """Return some noted uses, the earliest first, and forget them."""
        with self._lock:
            taken = [key for key, _ in zip(self._noted, range(_USES_PER_WRITE), strict=False)]
            for key in taken:
                del self._noted[key]
            return taken

    # -- the whole store ---------------------------------------------------------------------

    def evict(self, nbytes: int) -> int:
        """Evict the least recently used values until the others take at most this many bytes.

        The file keeps its size; see `compact`.

        Parameters
        ----------
        nbytes : int
            At least 0.

        Returns
        -------
        int
            How many values were evicted.

        Raises
        ------
        TierError
            The store cannot be written, or was opened for reading alone.
        InvalidSizeError
            `nbytes` is not a whole number of at least 0.
        """
        nbytes = byte_count("nbytes", nbytes, least=0)
        if self._is_readonly:
            raise TierError(f"{self.name!r} is open for reading alone: nothing can be evicted")
        store, evicted = self._store, 0
        while True:
            try:
                with store.writing("evict") as txn:
                    count = _evict_to(store, txn, nbytes, _EVICTED_AT_ONCE)
            except FullError as full:
                raise TierError(f"cannot evict from {self.name!r}: {full}") from full
            with self._lock:
                self._evicted += count
            evicted += count
            if count < _EVICTED_AT_ONCE:
                return evicted

    def compact(self) -> tuple[int, int]:
        """Make the file as small as its values; return its bytes before and after.

        Raises
        ------
        TierError
            Another process or thread uses the store, it was opened for reading alone, or the disk
            has no room for the new file beside the old one.
        """
        return self._store.compact()

    def close(self) -> None:
        """Close the store, once all ``with`` blocks of `read` have ended."""
        with self._closing:
            try:
                if self._store.is_usable:
                    self._write_noted()
                    self._store.sync()
            finally:
                self._store.close()

    def _write_noted(self) -> None:
        """Write all noted uses, as far as there are pages for that."""
        if self._is_readonly:
            return
        with contextlib.suppress(FullError, TierError):  # they only say what to evict
            for noted in iter(self._take_noted, []):
                with self._store.writing("note uses") as txn:
                    _Clock(self._store, txn).note_uses(noted)


class _Clock:
    """The order of uses, in one transaction: a number for each value, higher for a later use."""

    def __init__(self, store: Database, txn: Any) -> None:
        self._store, self._txn = store, txn
        with txn.cursor(store.order) as cursor:
            self._now = int.from_bytes(cursor.key(), "big") if cursor.last() else 0

    def add(self, key: bytes) -> None:
        """Count a new value as used now."""
        self._now += 1
        number = self._now.to_bytes(8, "big")
        self._txn.put(number, key, db=self._store.order)
        self._txn.put(key, number, db=self._store.uses)

    def note_uses(self, keys: Sequence[bytes]) -> None:
        """Count values as used now, if they are there."""
        for key in keys:
            if self.forget(key):
                self.add(key)

    def forget(self, key: bytes) -> bool:
        """Forget when a value was used last; return whether that was known."""
        number = self._txn.get(key, db=self._store.uses)
        if number is None:
            return False
        self._txn.delete(bytes(number), db=self._store.order)
        self._txn.delete(key, db=self._store.uses)
        return True


def _release(views: Iterable[memoryview]) -> None:
    for view in views:
        with contextlib.suppress(BufferError):  # in a traceback, for example
            view.release()


def _evict_to(store: Database, txn: Any, nbytes: int, most: int = sys.maxsize) -> int:
    """Evict until at most this many bytes are used; return how many values were evicted."""
    evicted = 0
    while evicted < most and store.used(txn) > nbytes and _evict_oldest(store, txn):
        evicted += 1
    return evicted


def _evict_oldest(store: Database, txn: Any) -> bool:
    """Remove the value whose last use is the longest ago; return False if there is no value."""
    with txn.cursor(store.order) as cursor:
        if not cursor.first():
            return False
        number, key = bytes(cursor.key()), bytes(cursor.value())
    txn.delete(number, db=store.order)
    txn.delete(key, db=store.uses)
    txn.delete(key, db=store.values)
    return True


def _remove(store: Database, txn: Any, key: bytes) -> bool:
    """Remove a value; return whether it was there."""
    _Clock(store, txn).forget(key)
    return bool(txn.delete(key, db=store.values))


def _open(
    url: str,
    *,
    capacity: str | None = None,
    durability: str = "system",
    readonly: str = "no",
    check: str = "yes",
) -> Tier:
    """Open a tier for a URL such as ``disk:/path``."""
    if durability not in {"disk", "system"}:
        raise InvalidTierError(f"durability must be 'disk' or 'system', not {durability!r}")
    return DiskTier(
        path_of(url),
        capacity_option(capacity) or DEFAULT_CAPACITY,
        durability="disk" if durability == "disk" else "system",
        readonly=flag_option("readonly", readonly),
        check=flag_option("check", check),
    )


@hookimpl
def kvpool_tier() -> TierFactory:
    """Describe the tier to kvpool."""
    return TierFactory(
        open=_open,
        summary="an LMDB database in a directory of this machine",
        options={
            "capacity": "the most bytes of the file [default: 10GiB]",
            "durability": "what a write survives: system (the process, the default) or disk "
            "(a loss of power)",
            "readonly": "yes to write nothing [default: no]",
            "check": "no to trust the file without a look at its structure [default: yes]",
        },
    )
