"""The tiers `redis` and `valkey` on real servers: the contract, options, faults."""

from __future__ import annotations

import contextlib
import datetime
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kvpool import KVCacheEntry, KVLayout, MemoryPool
from kvpool.errors import InvalidTierError, TierError
from kvpool.prefix import Identity, token_bytes
from kvpool.testing import TierSuite
from kvpool.tiers import Tier, TierStore, open_tier
from tests.support.injection import Injection
from tests.support.redis_server import RedisServer, free_port

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    options = "--maxmemory", "4900kb", "--maxmemory-policy", "noeviction"
    with RedisServer(tmp_path_factory.mktemp("redis"), *options) as one:
        yield one


def flush(server: RedisServer) -> None:
    """Empty a server, and wait until its memory is free."""
    with redis.Redis(port=server.port) as client:
        client.flushall()


def opened(server: RedisServer, url: str) -> Tier:
    flush(server)
    return open_tier(url)


class TestRedisTier(TierSuite):
    server: ClassVar[RedisServer]
    small_server: ClassVar[RedisServer]

    @pytest.fixture(autouse=True)
    def _servers(self, server: RedisServer, small_server: RedisServer) -> None:
        type(self).server, type(self).small_server = server, small_server

    def create_tier(self) -> Tier:
        return opened(self.server, self.server.url)

    def create_small(self) -> Tier:
        return opened(self.small_server, self.small_server.url)

    def reopen(self, tier: Tier) -> Tier:
        tier.close()
        return open_tier(self.server.url)


class TestWithTtl(TestRedisTier):
    """Other commands are sent where values expire."""

    def create_tier(self) -> Tier:
        return opened(self.server, f"{self.server.url}?ttl=3600&prefix=ttl:")

    def create_small(self) -> Tier:
        return opened(self.small_server, f"{self.small_server.url}?ttl=3600")

    def reopen(self, tier: Tier) -> Tier:
        tier.close()
        return open_tier(f"{self.server.url}?ttl=3600&prefix=ttl:")


def test_a_value_that_nobody_uses_expires(server: RedisServer) -> None:
    with open_tier(f"{server.url}?ttl=1&prefix=short:") as tier:
        tier.write([(b"unused", [b"1"])])
        until = time.monotonic() + 60
        while list(tier.keys()):
            assert time.monotonic() < until, "the value does not expire"
            time.sleep(0.05)


def test_a_use_of_a_value_lets_its_time_begin_anew(server: RedisServer) -> None:
    with (
        open_tier(f"{server.url}?ttl=3600&prefix=long:") as tier,
        redis.Redis(port=server.port) as client,
    ):
        keys = [b"used", b"unused"]
        tier.write([(key, [b"value"]) for key in keys])
        for key in keys:
            assert client.expire(b"long:" + key, 1000)
        with tier.read([b"used"]) as (value,):
            assert value is not None
        used, unused = (client.ttl(b"long:" + key) for key in keys)
        assert unused <= 1000 < used <= 3600


def test_prefixes_keep_apart_what_others_keep_in_the_server(server: RedisServer) -> None:
    with (
        open_tier(f"{server.url}?prefix=one*:") as one,
        open_tier(f"{server.url}?prefix=one") as other,
    ):
        one.write([(b"key", [b"one"])])
        other.write([(b"key", [b"other"])])
        with one.read([b"key"]) as (first,), other.read([b"key"]) as (second,):
            assert [bytes(first or b""), bytes(second or b"")] == [b"one", b"other"]
        assert list(one.keys()) == [b"key"]
        one.remove([b"key"])
        assert list(other.keys()) == [b"key"]


