"""`MooncakeTier`: values in the store of a Mooncake cluster. Needs ``kvpool[mooncake]``."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import urlopen

from mooncake.store import MooncakeDistributedStore

from kvpool._sizes import parse_size
from kvpool.errors import InvalidTierError, TierError
from kvpool.tiers._base import Item, Tier, TierStats, check_items, check_keys
from kvpool.tiers._remote import RemoteTier

__all__ = ["MooncakeTier", "open_url"]

# Error codes of the client.
_NO_ROOM: Final = frozenset({-200, -600})  # no segment has room; the value is too large
_MISSING: Final = -704
_BUSY: Final = frozenset({-703, -706})  # it is being written; it is leased to who has read it

_Values = dict[str, list[memoryview]]  # the parts of each, by name

_SECONDS: Final = 5.0
_LEASE_SECONDS: Final = 8.0  # somewhat more than the master leases a value for, by default
_RETRY_SECONDS: Final = 0.05


class MooncakeTier(RemoteTier):
    """Keeps values in the store of a Mooncake cluster.

    Parameters
    ----------
    store : mooncake.store.MooncakeDistributedStore
        Set up. It belongs to the tier, which closes it.
    name : str
        See `kvpool.tiers.Tier.name`.
    prefix : str
        What the names of all keys begin with, so that others can use the same cluster. The rest
        of a name is the key in hexadecimal digits.
    admin : str or None
        Host and port of the HTTP service of the master, which lists keys.

    Notes
    -----
    *Room* is the cluster's. It evicts by itself; what it refuses is counted.

    *Removal* waits until a value was not read for some seconds, as the master's lease says.

    *Views* show the client's buffer for what is under way, as long as that has room.
    """

    def __init__(self, store: Any, name: str, prefix: str, admin: str | None) -> None:
        super().__init__(name, 2 * _SECONDS)
        self._store = store
        self._prefix = prefix
        self._admin = admin

    @contextmanager
    def read(self, keys: Sequence[bytes], /) -> Iterator[Sequence[memoryview | None]]:
        """Return the values of some keys, for a ``with`` block; see `Tier.read`."""
        check_keys(keys)
        names = self._names(keys)
        # The client gives wrong bytes for a name that is asked for twice.
        found = dict(zip(once := list(dict.fromkeys(names)), self._read(once), strict=True))
        yield [found[name] for name in names]

    def _read(self, names: list[str]) -> list[memoryview | None]:
        if not names:
            self._check_open()
            return []
        with self._call():
            found: list[Any] = self._store.batch_get_buffer(names)
        missing = [at for at, buffer in enumerate(found) if buffer is None]
        there = self._exist("read", [names[at] for at in missing]) if missing else []
        if any(there):  # the client's buffer has no room for all: take each out before the next
            found = [None if buffer is None else bytes(buffer) for buffer in found]
            for at, is_there in zip(missing, there, strict=True):
                if is_there:
                    with self._call():
                        found[at] = self._store.get(names[at]) or None
        return [
            None if buffer is None else memoryview(buffer).cast("B").toreadonly()
            for buffer in found
        ]

    def write(self, items: Sequence[Item], /) -> int:
        """Store values, and return how many of them are there now; see `Tier.write`."""
        checked = check_items(items)
        names = self._names([key for key, _, _ in checked])
        values: _Values = {}
        for name, (_, parts, _) in zip(names, checked, strict=True):
            values.setdefault(name, parts)
        lacking = self._lacking(values)
        if lacking and not self._put_together(lacking):
            # Some have no room. Which ones, only a call for each can tell.
            refused = self._put_each(self._lacking(lacking))
            self._count_refused(len(refused))
            return sum(name not in refused for name in names)
        return len(checked)

    def _lacking(self, values: _Values) -> _Values:
        """Return the values that the cluster does not have."""
        there = self._exist("look for", list(values))
        return {name: values[name] for name, has in zip(values, there, strict=True) if not has}

    def _put_together(self, values: _Values) -> bool:
        """Store values in one call; return False if one of them at least is not there."""
        joined = [parts[0] if len(parts) == 1 else b"".join(parts) for parts in values.values()]
        with self._call():
            return bool(self._store.put_batch(list(values), joined) == 0)

    def _put_each(self, values: _Values) -> set[str]:
        """Store values one by one; return the names of those that have no room."""
        refused = set()
        for name, parts in values.items():
            with self._call():
                code = self._store.put_parts(name, *parts)
            if code in _NO_ROOM:
                refused.add(name)
            elif code:
                raise self._error("store a value", code)
        return refused

    def contains(self, keys: Sequence[bytes], /) -> int:
        """Return how many values are there, from the first key on; see `Tier.contains`."""
        check_keys(keys)
        there = self._exist("look for", self._names(keys))
        return next((at for at, is_there in enumerate(there) if not is_there), len(keys))

    def remove(self, keys: Sequence[bytes], /) -> int:
        """Remove values; return how many of them were there."""
        check_keys(keys)
        removed = sum([self._remove(name) for name in self._names(keys)])
        self._check_open()
        return removed

    def _remove(self, name: str) -> bool:
        """Remove a value, once it is not read or written; return whether it was there.

        The cluster leases a value to who reads it, for some seconds. A removal by force would let
        the reader see the bytes of another value.
        """
        until = time.monotonic() + _LEASE_SECONDS
        while True:
            with self._call():
                code = self._store.remove(name)
            if code in (0, _MISSING):
                return bool(code == 0)
            if code not in _BUSY or time.monotonic() > until:
                raise self._error("remove a value", code)
            time.sleep(_RETRY_SECONDS)

    def keys(self, prefix: bytes = b"", /) -> Iterator[bytes]:
        """Return an iterator of the keys that begin with some bytes; see `Tier.keys`.

        Raises
        ------
        TierError
            The tier was opened without `admin`, or the HTTP service of the master does not answer.
        """
        with self._call():
            if self._admin is None:
                raise TierError(
                    f"the tier {self._name!r} could not list keys: open it with the option "
                    "'admin', the host and port of the master's HTTP service"
                )
            try:
                with urlopen(f"http://{self._admin}/get_all_keys", timeout=_SECONDS) as answer:
                    names = answer.read().decode().split("\n")
            except (OSError, ValueError) as error:
                raise TierError(f"the tier {self._name!r} could not list keys: {error}") from error
        keys = [self._key(name) for name in names]
        return iter([key for key in keys if key is not None and key.startswith(prefix)])

    def stats(self) -> TierStats:
        """Return what was refused; the cluster does not tell what it holds for one client."""
        self._check_open()
        return TierStats(values=None, nbytes=None, capacity=None, refused=self._refused)

    def _disconnect(self) -> None:
        self._store.close()

    def _names(self, keys: Sequence[bytes]) -> list[str]:
        return [self._prefix + key.hex() for key in keys]

    def _key(self, name: str) -> bytes | None:
        """Return the key that a name is of; None if it is of something else."""
        try:
            return bytes.fromhex(name.removeprefix(self._prefix)) if self._is_own(name) else None
        except ValueError:
            return None

    def _is_own(self, name: str) -> bool:
        return name.startswith(self._prefix) and len(name) > len(self._prefix)

    def _exist(self, what: str, names: list[str]) -> list[bool]:
        with self._call():
            codes = self._store.batch_is_exist(names) if names else []
        if failed := [code for code in codes if code < 0]:
            raise self._error(f"{what} {len(names)} values", failed[0])
        return [code == 1 for code in codes]

    def _error(self, what: str, code: int) -> TierError:
        return TierError(f"the tier {self._name!r} could not {what}: error {code} of the client")


def open_url(
    url: str,
    *,
    metadata: str = "P2PHANDSHAKE",
    host: str = "127.0.0.1",
    segment: str = "0",
    buffer: str = "64MiB",
    protocol: str = "tcp",
    devices: str = "",
    admin: str | None = None,
    prefix: str = "kvpool-",
) -> Tier:
    """Open a tier for a URL ``mooncake://host:port`` of a master, and its options.

    Raises
    ------
    InvalidTierError
        The URL or an option is not valid.
    TierError
        The master does not answer.
    """
    split = urlsplit(url)
    try:
        port = split.port
    except ValueError as error:
        raise InvalidTierError(f"{url!r} is not the URL of a master: {error}") from None
    if not split.hostname or port is None or split.path.strip("/"):
        raise InvalidTierError(f"a tier is named as in mooncake://host:50051, unlike {url!r}")
    if protocol not in ("tcp", "rdma"):
        raise InvalidTierError(f"the option 'protocol' must be 'tcp' or 'rdma', not {protocol!r}")
    given, under_way = (parse_size(text, InvalidTierError) for text in (segment, buffer))
    try:  # the client would wait for a minute and a half
        socket.create_connection((split.hostname, port), timeout=_SECONDS).close()
    except OSError as error:
        raise TierError(f"the tier {url!r} could not be opened: {error}") from error
    store = MooncakeDistributedStore()
    master = f"{split.hostname}:{port}"
    code = store.setup(host, metadata, given, under_way, protocol, devices, master)
    if code:
        raise TierError(f"the tier {url!r} could not be opened: error {code} of the client")
    return MooncakeTier(store, f"mooncake://{master}", prefix, admin)
