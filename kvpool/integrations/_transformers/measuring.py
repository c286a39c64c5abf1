"""What a model keeps of each token, measured: one token goes through it."""

from __future__ import annotations

import inspect
import itertools
import weakref
from typing import Any, NamedTuple

import torch
import xxhash
from transformers import DynamicCache, GenerationMixin

from kvpool.errors import InvalidLayoutError
from kvpool.integrations._transformers.tensors import dtype_name
from kvpool.layout import KVLayout, LayerKind, layer_kinds

__all__ = ["MeasuredModel", "cache_argument", "measure", "model_layout"]

_SAMPLED = 64  # first elements of each weight that tell models apart


class MeasuredModel(NamedTuple):
    """The cache of a model, as one forward of one token has filled it.

    Parameters
    ----------
    kinds : tuple of LayerKind
        What each layer keeps.
    kv_heads, head_dim : int
        Of the keys, and of the values, of each layer that keeps any.
    dtype : str
        Of keys and values, outside of autocast.
    weights : int
        A hash of samples of all weights: models with other weights have another one.
    """

    kinds: tuple[LayerKind, ...]
    kv_heads: int
    head_dim: int
    dtype: str
    weights: int

    def layout(self, dtype: Any = None) -> KVLayout:
        """Return the layout of one sequence.

        Parameters
        ----------
        dtype : dtype, str or torch.dtype, optional
            By default the measured one.

        Raises
        ------
        InvalidLayoutError
            No layout has that dtype.
        """
        layers = sum(kind.is_cached for kind in self.kinds)
        name = self.dtype if dtype is None else dtype_name(dtype)
        return KVLayout(layers, self.kv_heads, self.head_dim, name)


_measured: weakref.WeakKeyDictionary[Any, MeasuredModel] = weakref.WeakKeyDictionary()


def measure(model: Any) -> MeasuredModel:
    """Return what a model keeps of each token; each model is measured once.

    Parameters
    ----------
    model : PreTrainedModel
        Or what `torch.compile` made of one.

    Raises
    ------
    InvalidLayoutError
        The model fails, keeps no keys and values, or keeps what a layout cannot hold: another
        state, keys wider than values, layers of different shapes. The text names the model and
        what was found.

    Notes
    -----
    The configurations of models name their heads in many ways, and some do not say how many a
    cache holds. So the model is asked: a forward of one token fills a `DynamicCache`, whose
    tensors have the shapes. It takes as long as the generation of one token.
    """
    model = getattr(model, "_orig_mod", model)  # compiling for one token would take seconds
    found = _measured.get(model)
    if found is None:
        found = _measured[model] = _measure(model)
    return found


def model_layout(model: Any, dtype: Any = None) -> KVLayout:
    """Return the layout of a model's cache: measured, not read from its configuration.

    Parameters
    ----------
    model : PreTrainedModel
        A forward of one token is made with it, the first time.
    dtype : dtype, str or torch.dtype, optional
        Of keys and values. By default the model's own.

    Returns
    -------
    KVLayout

    Raises
    ------
    InvalidLayoutError
        A pool cannot hold what the model keeps; the text names the model and what was found.
    """
    return measure(model).layout(dtype)


def cache_argument(model: Any) -> str:
    """Return the name of a model's parameter for its cache.

    Parameters
    ----------
    model : PreTrainedModel
        Or what `torch.compile` made of one, or what hands all arguments on to one.

    Returns
    -------
    str
        ``"past_key_values"`` up to transformers 5.23, and ``"cache"`` from 5.24 on.
    """
    names = inspect.signature(getattr(model, "_orig_mod", model).forward).parameters
    if "past_key_values" not in names and "cache" not in names:  # it hands all arguments on
        names = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    cache = names.get("cache")
    # XLM has a `cache` of another kind, which is a dictionary.
    is_one = cache is not None and "dict" not in str(cache.annotation)
    return "cache" if is_one else "past_key_values"


