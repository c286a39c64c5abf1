"""Peers, measured beside kvpool: installed on the fly, away from kvpool's environment.

Their distributions ask for torch and a GPU stack. What is measured here is plain Python, so
the wheel comes without its dependencies and only the modules that are needed are loaded;
whatever else these import is answered by stand-ins that take part in nothing measured.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from benchmarks.harness import UnavailableError

__all__ = ["LMCACHE_VERSION", "PeerUnavailableError", "lmcache_address_manager"]

LMCACHE_VERSION = "0.5.6"
SORTEDCONTAINERS_VERSION = "2.4.0"

# The wheel is bound to a platform by compiled modules, none of which is loaded here.
ANY_PLATFORM = [
    "--only-binary=:all:",
    "--python-version=3.11",
    "--platform=manylinux_2_28_x86_64",
    "--no-deps",
]


class PeerUnavailableError(UnavailableError):
    """The peer cannot be installed or loaded; the text says why."""


def lmcache_address_manager() -> Any:
    """Return the class `AddressManager` of LMCache.

    Raises
    ------
    PeerUnavailableError
    """
    requirements = (
        f"lmcache=={LMCACHE_VERSION}",
        f"sortedcontainers=={SORTEDCONTAINERS_VERSION}",
    )
    directory = installed(requirements)
    name = "lmcache.v1.memory_management"
    try:
        with stand_ins(("lmcache", "torch"), directory, keep=name):
            return importlib.import_module(name).AddressManager
    except Exception as error:
        raise PeerUnavailableError(f"LMCache {LMCACHE_VERSION} does not load: {error!r}") from error


def installed(requirements: Sequence[str]) -> Path:
    """Return a directory that holds these distributions, and install them if it does not.

    It lies in $KVPOOL_BENCH_PEERS, or in ~/.cache/kvpool-bench.
    """
    configured = os.environ.get("KVPOOL_BENCH_PEERS")
    cache = Path(configured) if configured else Path.home() / ".cache" / "kvpool-bench"
    directory = cache / "+".join(requirements).replace("==", "-")
    if directory.is_dir():
        return directory
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        command = [sys.executable, "-m", "pip", "install", "--quiet", *ANY_PLATFORM]
        command += ["--target", f"{scratch}/site", *requirements]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        except subprocess.CalledProcessError as error:
            reason = error.stderr.strip().splitlines()[-1:] or [str(error)]
            raise PeerUnavailableError(f"{requirements[0]}: {reason[0]}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PeerUnavailableError(f"{requirements[0]}: {error}") from error
        # A rename at the end: a directory that is there is complete.
        (Path(scratch) / "site").rename(directory)
    return directory


class AnythingType(type):
    """The type of `Anything`: whatever is asked of it, it answers with itself."""

    def __getattr__(cls, name: str) -> type[Anything]:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything

    def __call__(cls, *args: object, **_: object) -> Any:
        # As a decorator it leaves the function as it is, which costs the peer nothing.
        return args[0] if len(args) == 1 and isinstance(args[0], FunctionType) else Anything


class Anything(metaclass=AnythingType):
    """Stands for any class, function or object of a module that is not loaded."""


class StandIn(ModuleType):
    """A module in which every name is there."""

    def __getattr__(self, name: str) -> type[Anything]:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


class StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers every import of some packages with a stand-in, but for one module."""

    def __init__(self, roots: Sequence[str], directory: Path, keep: str) -> None:
        self.roots = roots
        self.directory = directory
        self.keep = keep

    def find_spec(
        self, fullname: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname == self.keep:
            file = self.directory / (fullname.replace(".", "/") + ".py")
            return importlib.util.spec_from_file_location(fullname, file)
        if fullname.partition(".")[0] in self.roots:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


@contextmanager
def stand_ins(roots: Sequence[str], directory: Path, keep: str) -> Iterator[None]:
    """Let `keep` be imported from `directory`, with stand-ins for all else of `roots`.

    Nothing of it stays in `sys.modules`: a real torch can be imported afterwards.
    """

    def of_roots() -> dict[str, ModuleType]:
        return {n: m for n, m in sys.modules.items() if n.partition(".")[0] in roots}

    before = of_roots()
    for name in before:
        del sys.modules[name]
    finder = StandInFinder(roots, directory, keep)
    sys.meta_path.insert(0, finder)
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        sys.meta_path.remove(finder)
        for name in of_roots():
            del sys.modules[name]
        sys.modules.update(before)
