from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.gates.interpreters import SUPPORTED, newest, search
from tests.support.scratch_gates import write_executable, write_shim

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
BASE = Path(os.path.realpath(sys.executable))

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="shims are POSIX shell scripts")


def environment(home: Path, *path: Path) -> dict[str, str]:
    return {"PATH": os.pathsep.join(map(str, path)), "HOME": str(home)}


def test_the_running_interpreter_is_the_first_choice(tmp_path: Path) -> None:
    found = search(HERE, environment(tmp_path))
    assert found.path is not None
    assert os.path.realpath(found.path) == str(BASE)


def test_an_interpreter_of_a_virtual_environment_leads_to_its_base(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    found = search(HERE, environment(tmp_path, tmp_path / "env/bin"), running=None)
    assert found.path is not None
    assert tmp_path not in found.path.parents


def test_a_shim_that_does_not_resolve_is_passed_over(tmp_path: Path) -> None:
    shim = write_shim(tmp_path / "shims" / f"python{HERE}")
    installed = tmp_path / "pyenv/versions" / f"{HERE}.99/bin/python{HERE}"
    installed.parent.mkdir(parents=True)
    installed.symlink_to(BASE)
    environ = environment(tmp_path, shim.parent) | {"PYENV_ROOT": str(tmp_path / "pyenv")}

    found = search(HERE, environ, running=None)

    assert found.path is not None
    assert os.path.realpath(found.path) == str(BASE)
    assert found.tried == (f"{shim}: exit status 127: pyenv: python{HERE}: command not found",)


def test_a_shim_of_a_manager_whose_installations_are_searched_is_not_started(
    tmp_path: Path,
) -> None:
    shim = write_executable(tmp_path / "pyenv/shims" / f"python{HERE}", "#!/bin/sh\nexit 1\n")
    installed = tmp_path / "pyenv/versions" / f"{HERE}.99/bin/python{HERE}"
    installed.parent.mkdir(parents=True)
    installed.symlink_to(BASE)
    environ = environment(tmp_path, shim.parent) | {"PYENV_ROOT": str(tmp_path / "pyenv")}
    found = search(HERE, environ, running=None)
    assert found.path is not None
    assert found.tried == ()


def test_a_later_place_on_the_path_serves_where_an_earlier_is_a_shim(tmp_path: Path) -> None:
    shim = write_shim(tmp_path / "shims" / f"python{HERE}")
    real = tmp_path / "real" / f"python{HERE}"
    real.parent.mkdir()
    real.symlink_to(BASE)
    found = search(HERE, environment(tmp_path, shim.parent, real.parent), running=None)
    assert found.path is not None
    assert len(found.tried) == 1


@pytest.mark.parametrize(
    "manager", [".asdf/installs/python", ".local/share/mise/installs/python", ".pyenv/versions"]
)
def test_version_managers_are_searched(tmp_path: Path, manager: str) -> None:
    installed = tmp_path / manager / f"{HERE}.7/bin/python{HERE}"
    installed.parent.mkdir(parents=True)
    installed.symlink_to(BASE)
    found = search(HERE, environment(tmp_path), running=None)
    assert found.path is not None
    assert os.path.realpath(found.path) == str(BASE)
    assert any(manager in place for place in found.places)


def test_a_liar_is_found_out(tmp_path: Path) -> None:
    liar = write_executable(tmp_path / "python3.99", f'#!/bin/sh\nexec {BASE} "$@"\n')
    mute = write_executable(tmp_path / "more/python3.99", "#!/bin/sh\necho hello\n")
    found = search("3.99", environment(tmp_path, liar.parent, mute.parent), running=None)
    assert found.path is None
    assert found.tried[0] == f"{liar}: is Python {HERE}"
    assert found.tried[1].startswith(f"{mute}: is not Python: it printed 'hello")


def test_a_missing_interpreter_is_told_with_every_place(tmp_path: Path) -> None:
    shim = write_shim(tmp_path / "python3.99")
    found = search("3.99", environment(tmp_path, tmp_path), running=None)
    assert found.path is None
    assert found.for_nox is False
    told = found.explain()
    assert told.startswith("Python 3.99 is needed")
    assert f"{shim}: exit status 127" in told
    for place in (str(tmp_path), ".pyenv/versions/3.99*", ".asdf", "mise", "uv/python"):
        assert place in told


def test_the_newest_is_the_highest_version_at_hand() -> None:
    assert newest().path is not None
    at_hand = [version for version in SUPPORTED if search(version).path is not None]
    assert newest().version == at_hand[-1]


def test_none_of_several_tells_of_all() -> None:
    found = newest(["3.98", "3.99"])
    assert found.path is None
    assert "python3.98" in found.explain()
    assert "python3.99" in found.explain()
