"""The public names of kvpool: listed, importable, and said to be from where they are imported."""

from __future__ import annotations

import ast
import inspect
import pickle
import pkgutil
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import kvpool
from scripts.architecture import imports
from tests.support.docs_pages import ROOT

PACKAGES = ("kvpool", "kvpool_ctypes", "kvpool_mmap", "kvpool_numpy")
NEEDED = {  # and the marker of the tests that have it
    "kvpool.integrations.chat": pytest.mark.transformers,
    "kvpool.integrations.llama_cpp": pytest.mark.engines,
    "kvpool.integrations.lmcache": pytest.mark.engines,
    "kvpool.integrations.sglang": pytest.mark.engines,
    "kvpool.integrations.transformers": pytest.mark.transformers,
    "kvpool.integrations.vllm": pytest.mark.engines,
    "kvpool.tiers.mooncake_store": pytest.mark.integration,
}
# Who may import what is public, and nothing else.
OUTSIDERS = ("backends", "benchmarks", "examples", "scripts", "tools", "docs/conf.py", "tests")


def is_internal(name: str) -> bool:
    """Return whether a part of a dotted name has one underscore before it, unlike `__about__`."""
    return any(part.startswith("_") and not part.endswith("__") for part in name.split("."))


def public_modules() -> Iterator[tuple[str, bool]]:
    """Yield the name of each public module, and whether it is a package."""
    for package in PACKAGES:
        yield package, True
        for one in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            if not is_internal(one.name):
                yield one.name, one.ispkg


NAMES = dict(public_modules())
MODULES = [pytest.param(name, marks=NEEDED[name]) if name in NEEDED else name for name in NAMES]
FRONTS = [name for name, is_package in NAMES.items() if is_package and "_" not in name]


def exported(module: ModuleType) -> dict[str, object]:
    return {name: getattr(module, name) for name in module.__all__}


def defined(file: Path) -> set[str]:
    """Return the names that a module defines at its top, but for those with an underscore."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                names.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {one.id for one in targets if isinstance(one, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def order(name: str) -> tuple[int, str]:
    """Return where a name stands in an `__all__`: constants, then classes, then the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def package_of(file: Path) -> str:
    """Return the package whose internal modules a file may import.

    A test may import those of the package that its folder mirrors; its helpers may not.
    """
    parts = file.relative_to(ROOT).with_suffix("").parts[:-1]
    if parts[:1] == ("backends",):
        return ".".join(parts[1:])
    if parts[:1] == ("tests",) and (not parts[1:] or Path(kvpool.__path__[0], parts[1]).exists()):
        parts = ("kvpool", *parts[1:])
    return ".".join(parts)


def internal_imports(file: Path) -> Iterator[str]:
    """Yield what a file imports that is internal to a package that the file is not in."""
    own = f"{package_of(file)}."
    for name in imports(file, typing=True):
        parts = name.split(".")
        first = next((at for at, part in enumerate(parts) if is_internal(part)), None)
        ours = parts[0].startswith("kvpool") or parts[0] in OUTSIDERS
        if ours and first is not None and not own.startswith(".".join([*parts[:first], ""])):
            yield name


@pytest.mark.parametrize("name", MODULES)
def test_a_public_module_lists_its_names_in_order(name: str) -> None:
    module = import_module(name)
    names = list(module.__all__)
    assert names == sorted(set(names), key=order)
    assert all(hasattr(module, one) for one in names)


@pytest.mark.parametrize("name", MODULES)
def test_what_a_public_module_defines_is_listed(name: str) -> None:
    module = import_module(name)
    assert module.__file__ is not None
    assert defined(Path(module.__file__)) <= set(module.__all__)


@pytest.mark.parametrize("name", FRONTS)
def test_a_package_shows_nothing_but_what_it_lists(name: str) -> None:
    package = import_module(name)
    for one in package.__all__:  # some are loaded when they are asked for
        getattr(package, one)
    shown = {one for one, value in vars(package).items() if not inspect.ismodule(value)}
    public = {one for one in shown - {"TYPE_CHECKING", "annotations"} if not one.startswith("_")}
    assert public <= set(package.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_a_name_is_from_a_public_module(name: str) -> None:
    for one, value in exported(import_module(name)).items():
        if isinstance(value, type | FunctionType):
            assert not is_internal(value.__module__), (
                f"{one} says that it is from an internal module"
            )
            assert getattr(import_module(value.__module__), value.__name__) is value


@pytest.mark.parametrize("name", FRONTS)
def test_a_method_is_from_where_its_class_is(name: str) -> None:
    """doctest runs the examples of methods that are from the module that it looks at."""
    classes = filter(inspect.isclass, exported(import_module(name)).values())
    for value in classes:
        for member in vars(value).values():
            function = getattr(member, "__func__", member)
            if inspect.isfunction(function):
                assert not is_internal(function.__module__)


@pytest.mark.parametrize("name", MODULES)
def test_classes_are_pickled_by_their_public_names(name: str) -> None:
    for value in exported(import_module(name)).values():
        if inspect.isclass(value):
            text = pickle.dumps(value)
            assert value.__module__.encode() in text
            assert pickle.loads(text) is value


@pytest.mark.parametrize("name", MODULES)
def test_the_annotations_of_classes_can_be_read(name: str) -> None:
    """They are looked up in the module that a class says it is from."""
    for value in exported(import_module(name)).values():
        if inspect.isclass(value):
            typing.get_type_hints(value)


@pytest.mark.parametrize("folder", ["kvpool", *OUTSIDERS])
def test_internal_modules_are_imported_in_their_package_alone(folder: str) -> None:
    path = ROOT / folder
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    assert files
    found = {str(file.relative_to(ROOT)): list(internal_imports(file)) for file in files}
    assert {file: names for file, names in found.items() if names} == {}
