"""The options of ``kvpool size`` that say how many bytes a token has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import typer

from kvpool.errors import InvalidLayoutError
from kvpool.layout import KVLayout
from kvpool.sizing import SizingError

__all__ = ["chosen_layout"]

_LATENT = "kv_lora_rank"  # a field of models with latent attention
# Fields of models with layers of other kinds, which `layer_types` tells if it is there.
_OTHER_KINDS = (
    "attn_layer_indices",
    "attn_layer_period",
    "full_attention_interval",
    "hybrid_override_pattern",
    "mamba_d_state",
    "ssm_cfg",
    "state_size",
)

_MAX_BYTES = 1 << 20  # of a configuration; a file of weights must not be read


def chosen_layout(layout: str | None, model: Path | None, dtype: str | None) -> KVLayout | None:
    """Return the layout that the options name; None if they name none.

    Parameters
    ----------
    layout : str or None
        Layers, key-value heads and elements per head, as ``"32x8x128"``.
    model : Path or None
        The ``config.json`` of a model.
    dtype : str or None
        By default float16, or what the configuration says.

    Raises
    ------
    typer.BadParameter
        Both are given, or a data type without either, or `layout` has another form.
    SizingError
        The configuration cannot be read, or does not say what its cache holds.
    InvalidLayoutError
        `layout` or `dtype` is not accepted.
    """
    if layout is not None and model is not None:
        raise typer.BadParameter("give --layout or --model, not both")
    if model is not None:
        if dtype is not None:
            KVLayout(1, 1, 1, dtype)  # raises if the name is wrong, which is not the file's fault
        try:
            return _layout_of(model, dtype)
        except InvalidLayoutError as error:  # what is wrong is in a file, not on the command line
            raise SizingError(str(error)) from error
    if layout is not None:
        match = re.fullmatch(r"\s*(\d{1,9})\s*x\s*(\d{1,9})\s*x\s*(\d{1,9})\s*", layout, re.ASCII)
        if match is None:
            raise typer.BadParameter(
                f"invalid layout {layout!r}; expected LAYERSxHEADSxDIM, e.g. 32x8x128"
            )
        return KVLayout(int(match[1]), int(match[2]), int(match[3]), dtype or "float16")
    if dtype is not None:
        raise typer.BadParameter("--dtype needs --layout or --model")
    return None


def _layout_of(model: Path, dtype: str | None) -> KVLayout:
    file = model / "config.json" if model.is_dir() else model
    try:
        with file.open("rb") as opened:
            text = opened.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidLayoutError(f"cannot read {file}: {reason}") from error
    if len(text) > _MAX_BYTES:
        raise InvalidLayoutError(f"{file} is not the config.json of a model: it is too long")
    try:
        config: Any = json.loads(text, object_hook=lambda fields: SimpleNamespace(**fields))
    except (ValueError, RecursionError) as error:
        raise InvalidLayoutError(f"{file} is not the config.json of a model: {error}") from error
    if not isinstance(config, SimpleNamespace):
        raise InvalidLayoutError(f"{file} is not the config.json of a model: it is not an object")
    try:
        _refuse_unwritten(config)
        return KVLayout.from_config(config, dtype)
    except InvalidLayoutError as error:
        raise InvalidLayoutError(f"{file}: {error}; --layout says it by hand") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidLayoutError(f"{file} is not the config.json of a model: {error}") from error


def _refuse_unwritten(config: SimpleNamespace) -> None:
    """Raise InvalidLayoutError if the file leaves to the code of the model what its cache holds."""
    for part in (config, getattr(config, "text_config", None)):
        kinds_are_written = hasattr(part, "layer_types")
        for name in (_LATENT,) if kinds_are_written else (_LATENT, *_OTHER_KINDS):
            if getattr(part, name, None) is not None:
                raise InvalidLayoutError(
                    f"a model with {name} keeps more than keys and values of one shape"
                )
