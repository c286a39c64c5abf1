"""`sampled` and `sampled_weights`: tell files apart that are too large to be read for that."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

__all__ = ["sampled", "sampled_weights"]

_SAMPLE_BYTES: Final = 64 << 10
_WEIGHTS: Final = {".json", ".safetensors", ".bin", ".gguf", ".pt", ".model"}


def sampled(path: Path, samples: int = 64) -> bytes:
    """Return a hash of the size of a file, and of samples of 64 KiB that are spread over it.

    Parameters
    ----------
    path : Path
    samples : int, default 64
        At least two. A file that is not larger than all of them is hashed as a whole.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(size.to_bytes(8, "little"))
        if size <= samples * _SAMPLE_BYTES:
            digest.update(file.read())
        else:
            for number in range(samples):  # the last one ends where the file does
                file.seek(number * (size - _SAMPLE_BYTES) // (samples - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.digest()


def sampled_weights(folder: Path) -> str | None:
    """Return a hash of the files of a model; None if the path is not that of a directory."""
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _WEIGHTS:
            digest.update(path.name.encode() + sampled(path, 16))
    return digest.hexdigest()
