from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .scratch import Make, Scratch, Step, Templates

collect_ignore_glob = ["test_*.py"] if sys.platform == "win32" else []  # the gates are bash scripts


@pytest.fixture(scope="session", autouse=True)
def _git_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let git know a name, and nothing that the user or the machine has configured.

    A scratch repository need not outlive a power cut, nor be tidied: both take time.
    """
    config = tmp_path_factory.mktemp("git") / "config"
    config.write_text(
        "[user]\n name = A Tester\n email = tester@invalid\n"
        "[init]\n defaultBranch = main\n[advice]\n detachedHead = false\n"
        "[core]\n fsync = none\n[maintenance]\n auto = false\n",
        encoding="utf-8",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", str(config))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("GIT_TEMPLATE_DIR", "")  # no sample hooks to copy
        yield


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in no repository: settings are those of the current directory."""
    monkeypatch.chdir(tmp_path)


def three_milestones(scratch: Scratch) -> None:
    """Make three milestones in a row, each on its branch; main is checked out."""
    with pytest.MonkeyPatch.context() as patch:
        # Amended with the same words within the same second, a commit would stay the same commit.
        patch.setenv("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z")
        scratch.begin(parts=3)
        for number in (1, 2, 3):
            scratch.grow(number)
    scratch.git("switch", "--quiet", "main")


@pytest.fixture(scope="session")
def _templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    return Templates(tmp_path_factory.mktemp("stack"))


@pytest.fixture
def make(_templates: Templates, tmp_path: Path) -> Make:
    """Return a function that gives this test its repository, after steps that many tests share."""

    def made(*steps: Step, name: str = "repository") -> Scratch:
        return _templates.copy((three_milestones, *steps), tmp_path / name)

    return made


@pytest.fixture
def scratch(make: Make) -> Scratch:
    """Three milestones, `demo/1` to `demo/3`, on branches; main is checked out."""
    return make()
