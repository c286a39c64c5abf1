"""Settings of a manager: from a file, from the environment, from a call."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from kvpool.errors import UnknownPluginError
from kvpool.layout import KVLayout
from kvpool.settings import LayoutSettings, Settings, SettingsError

TOML = """
[tool.kvpool]
capacity = "1MiB"
backend = "numpy"
ttl = 60
receipts = false
[tool.kvpool.layout]
layers = 2
kv_heads = 2
head_dim = 64
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: below a project with settings."""
    (tmp_path / "pyproject.toml").write_text(TOML, encoding="utf-8")
    below = tmp_path / "src" / "app"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    return below


def load(environment: dict[str, str] | None = None, **arguments: Any) -> Settings:
    return Settings.load(environment=environment or {}, **arguments)


def test_the_nearest_project(folder: Path) -> None:
    settings = load()
    assert (settings.capacity, settings.ttl, settings.policy) == ("1MiB", 60.0, None)
    with settings.open() as manager:
        assert manager.pool.capacity == 1 << 20
        assert manager.layout == KVLayout(2, 2, 64)
        assert manager.receipts is None
    (folder / "pyproject.toml").write_text("[project]\nname = 'x'\n", encoding="utf-8")
    assert load().capacity == "1MiB"  # that one says nothing of kvpool
    (folder / "kvpool.toml").write_text("capacity = 4096", encoding="utf-8")
    assert load().capacity == 4096
    assert load(file=None).capacity == Settings().capacity


@pytest.mark.parametrize("text", ["tool = 3", "tool = 'kvpool'", "tool = ['kvpool']"])
def test_a_project_whose_tools_are_not_a_table_says_nothing(folder: Path, text: str) -> None:
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    assert load().capacity == "1MiB"
    assert load(file=folder / "pyproject.toml").capacity == Settings().capacity


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps the current directory")
def test_a_current_directory_that_is_gone(folder: Path) -> None:
    folder.rmdir()
    with pytest.raises(SettingsError, match=r"cannot search for a file .*No such file"):
        load()
    assert load(file=None).capacity == Settings().capacity


@pytest.mark.usefixtures("folder")
def test_what_goes_before_what() -> None:
    told = {"KVPOOL_TTL": "5", "KVPOOL_SECURE": "true", "KVPOOL_CAPACITY": "2MiB"}
    settings = load(told, capacity="3MiB")
    assert (settings.capacity, settings.ttl, settings.secure) == ("3MiB", 5.0, True)
    assert settings.backend == "numpy"
    with settings.open(KVLayout(1, 1, 8), capacity="4MiB") as manager:
        assert manager.pool.capacity == 4 << 20
        assert manager.layout == KVLayout(1, 1, 8)


def test_a_file_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "pool.toml"
    file.write_text("policy = 'sieve'\n[backend_options]\nprefault = true\n", encoding="utf-8")
    for settings in (load(file=file), load({"KVPOOL_CONFIG": str(file)})):
        assert settings.policy == "sieve"
        assert settings.backend_options == {"prefault": True}


def test_the_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVPOOL_CAPACITY", "7MiB")
    assert Settings.load(file=None).capacity == "7MiB"
    monkeypatch.setenv("KVPOOL_CAPACITY", " ")
    assert Settings.load(file=None).capacity == Settings().capacity


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("capacty = 1", "unknown field `capacty`"),
        ("ttl = 'soon'", r"kvpool.toml, ttl = 'soon': .*got `str` - at `\$.ttl`"),
        ("[layout]\nlayers = 1", "missing required field `kv_heads`"),
        ("capacity =", "is not TOML"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "kvpool.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=reason) as caught:
        load(file=file)
    assert str(file) in str(caught.value)


def test_settings_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"the environment: KVPOOL_TTL='soon': .*ttl"):
        load({"KVPOOL_TTL": "soon"}, file=None)
    with pytest.raises(SettingsError, match=r"the arguments: .*polcy"):
        load(file=None, polcy="lru")
    with pytest.raises(SettingsError, match="cannot read"):
        load(file=tmp_path / "nowhere.toml")


def test_an_error_at_the_opening_tells_where_each_setting_stands(tmp_path: Path) -> None:
    file = tmp_path / "kvpool.toml"
    file.write_text("policy = 'oldest'\nsecure = true", encoding="utf-8")
    settings = load({"KVPOOL_CAPACITY": "1MiB", "KVPOOL_TTL": "5"}, file=file, secure=False)
    with pytest.raises(UnknownPluginError, match="unknown eviction policy 'oldest'") as caught:
        settings.open(ttl=7)
    assert caught.value.__notes__ == [
        f"setting policy = 'oldest' is from {file}",
        "setting secure = False is from the arguments of load",
        "setting capacity = '1MiB' is from the environment, KVPOOL_CAPACITY",
    ]


def test_a_layout_in_settings() -> None:
    settings = load(file=None, layout=LayoutSettings(layers=1, kv_heads=1, head_dim=8))
    with settings.open(receipts=False) as manager:
        assert manager.layout == KVLayout(1, 1, 8)
