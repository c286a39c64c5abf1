"""GGUF files, converted once to directories that transformers loads within seconds."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from kvpool.integrations._chat.chat_text import ChatModelError, first_line
from kvpool.integrations._chat.model_folder import cache_directory, made_once

__all__ = ["converted"]

_FORMAT = 1  # counts the ways in which a directory was written
_DTYPE = torch.bfloat16  # finer than the four bits of the file

# What the authors of the model recommend.
_SAMPLING = {"do_sample": True, "temperature": 0.2, "top_p": 0.9}

Tell = Callable[[str], object]


def converted(name: str, file: Path | None, how_to_install: str, tell: Tell) -> Path:
    """Return the directory of a model that a GGUF file was converted to, now or earlier.

    Parameters
    ----------
    name : str
        Of the model, and of its directory.
    file : Path or None
        None if the file is not installed.
    how_to_install : str
        For the error.
    tell : callable
        Is given a text before each step that takes long.

    Raises
    ------
    ChatModelError
        The file is not installed or cannot be read, or the cache directory cannot be written.
    """
    if file is None:
        raise ChatModelError(f"{name} is not installed; install it with `{how_to_install}`")
    directory = cache_directory() / "models" / name
    source = f"{file.name}, {file.stat().st_size} bytes, format {_FORMAT}"
    try:
        made_once(
            directory,
            source,
            lambda part: _convert(file, part, tell),
            lambda: tell(f"waiting for another process that converts {name}"),
        )
    except OSError as error:
        raise ChatModelError(
            f"cannot keep {name} in {directory}: {error}; set KVPOOL_CACHE to a directory "
            "that can be written, with 300 MB to spare"
        ) from error
    return directory


def _convert(file: Path, directory: Path, tell: Tell) -> None:
    """Write the model and the tokenizer of a GGUF file as transformers saves them."""
    once = f"converting {file.stem} once, which takes about a minute"
    own: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        tell(f"{once}: 1 of 3, the tokenizer")
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **own)
        tell(f"{once}: 2 of 3, the weights")
        with contextlib.redirect_stderr(io.StringIO()):  # a bar that has no switch
            loaded = transformers.AutoModelForCausalLM.from_pretrained(file.parent, **own)
        model = _unquantized(loaded)
    except ImportError as error:
        reason = first_line(error)
        raise ChatModelError(
            f'a GGUF file needs optional packages; install "kvpool[chat]" ({reason})'
        ) from error
    except Exception as error:  # damaged files make it raise whatever comes
        raise ChatModelError(f"cannot convert {file}: {first_line(error)}") from error
    tell(f"{once}: 3 of 3, saving to {directory.parents[1] / directory.name}")
    try:
        tokenizer.save_pretrained(directory)
        model.save_pretrained(directory)
    except SafetensorError as error:  # how a full disk is told
        raise OSError(str(error)) from error


def _unquantized(loaded: Any) -> Any:
    """Return a copy of a model that came from a GGUF file, which transformers would not save."""
    config = loaded.config
    delattr(config, "quantization_config")
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.generation_config.update(**_SAMPLING)
    return model.to(_DTYPE)
