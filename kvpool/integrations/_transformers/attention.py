"""An attention function for grouped queries on a CPU, to be chosen by name.

Without a mask, transformers leaves grouped queries to PyTorch, whose fast kernel for CPUs does not
know them: it takes the slow one, which repeats the keys and values for each group. Here the
queries of a group become rows of one head when a token is decoded, with or without a mask, and the
keys and values are repeated for the fast kernel when a prompt is read.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kvpool.errors import InvalidArgumentError

__all__ = ["ATTENTION", "UNKNOWN_OPTIONS", "grouped_attention", "register_attention"]

ATTENTION = "kvpool"
"""Name of the attention function."""

UNKNOWN_OPTIONS = ("softcap", "s_aux", "sinks")
"""Options that change the sums, for ``"eager"`` alone."""


def register_attention() -> str:
    """Make the attention function known to transformers; return its name.

    It is chosen with ``model.set_attn_implementation(register_attention())``. For models whose
    every query head has a key head of its own, it is ``"sdpa"``.

    Returns
    -------
    str
        `ATTENTION`.

    Notes
    -----
    The same sums are made in another order than by ``"sdpa"``, so logits of models with
    grouped queries differ in their last bits from those of that function.
    """
    AttentionInterface.register(ATTENTION, grouped_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    return ATTENTION


def grouped_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Any, None]:
    """Attend as ``"sdpa"`` does; see the module for the difference.

    Parameters
    ----------
    module : torch.nn.Module
        Of the layer; ``num_key_value_groups`` says how many query heads share a key head.
    query : Tensor, shape (batch, heads, new tokens, head_dim)
    key, value : Tensor, shape (batch, kv_heads, tokens, head_dim)
    attention_mask : Tensor or None
    dropout, scaling, **options
        As for transformers' own functions.

    Returns
    -------
    tuple of (Tensor of shape (batch, new tokens, heads, head_dim), None)

    Raises
    ------
    InvalidArgumentError
        The model caps its scores, or attends to sinks.
    """
    for name in UNKNOWN_OPTIONS:
        if options.get(name) is not None:
            raise InvalidArgumentError(
                f"the attention {ATTENTION!r} knows no {name}, which {type(module).__name__} "
                'needs: choose model.set_attn_implementation("eager")'
            )
    groups = getattr(module, "num_key_value_groups", 1)
    is_plain = groups > 1 and options.get("position_bias") is None
    new, width = query.shape[2], value.shape[-1]
    if is_plain and new == 1 and (attention_mask is None or attention_mask.shape[1] == 1):
        batch, heads = query.shape[:2]
        rows = query.reshape(batch, heads // groups, groups, query.shape[-1])
        attended = torch.nn.functional.scaled_dot_product_attention(
            rows, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
        )
        return attended.reshape(batch, 1, heads, width), None
    if is_plain and attention_mask is None and new == key.shape[2]:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
        module = _Ungrouped(module)
    done: tuple[Any, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
    )
    return done


class _Ungrouped:
    """A layer whose keys and values were repeated, as the function of transformers sees it."""

    num_key_value_groups = 1

    def __init__(self, module: Any) -> None:
        self.is_causal = getattr(module, "is_causal", True)
