"""`RedisTier`: values in a Valkey or Redis server, or in a cluster. Needs ``kvpool[redis]``."""

from __future__ import annotations

import math
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import ConnectionError as NotConnectedError
from redis.exceptions import OutOfMemoryError, RedisClusterException, RedisError
from redis.retry import Retry

from kvpool.errors import InvalidTierError, TierError
from kvpool.tiers._base import Item, Tier, TierStats, check_items, check_keys
from kvpool.tiers._options import flag_option, positive_option
from kvpool.tiers._remote import RemoteTier

__all__ = ["MAX_VALUE_BYTES", "RedisTier", "open_url"]

MAX_VALUE_BYTES: Final = 512 << 20
"""The most bytes that a server takes for one value."""

_BATCH_BYTES: Final = 16 << 20  # of values that are sent before an answer is awaited

_FAILURES: Final = (RedisError, RedisClusterException, OSError)

_Command = tuple[Any, ...]


class RedisTier(RemoteTier):
    """Keeps values in a Valkey or Redis server, or in a cluster of servers.

    Parameters
    ----------
    client : redis.Redis or redis.cluster.RedisCluster
        It belongs to the tier, which closes it.
    name : str
        See `kvpool.tiers.Tier.name`.
    prefix : bytes
        What the names of all keys begin with, so that others can use the same server.
    ttl : float, optional
        Seconds without a use after which the server removes a value. [default: it does not]
    capacity : int or None
        Bytes that the servers may take; None without a limit, or if they do not tell.
    patience : float
        Seconds that `close` waits for calls of other threads.

    Notes
    -----
    *Room* is the server's: its ``maxmemory`` and ``maxmemory-policy`` say what a full server does.
    What it refuses is counted; what it evicts is not, because others use it too.

    *Clusters.* If a node does not answer, the values that it has are missing, and what would go
    there is refused. If no node answers, that is an error.
    """

    def __init__(
        self,
        client: Redis | RedisCluster,
        name: str,
        prefix: bytes,
        ttl: float | None,
        capacity: int | None,
        patience: float,
    ) -> None:
        super().__init__(name, patience)
        self._capacity = capacity
        self._client: Any = client
        self._prefix = prefix
        self._ttl = None if ttl is None else max(math.ceil(ttl * 1000), 1)  # in milliseconds

    @contextmanager
    def read(self, keys: Sequence[bytes], /) -> Iterator[Sequence[memoryview | None]]:
        """Return the values of some keys, for a ``with`` block; see `Tier.read`."""
        check_keys(keys)
        get: _Command = ("GET",) if self._ttl is None else ("GETEX",)
        kept: _Command = () if self._ttl is None else ("PX", self._ttl)
        answers = self._ask("read", [(*get, self._prefix + key, *kept) for key in keys])
        yield [memoryview(answer) if isinstance(answer, bytes) else None for answer in answers]

    def write(self, items: Sequence[Item], /) -> int:
        """Store values, and return how many of them are there now; see `Tier.write`."""
        checked = check_items(items)
        for key, _, nbytes in checked:
            if nbytes > MAX_VALUE_BYTES:
                raise InvalidTierError(
                    f"the value of {key[:32]!r} has {nbytes} bytes; "
                    f"the tier {self._name!r} takes {MAX_VALUE_BYTES} at most"
                )
        look = ("EXISTS",) if self._ttl is None else ("PEXPIRE",)
        kept: _Command = () if self._ttl is None else (self._ttl,)
        found = self._ask("look for", [(*look, self._prefix + key, *kept) for key, _, _ in checked])
        count = sum(bool(answer == 1) for answer in found)
        batch: list[_Command] = []
        waiting = 0
        for (key, parts, nbytes), answer in zip(checked, found, strict=True):
            if answer == 1:
                continue
            batch.append(self._store(key, parts))
            waiting += nbytes
            if waiting >= _BATCH_BYTES:
                count += self._send(batch)
                batch, waiting = [], 0
        return count + self._send(batch)

    def _store(self, key: bytes, parts: list[memoryview]) -> _Command:
        value = parts[0] if len(parts) == 1 else b"".join(parts)
        kept: _Command = () if self._ttl is None else ("PX", self._ttl)
        return ("SET", self._prefix + key, value, "NX", *kept)

    def _send(self, batch: list[_Command]) -> int:
        """Store values; return how many are there, also those of others that came first."""
        answers = self._ask("store", batch, may_be_full=True)
        # The answer is None if the key is there already: another process came first.
        refused = sum(isinstance(answer, Exception) for answer in answers)
        self._count_refused(refused)
        return len(batch) - refused

    def contains(self, keys: Sequence[bytes], /) -> int:
        """Return how many values are there, from the first key on; see `Tier.contains`."""
        check_keys(keys)
        answers = self._ask("look for", [("EXISTS", self._prefix + key) for key in keys])
        return next((at for at, answer in enumerate(answers) if answer != 1), len(keys))

    def remove(self, keys: Sequence[bytes], /) -> int:
        """Remove values; return how many of them were there."""
        check_keys(keys)
        answers = self._ask("remove", [("UNLINK", self._prefix + key) for key in keys])
        return sum(bool(answer == 1) for answer in answers)

    def keys(self, prefix: bytes = b"", /) -> Iterator[bytes]:
        """Yield the keys that begin with some bytes; see `Tier.keys`."""
        self._check_open()
        return self._scan(prefix)

    def _scan(self, prefix: bytes) -> Iterator[bytes]:
        pattern = _escaped(self._prefix + prefix) + b"*"
        seen: set[bytes] = set()  # a server may tell a key more than once
        found = self._client.scan_iter(match=pattern, count=1000)
        while True:
            with self._asking("list keys", ()):
                name = next(found, None)
            if name is None:
                return
            if name not in seen:
                seen.add(name)
                yield name[len(self._prefix) :]

    def stats(self) -> TierStats:
        """Return the limit that the servers had when the tier was opened, and what was refused.

        The servers do not tell what they keep under one prefix; `keys` counts values.
        """
        self._check_open()
        return TierStats(values=None, nbytes=None, capacity=self._capacity, refused=self._refused)

    def _disconnect(self) -> None:
        self._client.close()

    # -- commands ------------------------------------------------------------------------

    def _ask(self, what: str, commands: list[_Command], *, may_be_full: bool = False) -> list[Any]:
        """Send commands together; return the answers, among them errors of single commands.

        Raises
        ------
        TierError
            The server does not answer, or an answer is an error; in a cluster, all of them are.
        """
        with self._asking(what, commands):
            if not commands:
                return []
            answers = self._together(commands)
        errors = [
            one
            for one in answers
            if isinstance(one, Exception)
            and not (may_be_full and isinstance(one, OutOfMemoryError))
        ]
        if errors and (not self._is_cluster or len(errors) == len(answers)):
            raise self._error(what, commands, errors[0]) from errors[0]
        return answers

    def _together(self, commands: list[_Command]) -> list[Any]:
        try:
            return self._pipelined(commands)
        except _FAILURES:
            if not self._is_cluster:
                raise
        # A node of the cluster does not answer, so those that do are asked one by one.
        answers: list[Any] = [None] * len(commands)
        places: dict[str, list[int]] = {}
        for place, command in enumerate(commands):
            node = self._client.get_node_from_key(command[1]).name
            places.setdefault(node, []).append(place)
        for node_places in places.values():
            try:
                found = self._pipelined([commands[place] for place in node_places])
            except _FAILURES as error:
                found = [error] * len(node_places)
            for place, answer in zip(node_places, found, strict=True):
                answers[place] = answer
        return answers

    def _pipelined(self, commands: list[_Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = pipeline.execute(raise_on_error=False)
        return answers

    @property
    def _is_cluster(self) -> bool:
        return isinstance(self._client, RedisCluster)

    @contextmanager
    def _asking(self, what: str, commands: Sequence[_Command]) -> Iterator[None]:
        with self._call():
            try:
                yield
            except _FAILURES as error:
                raise self._error(what, commands, error) from error
            except BaseException:
                self._drop_connections()
                raise

    def _drop_connections(self) -> None:
        """Close the connections that no call has: an answer may be on its way to one of them.

        The client takes a connection for idle when an interrupt has come between a command and its
        answer, and the next call would read the answer to another one.
        """
        nodes = self._client.get_nodes() if self._is_cluster else ()
        for client in [node.redis_connection for node in nodes] or [self._client]:
            if client is not None:
                client.connection_pool.disconnect(inuse_connections=False)

    def _error(self, what: str, commands: Sequence[_Command], error: Exception) -> TierError:
        values = f" {len(commands)} values" if commands else ""
        return TierError(f"the tier {self._name!r} could not {what}{values}: {error}")


def open_url(
    url: str,
    *,
    cluster: str = "no",
    prefix: str = "kvpool:",
    ttl: str | None = None,
    timeout: str | None = None,
    ca: str | None = None,
) -> Tier:
    """Open a tier for a URL ``redis://user:password@host:port/database`` and its options.

    Raises
    ------
    InvalidTierError
        The URL or an option is not valid.
    TierError
        The server does not answer, or refuses the user.
    """
    split = urlsplit(url)
    is_secure = split.scheme in {"rediss", "valkeys"}
    is_cluster = flag_option("cluster", cluster)
    seconds = positive_option("timeout", timeout, 2.0) or 2.0
    lifetime = positive_option("ttl", ttl, None)
    try:
        port = split.port or 6379
        database = int(split.path.strip("/") or 0)
    except ValueError as error:
        raise InvalidTierError(
            f"a tier is named as in {split.scheme}://host:6379/0: {error}"
        ) from None
    host = split.hostname or "localhost"
    if ca is not None:
        if not is_secure:
            raise InvalidTierError(
                f"the option 'ca' needs the scheme rediss or valkeys, not {split.scheme!r}"
            )
        _check_certificates(ca)
    if is_cluster and database:
        raise InvalidTierError(f"a cluster has the database 0 alone, not {database}")
    common: dict[str, Any] = {
        "host": host,
        "port": port,
        "username": unquote(split.username) if split.username else None,
        "password": unquote(split.password) if split.password else None,
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "protocol": 2,
        "ssl": is_secure,
        # A connection that the server closed while nobody used it is made again, once.
        "retry": Retry(NoBackoff(), 1, supported_errors=(NotConnectedError,)),
    }
    if ca is not None:
        common["ssl_ca_certs"] = ca
    shown = f"[{host}]" if ":" in host else host
    name = f"{split.scheme}://{shown}:{port}/{database}"
    client: Redis | RedisCluster
    try:
        if is_cluster:
            client = RedisCluster(**common, require_full_coverage=False)
        else:
            client = Redis(**common, db=database)
        client.ping()
    except _FAILURES as error:
        raise TierError(f"the tier {name!r} could not be opened: {error}") from error
    return RedisTier(
        client, name, prefix.encode(), lifetime, _capacity(client), patience=2 * seconds
    )


def _check_certificates(file: str) -> None:
    """Raise unless a file has certificates: the client's own error would not name it."""
    try:
        ssl.create_default_context(cafile=file)
    except (OSError, ValueError) as error:  # an `SSLError` is an `OSError`
        raise InvalidTierError(
            f"the option 'ca' must be a file of certificates in PEM form, not {file!r}: {error}"
        ) from None


def _capacity(client: Redis | RedisCluster) -> int | None:
    """Return how many bytes the servers may take; None without a limit, or if they do not tell."""
    try:
        if isinstance(client, RedisCluster):
            nodes = list(client.info("memory", target_nodes=RedisCluster.PRIMARIES).values())
        else:
            nodes = [client.info("memory")]
        limits = [int(node["maxmemory"]) for node in nodes]
    except (*_FAILURES, KeyError):  # many users may not ask for that
        return None
    return sum(limits) if all(limits) else None


def _escaped(text: bytes) -> bytes:
    """Return a pattern that matches these bytes alone."""
    return b"".join(b"\\" + bytes([one]) if one in b"*?[]\\^-" else bytes([one]) for one in text)
