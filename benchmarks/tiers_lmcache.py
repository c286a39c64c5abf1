"""LMCache's disk and Redis backends, in a process of the Python of another environment.

This module has the side of the benchmark; `benchmarks/tiers_lmcache_worker.py` is the program that
the other Python runs. It reads the name of a call from a line, and answers with a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from benchmarks.harness import UnavailableError
from benchmarks.peers import LMCACHE_VERSION
from benchmarks.tiers_sides import CHUNK, LAYOUT, Payload

__all__ = ["LMCache", "lmcache_python"]

NAME = "KVPOOL_BENCH_LMCACHE"
WORKER = Path(__file__).with_name("tiers_lmcache_worker.py")
REQUIREMENTS = (
    "torch numpy aiofile aiohttp cachetools cryptography msgspec numba nvtx opentelemetry-sdk "
    "prometheus-client psutil py-cpuinfo pyyaml pyzmq redis requests sortedcontainers transformers"
)


class LMCache:
    """A side of the comparison of values, for a ``with`` block.

    Parameters
    ----------
    store : {"disk", "redis"}
    payload : Payload
    folder : Path
        Where the files of the disk go.
    port : int
        Of the redis-server.

    Raises
    ------
    UnavailableError
        LMCache is not installed, or does not run here.
    """

    STORES: ClassVar = {"disk": "LMCache LocalDiskBackend", "redis": "LMCache RESPConnector"}

    def __init__(self, store: str, payload: Payload, folder: Path, port: int) -> None:
        self.name = self.STORES[store]
        self._payload = payload
        place = folder / "lmcache"
        place.mkdir(exist_ok=True)
        shape = (LAYOUT.layers, 2, CHUNK, LAYOUT.kv_heads, LAYOUT.head_dim)
        told = {"store": store, "folder": str(place), "port": port, "shape": shape}
        told["chunks"] = len(payload.values)
        self._log = folder / "lmcache.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(lmcache_python()), str(WORKER), json.dumps(told)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"LMCACHE_TRACK_USAGE": "false"},
            )
        try:
            self.versions = {"lmcache": str(self._ask("version"))}
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def put(self) -> float:
        """Write all chunks; return bytes per second."""
        return self._payload.nbytes / float(self._ask("put"))

    def get(self) -> float:
        """Read all chunks; return bytes per second."""
        return self._payload.nbytes / float(self._ask("get"))

    def clear(self) -> None:
        """Remove the chunks."""
        self._ask("clear")

    def _ask(self, call: str) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise AssertionError("the process has pipes")
        try:
            stdin.write(f"{call}\n")
            stdin.flush()
            answer = stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            self._process.wait()
            *_, last = ["it said nothing", *self._log.read_text(errors="replace").splitlines()]
            raise UnavailableError(f"LMCache ended at {call!r}: {last}")
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        # Closes the pipes, and waits. A call that was not taken is in the pipe still.
        with contextlib.suppress(BrokenPipeError), self._process:
            pass


def lmcache_python() -> Path:
    """Return the Python of an environment that has LMCache.

    Raises
    ------
    UnavailableError
        There is none in $KVPOOL_BENCH_LMCACHE, nor beside the other peers.
    """
    peers = Path(os.environ.get("KVPOOL_BENCH_PEERS") or Path.home() / ".cache/kvpool-bench")
    environment = peers / f"lmcache-{LMCACHE_VERSION}"
    python = Path(os.environ.get(NAME) or environment / "bin/python")
    if not python.exists():
        raise UnavailableError(
            f"there is no {python}: make it with `python -m venv {environment}`, "
            f"`{environment}/bin/pip install {REQUIREMENTS}` and "
            f"`{environment}/bin/pip install --no-deps lmcache=={LMCACHE_VERSION}`, or let {NAME} "
            "name the Python of an environment that has LMCache"
        )
    return python
