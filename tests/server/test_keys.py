"""The keys of a server, and the salts of its tenants."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kvpool.errors import InvalidArgumentError
from kvpool.server import Keys, SaltFrom
from kvpool.server._errors import ApiError
from kvpool.server._keys import salt_of


def test_each_key_is_accepted_and_has_a_name_that_does_not_tell_it() -> None:
    keys = Keys(["first", "second"])
    names = {keys.check(f"Bearer {key}") for key in ("first", "second")}
    assert len(names) == 2
    assert not any(key in name for name in names for key in ("first", "second"))
    assert keys.check("bearer first") == keys.check("Bearer  first")


@pytest.mark.parametrize(
    "header",
    [None, "", "first", "Basic first", "Bearer", "Bearer third", "Bearer firs", "Bearer é"],
)
def test_anything_else_is_refused(header: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        Keys(["first"]).check(header)
    assert caught.value.status == 401
    assert caught.value.headers == {"WWW-Authenticate": "Bearer"}
    assert "first" not in str(caught.value)


def test_without_keys_everything_is_accepted() -> None:
    keys = Keys([])
    assert not keys
    assert keys.check(None) == keys.check("Bearer x") == ""


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "é", "\x00"])
def test_a_key_that_no_header_can_have_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"of {len(key)} characters") as caught:
        Keys(["fine", key])
    assert "fine" not in str(caught.value)


def test_salts() -> None:
    assert salt_of(SaltFrom.NONE, "key", "user") == ""
    assert salt_of(SaltFrom.KEY, "key", "user") == "key"
    assert salt_of(SaltFrom.USER, "key", "user") == "key/user"
    assert salt_of(SaltFrom.USER, "other", "user") == "other/user"


@pytest.mark.parametrize("user", [None, ""])
def test_a_user_is_required_if_users_are_kept_apart(user: str | None) -> None:
    with pytest.raises(ApiError, match="user is missing") as caught:
        salt_of(SaltFrom.USER, "key", user)
    assert caught.value.status == 400


def test_a_missing_package_is_named_with_the_extra_that_has_it() -> None:
    code = "import sys; sys.modules['starlette'] = None; import kvpool.server"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'install "kvpool[serve]"' in done.stderr.strip().splitlines()[-1]


def test_a_server_is_imported_without_torch() -> None:
    code = "import sys; sys.modules.update(torch=None, transformers=None); import kvpool.server"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