def _measure(model: Any) -> MeasuredModel:
    name = type(model).__name__
    declared = layer_kinds(model.config)
    tensors = _states_of_one_token(model, name)
    if not tensors:
        raise InvalidLayoutError(f"{name} keeps no keys and values in the cache that it is given")
    shapes = set()
    for index, (keys, values) in tensors.items():
        if keys.shape != values.shape or keys.dim() != 4 or keys.dtype != values.dtype:
            raise InvalidLayoutError(
                f"layer {index} of {name} keeps keys {_described(keys)} and values "
                f"{_described(values)} of one token; a layout needs one shape and dtype for both"
            )
        if keys.shape[0] != 1 or keys.shape[2] != 1:
            raise InvalidLayoutError(
                f"layer {index} of {name} keeps {_described(keys)} of one token; "
                "a layout needs (1, kv_heads, 1, head_dim)"
            )
        if keys.device.type != "cpu":
            raise InvalidLayoutError(
                f"{name} computes keys on {keys.device}; a pool is in host memory: move the model "
                "to the CPU"
            )
        shapes.add((keys.shape[1], keys.shape[3], keys.dtype))
    if len(shapes) != 1:
        found = ", ".join(sorted(f"{heads} x {width}" for heads, width, _ in shapes))
        raise InvalidLayoutError(
            f"the layers of {name} have different heads ({found}); a layout needs the same in all"
        )
    ((heads, width, dtype),) = shapes
    kinds = _kinds(name, declared, tensors)
    return MeasuredModel(kinds, heads, width, dtype_name(dtype), _weights(model))


def _states_of_one_token(model: Any, name: str) -> dict[int, tuple[Any, Any]]:
    """Return the keys and values that each layer keeps of one token, by the layer's number."""
    if model.device.type == "meta":
        raise InvalidLayoutError(f"{name} is on the device meta: it has no weights to compute with")
    cache = DynamicCache()
    token = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    try:
        with (
            torch.no_grad(),
            torch.autocast(token.device.type, enabled=False),
            torch.random.fork_rng(devices=[]),  # a model in training drops out at random
        ):
            # `forward`, so that hooks which count or time the calls of a model see none.
            options = {cache_argument(model): cache}
            model.forward(input_ids=token, use_cache=True, **options)
    except Exception as error:  # a model may raise anything
        first_line = next(iter(str(error).strip().splitlines()), "")
        raise InvalidLayoutError(
            f"{name} fails with one token and an empty cache ({type(error).__name__}: "
            f"{first_line}), so its cache cannot be measured; if it takes a cache at all, give "
            "config=model.config instead of the model"
        ) from error
    return {
        index: (layer.keys, layer.values)
        for index, layer in enumerate(cache.layers)
        if layer.is_initialized
    }


def _kinds(name: str, declared: list[LayerKind], tensors: dict[int, Any]) -> tuple[LayerKind, ...]:
    """Return what each layer keeps; the configuration tells the windows."""
    windows = [kind.window for kind in declared]
    count = max(*tensors, 0) + 1
    if count > len(declared):
        if any(windows):
            raise InvalidLayoutError(
                f"{name} has {count} layers, its configuration says {len(declared)} and has "
                "windows: which layer has which window is unknown"
            )
        windows = [None] * count
    for index, kind in enumerate(declared):
        if kind.is_cached and index not in tensors:
            raise InvalidLayoutError(
                f"layer {index} of {name} keeps nothing of a token of text; a session holds the "
                "same tokens in all layers that its model's configuration gives attention"
            )
    return tuple(
        LayerKind(is_cached=True, window=window) if index in tensors else LayerKind(is_cached=False)
        for index, window in enumerate(windows)
    )


def _weights(model: Any) -> int:
    state = xxhash.xxh3_64()
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if not tensor.is_meta:
            sample = tensor.detach().reshape(-1)[:_SAMPLED].cpu().contiguous()
            state.update(sample.view(torch.uint8).numpy().data)
    return state.intdigest()


def _described(states: Any) -> str:
    return f"{tuple(states.shape)} {dtype_name(states.dtype)}"
