"""The tier `mooncake` on a real master, over TCP on the loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from kvpool.errors import InvalidTierError, TierError
from kvpool.testing import TierSuite
from kvpool.tiers import Tier, open_tier
from tests.support import needs
from tests.support.mooncake_master import MooncakeMaster
from tests.support.redis_server import free_port

pytestmark = pytest.mark.integration


def started(folder: Path) -> MooncakeMaster:
    return MooncakeMaster(needs.mooncake() / "mooncake_master", folder)


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MooncakeMaster]:
    one = started(tmp_path_factory.mktemp("mooncake"))
    yield one
    one.kill()


@pytest.fixture(scope="module")
def storage(master: MooncakeMaster) -> Iterator[Tier]:
    """Open the client whose memory the cluster has, as long as the tests run."""
    with open_tier(f"{master.url}&segment=256MiB") as tier:
        yield tier


class TestMooncake(TierSuite):
    url: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _cluster(self, master: MooncakeMaster, storage: Tier) -> None:
        type(self).url = master.url
        storage.remove(list(storage.keys()))

    def create_tier(self) -> Tier:
        return open_tier(self.url)

    def reopen(self, tier: Tier) -> Tier:
        tier.close()
        return open_tier(self.url)


def test_more_than_the_buffer_holds_is_read_all_the_same(
    master: MooncakeMaster, storage: Tier
) -> None:
    keys = [b"large%d" % number for number in range(8)]
    with open_tier(f"{master.url}&buffer=16MiB") as tier:
        assert tier.write([(key, [key, bytes(4 << 20)]) for key in keys]) == 8
        with tier.read(keys) as values:
            assert [value and bytes(value[:6]) for value in values] == keys
        storage.remove(keys)


def test_a_cluster_without_room_refuses(tmp_path: Path) -> None:
    master = started(tmp_path)
    with open_tier(f"{master.url}&segment=32MiB") as tier:
        stored = tier.write([(b"%d" % number, [bytes(4 << 20)]) for number in range(16)])
        assert 0 < stored < 16
        assert tier.stats().refused == 16 - stored
    master.kill()


def test_a_master_that_dies(tmp_path: Path) -> None:
    master = started(tmp_path)
    with open_tier(f"{master.url}&segment=32MiB") as tier:
        tier.write([(b"key", [b"value"])])
        master.kill()
        with pytest.raises(TierError, match="could not read 1 values"), tier.read([b"key"]):
            pass
        with pytest.raises(TierError, match="could not look for 1 values"):
            tier.write([(b"key", [b"value"])])
        with pytest.raises(TierError, match="could not remove a value"):
            tier.remove([b"key"])
        with pytest.raises(TierError, match="could not list keys"):
            tier.keys()


def test_a_master_that_is_not_there() -> None:
    needs.mooncake()
    with pytest.raises(TierError, match=r"mooncake://127.0.0.1:\d+' could not be opened"):
        open_tier(f"mooncake://127.0.0.1:{free_port()}")


def test_keys_cannot_be_listed_without_the_service_of_the_master(
    master: MooncakeMaster, storage: Tier
) -> None:
    del storage
    with (
        open_tier(master.url.partition("?")[0]) as tier,
        pytest.raises(TierError, match="open it with the option 'admin'"),
    ):
        tier.keys()


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("mooncake://host", "mooncake://host"),
        ("mooncake://host:port", "port"),
        ("mooncake://host:1/path", "path"),
        ("mooncake://host:1?protocol=udp", "'udp'"),
        ("mooncake://host:1?segment=lots", "'lots'"),
        ("mooncake://host:1?color=red", "'color'"),
    ],
)
def test_what_is_not_valid_is_refused(url: str, named: str) -> None:
    needs.mooncake()
    with pytest.raises(InvalidTierError, match=named):
        open_tier(url)
