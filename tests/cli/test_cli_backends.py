"""`kvpool backends`, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kvpool
from kvpool.backends import registry
from tests.support import terminal
from tests.support.distributions import backend_source, install

DEFAULT = registry.kind.default
NOISE = "import warnings; warnings.warn('tra-la-la'); print('tra-la-la')\n"
BRACKETS = "raise ImportError('no [bold]driver[/bold] here')"


def run(
    *arguments: str, folder: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command, with a folder on the path of Python and environment variables."""
    on_path = {"PYTHONPATH": str(folder)} if folder else {}
    return terminal.run(*arguments, **on_path, **variables)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with plugins of every state."""
    working = backend_source("extra")
    install(tmp_path, "a-good-one", {"extra": "fake_extra"}, {"fake_extra": NOISE + working})
    install(tmp_path, "a-broken-one", {"cuda": "fake_cuda"}, {"fake_cuda": NOISE + BRACKETS})
    misspelt = working.replace("def kvpool_arena_backend", "def kvpool_arena_backnd")
    install(tmp_path, "a-misspelt-one", {"acme": "fake_acme"}, {"fake_acme": misspelt})
    install(tmp_path, "first-claimant", {"both": "fake_extra"})
    install(tmp_path, "second-claimant", {"both": "fake_extra"}, version="2.0")
    return tmp_path


def document(*arguments: str, folder: Path | None = None, **variables: str) -> Any:
    done = run("backends", "--json", *arguments, folder=folder, **variables)
    assert done.returncode == 0
    return json.loads(done.stdout)


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"kvpool {kvpool.__version__}\n")


def test_json_of_ours() -> None:
    shown = document()
    assert (shown["chosen"], shown["chosen_by"]) == (DEFAULT, "the default")
    backends = {backend["name"]: backend for backend in shown["backends"]}
    assert list(backends) == ["ctypes", "mmap", "numpy"]
    for name, backend in backends.items():
        here = registry.choose(name)
        assert backend == {
            "name": name,
            "distribution": "kvpool",
            "version": kvpool.__version__,
            "capabilities": list(here.capabilities.names()),
            "state": "ok",
            "reason": "",
            "summary": here.summary,
            "options": here.options,
        }


def test_json_of_every_state(folder: Path) -> None:
    shown = document(folder=folder, KVPOOL_DISABLED_BACKENDS="mmap", KVPOOL_BACKEND="extra")
    assert (shown["chosen"], shown["chosen_by"]) == ("extra", "KVPOOL_BACKEND")
    backends = {backend["name"]: backend for backend in shown["backends"]}
    assert {name: backend["state"] for name, backend in backends.items()} == {
        "acme": "broken",
        "both": "conflict",
        "ctypes": "ok",
        "cuda": "broken",
        "extra": "ok",
        "mmap": "disabled",
        "numpy": "ok",
    }
    assert "kvpool_arena_backnd" in backends["acme"]["reason"]
    assert "ImportError" in backends["cuda"]["reason"]
    assert "KVPOOL_DISABLED_BACKENDS" in backends["mmap"]["reason"]
    for claimant in ("first-claimant 1.0", "second-claimant 2.0"):
        assert claimant in backends["both"]["reason"]


@pytest.mark.parametrize("columns", ["80", "200"])
def test_table_cuts_nothing(folder: Path, columns: str) -> None:
    done = run("backends", folder=folder, KVPOOL_DISABLED_BACKENDS="mmap", COLUMNS=columns)
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= int(columns)
    assert "…" not in done.stdout
    for words in (
        ("acme", "a-misspelt-one", "1.0", "broken"),
        ("mmap", "kvpool", kvpool.__version__, "disabled"),
        ("extra", "a-good-one", "1.0", "ok"),
        ("numpy", "kvpool", kvpool.__version__, "ok"),
    ):
        rows = (line.replace(" - ", " ").split() for line in done.stdout.splitlines())
        assert list(words) in list(rows)
    flowing = " ".join(done.stdout.split())
    assert "unknown hook 'kvpool_arena_backnd' in plugin <module 'fake_acme' from" in flowing
    assert "ImportError: no [bold]driver[/bold] here" in flowing
    assert "both the backend 'both' is claimed by first-claimant 1.0 and by second" in flowing
    trouble = "; it is disabled" if DEFAULT == "mmap" else ""
    assert flowing.endswith(f"Default backend: {DEFAULT} (the default){trouble}.")


def test_noise_of_plugins_is_no_output(folder: Path) -> None:
    done = run("backends", folder=folder)
    assert "tra-la-la" not in done.stdout
    assert "Warning" not in done.stdout + done.stderr


def test_options_are_explained() -> None:
    flowing = " ".join(run("backends", "--options").stdout.split())
    for name in ("ctypes", "mmap"):
        for option, meaning in registry.choose(name).options.items():
            assert f"{name} {option} {meaning}" in flowing


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"KVPOOL_BACKEND": "mmap"}, "mmap (KVPOOL_BACKEND)."),
        ({"KVPOOL_BACKEND": "cdua"}, "cdua (KVPOOL_BACKEND); it is unknown."),
        ({"KVPOOL_DISABLED_BACKENDS": DEFAULT}, f"{DEFAULT} (the default); it is disabled."),
    ],
)
def test_last_line_says_what_is_used(variables: dict[str, str], expected: str) -> None:
    done = run("backends", folder=None, **variables)
    assert done.returncode == 0
    assert done.stdout.endswith(f"Default backend: {expected}\n")


def test_unknown_command_is_an_error() -> None:
    assert run("backend").returncode == 2


ONE_LINE = """
from kvpool.cli import app, main
from kvpool.errors import PoolError

@app.command()
def fail():
    raise PoolError("the pool of 4096 bytes says no")

main()
"""


def test_error_is_one_line() -> None:
    command = [sys.executable, "-c", ONE_LINE, "fail"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "kvpool: the pool of 4096 bytes says no\n"
