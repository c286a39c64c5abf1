"""A process with both sides of vLLM's offloading, which waits to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

from kvpool.integrations.vllm_plugin import register
from tests.support.vllm_parts import Offloading

if __name__ == "__main__":
    register()
    engine = Offloading({"type": "kvpool", "pool": "1MiB"})
    assert engine.store(1) == [1]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
