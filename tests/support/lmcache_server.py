"""LMCache's server in a process of its own, with kvpool as its second level."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Final, Self

from tests.support.redis_server import free_port

__all__ = ["LMCacheServer"]

_PATIENCE: Final = 120  # seconds, only so that a test that is wrong has an end
# Twice, a second apart: what a request left may be on its way when the first look begins.
_EMPTY: Final = r"L1 memory usage 0\.00 below.*L1 memory usage 0\.00 below"
_WAIT: Final = """
import pathlib, re, sys, time
log, pattern, patience = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
begin, end = len(log.read_text()), time.monotonic() + patience
while not re.search(pattern, log.read_text()[begin:], re.DOTALL):
    assert time.monotonic() < end, f"{pattern!r} never came"
    time.sleep(0.05)
"""


class LMCacheServer:
    """The server, on a free port of this machine.

    Parameters
    ----------
    folder : Path
        A directory for its log.
    params : dict
        Options of the adapter.
    l1_bytes : int
        Of the first level (L1), which is emptied about a second after something is in it.
    chunk : int, default 128
        Tokens of an object.
    """

    def __init__(
        self, folder: Path, params: dict[str, Any], l1_bytes: int, chunk: int = 128
    ) -> None:
        option = {
            "type": "plugin",
            "module_path": "kvpool.integrations.lmcache",
            "class_name": "KVPoolL2Adapter",
            "adapter_params": params,
        }
        self.port = free_port()
        self._shm = f"kvpool_test_{uuid.uuid4().hex[:12]}"
        self._log = folder / f"{self._shm}.log"
        command = [sys.executable, "-m", "lmcache.v1.multiprocess.server"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--chunk-size", str(chunk), "--l1-size-gb", str(l1_bytes / (1 << 30))]
        command += ["--no-l1-use-lazy", "--shm-name", self._shm, "--eviction-policy", "LRU"]
        command += ["--eviction-trigger-watermark", "0.01", "--eviction-ratio", "1"]
        command += ["--supported-transfer-mode", "engine_driven", "--disable-observability"]
        command += ["--l2-adapter", json.dumps(option)]
        told = {"LMCACHE_LOG_LEVEL": "DEBUG", "LMCACHE_TRACK_USAGE": "false"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                env=os.environ | told,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def told(self) -> str:
        """What it has written so far."""
        return self._log.read_text()

    def wait_for(self, pattern: str) -> None:
        """Wait until it has written a text with a pattern."""
        end = time.monotonic() + _PATIENCE
        while not re.search(pattern, self.told):
            assert self._process.poll() is None, self.told
            assert time.monotonic() < end, f"{pattern!r} never came: {self.told}"
            time.sleep(0.05)

    @property
    def emptied(self) -> dict[str, Any]:
        """A step for `vllm_process.run_with` that waits until L1 is empty.

        What was in L1 is in L2 then.
        """
        return {"run": [sys.executable, "-c", _WAIT, str(self._log), _EMPTY, str(_PATIENCE)]}

    @property
    def connector(self) -> dict[str, Any]:
        """The configuration of vLLM that leads to it."""
        return {
            "kv_connector": "LMCacheMPConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {
                "lmcache.mp.host": "tcp://127.0.0.1",
                "lmcache.mp.port": self.port,
            },
        }

    def stop(self) -> None:
        """Have it end as its operator would."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(_PATIENCE)
        # The name that LMCache makes of it; a server that was killed leaves the file.
        Path("/dev/shm", f"lmcache_l1_pool_{self._shm}").unlink(missing_ok=True)
