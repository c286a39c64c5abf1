"""The model that entries of an elastic pool are tested against: arrays of tokens, and no pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.layout import KVLayout, Packing
from tests.support.model_manager import ModelBlock, ModelSession

__all__ = ["Model", "View", "layout_of", "new_session"]


def layout_of(packing: Packing) -> KVLayout:
    """Return a layout of which a page holds four tokens of a run, five, or two and a half."""
    if packing == "head":
        return KVLayout(layers=2, kv_heads=1, head_dim=256, dtype="float32")
    if packing == "layer":
        return KVLayout(layers=2, kv_heads=2, head_dim=102, dtype="float32", packing=packing)
    return KVLayout(layers=2, kv_heads=1, head_dim=102, dtype="float32", packing=packing)


@dataclass
class View:
    """A view, what it showed when it was taken, and how many tokens were not written since."""

    real: NDArray[Any]
    expected: NDArray[Any]
    block: ModelBlock
    tokens: int


@dataclass
class Model:
    """The sessions that are there."""

    sessions: dict[CacheKey, ModelSession] = field(default_factory=dict)

    def grow(self, key: CacheKey, context: int, layout: KVLayout) -> None:
        session = self.sessions[key]
        grown, held = new_session(layout, context), max(session.counts)
        grown.counts = session.counts
        grown.block.keys[:, :, :held] = session.block.keys[:, :, :held]
        grown.block.values[:, :, :held] = session.block.values[:, :, :held]
        self.sessions[key] = grown

    def fork(self, key: CacheKey, new_key: CacheKey, layout: KVLayout) -> None:
        parent = self.sessions[key]
        child = new_session(layout, parent.context)
        held = parent.complete
        child.block.keys[:, :, :held] = parent.block.keys[:, :, :held]
        child.block.values[:, :, :held] = parent.block.values[:, :, :held]
        child.counts = [held] * layout.layers
        self.sessions[new_key] = child


def new_session(layout: KVLayout, context: int) -> ModelSession:
    block = ModelBlock.empty(layout, context)
    return ModelSession(block, context, 0.0, 0.0, [0] * layout.layers, 0)
