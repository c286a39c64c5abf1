"""The stacks of this repository itself."""

from __future__ import annotations

from pathlib import Path

from scripts.stack.manifest import load_all
from scripts.stack.render import check

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
    assert check(ROOT, load_all(ROOT), None).problems == ()


def test_no_room_of_the_tool_is_too_large_to_see() -> None:
    lengths = {
        path.name: len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "scripts/stack").glob("*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > 300} == {}
