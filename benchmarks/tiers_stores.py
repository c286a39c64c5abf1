"""Stores that have a tier, each with its raw client: how to start them, write, read and remove."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any, Protocol
from urllib.request import Request, urlopen

import lmdb

from benchmarks.harness import UnavailableError
from kvpool.tiers import Tier
from tests.support.mooncake_master import MooncakeMaster
from tests.support.redis_server import RedisServer, free_port

__all__ = ["STORES", "Client", "OurClient", "Store"]

Buffer = Any
"""What has bytes: a bytes object, a memoryview, or what a client gives instead."""

REQUESTS = 16  # at the same time to a store of objects, as the tier makes
MAP = 2 << 30  # bytes that a database may grow to, on both sides
_numbers = count()


class Client(Protocol):
    """A way to use a store."""

    def write(self, items: Sequence[tuple[bytes, Buffer]]) -> None:
        """Store values."""

    def read(self, keys: Sequence[bytes]) -> AbstractContextManager[Sequence[Buffer]]:
        """Return values, for a ``with`` block."""

    def remove(self, keys: Sequence[bytes]) -> None:
        """Remove values."""


@dataclass(frozen=True, slots=True)
class Store:
    """A store that runs.

    Parameters
    ----------
    name : str
        Of the tier.
    url : str
        Of the tier.
    theirs : str
        The name of the raw client.
    raw : Client
        The raw client, in a place of its own in the same store or beside it.
    versions : mapping of str to str
        Of what takes part.
    port : int
        Of a server on the loopback; 0 if it has none.
    """

    name: str
    url: str
    theirs: str
    raw: Client
    versions: dict[str, str]
    port: int = 0


class OurClient:
    """A tier."""

    def __init__(self, tier: Tier) -> None:
        self._tier = tier

    def write(self, items: Sequence[tuple[bytes, Buffer]]) -> None:
        there = self._tier.write([(key, [value]) for key, value in items])
        if there != len(items):
            raise AssertionError(f"{self._tier.name} took {there} of {len(items)} values")

    def read(self, keys: Sequence[bytes]) -> AbstractContextManager[Sequence[Buffer]]:
        return self._tier.read(keys)

    def remove(self, keys: Sequence[bytes]) -> None:
        self._tier.remove(keys)


class LmdbClient:
    """LMDB in a directory; as in the tier, a commit does not wait for the disk."""

    def __init__(self, folder: Path) -> None:
        self.environment = lmdb.open(str(folder), map_size=MAP, sync=False)

    def write(self, items: Sequence[tuple[bytes, Buffer]]) -> None:
        with self.environment.begin(write=True) as txn:
            for key, value in items:
                txn.put(key, value)

    @contextmanager
    def read(self, keys: Sequence[bytes]) -> Iterator[Sequence[Buffer]]:
        with self.environment.begin(buffers=True) as txn:
            yield [txn.get(key) for key in keys]

    def remove(self, keys: Sequence[bytes]) -> None:
        with self.environment.begin(write=True) as txn:
            for key in keys:
                txn.delete(key)


class RedisClient:
    """redis-py, with one pipeline for each call."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def write(self, items: Sequence[tuple[bytes, Buffer]]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for key, value in items:
            pipeline.set(key, value)
        pipeline.execute()

    @contextmanager
    def read(self, keys: Sequence[bytes]) -> Iterator[Sequence[Buffer]]:
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.get(key)
        yield pipeline.execute()

    def remove(self, keys: Sequence[bytes]) -> None:
        self._client.delete(*keys)


class ObjectClient:
    """obstore, with as many requests at a time as the tier makes."""

    def __init__(self, module: Any, store: Any) -> None:
        self._obstore, self._store = module, store
        self._threads = ThreadPoolExecutor(REQUESTS)

    def write(self, items: Sequence[tuple[bytes, Buffer]]) -> None:
        def put(item: tuple[bytes, Buffer]) -> None:
            self._obstore.put(self._store, item[0].hex(), item[1], use_multipart=False)

        list(self._threads.map(put, items))

    @contextmanager
    def read(self, keys: Sequence[bytes]) -> Iterator[Sequence[Buffer]]:
        def get(key: bytes) -> Buffer:
            return self._obstore.get(self._store, key.hex()).bytes()

        yield list(self._threads.map(get, keys))

    def remove(self, keys: Sequence[bytes]) -> None:
        self._obstore.delete(self._store, [key.hex() for key in keys])

    def close(self) -> None:
        self._threads.shutdown()


