"""`identity_of`: a name for all that the bytes of a chunk depend on besides its tokens."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any, Final

import torch
from vllm.platforms import current_platform
from vllm.version import __version__

from kvpool.integrations._sampling import sampled_weights

__all__ = ["identity_of"]

# Features of a processor that decide how vLLM lays keys and values out in a block.
_FEATURES: Final = {"avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16"}


def identity_of(offloading_spec: Any, model_id: str | None = None) -> str:
    """Return a text that differs if the bytes of a chunk may differ.

    Parameters
    ----------
    offloading_spec : OffloadingSpec
    model_id : str, optional
        Stands for the weights. [default: the name of the model, and a hash of its files if the
        name is that of a directory]

    Notes
    -----
    A chunk is the bytes of all workers of one engine, as they lie in its memory. So what says how
    the model is spread over workers is part of the identity, and so is the version of vLLM; on a
    CPU, the features of the processor as well.
    """
    config = offloading_spec.config
    about = {
        "engine": f"vllm {__version__} {current_platform.device_type}",
        "model": model_id or config.model.name,
        "files": None if model_id else sampled_weights(Path(config.model.name)),
        "dtype": str(config.model.dtype),
        "cache": repr(config.cache),
        "groups": repr(config.groups),
        "bytes": config.worker_kv_bytes_per_block,
        "layout": str(config.kv_cache_layout),
        "canonical": config.canonical_layout,
        "replicated": config.replicated_layout,
        "parallel": [
            getattr(config.parallel, f"{name}_size") for name in ("world", "tp", "pp", "pcp", "dcp")
        ],
        "processor": _processor() if current_platform.is_cpu() else None,
    }
    text = json.dumps(about, sort_keys=True)
    return f"vllm {about['model']} {hashlib.sha256(text.encode()).hexdigest()}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    features = {
        word
        for line in lines
        if line.lower().startswith(("flags", "features"))
        for word in line.split(":", 1)[1].split()
    }
    known = " ".join(sorted(features & _FEATURES))
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {known}"
