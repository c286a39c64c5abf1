"""Attention of a `PooledBatch`: each session attends to its own keys and values.

While a step runs, the configurations of the model name an attention function of this module. It
hands the queries of each session, with the keys and values that the session holds and a mask of
its own, to the function that the model has otherwise. The function that makes masks only notes
what the model asks for: a mask over the tokens of all sessions is never made.

Other threads may use the model meanwhile. They find the functions that the model has otherwise.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from kvpool._process import ForkAware, forget_forks, watch_forks
from kvpool.errors import UnbatchableModelError
from kvpool.integrations._transformers.attention import UNKNOWN_OPTIONS, grouped_attention
from kvpool.integrations._transformers.ragged import MaskRule, RaggedStep

__all__ = ["attending_by"]

PREFIX = "kvpool_batch_"

_NAME = "_attn_implementation"  # where a configuration names the function

_UNUSABLE = ("flash", "flex", "paged")  # they know other masks, or other caches

_here = threading.local()  # `step`: the one that this thread runs


@contextlib.contextmanager
def attending_by(step: RaggedStep, model: Any) -> Iterator[None]:
    """Have the attention of a model, in this thread, be that of a step.

    Raises
    ------
    UnbatchableModelError
        The attention function of the model cannot attend in one session after the other.
    """
    configurations = _configurations.get(model)
    if configurations is None:
        configurations = _configurations.setdefault(model, _Configurations(model))
    before = getattr(_here, "step", None)
    try:
        configurations.enter(step)
        _here.step = step
        yield
    finally:
        _here.step = before
        configurations.leave(step)


class _Configurations(ForkAware):
    """The configurations that the parts of a model read: they name its attention function."""

    def __init__(self, model: Any) -> None:
        parts = (getattr(part, "config", None) for part in model.modules())
        self._all = list({id(one): one for one in parts if hasattr(one, _NAME)}.values())
        self._enter_child()
        watch_forks(weakref.ref(self, forget_forks))

    def _enter_child(self) -> None:
        """Forget the steps of other threads, which do not run in a child."""
        self._lock = threading.Lock()
        # That run now. Weak, so that one whose end was interrupted goes by itself.
        self._steps: weakref.WeakSet[RaggedStep] = weakref.WeakSet()

    def enter(self, step: RaggedStep) -> None:
        """Name the functions of this module."""
        with self._lock:
            names = self._names()
            for name in set(names):
                _register(name)
            self._steps.add(step)
            self._set(names, PREFIX)

    def leave(self, step: RaggedStep) -> None:
        """Name those of the model again, if this was the last step or none began."""
        with self._lock:
            self._steps.discard(step)
            if not self._steps:
                self._set(self._names(), "")

    def _names(self) -> list[str]:
        """Return how the model names its functions; after an interrupt some may be ours still."""
        return [(getattr(one, _NAME) or "eager").removeprefix(PREFIX) for one in self._all]

    def _set(self, names: list[str], prefix: str) -> None:
        for config, name in zip(self._all, names, strict=True):
            setattr(config, _NAME, {"": prefix + name})  # in this one, not in those in it


_configurations: weakref.WeakKeyDictionary[Any, _Configurations] = weakref.WeakKeyDictionary()


def _register(name: str) -> None:
    """Make the functions known that take the place of those of a name."""
    if any(word in name for word in _UNUSABLE):
        raise UnbatchableModelError(
            f"the attention {name!r} cannot attend in one session after the other: choose "
            "another one, for example model.set_attn_implementation(register_attention())"
        )
    if PREFIX + name not in AttentionInterface():
        AttentionMaskInterface.register(PREFIX + name, partial(_make_mask, name))
        AttentionInterface.register(PREFIX + name, partial(_attend, name))


def _attend(
    name: str, module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any
) -> tuple[Any, Any]:
    """Attend by the step of this thread; without one, by the function of a name."""
    step: RaggedStep | None = getattr(_here, "step", None)
    one = _function(name, module)
    if step is None:
        attended: tuple[Any, Any] = one(module, query, key, value, attention_mask, **options)
        return attended
    is_plain = all(options.get(option) is None for option in UNKNOWN_OPTIONS)
    if one is sdpa_attention_forward and is_plain:  # else it refuses, or passes over the option
        one = grouped_attention
    return step.attend(one, module, query, key, value, attention_mask, **options)


def _function(name: str, module: Any) -> Callable[..., Any]:
    """Return the attention function that the code of a layer finds by a name."""
    code = sys.modules[type(module).__module__]
    eager = getattr(code, "eager_attention_forward", None)
    known = getattr(code, "ALL_ATTENTION_FUNCTIONS", None) or AttentionInterface()
    function: Callable[..., Any] | None = known.get(name, eager)
    if function is None:
        raise UnbatchableModelError(f"{type(module).__name__} has no attention function {name!r}")
    return function


def _make_mask(name: str, **asked: Any) -> Any:
    """Note what a mask is to be, for the step of this thread; without one, make it."""
    make = AttentionMaskInterface().get(name)
    step: RaggedStep | None = getattr(_here, "step", None)
    if step is None:
        return None if make is None else make(**asked)
    if make is None:
        return None
    own = {"q_length", "kv_length", "q_offset", "kv_offset"}
    padding = asked.get("attention_mask")
    if padding is not None:  # some models make one of ones, for all tokens that they see
        if not padding.all():
            raise step.refusal("masks some tokens of all sessions by itself")
        own.add("attention_mask")
    noted = torch.ones((1, 1, 1, 1), dtype=torch.bool)
    rest = {option: value for option, value in asked.items() if option not in own}
    noted.kvpool = MaskRule(make, rest)
    return noted