class MooncakeClient:
    """Mooncake's own client, with its calls for several values."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def write(self, items: Sequence[tuple[bytes, Buffer]]) -> None:
        code = self.store.put_batch([key.hex() for key, _ in items], [value for _, value in items])
        if code:
            raise AssertionError(f"Mooncake's client cannot write: error {code}")

    @contextmanager
    def read(self, keys: Sequence[bytes]) -> Iterator[Sequence[Buffer]]:
        yield self.store.batch_get_buffer([key.hex() for key in keys])

    def remove(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self.store.remove(key.hex(), True)


@contextmanager
def disk(folder: Path) -> Iterator[Store]:
    """Give LMDB in two directories."""
    raw = folder / "raw"
    raw.mkdir()
    client = LmdbClient(raw)
    try:
        url = f"disk:{folder / 'tier'}?capacity={MAP}"
        yield Store("disk", url, "lmdb", client, _versions("lmdb"))
    finally:
        client.environment.close()


@contextmanager
def redis(folder: Path) -> Iterator[Store]:
    """Give a redis-server, which keeps everything in memory."""
    if shutil.which("redis-server") is None:
        raise UnavailableError("redis-server is not installed (apt-get install redis-server)")
    module = _module("redis")
    with RedisServer(folder) as server, module.Redis(port=server.port) as client:
        told = client.info("server")["redis_version"]
        versions = _versions("redis") | {"redis-server": told}
        yield Store("redis", server.url, "redis-py", RedisClient(client), versions, server.port)


@contextmanager
def files(folder: Path) -> Iterator[Store]:
    """Give obstore's store of files in two directories."""
    obstore = _module("obstore")
    raw = folder / "raw"
    raw.mkdir()
    client = ObjectClient(obstore, _module("obstore.store").LocalStore(raw))
    try:
        url = f"file:{folder / 'tier'}"
        yield Store("file", url, "obstore, LocalStore", client, _versions("obstore"))
    finally:
        client.close()


@contextmanager
def s3(folder: Path) -> Iterator[Store]:
    """Give moto's server of S3, a process of its own."""
    obstore, stores = _module("obstore"), _module("obstore.store")
    _module("moto.server")
    port, bucket = free_port(), f"bench-{next(_numbers)}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    endpoint = f"http://127.0.0.1:{port}"
    credentials = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret"}
    before = {name: os.environ.get(name) for name in credentials}
    with (folder / "moto.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    os.environ.update(credentials)
    try:
        _create_bucket(f"{endpoint}/{bucket}", process)
        config: Any = {"endpoint": endpoint, "region": "us-east-1"}
        options: Any = {"allow_http": True}
        store = stores.from_url(f"s3://{bucket}/raw", config=config, client_options=options)
        client = ObjectClient(obstore, store)
        url = f"s3://{bucket}/tier?region=us-east-1&endpoint={endpoint}&timeout=60"
        versions = _versions("obstore", "moto")
        try:
            yield Store("s3", url, "obstore, S3Store", client, versions)
        finally:
            client.close()
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        process.kill()
        process.wait()


def _create_bucket(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            urlopen(Request(url, method="PUT"), timeout=10).close()
        except OSError as error:
            if process.poll() is not None or time.monotonic() > until:
                raise UnavailableError(f"moto's server does not start: {error}") from error
            time.sleep(0.1)
        else:
            return


@contextmanager
def mooncake(folder: Path) -> Iterator[Store]:
    """Give a Mooncake master, and the memory of this process to its cluster."""
    module = _module("mooncake.store")
    program = Path(str(module.__file__)).parent / "mooncake_master"
    master = MooncakeMaster(program, folder)
    # One client gives its memory; the others reach it over TCP, or it would be a copy in a process.
    clients = [module.MooncakeDistributedStore() for _ in range(2)]
    try:
        for client, segment in zip(clients, (1 << 30, 0), strict=True):
            place = "127.0.0.1", "P2PHANDSHAKE", segment, 256 << 20, "tcp", ""
            if code := client.setup(*place, f"127.0.0.1:{master.port}"):
                raise UnavailableError(f"Mooncake's client cannot be set up: error {code}")
        versions = _versions("mooncake-transfer-engine-non-cuda")
        url = f"{master.url}&buffer=256MiB"
        yield Store("mooncake", url, "Mooncake's client", MooncakeClient(clients[1]), versions)
    finally:
        for client in reversed(clients):
            client.close()
        master.kill()


STORES = {"disk": disk, "redis": redis, "file": files, "s3": s3, "mooncake": mooncake}
"""How to get each store, in a directory of its own, for a ``with`` block."""


def _module(name: str) -> Any:
    """Import a module.

    Raises
    ------
    UnavailableError
    """
    try:
        __import__(name)
    except ImportError as error:
        raise UnavailableError(f"{name} cannot be imported: {error}") from error
    return sys.modules[name]


def _versions(*names: str) -> dict[str, str]:
    return {name: metadata.version(name) for name in names}
