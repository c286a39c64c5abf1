"""The parts of `kvpool.integrations.transformers`; nothing else in kvpool imports torch."""

from __future__ import annotations

from kvpool.integrations._required import required

__all__: list[str] = []

_WHAT = "the caches of transformers models"
required(_WHAT, "torch", "transformers", lowest=(2, 13), below=(3,))
required(_WHAT, "transformers", "transformers", lowest=(5, 19), below=(6,))
