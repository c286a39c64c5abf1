"""The tiers of object stores: files in the gates, S3 with a real server where it is installed."""

from __future__ import annotations

import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar
from urllib.request import Request, urlopen

import pytest

from kvpool.errors import InvalidTierError, TierError
from kvpool.testing import TierSuite
from kvpool.tiers import MAX_KEY_BYTES, Tier, open_tier
from kvpool.tiers.object_store import object_path
from tests.support import needs
from tests.support.redis_server import free_port


class TestFiles(TierSuite):
    folder: ClassVar[Path]

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        type(self).folder = tmp_path

    def create_tier(self) -> Tier:
        return open_tier(f"file:{self.folder}/tier")

    def reopen(self, tier: Tier) -> Tier:
        tier.close()
        return self.create_tier()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("linked", ["file", "folder"])
def test_no_link_in_the_directory_is_followed(tmp_path: Path, linked: str) -> None:
    folder, outside = tmp_path / "tier", tmp_path / "outside"
    key, other = b"c/" + bytes(32), b"c/" + bytes([1] * 32)
    with open_tier(f"file:{folder}") as tier:
        tier.write([(key, [b"value"]), (other, [b"other"])])
        place = folder / object_path(key)
        place = place if linked == "file" else place.parent
        place.rename(outside)
        place.symlink_to(outside)
        calls: list[Callable[[], object]] = [
            lambda: tier.contains([key]),
            lambda: tier.remove([key]),
            lambda: tier.write([(key, [b"new"])]),
            lambda: tier.read([key]).__enter__(),
        ]
        for call in calls:
            with pytest.raises(TierError, match="is a symbolic link"):
                call()
        assert list(tier.keys()) == [other]
        with tier.read([other]) as (value,):
            assert value is not None
            assert bytes(value) == b"other"
    content = outside if linked == "file" else next(outside.iterdir())
    assert content.read_bytes() == b"value"


def test_the_directory_is_for_the_user_alone(tmp_path: Path) -> None:
    with open_tier(f"file:{tmp_path}/new/tier") as tier:
        tier.write([(b"key", [b"value"])])
    assert stat.S_IMODE((tmp_path / "new" / "tier").stat().st_mode) == 0o700


def test_a_directory_that_others_may_use_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(InvalidTierError, match=f"mode 755.*chmod 700 {tmp_path}"):
        open_tier(f"file:{tmp_path}")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InvalidTierError, match="symbolic link"):
        open_tier(f"file:{tmp_path}/link")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_files_of_others_are_no_keys(tmp_path: Path) -> None:
    with open_tier(f"file:{tmp_path}") as tier:
        tier.write([(b"key", [b"value"])])
        for name in ("README", "zz.kv", "6b6579.kv", "6b65/79.txt"):
            (tmp_path / name).write_text("not a value")
        assert list(tier.keys()) == [b"key"]


@pytest.mark.parametrize("key", [b"k", b"ke", b"key", b"keys", bytes(MAX_KEY_BYTES)])
def test_no_path_is_a_directory_of_another(key: bytes) -> None:
    path = object_path(key)
    assert all(len(part) <= 255 for part in path.split("/"))
    for length in range(1, len(key)):
        assert not path.startswith(object_path(key[:length]) + "/")


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("file:/tmp/x?endpoint=http://host", "'endpoint'"),
        ("file:/tmp/x?region=here", "'region'"),
        ("file:/tmp/x?requests=0", "'0'"),
        ("file:/tmp/x?requests=many", "'many'"),
        ("file:/tmp/x?timeout=0", "'0'"),
        ("file://host/path", "'host'"),
        ("file:/tmp/x?color=red", "'color'"),
        ("s3://", "s3://"),
    ],
)
def test_what_is_not_valid_is_refused(url: str, named: str) -> None:
    with pytest.raises(InvalidTierError, match=named):
        open_tier(url)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidTierError, match="s3://bucket") as caught:
        open_tier("s3://name:secret@bucket/prefix")
    assert "secret" not in str(caught.value)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TierError, match="could not be opened"):
        open_tier(f"file:{tmp_path}/file/tier")


# -- S3 ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Start a server of S3 in a thread, and return its URL."""
    server = needs.moto().ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a tier in a new bucket."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    name = f"bucket-{uuid.uuid4()}"
    with urlopen(Request(f"{endpoint}/{name}", method="PUT")) as answer:
        assert answer.status == 200
    return f"s3://{name}/some/prefix?region=us-east-1&endpoint={endpoint}"


@pytest.mark.integration
class TestBucket(TierSuite):
    bucket: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _bucket(self, bucket: str) -> None:
        type(self).bucket = bucket

    def create_tier(self) -> Tier:
        return open_tier(self.bucket)

    def reopen(self, tier: Tier) -> Tier:
        tier.close()
        return self.create_tier()


@pytest.mark.integration
def test_a_bucket_that_is_not_there(bucket: str) -> None:
    with open_tier(bucket.replace("s3://bucket-", "s3://other-")) as tier:
        with pytest.raises(TierError, match="could not store 1 values"):
            tier.write([(b"key", [b"value"])])
        assert "secret" not in tier.name


@pytest.mark.integration
def test_a_service_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    url = f"s3://bucket?region=here&endpoint=http://127.0.0.1:{free_port()}&timeout=0.2"
    with open_tier(url) as tier:
        for call in (
            lambda: tier.contains([b"key"]),
            lambda: tier.write([(b"key", [b"value"])]),
            lambda: list(tier.keys()),
        ):
            with pytest.raises(TierError, match="could not"):
                call()
