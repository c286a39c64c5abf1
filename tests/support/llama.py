"""Tiny models of llama.cpp. Needs llama-cpp-python and gguf, so tests have it as a fixture."""

from __future__ import annotations

from llama_cpp import Llama

from kvpool.integrations.llama_cpp import LlamaPoolCache, PooledLlama
from tests.support.gguf_model import write_model

__all__ = ["OPTIONS", "Llama", "LlamaPoolCache", "PooledLlama", "write_model"]

OPTIONS = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
