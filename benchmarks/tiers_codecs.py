"""What codecs do to keys and values of SmolLM2: their size, their speed, and what is lost."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import DynamicCache

from benchmarks.harness import Measurement, Ratio, Report, interleave, median
from benchmarks.record import ROOT
from kvpool import KVLayout
from kvpool.integrations.small_model import small_model_directory
from kvpool.integrations.transformers import cache_argument
from kvpool.layout import DTYPES
from kvpool.prefix import Identity, token_bytes
from kvpool.tiers import Chunk, chunks_of, decode_chunk, encode_chunk, open_codec

__all__ = ["measure_errors", "measure_sizes"]

TEXT = ROOT / "docs/concepts.md"
CHUNK = 64
PREFIX, QUICK_PREFIX = 1024, 128
ANSWER, QUICK_ANSWER = 200, 8
PLAIN = "none"
EXACT = ("zstd", "zstd;level=9")
ROUNDED = ("int8", "int4")


class Reader:
    """The model, and the first tokens of a text."""

    def __init__(self, dtype: torch.dtype, tokens: int) -> None:
        torch.set_num_threads(1)
        directory = small_model_directory(print)
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype
        ).eval()
        text = TEXT.read_text(encoding="utf-8")
        self.ids: Any = tokenizer(text, return_tensors="pt")["input_ids"][:, :tokens]
        if self.ids.shape[1] < tokens:
            raise AssertionError(f"{TEXT} has {self.ids.shape[1]} tokens, not {tokens}")

    def step(self, ids: Any, cache: Any) -> Any:
        """Return the logits of tokens, whose keys and values the cache gets."""
        with torch.no_grad():
            return self.model(ids, use_cache=True, **{cache_argument(self.model): cache}).logits[0]


def measure_sizes(report: Report, *, quick: bool) -> None:
    """Measure size and speed of every codec with the keys and values of a text."""
    tokens = QUICK_PREFIX if quick else PREFIX
    reader = Reader(torch.bfloat16, tokens)
    cache = DynamicCache(config=reader.model.config)
    reader.step(reader.ids, cache)
    chunks = [(chunk, _data(chunk, cache)) for chunk in _chunks(reader.ids, cache, "bfloat16")]
    nbytes = sum(chunk.nbytes for chunk, _ in chunks)
    sides = {name: Coding(name, chunks) for name in (PLAIN, *EXACT, *ROUNDED)}
    rounds = 2 if quick else 5
    what = f"codecs, {tokens:,} tokens in bfloat16"
    sizes = {}
    for name, side in sides.items():
        side.encode()
        stored = float(side.stored)
        sizes[name] = Measurement(f"{what}: stored", name, "bytes", stored, stored, stored, 1)
    report.measurements += sizes.values()
    for name in (*EXACT, *ROUNDED):
        plain, size = sizes[PLAIN], sizes[name]
        value = nbytes / size.value
        report.ratios.append(Ratio(f"{what}: size", plain, size, "times as large", value))
    for verb in ("encode", "decode"):
        samples = interleave({name: getattr(side, verb) for name, side in sides.items()}, rounds)
        report.measurements += [
            median(f"{what}: {verb}", name, "GB/s", [nbytes / took / 1e9 for took in taken])
            for name, taken in samples.items()
        ]


class Coding:
    """Encodes chunks, and decodes what it has encoded."""

    def __init__(self, name: str, chunks: list[tuple[Chunk, NDArray[Any]]]) -> None:
        self._codec, self._chunks = open_codec(name), chunks
        self._values: list[bytes] = []

    @property
    def stored(self) -> int:
        """Bytes of all values."""
        return sum(map(len, self._values))

    def encode(self) -> float:
        """Encode all chunks; return seconds."""
        start = time.perf_counter()
        values = [encode_chunk(chunk, data, self._codec) for chunk, data in self._chunks]
        took = time.perf_counter() - start
        self._values = [b"".join(parts) for parts in values]
        return took

    def decode(self) -> float:
        """Decode all chunks; return seconds."""
        start = time.perf_counter()
        found = [
            decode_chunk(memoryview(value), chunk, self._codec)
            for value, (chunk, _) in zip(self._values, self._chunks, strict=True)
        ]
        took = time.perf_counter() - start
        if self._codec.is_lossless:
            for array, (_, data) in zip(found, self._chunks, strict=True):
                if array.tobytes() != data.tobytes():
                    raise AssertionError(f"{self._codec.name} gives other bytes than it got")
        return took


class Reading(NamedTuple):
    """What the model makes of keys and values."""

    perplexity: float
    answer: list[int]
    chosen: list[int]


def measure_errors(report: Report, *, quick: bool) -> None:
    """Compare what the model says after keys and values that a codec has rounded."""
    half, count = (QUICK_PREFIX, QUICK_ANSWER) if quick else (PREFIX // 2, ANSWER)
    reader = Reader(torch.float32, 2 * half)
    exact = _read(reader, half, PLAIN, count, [])
    perplexities = {PLAIN: exact.perplexity}
    agreements: list[Measurement] = []
    for name in ROUNDED:
        found = _read(reader, half, name, count, exact.answer)
        perplexities[name] = found.perplexity
        same = [ours == theirs for ours, theirs in zip(found.answer, exact.answer, strict=True)]
        run = same.index(False) if False in same else count
        each = sum(a == b for a, b in zip(found.chosen, exact.answer, strict=True))
        agreements += [
            _counted(f"the same of {count} greedy tokens, in a row", name, run),
            _counted(f"the same of {count} greedy tokens, each", name, each),
        ]
    what = f"perplexity of {half:,} tokens after {half:,}"
    figures = {
        name: Measurement(what, name, "", value, value, value, 1)
        for name, value in perplexities.items()
    }
    report.measurements += [*figures.values(), *agreements]
    for name in ROUNDED:
        value = figures[name].value / figures[PLAIN].value
        report.ratios.append(Ratio(what, figures[name], figures[PLAIN], "times as high", value))


def _counted(what: str, name: str, count: int) -> Measurement:
    return Measurement(what, name, "tokens", count, count, count, 1)


def _read(reader: Reader, half: int, codec: str, count: int, answer: list[int]) -> Reading:
    """Let the model go on after the first half of a text went through a codec."""
    cache = DynamicCache(config=reader.model.config)
    first, second = reader.ids[:, :half], reader.ids[:, half:]
    reader.step(first, cache)
    _round(cache, first, codec)
    logits = reader.step(second, cache)
    losses = torch.nn.functional.cross_entropy(logits[:-1], second[0, 1:])
    said = _greedy(reader, cache, second[:, :1], half, count)
    chosen = _chosen(reader, cache, second[:, :1], half, answer or said)
    return Reading(float(torch.exp(losses)), said, chosen)


def _greedy(reader: Reader, cache: Any, begin: Any, held: int, count: int) -> list[int]:
    """Return what the model says after the first tokens that a cache holds, and one more."""
    cache.crop(held - cache.get_seq_length())  # the tokens behind them
    token, said = begin, list[int]()
    for _ in range(count):
        token = reader.step(token, cache)[-1:].argmax(-1, keepdim=True)
        said.append(int(token))
    return said


def _chosen(reader: Reader, cache: Any, begin: Any, held: int, answer: list[int]) -> list[int]:
    """Return what the model would choose at each place of an answer."""
    cache.crop(held - cache.get_seq_length())  # the tokens behind them
    fed = torch.cat([begin, torch.tensor([answer[:-1]], dtype=begin.dtype)], dim=1)
    return [int(token) for token in reader.step(fed, cache).argmax(-1)]


def _round(cache: Any, ids: Any, codec: str) -> None:
    """Have all keys and values of a cache go through a codec."""
    coder = open_codec(codec)
    for chunk in _chunks(ids, cache, "float32"):
        value = b"".join(encode_chunk(chunk, _data(chunk, cache), coder))
        found = torch.from_numpy(decode_chunk(memoryview(value), chunk, coder).copy())
        place = slice(chunk.start, chunk.start + chunk.tokens)
        for layer, (keys, values) in zip(cache.layers, found, strict=True):
            layer.keys[0, :, place] = keys
            layer.values[0, :, place] = values


def _chunks(ids: Any, cache: Any, dtype: str) -> list[Chunk]:
    keys = cache.layers[0].keys
    layout = KVLayout(len(cache.layers), keys.shape[1], keys.shape[3], dtype)
    tokens = token_bytes(ids[0].tolist())
    return list(chunks_of(Identity("model", "", layout), tokens, CHUNK))


def _data(chunk: Chunk, cache: Any) -> NDArray[Any]:
    """Return the keys and values of a chunk."""
    data, place = chunk.empty(), slice(chunk.start, chunk.start + chunk.tokens)
    for layer, (keys, values) in zip(cache.layers, data, strict=True):
        keys[...] = _array(layer.keys[0, :, place])
        values[...] = _array(layer.values[0, :, place])
    return data


def _array(tensor: Any) -> NDArray[Any]:
    """Return a tensor as an array; NumPy has no bfloat16 of its own."""
    if tensor.dtype != torch.bfloat16:
        return np.asarray(tensor)
    bits: NDArray[Any] = tensor.contiguous().view(torch.uint16).numpy()
    return bits.view(DTYPES["bfloat16"])
