"""How much memory a cache takes at most, for one process: what `benchmarks.decode` starts.

python -m benchmarks.decode_memory CACHE TOKENS
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch

from benchmarks.decode_cases import CASES
from benchmarks.decode_models import Decoder, fill, make_cache, make_model

DECODED = 16
CHUNK = 512  # so that what the prompt takes for itself counts for little


def main(name: str, context: int) -> None:
    """Fill a cache, decode some tokens, and print the bytes that it took at most."""
    case = CASES[0]
    model = make_model(case)
    with torch.inference_mode():
        use(name, model, tokens=1)  # what the first step of a model loads and keeps
        before = resident_bytes("VmRSS")
        use(name, model, context)
    print(json.dumps({"peak_bytes": resident_bytes("VmHWM") - before}))


def use(name: str, model: object, tokens: int) -> None:
    cache = make_cache(name, model, tokens + DECODED)
    fill([cache], CASES[0], tokens, CHUNK)
    Decoder(model, cache).decode(DECODED)


def resident_bytes(field: str) -> int:
    """Return what Linux says of the resident memory of this process, now or at its highest."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status does not tell {field}")
    return int(found[1]) << 10


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
