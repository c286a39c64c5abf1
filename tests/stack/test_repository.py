"""The stacks of this repository itself, and what its pyproject.toml says of them."""

from __future__ import annotations

from pathlib import Path

from milestones.cli import every_command
from milestones.manifest import load_all
from milestones.render import check
from milestones.settings import load
from scripts.gates import interpreters, runner

ROOT = Path(__file__).parents[2]


def test_the_manifests_are_as_they_should_be() -> None:
    stacks = load_all(ROOT)
    wanted = {
        "kv-pool-v2": 5,
        "kv-pool-v3": 6,
        "contributor-workflow": 2,
        "foundations": 3,
        "engines": 1,
    }
    assert {name: len(stacks[name].milestones) for name in wanted} == wanted


def test_the_pages_are_what_the_records_say() -> None:
    assert check(ROOT, load_all(ROOT), None, every_command()).problems == ()


def test_the_settings_are_those_of_the_gates() -> None:
    settings = load(ROOT / "pyproject.toml")
    assert settings.gates == runner.GATES
    assert settings.pythons == interpreters.SUPPORTED
    assert all((ROOT / path).exists() for path in (*settings.definitions, *settings.locks))
    assert (ROOT / settings.script).exists()
