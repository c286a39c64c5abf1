"""`model_id_of`: a name for all that the state of a context depends on."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any, Final

import llama_cpp

from kvpool.integrations._sampling import sampled

__all__ = ["model_id_of"]

# Parameters of a context that change what a state means, or how its bytes lie.
_PARAMETERS: Final = (
    "rope_scaling_type",
    "rope_freq_base",
    "rope_freq_scale",
    "yarn_ext_factor",
    "yarn_attn_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
    "yarn_orig_ctx",
    "attention_type",
    "flash_attn_type",
    "type_k",
    "type_v",
    "offload_kqv",
    "swa_full",
)


def model_id_of(llama: llama_cpp.Llama) -> str:
    """Return a hash of the model's file, its adapter, the parameters, and the build of llama.cpp.

    Of a file its size is hashed, and 64 samples of 64 KiB that are spread over it: the whole of a
    large model would take as long as reading it.

    Parameters
    ----------
    llama : llama_cpp.Llama
    """
    digest = hashlib.sha256(b"kvpool llama.cpp 2")
    digest.update(_build())
    parameters: Any = llama.context_params
    for name in _PARAMETERS:
        digest.update(f"{name}={getattr(parameters, name, None)!r};".encode())
    digest.update(sampled(Path(llama.model_path)))
    if llama.lora_path:
        digest.update(f"lora_scale={llama.lora_scale!r};".encode())
        digest.update(sampled(Path(llama.lora_path)))
    return f"llama.cpp {digest.hexdigest()}"


@functools.cache
def _build() -> bytes:
    """Return a hash of the libraries of llama.cpp, and of what they use of this processor."""
    digest = hashlib.sha256(llama_cpp.__version__.encode())
    digest.update(llama_cpp.llama_print_system_info())
    # The library of another build may be loaded in place of the one that is in the package.
    library = Path(vars(vars(llama_cpp.llama_cpp)["_lib"])["_name"])
    for file in sorted(library.parent.glob(f"*{library.suffix}")):
        if file.stem.removeprefix("lib").startswith(("llama", "ggml")):
            digest.update(file.name.encode() + sampled(file))
    return digest.digest()
