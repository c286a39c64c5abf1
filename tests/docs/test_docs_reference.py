"""The reference pages, held against what they describe."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import kvpool
import kvpool_ctypes
import kvpool_mmap
import kvpool_numpy
from tests.support.docs_pages import DOCS, ROOT

PACKAGES = (kvpool, kvpool_numpy, kvpool_mmap, kvpool_ctypes)
VARIABLE = re.compile(r"\bKVPOOL_[A-Z_]*[A-Z]\b")


MODULE = re.compile(r"^<!-- module: (\S+) -->$", re.MULTILINE)


def public_modules(package: ModuleType) -> Iterator[str]:
    """Yield the public modules of kvpool, but for those of its command."""
    yield package.__name__
    for one in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if "._" not in one.name and not f"{one.name}.".startswith("kvpool.cli."):
            yield one.name


def test_every_public_module_is_on_one_page() -> None:
    """The build of the docs checks that each of their names is there."""
    pages = sorted((DOCS / "reference").glob("*.md"))
    listed = [name for page in pages for name in MODULE.findall(page.read_text(encoding="utf-8"))]
    expected = {*public_modules(kvpool), *(one.__name__ for one in PACKAGES)}
    assert sorted(listed) == sorted(expected)


def test_every_page_of_the_reference_is_in_its_index() -> None:
    index = (DOCS / "reference/index.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^[a-z]+$", index, re.MULTILINE))
    pages = {page.stem for page in (DOCS / "reference").glob("*.md")}
    assert named == pages - {"index"}


def sources() -> list[Path]:
    """Return the files of the library and its backends."""
    folders = [Path(path) for package in PACKAGES for path in package.__path__]
    return [file for folder in folders for file in folder.rglob("*.py")]


def variables(files: list[Path]) -> set[str]:
    return {name for file in files for name in VARIABLE.findall(file.read_text(encoding="utf-8"))}


def test_every_variable_of_the_library_is_listed() -> None:
    page = (DOCS / "reference/environment.md").read_text(encoding="utf-8")
    library, _, _ = page.partition("## For contributors")
    assert set(VARIABLE.findall(library)) == variables(sources())


def test_every_variable_of_contributors_is_there() -> None:
    page = (DOCS / "reference/environment.md").read_text(encoding="utf-8")
    _, _, contributors = page.partition("## For contributors")
    listed = set(VARIABLE.findall(contributors))
    files = [ROOT / "noxfile.py"]
    for folder in ("benchmarks", "scripts", "tests"):
        files += (ROOT / folder).rglob("*.py")
    assert listed
    assert listed <= variables([file for file in files if file != Path(__file__)])


def test_every_error_can_be_looked_up() -> None:
    """Errors that pages name are errors that kvpool has."""
    known = {
        name
        for file in sources()
        for name in re.findall(r"\bclass (\w+Error)\b", file.read_text(encoding="utf-8"))
    }
    pages = [page for page in DOCS.rglob("*.md") if "_build" not in page.parts]
    named = {
        name
        for page in pages
        for name in re.findall(r"`(\w+Error)`", page.read_text(encoding="utf-8"))
    }
    builtin = {"MemoryError", "ValueError", "KeyError"}
    assert named - builtin <= known


def test_what_one_installs_without_the_command_line_is_all_else() -> None:
    """Typer and rich are what the page says that a program can do without."""
    page = (DOCS / "reference/commands.md").read_text(encoding="utf-8")
    (named,) = re.findall(r"^\$ pip install ([\w ]+)$", page, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"\W", text)[0] for text in project["dependencies"]}
    assert {*named.split(), "rich", "typer"} == needed


def values_shown() -> Iterator[tuple[str, object]]:
    """Yield the public constants, and the defaults of public calls, of what can be imported."""
    for name in sorted({*public_modules(kvpool), *(one.__name__ for one in PACKAGES)}):
        with contextlib.suppress(ImportError):  # an engine that is not installed
            module = importlib.import_module(name)
            for public in getattr(module, "__all__", ()):
                value = getattr(module, public)
                if not callable(value):
                    yield f"{name}.{public}", value
                    continue
                with contextlib.suppress(TypeError, ValueError):  # a type without a signature
                    for parameter in inspect.signature(value).parameters.values():
                        if parameter.default is not parameter.empty:
                            yield f"{name}.{public}({parameter.name})", parameter.default


def test_no_value_of_the_reference_shows_an_internal_module() -> None:
    shown = {where: repr(value) for where, value in values_shown()}
    assert len(shown) > 100
    internal = re.compile(r"<[^>]*(?: object at |\._)")
    assert {where: text for where, text in shown.items() if internal.search(text)} == {}
