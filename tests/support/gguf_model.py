"""A tiny model of the Llama family with random weights, as a GGUF file for llama.cpp."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

__all__ = ["write_model"]

LAYERS, WIDTH, HEADS, KV_HEADS, INNER, CONTEXT = 2, 64, 4, 2, 96, 512


def write_model(path: Path, seed: int = 0) -> Path:
    """Write a model whose tokens are bytes; another seed gives other weights."""
    draws = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    words = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * len(words))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(value=False)
    narrow = WIDTH // HEADS * KV_HEADS
    shapes = {"token_embd": (len(words), WIDTH), "output": (len(words), WIDTH)}
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        shapes |= {
            f"{block}.attn_q": (WIDTH, WIDTH),
            f"{block}.attn_k": (narrow, WIDTH),
            f"{block}.attn_v": (narrow, WIDTH),
            f"{block}.attn_output": (WIDTH, WIDTH),
            f"{block}.ffn_gate": (INNER, WIDTH),
            f"{block}.ffn_up": (INNER, WIDTH),
            f"{block}.ffn_down": (WIDTH, INNER),
        }
        for norm in "attn_norm", "ffn_norm":
            writer.add_tensor(f"{block}.{norm}.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for name, shape in shapes.items():
        weights = draws.standard_normal(shape, np.float32) / np.sqrt(shape[-1]) * 2
        writer.add_tensor(f"{name}.weight", weights.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
