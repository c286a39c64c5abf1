from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.gates.steps import missing_backends, pages_with_examples, pytest_options
from tests.support.scratch_gates import ROOT

HEAD = f"""
import sys
import nox
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from scripts.gates import interpreters, steps
"""


def run(directory: Path, body: str, *, backend: str = "none", **environ: str) -> tuple[str, str]:
    """Run a session with this body; return how it ended, and what was said."""
    text = f"@nox.session(venv_backend={backend!r})\ndef one(session):\n{body}"
    noxfile = directory / "noxfile.py"
    noxfile.write_text(f"{HEAD}\n{text}\n", encoding="utf-8")
    verdict = directory / "nox.json"
    command = [sys.executable, "-m", "nox", "--noxfile", str(noxfile), "--report", str(verdict)]
    env = {key: value for key, value in os.environ.items() if key != "CI"} | environ
    done = subprocess.run(
        [*command, "--reuse-venv=yes"], env=env, capture_output=True, text=True, check=False
    )
    (session,) = json.loads(verdict.read_text(encoding="utf-8"))["sessions"]
    return session["result"], done.stdout + done.stderr


def test_an_interpreter_that_is_there_is_returned(tmp_path: Path) -> None:
    body = (
        "    found = interpreters.Search('3.99', Path(sys.executable), (), ())\n"
        "    assert steps.require(session, found) == Path(sys.executable)\n"
    )
    assert run(tmp_path, body)[0] == "success"


def test_an_interpreter_that_is_missing_fails_the_session(tmp_path: Path) -> None:
    result, said = run(tmp_path, "    steps.require(session, interpreters.find('3.99'))\n")
    assert result == "aborted"
    assert "3.99" in said


def test_tools_are_installed_again_only_when_their_lock_has_changed(tmp_path: Path) -> None:
    lock = tmp_path / "tools.txt"
    body = "    steps.install_once(session, 'tools.txt')\n"
    said: list[bool] = []
    for content in ("# no tools\n", "# no tools\n", "# none still\n"):
        lock.write_text(content, encoding="utf-8")
        result, text = run(tmp_path, body, backend="uv|virtualenv")
        assert result == "success", text
        said.append("install -r tools.txt" in text)
    assert said == [True, False, True]


def test_an_environment_borrows_what_another_one_holds(tmp_path: Path) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    lent = tmp_path / ".nox" / "lender" / "lib" / version / "site-packages"
    lent.mkdir(parents=True)
    (lent / "shelf.py").write_text("BOOKS = 3\n", encoding="utf-8")
    about = lent / "shelf-1.0.dist-info"
    about.mkdir()
    words = "Metadata-Version: 2.1\nName: shelf\nVersion: 1.0\n"
    (about / "METADATA").write_text(words, encoding="utf-8")
    (about / "RECORD").write_text("", encoding="utf-8")
    body = (
        "    steps.borrow(session, 'absent')\n"
        "    steps.borrow(session, 'lender')\n"
        "    session.install('shelf==1.0')\n"  # is there, so no index is asked
        "    session.run('python', '-P', '-c', 'import shelf; assert shelf.BOOKS == 3')\n"
    )
    result, said = run(tmp_path, body, backend="venv")
    assert result == "success", said
    assert not (tmp_path / ".nox" / "absent").exists()


@pytest.mark.parametrize(("environ", "result"), [({}, "skipped"), ({"CI": "1"}, "aborted")])
def test_a_group_that_cannot_be_installed_skips_but_for_ci(
    tmp_path: Path, environ: dict[str, str], result: str
) -> None:
    groups = '[dependency-groups]\nheavy = ["kvpool-absent @ file:///absent-of-all-machines"]\n'
    (tmp_path / "pyproject.toml").write_text(groups, encoding="utf-8")
    body = "    steps.install_or_skip(session, 'heavy')\n"
    ended, said = run(tmp_path, body, backend="uv|virtualenv", **environ)
    assert ended == result, said
    assert "pip cannot install kvpool-absent @ file:///absent-of-all-machines here" in said


@pytest.mark.parametrize(("environ", "result"), [({}, "success"), ({"CI": "1"}, "aborted")])
def test_a_model_that_cannot_be_installed_is_done_without_but_for_ci(
    tmp_path: Path, environ: dict[str, str], result: str
) -> None:
    groups = '[dependency-groups]\nmodel = ["kvpool-absent @ file:///absent-of-all-machines"]\n'
    (tmp_path / "pyproject.toml").write_text(groups, encoding="utf-8")
    body = "    assert not steps.install_model(session)\n"
    ended, said = run(tmp_path, body, backend="uv|virtualenv", **environ)
    assert ended == result, said
    assert "pip cannot install the weights of a real model here" in said


def test_what_is_not_at_hand_everywhere_is_left_out() -> None:
    options = pytest_options(["tests/a.py::one", "tests/b.py"], "stress")
    assert options[:2] == [
        "-m",
        "not integration and not transformers and not engines and not stress",
    ]
    assert options[2:4] == ["--deselect=tests/a.py::one", "--deselect=tests/b.py"]
    assert pytest_options([], "")[:2] == [
        "-m",
        "not integration and not transformers and not engines",
    ]


def test_pages_are_those_of_the_root_and_of_the_docs_but_for_what_a_build_made(
    tmp_path: Path,
) -> None:
    for name in (
        "README.md",
        "docs/b.md",
        "docs/deep/a.md",
        "docs/torch.md",
        "docs/_build/made.md",
        "docs/generated/made.md",
        "src/not.md",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# A page\n", encoding="utf-8")
    pages = pages_with_examples(tmp_path, "docs/torch.md")
    assert pages == ["README.md", "docs/b.md", "docs/deep/a.md"]


def test_a_tree_below_a_directory_called_generated_has_its_pages(tmp_path: Path) -> None:
    root = tmp_path / "generated"
    root.mkdir()
    (root / "README.md").write_text("# A page\n", encoding="utf-8")
    assert pages_with_examples(root, "docs/torch.md") == ["README.md"]


def test_a_backend_that_is_not_listed_is_named() -> None:
    assert missing_backends("numpy  yes\nmmap  yes", ["numpy", "mmap", "ctypes"]) == ["ctypes"]