def test_a_user_with_a_password(tmp_path: Path) -> None:
    acl = "--user", "kv", "on", ">sec/ret", "~kvpool:*", "+@all"
    with RedisServer(tmp_path, "--requirepass", "other", *acl) as server:
        place = f"127.0.0.1:{server.port}"
        with open_tier(f"redis://kv:sec%2Fret@{place}") as tier:
            assert tier.write([(b"key", [b"value"])]) == 1
            assert "ret" not in tier.name + repr(tier)
        for wrong in ("", "kv:wrong@", ":wrong@"):
            with pytest.raises(TierError, match=f"redis://{place}/0") as caught:
                open_tier(f"redis://{wrong}{place}")
            assert "wrong" not in str(caught.value)
        with (
            open_tier(f"redis://kv:sec%2Fret@{place}?prefix=foreign:") as tier,
            pytest.raises(TierError, match="could not look for 1 values"),
        ):
            tier.write([(b"key", [b"value"])])


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("cluster=true", "the option 'cluster' must be 'yes' or 'no', not 'true'"),
        ("ttl=0", "'0'"),
        ("ttl=soon", "'soon'"),
        ("timeout=-1", "'-1'"),
        ("timeout=nan", "'nan'"),
        ("ca=/file", "the option 'ca' needs the scheme rediss or valkeys, not 'redis'"),
        ("color=red", "'color'"),
    ],
)
def test_options_that_are_not_valid_are_refused(query: str, named: str) -> None:
    with pytest.raises(InvalidTierError, match=named):
        open_tier(f"redis://127.0.0.1:1?{query}")


@pytest.mark.parametrize("place", ["host:port", "host:70000", "host:1/one", "host:1/0/1"])
def test_a_place_that_is_not_valid_is_refused(place: str) -> None:
    with pytest.raises(InvalidTierError, match="redis://host:6379/0"):
        open_tier(f"redis://{place}")


# -- encryption --------------------------------------------------------------------------


