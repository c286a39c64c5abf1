"""`Sequence`: the state of a context of llama.cpp, as bytes of blocks of tokens."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from kvpool.errors import InvalidLayoutError

__all__ = ["Sequence"]

_MAIN: Final = 0  # the sequence that the model computes
_SPARE: Final = 1  # holds one block while it is copied out or in

_Bytes = ctypes.POINTER(ctypes.c_uint8)


class Sequence:
    """Copies blocks of tokens out of the memory of a context, and back in.

    Parameters
    ----------
    llama : llama_cpp.Llama
        Its context must have two sequences in one unified memory.

    Raises
    ------
    InvalidLayoutError
        The model keeps a state that cannot be cut into blocks of tokens.

    Notes
    -----
    The bytes of a block are those of ``llama_state_seq_get_data``. What they mean is the business
    of llama.cpp, and may change from one of its versions to the next.
    """

    def __init__(self, llama: llama_cpp.Llama) -> None:
        # The wrapper has no public way to its context. It is read here, and nowhere else.
        inner: Any = vars(llama)
        self._context = inner["_ctx"].ctx
        model = inner["_model"].model
        self._memory = llama_cpp.llama_get_memory(self._context)
        if llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model):
            raise InvalidLayoutError(
                "the model keeps a recurrent state, which cannot be cut into blocks of tokens; "
                "use LlamaPoolCache"
            )
        swa_full = llama.context_params.swa_full
        if llama_cpp.llama_model_n_swa(model) > 0 and not swa_full:
            raise InvalidLayoutError(
                "the model keeps only a window of tokens in some layers: pass swa_full=True"
            )

    def block_bytes(self, start: int, end: int) -> int:
        """Return the size of the state of some tokens of the main sequence."""
        self._select(start, end)
        size = int(llama_cpp.llama_state_seq_get_size(self._context, _SPARE))
        self._forget(_SPARE, -1)
        return size

    def save(self, start: int, end: int, target: NDArray[np.uint8]) -> bool:
        """Copy the state of some tokens to memory; return False if it has another size."""
        self._select(start, end)
        size = int(llama_cpp.llama_state_seq_get_size(self._context, _SPARE))
        written = 0
        if size == target.nbytes:
            written = int(
                llama_cpp.llama_state_seq_get_data(self._context, _pointer(target), size, _SPARE)
            )
        self._forget(_SPARE, -1)
        return written == target.nbytes

    def restore(self, source: NDArray[np.uint8]) -> bool:
        """Add the tokens of a block to the main sequence; return False if llama.cpp refuses it."""
        read = int(
            llama_cpp.llama_state_seq_set_data(
                self._context, _pointer(source), source.nbytes, _SPARE
            )
        )
        if read == source.nbytes:
            llama_cpp.llama_memory_seq_cp(self._memory, _SPARE, _MAIN, -1, -1)
        self._forget(_SPARE, -1)
        return read == source.nbytes

    def cut(self, end: int) -> bool:
        """Forget the tokens of the main sequence from a position on; return whether that went."""
        return self._forget(_MAIN, end)

    def _select(self, start: int, end: int) -> None:
        self._forget(_SPARE, -1)
        llama_cpp.llama_memory_seq_cp(self._memory, _MAIN, _SPARE, start, end)

    def _forget(self, sequence: int, start: int) -> bool:
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, -1))


def _pointer(memory: NDArray[np.uint8]) -> Any:
    return memory.ctypes.data_as(_Bytes)
