"""`ObjectTier`: values as objects in a bucket, or as files. Needs ``kvpool[objects]``."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError
from obstore.store import LocalStore, from_url

from kvpool.errors import InvalidTierError, TierError
from kvpool.tiers._base import Item, Tier, TierStats, check_items, check_keys
from kvpool.tiers._options import positive_option
from kvpool.tiers._registry import path_of
from kvpool.tiers._remote import RemoteTier

__all__ = ["ObjectTier", "object_path", "open_url"]

_SUFFIX: Final = ".kv"
_COMPONENT: Final = 128  # characters of a path component; a file system takes 255
# What the client raises: its own errors, and those of the language for files and arguments.
_FAILURES: Final = (BaseError, OSError, ValueError)

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class ObjectTier(RemoteTier):
    """Keeps values as objects of a store, one for each key.

    Parameters
    ----------
    store : obstore.store.ObjectStore
    name : str
        See `kvpool.tiers.Tier.name`.
    requests : int
        Requests at the same time.
    patience : float
        Seconds that `close` waits for calls of other threads.
    folder : Path, optional
        The directory whose files the objects are. A symbolic link in it is not followed: a call for
        a value behind one raises `TierError`, and `keys` leaves it out.

    Notes
    -----
    *Room.* A bucket has no limit that the tier knows of. Let the service remove old objects, by a
    rule for their lifetime.

    *Names.* The name of an object is the key in hexadecimal digits, see `object_path`.

    *First value.* A value is created only if its object is not there, in one request where the
    service can. Otherwise it is written again; two values of a key are the same value.
    """

    def __init__(
        self,
        store: Any,
        name: str,
        requests: int,
        patience: float,
        folder: Path | None = None,
    ) -> None:
        super().__init__(name, patience)
        self._store = store
        self._folder = folder
        self._threads = ThreadPoolExecutor(requests, thread_name_prefix="kvpool-objects")
        self._creates = True  # until the service says that it cannot

    @contextmanager
    def read(self, keys: Sequence[bytes], /) -> Iterator[Sequence[memoryview | None]]:
        """Return the values of some keys, for a ``with`` block; see `Tier.read`."""
        check_keys(keys)
        yield self._each("read", self._get, self._paths_of(keys))

    def write(self, items: Sequence[Item], /) -> int:
        """Store values, and return how many of them are there now; see `Tier.write`."""
        first: dict[bytes, list[memoryview]] = {}
        checked = check_items(items)
        for key, parts, _ in checked:
            first.setdefault(key, parts)
        paths = self._paths_of(list(first))
        self._each("store", self._put, list(zip(paths, first.values(), strict=True)))
        return len(checked)

    def contains(self, keys: Sequence[bytes], /) -> int:
        """Return how many values are there, from the first key on; see `Tier.contains`."""
        check_keys(keys)
        found = self._each("look for", self._is_there, self._paths_of(keys))
        return next((at for at, there in enumerate(found) if not there), len(keys))

    def remove(self, keys: Sequence[bytes], /) -> int:
        """Remove values; return how many of them were there."""
        check_keys(keys)
        paths = self._paths_of(list(dict.fromkeys(keys)))
        return sum(self._each("remove", self._delete, paths))

    def keys(self, prefix: bytes = b"", /) -> Iterator[bytes]:
        """Yield the keys that begin with some bytes; see `Tier.keys`."""
        self._check_open()
        return self._list(prefix)

    def stats(self) -> TierStats:
        """Return that the store does not tell what it holds; `keys` counts values."""
        self._check_open()
        return TierStats(values=None, nbytes=None, capacity=None)

    def _disconnect(self) -> None:
        self._threads.shutdown()

    # -- requests ------------------------------------------------------------------------

    def _get(self, path: str) -> memoryview | None:
        try:
            return memoryview(obstore.get(self._store, path).bytes())
        except FileNotFoundError:
            return None

    def _put(self, item: tuple[str, list[memoryview]]) -> None:
        path, parts = item
        value = parts[0] if len(parts) == 1 else b"".join(parts)
        if self._creates:
            try:
                obstore.put(self._store, path, value, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return
            except NotSupportedError:
                self._creates = False
            else:
                return
        if not self._is_there(path):
            obstore.put(self._store, path, value, use_multipart=False)

    def _is_there(self, path: str) -> bool:
        try:
            obstore.head(self._store, path)
        except FileNotFoundError:
            return False
        return True

    def _delete(self, path: str) -> bool:
        if not self._is_there(path):
            return False
        try:
            obstore.delete(self._store, path)
        except FileNotFoundError:  # another process was faster
            return False
        return True

    def _paths_of(self, keys: Sequence[bytes]) -> list[str]:
        """Return the paths of the objects of some keys.

        All of them are looked at in the thread of the caller, and each directory once: threads that
        make a request each would wait for one another at every look.

        Raises
        ------
        TierError
            A symbolic link stands where a file or a directory of it would.
        """
        paths, seen = [object_path(key) for key in keys], set[str]()
        for path in paths:
            if (link := self._link_to(path, seen)) is not None:
                raise TierError(f"the tier {self._name!r} is not used: {link} is a symbolic link")
        return paths

    def _link_to(self, path: str, seen: set[str]) -> Path | None:
        """Return the symbolic link that leads to a file, if there is one.

        Parameters
        ----------
        path : str
            From `object_path`.
        seen : set of str
            Places that are not links. Those that are looked at are added.
        """
        if self._folder is None:
            return None
        place = str(self._folder)  # text, because a `Path` for each place costs more than the look
        for part in ("", *path.split("/")):
            place = f"{place}/{part}" if part else place
            if place in seen:
                continue
            try:
                is_link = stat.S_ISLNK(os.lstat(place).st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return None  # and so nothing behind it is there
            if is_link:
                return Path(place)
            seen.add(place)
        return None

    def _list(self, prefix: bytes) -> Iterator[bytes]:
        folder = None  # the directory of all keys that are longer than the prefix
        if len(prefix) == 2:  # the namespace of a chunk or of a session
            folder = prefix.hex()
            with self._asking("list keys"):
                is_key = self._is_there(*self._paths_of([prefix]))
            if is_key:
                yield prefix
        elif len(prefix) > 2:
            folder = object_path(prefix)[: -len(_SUFFIX)].rpartition("/")[0]
        pages = obstore.list(self._store, prefix=folder)
        while True:
            with self._asking("list keys"):
                page = next(iter(pages), None)
            if page is None:
                return
            seen = set[str]()
            for found in page:
                path, key = found["path"], _key_of(found["path"])
                if key is None or not key.startswith(prefix):
                    continue
                if self._link_to(path, seen) is None:
                    yield key

    def _each(self, what: str, act: Callable[[_In], _Out], arguments: Sequence[_In]) -> list[_Out]:
        """Make a request for each argument, several at the same time; return the answers."""
        with self._asking(f"{what} {len(arguments)} values"):
            if len(arguments) == 1:
                return [act(arguments[0])]
            return list(self._threads.map(act, arguments))

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        with self._call():
            try:
                yield
            except _FAILURES as error:
                reason = str(error).partition("\n")[0]  # what follows is for who debugs the client
                raise TierError(f"the tier {self._name!r} could not {what}: {reason}") from error


def object_path(key: bytes) -> str:
    """Return the path of the object of a key.

    It is the key in hexadecimal digits, with a slash after the first 2 and the first 3 bytes and
    after each further 64, and ``.kv`` at the end: ``632f/0f/….kv`` is that of a chunk.

    Examples
    --------
    >>> object_path(b"c/key")
    '632f/6b/6579.kv'
    """
    digits = key.hex()
    parts = [digits[:4], digits[4:6]]
    parts += [digits[at : at + _COMPONENT] for at in range(6, len(digits), _COMPONENT)]
    return "/".join(part for part in parts if part) + _SUFFIX


def _key_of(path: str) -> bytes | None:
    """Return the key whose object has this path; None if it is that of something else."""
    if not path.endswith(_SUFFIX):
        return None
    try:
        key = bytes.fromhex(path[: -len(_SUFFIX)].replace("/", ""))
    except ValueError:
        return None
    return key if object_path(key) == path else None


def open_url(
    url: str,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    timeout: str | None = None,
    requests: str = "16",
) -> Tier:
    """Open a tier for a URL ``s3://bucket/prefix`` or ``file:/path``, and its options.

    Raises
    ------
    InvalidTierError
        The URL or an option is not valid.
    TierError
        The directory cannot be made.
    """
    split = urlsplit(url)
    seconds = positive_option("timeout", timeout, 5.0) or 5.0
    if not (requests.isascii() and requests.isdigit() and 1 <= int(requests) <= 1024):
        raise InvalidTierError(
            f"the option 'requests' must be a whole number from 1 to 1024, not {requests!r}"
        )
    if "@" in split.netloc:
        host = split.netloc.rpartition("@")[2]
        raise InvalidTierError(
            f"the URL of {split.scheme}://{host} has a name or a password in it; "
            "set the environment variables of the service instead"
        )
    try:
        store = (
            _local(url, endpoint, region)
            if split.scheme == "file"
            else _bucket(url, endpoint, region, seconds)
        )
    except BaseError as error:
        reason = str(error).partition("\n")[0]
        raise InvalidTierError(f"the tier {url!r} could not be opened: {reason}") from error
    except OSError as error:
        raise TierError(f"the tier {url!r} could not be opened: {error}") from error
    folder = path_of(url) if split.scheme == "file" else None
    return ObjectTier(store, url, int(requests), 2 * seconds, folder)


def _local(url: str, endpoint: str | None, region: str | None) -> Any:
    for name, value in ("endpoint", endpoint), ("region", region):
        if value is not None:
            raise InvalidTierError(f"the option {name!r} is for buckets, not for {url!r}")
    path = path_of(url)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        raise InvalidTierError(f"{path} is a symbolic link; name the directory itself")
    # The client makes files as the umask says, so the directory has to keep others out.
    if sys.platform != "win32" and mode & 0o077:
        raise InvalidTierError(
            f"{path} can be used by others than its owner (mode {stat.S_IMODE(mode):o}); "
            f"take that right away with: chmod 700 {path}"
        )
    return LocalStore(path)


def _bucket(url: str, endpoint: str | None, region: str | None, seconds: float) -> Any:
    span = timedelta(seconds=seconds)
    given = {"endpoint": endpoint, "region": region}
    config: Any = {name: value for name, value in given.items() if value is not None}
    client: Any = {"timeout": span, "connect_timeout": span}
    if endpoint is not None and endpoint.startswith("http://"):
        client["allow_http"] = True
    # The caller decides whether to try again: its time for a call is short.
    retries: Any = {"max_retries": 1, "retry_timeout": span}
    return from_url(url, client_options=client, retry_config=retries, config=config)
