"""The contract of `kvpool.tiers.Codec` as tests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kvpool.errors import ChunkError, TierError
from kvpool.layout import DTYPES
from kvpool.tiers import Codec, CodecChain, Form

__all__ = ["CodecSuite"]

FLOATS = [name for name in DTYPES if name != "int8"]
SHAPES = [(1, 2, 1, 1, 1), (2, 2, 3, 5, 7), (3, 2, 2, 16, 64)]
ABOUT = b"the header of a chunk"


def form_of(shape: tuple[int, ...] | None, dtype: str = "bfloat16", about: bytes = ABOUT) -> Form:
    """Return what a codec is told."""
    return Form(shape, DTYPES[dtype] if shape else np.dtype(np.uint8), about)


def numbers(shape: tuple[int, ...], dtype: str, seed: int = 0) -> NDArray[Any]:
    """Return keys and values of channels with different ranges, as those of models are."""
    draws = np.random.default_rng(seed)
    channels = np.exp(draws.normal(0, 1.5, (*shape[:3], 1, shape[4])))
    found = draws.standard_normal(shape) * channels
    return (found * 20 if dtype == "int8" else found).clip(-120, 120).astype(DTYPES[dtype])


def data_of(array: NDArray[Any]) -> memoryview:
    """Return the bytes of an array."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def encoded(codec: Codec, data: memoryview, form: Form) -> bytes:
    """Return what a codec stores."""
    return b"".join(memoryview(part).cast("B") for part in codec.encode(data, form))


class CodecSuite:
    """Tests that every codec must pass. Subclass it in a test module, and override `create_codec`.

    Attributes
    ----------
    error : float
        How far an element may be from what was stored, as a share of the largest element; used
        for a codec that is not lossless.
    """

    error: float = 0.0

    def create_codec(self) -> Codec:
        """Create the codec."""
        raise NotImplementedError("override create_codec")

    @pytest.fixture
    def codec(self) -> Codec:
        """Return a codec."""
        return self.create_codec()

    def test_it_has_a_name_that_a_chunk_can_have(self, codec: Codec) -> None:
        """Commas and semicolons separate names and options."""
        assert isinstance(codec, Codec)
        assert codec.name
        assert not set(codec.name) & set(",;= ")

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_what_is_stored_comes_back(
        self, codec: Codec, shape: tuple[int, ...], dtype: str
    ) -> None:
        """To the byte, or as near as the codec promises."""
        if dtype == "int8" and not codec.is_lossless:
            pytest.skip("whole numbers are not for a lossy codec")
        array, form = numbers(shape, dtype), form_of(shape, dtype)
        stored = encoded(codec, data_of(array), form)
        found = memoryview(codec.decode(memoryview(stored), form)).cast("B")
        if codec.is_lossless:
            assert found == data_of(array)
        else:
            again = np.frombuffer(found, DTYPES[dtype]).reshape(shape).astype(np.float64)
            exact = array.astype(np.float64)
            assert np.abs(again - exact).max() <= self.error * np.abs(exact).max()

    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("fill", [0.0, -0.0, 1.0, -3.5])
    def test_equal_elements_come_back_exactly(self, codec: Codec, dtype: str, fill: float) -> None:
        """Also from a codec that is not lossless."""
        shape = SHAPES[1]
        array = np.full(shape, fill, DTYPES[dtype])
        form = form_of(shape, dtype)
        stored = encoded(codec, data_of(array), form)
        found = np.frombuffer(codec.decode(memoryview(stored), form), DTYPES[dtype])
        assert (found == fill).all()

    def test_numbers_that_are_not_finite(self, codec: Codec) -> None:
        """They come back, or the codec refuses them."""
        array = numbers(SHAPES[1], "float32")
        array[0, 0, 0, 0, 0], array[1, 1, 1, 1, 1] = np.nan, np.inf
        form = form_of(SHAPES[1], "float32")
        if codec.is_lossless:
            stored = encoded(codec, data_of(array), form)
            assert memoryview(codec.decode(memoryview(stored), form)).cast("B") == data_of(array)
        else:
            with pytest.raises(TierError, match="finite"):
                encoded(codec, data_of(array), form)

    @pytest.mark.parametrize("nbytes", [1, 1000, 70_000])
    def test_bytes_of_another_codec(self, codec: Codec, nbytes: int) -> None:
        """A codec behind another one takes any bytes."""
        if codec.takes_arrays_only:
            pytest.skip("this codec has to be the first one")
        data = np.random.default_rng(nbytes).bytes(nbytes)
        stored = encoded(codec, memoryview(data), form_of(None))
        found = codec.decode(memoryview(stored), form_of(None))
        assert bytes(memoryview(found).cast("B")) == data

    def test_damage_is_an_error_or_other_bytes(self, codec: Codec) -> None:
        """Bytes that are changed, missing or added never end the process, and raise one error."""
        shape = SHAPES[1]
        form, chain = form_of(shape), CodecChain([codec])
        stored = encoded(codec, data_of(numbers(shape, "bfloat16")), form)
        draws = np.random.default_rng(7)
        outcomes: list[int | str] = []
        for number in range(300):
            bad = bytearray(stored)
            bad[int(draws.integers(len(bad)))] ^= 1 << int(draws.integers(8))
            if number % 3 == 1:
                bad = bad[: int(draws.integers(len(bad)))]
            elif number % 3 == 2:
                bad += bytes(int(draws.integers(1, 50)))
            try:
                outcomes.append(chain.decode(memoryview(bytes(bad)), form).nbytes)
            except ChunkError as error:
                outcomes.append(error.reason)
        assert set(outcomes) <= {"payload", "key", form.nbytes}
        assert sum(isinstance(outcome, int) for outcome in outcomes) <= 200

    def test_a_cipher_takes_nothing_that_was_changed(self, codec: Codec) -> None:
        """Neither other bytes nor another header; and its bytes do not show what was stored."""
        if not codec.is_cipher:
            pytest.skip("this codec is not a cipher")
        data, form = memoryview(bytes(range(256)) * 8), form_of(None)
        stored = encoded(codec, data, form)
        assert bytes(range(64)) not in stored
        assert stored != encoded(codec, data, form)
        with pytest.raises(ChunkError):
            codec.decode(memoryview(stored), form_of(None, about=b"another header"))
        for at in range(0, len(stored), 37):
            bad = bytearray(stored)
            bad[at] ^= 1
            with pytest.raises(ChunkError):
                codec.decode(memoryview(bytes(bad)), form)

    def test_threads_share_a_codec(self, codec: Codec) -> None:
        """Several threads encode and decode at the same time."""
        shape = SHAPES[2]
        form = form_of(shape)

        def work(seed: int) -> bool:
            data = data_of(numbers(shape, "bfloat16", seed))
            found = codec.decode(memoryview(encoded(codec, data, form)), form)
            return memoryview(found).nbytes == data.nbytes and (
                not codec.is_lossless or memoryview(found).cast("B") == data
            )

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(work, range(16)))
