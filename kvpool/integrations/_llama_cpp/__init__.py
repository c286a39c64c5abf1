"""The parts of `kvpool.integrations.llama_cpp`; nothing else in kvpool imports llama_cpp."""

from __future__ import annotations

from kvpool.integrations._required import required

__all__: list[str] = []

required(
    "the caches of llama.cpp",
    "llama_cpp",
    "llama-cpp",
    distribution="llama-cpp-python",
    lowest=(0, 3, 36),
    below=(0, 4),
)
