from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.gates.distribution import sdist_problems, wheel_problems
from tests.support.scratch_gates import ROOT

Change = Callable[[str, bytes], tuple[str, bytes] | None]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(output)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return output


@pytest.fixture
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


def changed(wheel: Path, directory: Path, change: Change) -> Path:
    """Copy a wheel member by member through `change`, which may rename, rewrite or drop it."""
    copy = directory / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(copy, "w") as target:
        for name in source.namelist():
            if (member := change(name, source.read(name))) is not None:
                target.writestr(*member)
    return copy


def test_what_we_build_has_no_problem(built: Path, wheel: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    assert sdist_problems(sdist, ROOT) == []
    assert wheel_problems(wheel, ROOT) == []


def test_a_stranger_at_the_top_level_is_named(wheel: Path, tmp_path: Path) -> None:
    def move(name: str, content: bytes) -> tuple[str, bytes]:
        return name.replace("kvpool_numpy/", "backends/kvpool_numpy/"), content

    problems = wheel_problems(changed(wheel, tmp_path, move), ROOT)
    assert "top level: 'kvpool_numpy' is missing" in problems
    assert "top level: 'backends' does not belong there" in problems


def test_a_file_that_was_left_out_is_named(wheel: Path, tmp_path: Path) -> None:
    def drop(name: str, content: bytes) -> tuple[str, bytes] | None:
        return None if name == "kvpool/py.typed" else (name, content)

    problems = wheel_problems(changed(wheel, tmp_path, drop), ROOT)
    assert "contents: 'kvpool/py.typed' is missing" in problems


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("Requires-Python: >=3.11", "Requires-Python: >=3.9", "Requires-Python: '>=3.9'"),
        ("License-Expression: Apache-2.0", "License-Expression: MIT", "License-Expression: 'MIT'"),
        ("Requires-Dist: pluggy", "Requires-Dist: plugin", "Requires-Dist: 'plugin"),
        ("mmap = kvpool_mmap", "mmap = kvpool_ctypes", "entry points of kvpool.backends: 'mmap"),
        ("Tag: py3-none-any", "Tag: cp311-none-any", "wheel tags: 'cp311-none-any'"),
    ],
)
def test_metadata_that_differs_is_named(
    wheel: Path, tmp_path: Path, old: str, new: str, problem: str
) -> None:
    def edit(name: str, content: bytes) -> tuple[str, bytes]:
        inside = ".dist-info/" in name and "/licenses/" not in name
        return name, content.replace(old.encode(), new.encode()) if inside else content

    problems = wheel_problems(changed(wheel, tmp_path, edit), ROOT)
    assert any(found.startswith(problem) for found in problems), problems
