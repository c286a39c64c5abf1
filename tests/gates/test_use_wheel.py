"""The check of an installed distribution, on one that a test installs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.scratch_gates import ROOT

SAID_OTHERWISE = """
try:
    import absent_sign.keys
except ImportError as error:
    raise ImportError("install demo[sign]") from error
"""

METADATA = """Metadata-Version: 2.4
Name: demo
Version: 1
Provides-Extra: sign
Requires-Dist: absent-sign>=1; extra == "sign"
"""


def check(directory: Path, modules: dict[str, str], points: str = "") -> tuple[int, str]:
    """Lay a distribution out as an installer does, and check it."""
    info = directory / "demo-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA, encoding="utf-8")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    for name, text in modules.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in modules), encoding="utf-8")
    command = [sys.executable, "-W", "error", str(ROOT / "scripts/gates/use_wheel.py"), "demo"]
    env = {"PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_what_imports_passes(tmp_path: Path) -> None:
    modules = {"demo/__init__.py": "", "demo/part.py": "import json\n"}
    points = "[demo.plugins]\npart = demo.part\n"
    told = "2 modules of demo imported, 1 entry points resolved\n"
    assert check(tmp_path, modules, points) == (0, told)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("import absent\n", 1),
        ("import absent_sign\n", 0),
        (SAID_OTHERWISE, 0),
        ("import warnings\nwarnings.warn('old')\n", 1),
        ("1 / 0\n", 1),
    ],
    ids=["undeclared", "of an extra", "of an extra, said otherwise", "warning", "error"],
)
def test_only_what_an_extra_brings_may_be_missing(tmp_path: Path, text: str, status: int) -> None:
    found, said = check(tmp_path, {"demo/__init__.py": "", "demo/part.py": text})
    assert found == status
    assert ("demo.part: " in said) == bool(status)


def test_an_entry_point_of_a_module_that_is_not_there_is_found(tmp_path: Path) -> None:
    found, said = check(tmp_path, {"demo/__init__.py": ""}, "[demo.plugins]\nextra = demo_extra\n")
    assert found == 1
    assert "entry point demo.plugins extra = demo_extra: ModuleNotFoundError" in said
