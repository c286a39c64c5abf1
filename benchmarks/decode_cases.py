"""What `benchmarks.decode` measures: models, lengths of context, targets, and how they are called.

The plot reads a record by these names, so nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness import Target

__all__ = ["CASES", "CONTEXTS", "DYNAMIC", "POOLED", "STATIC", "Case", "Shape"]

POOLED = "PooledCache"
DYNAMIC = "DynamicCache"
STATIC = "StaticCache"

CONTEXTS = (1024, 4096, 8192, 16384)

# How many times as fast as DynamicCache at each context, and as StaticCache at all of them.
OF_DYNAMIC = dict(zip(CONTEXTS, (1.3, 1.5, 2.0, 4.0), strict=True))
OF_STATIC = 1.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a Llama model with random weights; all but the attention is narrow."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int = 128
    hidden: int = 256

    def __str__(self) -> str:
        shared = "" if self.heads == self.kv_heads else f"{self.heads} heads over "
        return f"{self.layers} layers, {shared}{self.kv_heads} KV heads of {self.head_dim}"


@dataclass(frozen=True, slots=True)
class Case:
    """A model, in one dtype, with one attention function of transformers.

    Targets are for those cases in which the cache, and no other part, sets the pace.
    """

    shape: Shape
    dtype: str
    attention: str
    contexts: tuple[int, ...] = CONTEXTS
    has_targets: bool = False

    def __str__(self) -> str:
        return f"{self.shape}, {self.dtype}, attention {self.attention}"

    def decode(self, context: int) -> str:
        """Return what the speed at a context is called in a report."""
        return f"decode at {context:,} tokens: {self}"

    def target(self, context: int, peer: str) -> Target | None:
        """Return what PooledCache has to reach beside another cache."""
        if not self.has_targets:
            return None
        return Target(OF_DYNAMIC[context] if peer == DYNAMIC else OF_STATIC, at_most=False)


PLAIN = Shape(layers=4, heads=8, kv_heads=8)
GROUPED = Shape(layers=2, heads=32, kv_heads=8)  # the attention of an 8B model

CASES = (
    Case(PLAIN, "float32", "sdpa", has_targets=True),
    Case(GROUPED, "float32", "kvpool", has_targets=True),
    Case(GROUPED, "bfloat16", "kvpool"),
    Case(GROUPED, "float32", "sdpa", contexts=(1024, 4096)),
)
