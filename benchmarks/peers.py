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
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from benchmarks.harness import UnavailableError

__all__ = [
    "LMCACHE_VERSION",
    "SGLANG_VERSION",
    "VLLM_VERSION",
    "Peer",
    "PeerUnavailableError",
    "lmcache_address_manager",
    "sglang_radix_cache",
    "vllm_blocks",
    "vllm_events",
]

LMCACHE_VERSION = "0.5.6"
SGLANG_VERSION = "0.5.23"
VLLM_VERSION = "0.33.0"
SORTEDCONTAINERS_VERSION = "2.4.0"


class PeerUnavailableError(UnavailableError):
    """The peer cannot be installed or loaded; the text says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer, and which of its modules are loaded.

    Parameters
    ----------
    requirements : tuple of str
        Its wheel and those of what is measured with it, by name and version.
    roots : tuple of str
        Packages that are answered by stand-ins.
    keep : tuple of str
        Modules of these packages that are loaded all the same.
    platform : str
        Of its wheel for Python 3.11, which compiled modules bind it to; none of them is loaded.
    """

    requirements: tuple[str, ...]
    roots: tuple[str, ...]
    keep: tuple[str, ...]
    platform: str = "manylinux_2_28_x86_64"

    def modules(self, *names: str, fetch: bool = True) -> list[Any]:
        """Load some of the modules that are kept.

        Parameters
        ----------
        *names : str
        fetch : bool, default True
            Whether to download the peer if it is not here.

        Raises
        ------
        PeerUnavailableError
            The peer is not here, or it cannot be downloaded or loaded.
        """
        directory = installed(self, fetch)
        try:
            with stand_ins(self.roots, directory, self.keep):
                return [importlib.import_module(name) for name in names]
        except Exception as error:
            pinned = self.requirements[0]
            raise PeerUnavailableError(f"{pinned} does not load: {error!r}") from error


LMCACHE = Peer(
    (f"lmcache=={LMCACHE_VERSION}", f"sortedcontainers=={SORTEDCONTAINERS_VERSION}"),
    roots=("lmcache", "torch"),
    keep=("lmcache.v1.memory_management",),
)
SGLANG = Peer(
    (f"sglang=={SGLANG_VERSION}",),
    roots=("sglang", "torch"),
    keep=tuple(
        f"sglang.srt.mem_cache.{name}"
        for name in (
            "radix_cache",
            "base_prefix_cache",
            "cache_init_params",
            "events",
            "evict_policy",
            "utils",
        )
    ),
    platform="manylinux_2_34_x86_64",
)
VLLM = Peer(
    (f"vllm=={VLLM_VERSION}",),
    roots=("vllm", "torch", "cbor2"),
    keep=(
        "vllm.v1.core.block_pool",
        "vllm.v1.core.kv_cache_utils",
        "vllm.v1.core.kv_cache_metrics",
        "vllm.distributed.kv_events",
        "vllm.utils.hashing",
        "vllm.utils.math_utils",
    ),
)


def lmcache_address_manager() -> Any:
    """Return the class `AddressManager` of LMCache.

    Raises
    ------
    PeerUnavailableError
    """
    (module,) = LMCACHE.modules("lmcache.v1.memory_management")
    return module.AddressManager


def sglang_radix_cache(fetch: bool = True) -> Any:
    """Return the module of SGLang's `RadixCache`, with `RadixKey` and the types of parameters.

    Raises
    ------
    PeerUnavailableError
    """
    return SGLANG.modules("sglang.srt.mem_cache.radix_cache", fetch=fetch)[0]


def vllm_blocks(fetch: bool = True) -> tuple[Any, Any, Any]:
    """Return vLLM's modules of `BlockPool`, of its chain of hashes, and of the hash functions.

    Raises
    ------
    PeerUnavailableError
    """
    names = ("v1.core.block_pool", "v1.core.kv_cache_utils", "utils.hashing")
    pool, chain, functions = VLLM.modules(*(f"vllm.{name}" for name in names), fetch=fetch)
    return pool, chain, functions


def vllm_events(fetch: bool = True) -> Any:
    """Return vLLM's module of KV cache events. It needs pyzmq.

    Raises
    ------
    PeerUnavailableError
    """
    return VLLM.modules("vllm.distributed.kv_events", fetch=fetch)[0]


def installed(peer: Peer, fetch: bool = True) -> Path:
    """Return a directory with the modules of a peer, and download them if it is not there.

    It lies in $KVPOOL_BENCH_PEERS, or in ~/.cache/kvpool-bench.
    """
    configured = os.environ.get("KVPOOL_BENCH_PEERS")
    cache = Path(configured) if configured else Path.home() / ".cache" / "kvpool-bench"
    directory = cache / "+".join(peer.requirements).replace("==", "-")
    if directory.is_dir():
        return directory
    if not fetch:
        raise PeerUnavailableError(f"{peer.requirements[0]} is not here; a full run downloads it")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--python-version=3.11"]
        command += [f"--platform={peer.platform}", "--dest", scratch, *peer.requirements]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        except subprocess.CalledProcessError as error:
            reason = error.stderr.strip().splitlines()[-1:] or [str(error)]
            raise PeerUnavailableError(f"{peer.requirements[0]}: {reason[0]}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PeerUnavailableError(f"{peer.requirements[0]}: {error}") from error
        unpacked = Path(scratch) / "site"
        for wheel in Path(scratch).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:  # compiled modules are up to 1 GB
                archive.extractall(
                    unpacked, [name for name in archive.namelist() if name.endswith(".py")]
                )
        # A rename at the end: a directory that is there is complete.
        unpacked.rename(directory)
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
    """Answers every import of some packages with a stand-in, but for those to keep."""

    def __init__(self, roots: Sequence[str], directory: Path, keep: Collection[str]) -> None:
        self.roots = roots
        self.directory = directory
        self.keep = keep

    def find_spec(
        self, fullname: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname in self.keep:
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
def stand_ins(roots: Sequence[str], directory: Path, keep: Collection[str]) -> Iterator[None]:
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
