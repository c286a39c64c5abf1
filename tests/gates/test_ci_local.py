from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.support.scratch_gates import ci_local, write_ci_project, write_shim

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a script for POSIX systems")

BASE = Path(os.path.realpath(sys.executable))


def rows(output: str) -> dict[str, str]:
    """Return the table of an output: gate and result."""
    return dict(re.findall(r"^(\w+) +\| (passed|FAILED) \| +[\d.]+$", output, re.MULTILINE))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_ci_project(tmp_path / "a project")


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help(project: Path, word: str) -> None:
    ran = ci_local(project, word)
    assert ran.returncode == 0
    assert ran.stdout.startswith("Usage: scripts/ci-local.sh [quick]")
    assert ran.stderr == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fast"], "unknown word: fast"),
        (["--quick"], "unknown word: --quick"),
        (["quick", "quick"], "one word at most, not 2: quick quick"),
        ([""], "the argument is empty"),
    ],
)
def test_a_wrong_word_is_an_error_and_runs_nothing(
    project: Path, words: list[str], message: str
) -> None:
    ran = ci_local(project, *words)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("Usage:")
    assert ran.stderr.splitlines()[-1] == f"ci-local: {message}"


def test_all_six_gates_run_from_any_directory(project: Path, tmp_path: Path) -> None:
    ran = ci_local(project, cwd=tmp_path, KVPOOL_GATES_JSON="gates.json", NOXPYTHON="3.99")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert list(rows(ran.stdout)) == ["build", "test", "lint", "format", "docs", "min_python"]
    assert set(rows(ran.stdout).values()) == {"passed"}
    assert ran.stdout.splitlines()[-1] == "ci-local: ran six of six gates; all passed"
    told = json.loads((tmp_path / "gates.json").read_text(encoding="utf-8"))
    assert told["complete"]
    assert told["passed"]


def test_quick_says_last_that_it_ran_three_of_six(project: Path) -> None:
    ran = ci_local(project, "quick")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert list(rows(ran.stdout)) == ["lint", "format", "docs"]
    last = ran.stdout.splitlines()[-1]
    assert last == "ci-local: ran three of six gates: lint, format, docs; all passed"


def test_a_failing_gate_fails_the_whole_and_the_rest_runs(tmp_path: Path) -> None:
    project = write_ci_project(tmp_path / "p", {"lint": "session.error('untidy')"})
    ran = ci_local(project, "quick")
    assert ran.returncode == 1
    assert rows(ran.stdout) == {"lint": "FAILED", "format": "passed", "docs": "passed"}
    last = ran.stdout.splitlines()[-1]
    assert last == "ci-local: ran three of six gates: lint, format, docs; not all passed"


def test_a_python_that_does_not_serve_is_an_error(project: Path) -> None:
    (project / ".venv-ci/made-from.txt").unlink()
    ran = ci_local(project, PYTHON="/bin/false")
    assert ran.returncode == 3
    assert "PYTHON=/bin/false is no Python" in ran.stderr


def test_the_environment_is_made_past_shims_and_made_anew_when_the_lock_changes(
    project: Path, tmp_path: Path
) -> None:
    """The requirements name no tool, so nox is missing in the end; the making is the point."""
    made_from = project / ".venv-ci/made-from.txt"
    made_from.unlink()  # as if the making had been interrupted
    (project / ".venv-ci/left-over").touch()
    names = ["python", "python3", *(f"python3.{minor}" for minor in range(11, 20))]
    for name in names:
        write_shim(tmp_path / "shims" / name)
    installed = tmp_path / "pyenv/versions/3.11.99/bin/python3"
    installed.parent.mkdir(parents=True)
    installed.symlink_to(BASE)
    path = f"{tmp_path / 'shims'}{os.pathsep}{os.environ['PATH']}"

    ran = ci_local(project, "quick", PATH=path, PYENV_ROOT=str(tmp_path / "pyenv"))
    assert f"making .venv-ci with {installed}" in ran.stdout
    assert not (project / ".venv-ci/left-over").exists()
    assert made_from.read_text(encoding="utf-8") == "# no tools\n"
    assert ran.returncode == 1
    assert "No module named nox" in ran.stderr

    ran = ci_local(project, "quick", PATH=path, PYENV_ROOT=str(tmp_path / "pyenv"))
    assert "making" not in ran.stdout

    (project / "requirements/nox.txt").write_text("not-a-requirement ???\n", encoding="utf-8")
    ran = ci_local(project, "quick", PYTHON=sys.executable)
    assert ran.returncode == 3
    assert "making .venv-ci" in ran.stdout
    assert "could not be installed" in ran.stderr
    assert not made_from.exists()
