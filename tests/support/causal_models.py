"""A tiny model with random weights of each causal model type of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

__all__ = ["MODEL_TYPES", "UNBUILT", "VOCABULARY", "causal_model"]

VOCABULARY = 101
MODEL_TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

_MOST_PARAMETERS = 100_000_000

UNBUILT = {
    "dots3_note": "its language model is dots3_note_text",
    "gemma3n": "it needs timm and Pillow; its language model is gemma3n_text",
    "gemma4_assistant": "it reads the keys and values of another model",
    "gemma4_unified_assistant": "it reads the keys and values of another model",
}
"""Types of which no tiny model is made, and why."""

# By the value, the names that configurations have for it.
_SIZES: dict[int, str] = {
    0: "pad_token_id",
    1: "bos_token_id",
    2: "eos_token_id n_group topk_group num_experts_per_tok moe_topk depth encoder_layers "
    "num_encoder_layers zero_expert_num linear_num_key_heads num_key_value_heads",
    4: "num_hidden_layers n_layer n_layers num_layers decoder_layers num_decoder_layers "
    "num_attention_heads n_head n_heads num_heads decoder_attention_heads "
    "encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads "
    "num_experts num_local_experts n_routed_experts moe_num_experts mamba_n_heads "
    "sliding_window linear_num_value_heads rotary_dim",
    8: "dim_head qk_nope_head_dim qk_rope_head_dim v_head_dim linear_key_head_dim "
    "linear_value_head_dim hidden_size_per_layer_input head_dim",
    11: "pronunciation_vocab_size shape_vocab_size",
    16: "moe_intermediate_size shared_expert_intermediate_size kv_lora_rank q_lora_rank "
    "expert_ffn_hidden_size patch_size",
    32: "hidden_size d_model n_embd dim emb_dim embed_dim embedding_size output_channels "
    "out_hidden_size text_hidden_size image_size",
    48: "intermediate_size d_inner ffn_dim dff decoder_ffn_dim encoder_ffn_dim dim_ff "
    "ffn_hidden_size",
    VOCABULARY: "vocab_size vocab_size_per_layer_input",
    128: "max_position_embeddings n_positions max_seq_len",
}
_SIZE = {name: size for size, names in _SIZES.items() for name in names.split()}

_NEVER_NONE = {
    "head_dim",
    "num_key_value_heads",
    "n_routed_experts",
    "num_experts_per_tok",
    "intermediate_size",
}

_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
_INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "ngram_vocab_size_base": 100,
}

# What a type needs beyond that; a mapping is for a part of the configuration.
_OWN: dict[str, dict[str, Any]] = {
    "blt": {"encoder_hash_byte_group_vocab": 101},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE}},
    "dbrx": {"attn_config": {"rope_theta": 10_000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_shared_experts": 1},
    "dory": {"n_input_layers": 1, "n_output_layers": 1},
    "ernie4_5_moe": {"moe_k": 2},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "qwen4_exp": {"text_config": _INDEXER},
    "qwen4_exp_text": _INDEXER,
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention"] * 2 + ["hybrid"] * 2},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}


def causal_model(model_type: str) -> Any:
    """Return a model of a type, of float32 and for inference."""
    config = _tiny(CONFIG_MAPPING[model_type], _OWN.get(model_type, {}))
    with torch.device("meta"):
        size = sum(weight.numel() for weight in _made(config).parameters())
    assert size < _MOST_PARAMETERS, f"{model_type} has {size:,} parameters: not tiny"
    torch.manual_seed(0)
    return _made(config).eval()


def _made(config: Any) -> Any:
    decoder = getattr(config, "decoder", None)
    if decoder is None:
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # Of models of music only the decoder is causal, and it has no name of its own.
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]
    return getattr(transformers, name)(decoder)


def _tiny(kind: type[PreTrainedConfig], own: Mapping[str, Any]) -> PreTrainedConfig:
    """Return a configuration whose sizes are small, as far as their names are known."""
    default = kind()
    values = default.to_dict()
    options: dict[str, Any] = {}
    for name, value in values.items():
        part = getattr(default, name, None) if isinstance(value, dict) else None
        if isinstance(part, PreTrainedConfig):
            options[name] = _tiny(type(part), own.get(name, {}))
        elif name in _SIZE and (
            name in _NEVER_NONE or (isinstance(value, int | list) and not isinstance(value, bool))
        ):
            options[name] = _SIZE[name]
    if "kv_lora_rank" in options:
        options["num_key_value_heads"] = options["num_attention_heads"]
    options |= {name: value for name, value in own.items() if name not in options or name in _SIZE}
    return kind(**options)
