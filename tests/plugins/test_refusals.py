"""Plugins that cannot be chosen: blocked, claimed twice, or broken."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

import pluggy
import pytest

from kvpool.arena import ArenaBackend
from kvpool.errors import BrokenPluginError, PluginConflictError, PluginDisabledError
from kvpool.plugins import PluginRegistry, PluginState, PluginWarning
from tests.support.distributions import backend_source, install
from tests.support.reports import report_of

if TYPE_CHECKING:
    from pathlib import Path

OURS = ("ctypes", "mmap", "numpy")


# -- blocking ----------------------------------------------------------------------------------


def test_disabled_plugin_is_not_imported(
    folder: Path, registry: PluginRegistry[ArenaBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(folder, "fake-one", {"extra": "fake_one"}, {"fake_one": backend_source("extra")})
    monkeypatch.setenv("KVPOOL_DISABLED_BACKENDS", "ctypes, extra,,")
    with pytest.raises(PluginDisabledError, match=r"'extra' of fake-one 1.0.*KVPOOL_DISABLED_BACK"):
        registry.choose("extra")
    report = report_of(registry, "extra")
    assert (report.state, report.plugin) == (PluginState.DISABLED, None)
    assert "KVPOOL_DISABLED_BACKENDS" in report.reason
    assert "fake_one" not in sys.modules
    assert registry.choose().name == registry.kind.default


def test_environment_is_read_at_each_choice(
    registry: PluginRegistry[ArenaBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    default = str(registry.kind.default)
    chosen = registry.choose(default)
    monkeypatch.setenv("KVPOOL_DISABLED_BACKENDS", default)
    with pytest.raises(PluginDisabledError, match=default):
        registry.choose()
    monkeypatch.delenv("KVPOOL_DISABLED_BACKENDS")
    assert registry.choose() is chosen


# -- conflicts ---------------------------------------------------------------------------------


def test_two_distributions_claim_one_name(
    folder: Path, registry: PluginRegistry[ArenaBackend]
) -> None:
    source = {"fake_one": "raise SystemExit(3)"}
    install(folder, "fake-one", {"extra": "fake_one"}, source)
    install(folder, "fake-two", {"extra": "fake_one"}, version="2.5")
    with pytest.raises(PluginConflictError, match=r"'extra'.*fake-(one 1.0|two 2.5) and by fake-"):
        registry.choose("extra")
    report = report_of(registry, "extra")
    assert report.state is PluginState.CONFLICT
    assert set(report.distribution.split(", ")) == {"fake-one", "fake-two"}
    assert set(report.version.split(", ")) == {"1.0", "2.5"}
    assert registry.choose("numpy").name == "numpy"


def test_claim_to_one_of_ours_is_a_conflict(
    folder: Path, registry: PluginRegistry[ArenaBackend]
) -> None:
    install(folder, "fake-one", {"numpy": "fake_one"}, {"fake_one": backend_source("numpy")})
    with pytest.raises(PluginConflictError, match="kvpool"):
        registry.choose("numpy")
    assert registry.choose("mmap").name == "mmap"


@pytest.mark.parametrize("second_name", ["fake-one", "Fake_One", "fake.one"])
def test_distribution_twice_on_the_path_is_no_conflict(
    folder: Path,
    registry: PluginRegistry[ArenaBackend],
    monkeypatch: pytest.MonkeyPatch,
    second_name: str,
) -> None:
    install(folder, second_name, {"extra": "gone"}, version="0.9")
    first = folder / "first"
    install(first, "fake-one", {"extra": "fake_one"}, {"fake_one": backend_source("extra")})
    monkeypatch.syspath_prepend(first)
    assert registry.choose("extra").name == "extra"
    assert report_of(registry, "extra").version == "1.0"


def test_distribution_that_repeats_itself_is_no_conflict(
    folder: Path, registry: PluginRegistry[ArenaBackend]
) -> None:
    install(folder, "fake-one", {"extra": "fake_one"}, {"fake_one": backend_source("extra")})
    entry_points = folder / "fake_one-1.0.dist-info" / "entry_points.txt"
    with entry_points.open("a", encoding="utf-8") as file:
        file.write("extra = gone\n")
    assert registry.choose("extra").name == "extra"


def test_damaged_metadata_still_names_something(
    folder: Path, registry: PluginRegistry[ArenaBackend]
) -> None:
    install(folder, "fake-one", {"extra": "fake_one"}, {"fake_one": backend_source("extra")})
    (folder / "fake_one-1.0.dist-info" / "METADATA").unlink()
    report = report_of(registry, "extra")
    assert (report.distribution, report.version) == ("(unknown distribution)", "")
    assert report.state is PluginState.OK


# -- broken plugins ----------------------------------------------------------------------------

WORKING = backend_source("extra")
BROKEN = {
    "missing import": ("import no_such_module", ModuleNotFoundError, "no_such_module"),
    "syntax error": ("def", SyntaxError, "invalid syntax"),
    "exit at import": ("raise SystemExit(3)", SystemExit, "3"),
    "misspelt hook": (
        WORKING.replace("def kvpool_arena_backend", "def kvpool_arena_backnd"),
        pluggy.PluginValidationError,
        "kvpool_arena_backnd",
    ),
    "unknown argument": (
        WORKING.replace("backend():", "backend(size):"),
        pluggy.PluginValidationError,
        "size",
    ),
    "unmarked hook": (WORKING.replace("@hookimpl", ""), None, "does not implement"),
    "nothing": (WORKING.replace("return", "_ ="), None, "None"),
    "wrong type": (WORKING.replace("return ", "return 3, "), TypeError, "ArenaBackend"),
    "class": (WORKING.replace("return ", "return ArenaBackend  # "), TypeError, "ArenaBackend"),
    "raising hook": (WORKING.replace("return ", "return 1 / 0, "), ZeroDivisionError, "division"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_plugin(folder: Path, registry: PluginRegistry[ArenaBackend], what: str) -> None:
    source, cause, message = BROKEN[what]
    install(folder, "fake-one", {"extra": "fake_one"}, {"fake_one": source})
    with pytest.warns(
        PluginWarning, match=r"'extra' of fake-one 1.0.*kvpool_arena_backend"
    ) as seen:
        reports = {report.name: report for report in registry.reports()}
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert reports["extra"].state is PluginState.BROKEN
    assert reports["extra"].plugin is None
    assert message in reports["extra"].reason
    assert all(reports[name].state is PluginState.OK for name in OURS)

    with pytest.raises(BrokenPluginError, match=r"'extra' of fake-one 1.0") as caught:
        registry.choose("extra")
    assert str(caught.value) == reports["extra"].reason
    assert type(caught.value.__cause__) is (cause or type(None))
    assert registry.choose().name == registry.kind.default


def test_repaired_plugin_can_be_chosen(
    folder: Path, registry: PluginRegistry[ArenaBackend]
) -> None:
    install(folder, "fake-one", {"extra": "fake_one"}, {"fake_one": "import no_such_module"})
    with pytest.raises(BrokenPluginError):
        registry.choose("extra")
    (folder / "fake_one.py").write_text(WORKING, encoding="utf-8")
    assert registry.choose("extra").name == "extra"


def test_warnings_as_errors_come_after_the_look_at_all(
    folder: Path, registry: PluginRegistry[ArenaBackend]
) -> None:
    install(folder, "fake-one", {"aaa": "fake_one"}, {"fake_one": "import no_such_module"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PluginWarning):
            registry.reports()
    assert registry.choose().name == registry.kind.default