def certified(folder: Path) -> Path:
    """Make a certificate of localhost that signs itself; return its file, with the key beside."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(certificate.public_bytes(Encoding.PEM))
    file.with_name("key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return file


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of a server that speaks TLS, and the file of its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    port, certificate = free_port(), certified(folder)
    options = {
        "port": port,
        "cert-file": certificate,
        "key-file": certificate.with_name("key.pem"),
        "ca-cert-file": certificate,
        "auth-clients": "no",
    }
    words = [word for name, value in options.items() for word in (f"--tls-{name}", str(value))]
    with RedisServer(folder, *words):
        yield port, certificate


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_tls(secure: tuple[int, Path], scheme: str) -> None:
    port, certificate = secure
    with open_tier(f"{scheme}://localhost:{port}?prefix={scheme}&ca={certificate}") as tier:
        assert tier.write([(b"key", [b"value"])]) == 1
        with tier.read([b"key"]) as (value,):
            assert value is not None
            assert bytes(value) == b"value"


def test_a_server_without_a_certificate_that_is_trusted_is_refused(
    secure: tuple[int, Path], tmp_path: Path
) -> None:
    port, certificate = secure
    other = certified(tmp_path)
    for address, options, reason in (
        (f"localhost:{port}", "", "certificate verify failed"),  # the system does not know it
        (f"localhost:{port}", f"?ca={other}", "certificate verify failed"),
        (f"127.0.0.1:{port}", f"?ca={certificate}", "certificate is not valid for '127.0.0.1'"),
    ):
        with pytest.raises(TierError, match=f"rediss://{address}.* could not be opened.*{reason}"):
            open_tier(f"rediss://{address}{options}")
    with pytest.raises(TierError, match="could not be opened"):
        open_tier(f"redis://localhost:{port}")  # without TLS
    for file in (tmp_path / "none.pem", tmp_path / "key.pem", tmp_path):
        with pytest.raises(InvalidTierError, match=f"'ca' must be a file of .*, not '{file}': "):
            open_tier(f"rediss://localhost:{port}?ca={file}")


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(TierError, match=r"'redis://127.0.0.1:1/0' could not be opened"):
        open_tier("redis://127.0.0.1:1")


# -- faults --------------------------------------------------------------------------------


def test_a_server_that_is_killed_and_comes_back_empty(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, open_tier(server.url) as tier:
        tier.write([(b"key", [b"value"])])
        server.kill()
        for _ in range(2):
            with pytest.raises(TierError, match="could not read 1 values"), tier.read([b"key"]):
                pass
            with pytest.raises(TierError, match="could not look for 1 values"):
                tier.write([(b"key", [b"value"])])
        server.start()
        with tier.read([b"key"]) as (value,):
            assert value is None
        assert tier.write([(b"key", [b"value"])]) == 1


def test_a_server_that_does_not_answer_is_an_error_after_the_timeout(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, open_tier(f"{server.url}?timeout=1") as tier:
        tier.write([(b"key", [b"value"])])
        server.pause()
        with pytest.raises(TierError, match="could not read 1 values"), tier.read([b"key"]):
            pass
        server.go_on()
        with tier.read([b"key"]) as (value,):
            assert bytes(value or b"") == b"value"


def test_an_interrupt_mixes_no_answers_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that comes after the interrupt is not taken for that of the next call."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # of the client's finalizers
    keys = [b"a", b"b", b"c"]
    places = 0
    with RedisServer(tmp_path) as server, open_tier(f"{server.url}?timeout=0.05") as tier:
        tier.write([(key, [key * 100]) for key in keys])
        while True:
            with tier.read(keys[:1]):
                pass  # the next call has a connection
            server.pause()
            injection = Injection(places + 1, "interrupt", in_libraries=True)
            with contextlib.suppress(KeyboardInterrupt, TierError), injection, tier.read(keys[:2]):
                pass
            server.go_on()
            if injection.where is None:
                break
            places += 1
            for key in reversed(keys):
                assert read_in_time(tier, key) == key * 100, injection.where
    assert places > 100


def read_in_time(tier: Tier, key: bytes) -> bytes:
    """Read a value, and again while a busy server does not answer within the timeout."""
    until = time.monotonic() + 60
    while True:
        try:
            with tier.read([key]) as (value,):
                return bytes(value or b"")
        except TierError:
            assert time.monotonic() < until, "the server does not answer any more"


def test_a_server_that_is_restarted_is_used_again_at_once(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, open_tier(server.url) as tier:
        for _ in range(3):
            tier.write([(b"key", [b"value"])])
            server.kill()
            server.start()
            assert tier.contains([b"key"]) == 0


def test_a_full_server_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    options = "--maxmemory", "8mb", "--maxmemory-policy", "noeviction"
    with RedisServer(tmp_path, *options) as server, open_tier(server.url) as tier:
        value = bytes(100_000)
        items = [(b"%d" % number, [value]) for number in range(200)]
        stored = tier.write(items)
        assert 0 < stored < 200
        assert tier.stats().refused == 200 - stored
        assert tier.stats().capacity == 8 << 20
        with tier.read([key for key, _ in items]) as values:
            there = [one for one in values if one is not None]
        assert len(there) == stored
        assert all(one == value for one in there)


class Cluster:
    """Three servers that share the keys, without replicas."""

    def __init__(self, folder: Path) -> None:
        self.servers: list[RedisServer] = []
        self.clients: list[Any] = []
        edges = [0, 5461, 10923, 16384]
        for number in range(3):
            own = folder / str(number)
            own.mkdir()
            options = "--cluster-enabled", "yes", "--cluster-node-timeout", "500"
            more = "--cluster-require-full-coverage", "no"
            self.servers.append(RedisServer(own, *options, *more))
            self.clients.append(redis.Redis(port=self.servers[-1].port))
            slots = "CLUSTER", "ADDSLOTSRANGE", edges[number], edges[number + 1] - 1
            self.clients[-1].execute_command(*slots)
            meet = "CLUSTER", "MEET", "127.0.0.1", self.servers[0].port
            self.clients[-1].execute_command(*meet)
        until = time.monotonic() + 60
        while not all(map(self.is_whole, self.clients)):
            assert time.monotonic() < until, "the cluster does not form"
            time.sleep(0.05)

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.servers[0].port}?cluster=yes&timeout=1"

    @staticmethod
    def is_whole(client: Any) -> bool:
        told = client.execute_command("CLUSTER", "INFO")
        text = told.decode() if isinstance(told, bytes) else str(told)
        nodes = client.execute_command("CLUSTER", "SLOTS")
        return ("cluster_state:ok" in text or "'cluster_state': 'ok'" in text) and len(nodes) == 3

    def close(self) -> None:
        for client, server in zip(self.clients, self.servers, strict=True):
            client.close()
            server.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


class TestCluster(TierSuite):
    cluster: ClassVar[Cluster]

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster) -> None:
        type(self).cluster = cluster

    def create_tier(self) -> Tier:
        for server in self.cluster.servers:
            flush(server)
        return open_tier(self.cluster.url)

    def reopen(self, tier: Tier) -> Tier:
        tier.close()
        return open_tier(self.cluster.url)


def test_a_node_of_a_cluster_dies(tmp_path: Path) -> None:
    """What the other nodes have is there, and what would go to that node is refused."""
    cluster = Cluster(tmp_path)
    keys = [b"c/%d" % number for number in range(60)]
    try:
        with open_tier(cluster.url) as one, open_tier(cluster.url) as other:
            assert one.write([(key, [key * 100]) for key in keys]) == 60
            cluster.servers[1].kill()
            for tier in (one, other):
                with tier.read(keys) as values:
                    there = {
                        key: bytes(value)
                        for key, value in zip(keys, values, strict=True)
                        if value is not None
                    }
                assert 20 < len(there) < 60
                assert all(value == key * 100 for key, value in there.items())
            stored = one.write([(b"d/%d" % number, [b"value"]) for number in range(60)])
            assert 20 < stored < 60
            assert one.stats().refused == 60 - stored
            cluster.servers[0].kill()
            cluster.servers[2].kill()
            with pytest.raises(TierError, match="could not read 60 values"), one.read(keys):
                pass
    finally:
        cluster.close()


# -- two machines --------------------------------------------------------------------------

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=32, dtype="float16")
IDENTITY = Identity("model", "", LAYOUT)
CHUNK, SEQUENCES, LENGTH = 16, 8, 160
MACHINE = """
import sys
import numpy as np
from kvpool import KVCacheEntry, KVLayout, MemoryPool
from kvpool.prefix import Identity, token_bytes
from kvpool.tiers import TierStore

url, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
layout = KVLayout(layers=2, kv_heads=2, head_dim=32, dtype="float16")
identity = Identity("model", "", layout)
with TierStore([url], chunk_tokens=16) as store:
    for number in range(first, first + count):
        draws = np.random.default_rng(number)
        keys, values = draws.standard_normal((2, 2, 2, 160, 32)).astype(np.float16)
        tokens = token_bytes([number] + list(range(159)))
        assert store.put(identity, tokens, keys, values) == 10
        left = store.drain(60)
        print(number, left, flush=True)
"""


def computed(number: int) -> Any:
    """Return keys and values as the other machine computes them."""
    draws = np.random.default_rng(number)
    return draws.standard_normal((2, 2, 2, LENGTH, 32)).astype(np.float16)


def test_what_one_machine_computed_another_loads_while_a_node_dies(tmp_path: Path) -> None:
    """The bytes are equal; what the dead node had is computed again, and nothing is wrong."""
    cluster = Cluster(tmp_path)
    lengths, again = [], []
    command = [sys.executable, "-c", MACHINE, f"{cluster.url}&budget=none"]
    try:
        with (
            subprocess.Popen(
                [*command, "0", str(2 * SEQUENCES)], stdout=subprocess.PIPE, text=True
            ) as other,
            TierStore([f"{cluster.url}&budget=none"], chunk_tokens=CHUNK) as store,
        ):
            assert other.stdout is not None
            pool = MemoryPool(8 << 20, backend="numpy")
            for number in range(2 * SEQUENCES):
                assert other.stdout.readline() == f"{number} 0\n"
                if number == SEQUENCES:
                    cluster.servers[1].kill()  # while the other machine writes
                lengths.append(load(store, pool, number))
            again = [load(store, pool, number) for number in range(SEQUENCES)]
            wrong = store.stats().levels[0].misses.keys() - {"absent", "behind"}
            assert other.wait() == 0
    finally:
        cluster.close()
    assert lengths[:SEQUENCES] == [LENGTH] * SEQUENCES
    assert 0 < sum(again) < SEQUENCES * LENGTH  # the leading runs without the node
    assert not wrong


def load(store: TierStore, pool: MemoryPool, number: int) -> int:
    """Load what the other machine computed; return how many tokens, each of which is right."""
    entry = KVCacheEntry.create(pool, LAYOUT, LENGTH, f"session {number}")
    store.load(IDENTITY, token_bytes([number, *range(LENGTH - 1)]), entry)
    keys, values = computed(number)
    assert entry.keys().tobytes() == keys[:, :, : entry.token_count].tobytes()
    assert entry.values().tobytes() == values[:, :, : entry.token_count].tobytes()
    return entry.token_count
