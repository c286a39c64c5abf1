"""`sampled`: tells files apart that are too large to be read for that."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

__all__ = ["sampled"]

_SAMPLE_BYTES: Final = 64 << 10


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
