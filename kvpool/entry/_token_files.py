"""Keys and values in files of safetensors."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpool import _optional_imports
from kvpool.errors import TokenFileError

__all__ = ["read_tokens", "write_tokens"]

_NAMES = ("keys", "values")


def write_tokens(path: Path, arrays: tuple[NDArray[Any], ...], notes: dict[str, str]) -> None:
    """Write keys and values to a file: all of it, or none of it.

    Parameters
    ----------
    path : Path
    arrays : tuple of array
        The keys and the values.
    notes : dict of str to str
        What is noted in the header of the file.

    Raises
    ------
    TokenFileError
        The file cannot be written.
    MissingExtraError
        The package safetensors is not installed.
    """
    library = _library()
    tensors = dict(zip(_NAMES, map(np.ascontiguousarray, arrays), strict=True))
    try:
        part = path.with_name(
            f".kvpool-{os.urandom(8).hex()}"
        )  # `path.name` may be as long as can be
        try:
            library.save_file(tensors, part, metadata=notes)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except (OSError, ValueError, _errors()) as error:  # ValueError: what no file is called
        raise TokenFileError(f"cannot write {path}: {_reason(error)}") from error


def read_tokens(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the keys and the values of a file.

    Raises
    ------
    TokenFileError
        The file cannot be read, or has no keys and values.
    MissingExtraError
        The package safetensors is not installed.
    """
    library = _library()
    try:
        tensors = library.load_file(path)
    except (OSError, ValueError, AttributeError, _errors()) as error:
        # ValueError: what no file is called; AttributeError: a dtype that numpy does not have.
        raise TokenFileError(f"cannot read {path}: {_reason(error)}") from error
    with contextlib.suppress(KeyError):
        return tensors[_NAMES[0]], tensors[_NAMES[1]]
    raise TokenFileError(f"{path} has no keys and values: it has {', '.join(sorted(tensors))}")


def _library() -> Any:
    return _optional_imports.load("safetensors.numpy", "safetensors", "a file of tokens")


def _errors() -> type[Exception]:
    module = _optional_imports.load("safetensors", "safetensors", "a file of tokens")
    refusal: type[Exception] = module.SafetensorError
    return refusal


def _reason(error: Exception) -> object:
    return getattr(error, "strerror", None) or error
