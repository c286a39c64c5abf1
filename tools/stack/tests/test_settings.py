"""A project whose gates, folders and names are not those of the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from .project import manifest
from .scratch import Scratch, write_executable

PYPROJECT = """
[tool.milestones]
pages = "plans"
command = "milestones"
script = "ci/gates.sh"
gates = ["unit", "style"]
definitions = ["ci"]
former_definitions = []
locks = ["lock.txt"]
pythons = ["3.11"]
results_variable = "RESULTS"
excluded_variable = "LEFT_OUT"
scrub = ["SECRET_"]
"""

GATES = r"""#!/usr/bin/env bash
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 1
echo "=== gate unit"
[ "$(cat answer)" = 42 ] && [ -z "${SECRET_TOKEN:-}" ] && unit=true || unit=false
echo "=== gate style"
printf '{"gates":[{"gate":"unit","passed":%s,"seconds":0.1},' "$unit" >"$RESULTS"
printf '{"gate":"style","passed":true,"seconds":0.1}]}' >>"$RESULTS"
[ "$unit" = true ]
"""


@pytest.fixture
def other(tmp_path: Path) -> Scratch:
    """A project that is not laid out as kvpool is."""
    scratch = Scratch(tmp_path / "other")
    scratch.root.mkdir()
    scratch.git("init", "--quiet", "--initial-branch", "main")
    write_executable(scratch.root / "ci/gates.sh", GATES)
    plans = {"plans/demo.toml": manifest(1), "lock.txt": "", "pyproject.toml": PYPROJECT}
    scratch.commit("A project", plans)
    scratch.git("switch", "--quiet", "--create", "feat/demo-1")
    scratch.commit("The answer", {"answer": "42\n"})
    return scratch


def test_a_milestone_of_another_project_is_verified_and_landed(
    other: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "leaks")
    assert other.run("verify").exit_code == 0
    assert other.status()["demo/1"]["evidence"]["text"] == "2/2"
    said = other.run("land", "demo/1", "--local", "--execute")
    assert said.exit_code == 0, said.text
    other.run("render", "--refresh")
    assert (other.root / "plans/records/demo/1.json").exists()
    page = (other.root / "plans/demo/1.md").read_text(encoding="utf-8")
    assert "`milestones verify demo/1 --again`" in page
    assert "nox" not in page
    assert other.run("render", "--check").exit_code == 0


def test_a_gate_of_another_project_fails(other: Scratch) -> None:
    other.commit("A wrong answer", {"answer": "41\n"})
    said = other.run("verify")
    assert said.exit_code == 1
    assert "1/2 gates passed, unit failed" in said.text


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("gates = []", "tool.milestones.gates: Tuple should have at least 1 item"),
        ("gate = 1", "tool.milestones.gate: Extra inputs are not permitted, not 1"),
        ("gates = [", "is not a TOML file"),
    ],
)
def test_a_wrong_table_names_file_and_key(other: Scratch, table: str, text: str) -> None:
    other.write({"pyproject.toml": f"[tool.milestones]\n{table}\n"})
    said = other.run("status")
    assert said.exit_code == 1
    assert said.text.startswith(f"{other.root / 'pyproject.toml'}: ")
    assert text in said.text
