"""The parts of `kvpool.integrations.sglang`; nothing else in kvpool imports sglang."""

from __future__ import annotations

from kvpool.integrations._required import required

__all__: list[str] = []

# The interface of a storage of HiCache grows with the releases of SGLang.
required(
    "the storage of SGLang",
    "sglang.version",
    "sglang",
    distribution="sglang",
    lowest=(0, 5, 23),
    below=(0, 5, 24),
)
