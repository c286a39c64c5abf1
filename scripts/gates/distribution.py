"""Say what is wrong with a built distribution.

The expectations come from `pyproject.toml` and from the source tree; nothing about the
contents is written down twice.
"""

from __future__ import annotations

import configparser
import email
import email.message
import runpy
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.requirements import Requirement

__all__ = ["sdist_problems", "wheel_problems"]

# Whatever pyproject.toml asks for: a user gets these names, and nobody adds to them by accident.
_TOP_LEVEL = ("kvpool", "kvpool_ctypes", "kvpool_mmap", "kvpool_numpy")

# What a build needs and what the tests need; `conftest.py` and the like stand in the list of
# pyproject.toml, a missing one shows when the wheel is built from the sdist.
_SDIST_HOLDS = ("LICENSE", "PKG-INFO", "README.md", "noxfile.py", "pyproject.toml", "tests")


def wheel_problems(wheel: Path, root: Path) -> list[str]:
    """Compare a wheel with the source tree that it claims to be built from.

    Parameters
    ----------
    wheel : Path
        The built wheel.
    root : Path
        The source tree.

    Returns
    -------
    list of str
        One line for each problem; empty if there is none.
    """
    config = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project = config["project"]
    packages = config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    version = _version(root)
    info = f"{project['name']}-{version}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        if f"{info}/METADATA" not in names:
            return [f"{wheel.name} has no {info}/METADATA"]
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        tags = email.message_from_bytes(archive.read(f"{info}/WHEEL"))
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    return [
        *_content_problems(names, info, packages, root),
        *_metadata_problems(metadata, project, version),
        *_entry_point_problems(entry_points, project),
        *_difference("wheel tags", tags.get_all("Tag", []), ["py3-none-any"]),
        *_difference("license files", _license_files(names, info), project["license-files"]),
    ]


def sdist_problems(sdist: Path, root: Path) -> list[str]:
    """Look whether an sdist has what a build and the tests need, below one directory.

    Parameters
    ----------
    sdist : Path
        The built archive.
    root : Path
        The source tree.

    Returns
    -------
    list of str
        One line for each problem; empty if there is none.
    """
    with tarfile.open(sdist) as archive:
        paths = [PurePosixPath(name) for name in archive.getnames()]
    top = f"kvpool-{_version(root)}"
    problems = [f"sdist: {path} lies outside of {top}/" for path in paths if path.parts[0] != top]
    second = {path.parts[1] for path in paths if len(path.parts) > 1}
    problems += [f"sdist: {name} is missing" for name in _SDIST_HOLDS if name not in second]
    problems += [f"sdist: {path} is bytecode" for path in paths if path.suffix == ".pyc"]
    return problems


def _version(root: Path) -> str:
    version = runpy.run_path(str(root / "kvpool/__about__.py"))["__version__"]
    return str(version)


def _content_problems(names: set[str], info: str, packages: list[str], root: Path) -> Iterator[str]:
    expected: set[str] = set()
    for package in packages:
        directory = root / package
        for path in directory.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add(path.relative_to(directory.parent).as_posix())
    shipped = {name for name in names if not name.startswith(f"{info}/")}
    yield from _difference("top level", _tops(names), [*_TOP_LEVEL, info])
    yield from _difference("contents", shipped, expected)
    if "kvpool/py.typed" not in shipped:
        yield "contents: kvpool/py.typed is missing, its types would be ignored"


def _metadata_problems(
    metadata: email.message.Message, project: Mapping[str, Any], version: str
) -> Iterator[str]:
    single = {
        "Name": project["name"],
        "Version": version,
        "Summary": project["description"],
        "License-Expression": project["license"],
        "Requires-Python": project["requires-python"],
        "Description-Content-Type": "text/markdown",
        "Keywords": ",".join(sorted(project["keywords"])),
    }
    for field, expected in single.items():
        yield from _difference(field, metadata.get_all(field, []), [expected])
    yield from _difference("Classifier", metadata.get_all("Classifier", []), project["classifiers"])
    yield from _difference(
        "Requires-Dist",
        {_normal(text) for text in metadata.get_all("Requires-Dist", [])},
        {_normal(text) for text in _requirements(project)},
    )
    extras = project.get("optional-dependencies", {})
    yield from _difference("Provides-Extra", metadata.get_all("Provides-Extra", []), extras)
    if not metadata.get_payload():
        yield "Description: empty"


def _requirements(project: Mapping[str, Any]) -> list[str]:
    """Return what the metadata should ask for: the dependencies, and those of the extras."""
    extras = project.get("optional-dependencies", {}).items()
    optional = [_of_extra(one, name) for name, needed in extras for one in needed]
    return [*project["dependencies"], *optional]


def _of_extra(requirement: str, extra: str) -> str:
    """Return a requirement with the condition that an extra was asked for."""
    bare, _, marker = requirement.partition(";")
    condition = f'({marker.strip()}) and extra == "{extra}"' if marker else f'extra == "{extra}"'
    return f"{bare}; {condition}"


def _entry_point_problems(text: str, project: Mapping[str, Any]) -> Iterator[str]:
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read_string(text)
    found = {group: dict(parser[group]) for group in parser.sections()}
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    yield from _difference("entry-point groups", found, groups)
    for group, points in groups.items():
        yield from _difference(
            f"entry points of {group}",
            {f"{name} = {target}" for name, target in found.get(group, {}).items()},
            {f"{name} = {target}" for name, target in points.items()},
        )


def _license_files(names: set[str], info: str) -> list[str]:
    prefix = f"{info}/licenses/"
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _tops(names: set[str]) -> set[str]:
    return {name.split("/", 1)[0] for name in names}


def _normal(requirement: str) -> str:
    parsed = Requirement(requirement)
    return f"{parsed.name.lower().replace('_', '-')}{parsed.specifier}{parsed.marker or ''}"


def _difference(what: str, found: Any, expected: Any) -> Iterator[str]:
    for item in sorted(set(expected) - set(found)):
        yield f"{what}: {item!r} is missing"
    for item in sorted(set(found) - set(expected)):
        yield f"{what}: {item!r} does not belong there"
