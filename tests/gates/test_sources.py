from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.gates.sources import (
    examples_problems,
    python_files,
    shell_files,
    shell_problems,
    silencing_problems,
    write_program,
)
from tests.support.scratch_gates import ROOT


@pytest.fixture(params=["git", "no git"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tree with a tracked file, a new one, an ignored one; and the same without git."""
    for name in ("old.py", "new/deep.py", "stub.pyi", "text.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("number = 1\n", encoding="utf-8")
    if request.param == "git":
        (tmp_path / ".gitignore").write_text("made.py\n", encoding="utf-8")
        (tmp_path / "made.py").write_text("number = 1  # noqa\n", encoding="utf-8")
        subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
        subprocess.run(["git", "add", "old.py"], cwd=tmp_path, check=True)
    else:
        (tmp_path / ".venv").mkdir()
        (tmp_path / ".venv/made.py").write_text("number = 1  # noqa\n", encoding="utf-8")
    return tmp_path


def test_every_python_file_is_seen_wherever_it_is(tree: Path) -> None:
    assert python_files(tree) == ["new/deep.py", "old.py", "stub.pyi"]


@pytest.mark.parametrize(
    "comment",
    [
        "# type: ignore",
        "# type: ignore[assignment]",
        "# noqa",
        "#noqa: E501",
        "# NOQA",
        "# ruff: noqa",
        "# pragma: no cover",
        "# mypy: ignore-errors",
        "# pylint: disable=all",
    ],
)
def test_a_comment_that_silences_is_found(tree: Path, comment: str) -> None:
    (tree / "new/deep.py").write_text(f"number = 1\nother = 2  {comment}\n", encoding="utf-8")
    (problem,) = silencing_problems(tree)
    assert problem.startswith(f"new/deep.py:2: {comment}")


def test_a_string_that_speaks_of_such_a_comment_is_not_one(tree: Path) -> None:
    text = 'text = "# noqa"  # the type: ignore that is meant elsewhere\n'
    (tree / "old.py").write_text(text, encoding="utf-8")
    assert silencing_problems(tree) == []


@pytest.mark.parametrize("name", ["broken.sh", "broken"])
def test_a_script_that_bash_cannot_read_is_found(tree: Path, name: str) -> None:
    (tree / name).write_text("#!/usr/bin/env bash\nif [ ; then\n", encoding="utf-8")
    (problem,) = shell_problems(tree)
    assert problem.startswith(f"{name}: ")
    assert "syntax error" in problem


def test_a_shell_script_is_known_by_its_name_or_its_first_line(tree: Path) -> None:
    for name, text in {
        "a.sh": "true\n",
        "tool": "#!/bin/sh\ntrue\n",
        "snake": "#!/usr/bin/env python3\n",
        "notes.txt": "#!/bin/sh\n",
    }.items():
        (tree / name).write_text(text, encoding="utf-8")
    assert shell_files(tree) == ["a.sh", "notes.txt", "tool"]


def test_an_example_that_the_oldest_python_cannot_read_is_found(tree: Path) -> None:
    page = tree / "README.md"
    page.write_text("# A\n\n```python\nnumber = 1\ntype Name = str\n```\n", encoding="utf-8")
    (problem,) = examples_problems([page], "3.11")
    assert problem.startswith(f"{page}:5: not for Python 3.11: ")
    page.write_text("# A\n\n```python\nnumber = 1\n```\n", encoding="utf-8")
    assert examples_problems([page], "3.11") == []


def test_this_repository_has_none_of_these() -> None:
    assert silencing_problems(ROOT) == []
    assert shell_problems(ROOT) == []


def test_the_examples_of_a_page_are_one_program(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\na = 1\n```\nText\n```python\nb = a\n```\n", "utf-8")
    program = Path(write_program(page, tmp_path))
    assert program.name == "page_page.py"
    lines = program.read_text("utf-8").splitlines()
    assert (lines[3], lines[7]) == ("a = 1", "b = a")  # where they stand in the page
    assert "".join(lines) == "a = 1b = a"
