"""`PooledLlama`: a model of llama.cpp whose conversations share a pool."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Generator
from typing import Any, Final, Self

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from kvpool._checks import whole_number
from kvpool.errors import InvalidArgumentError, KVPoolError
from kvpool.integrations._llama_cpp.blocks import BlockCache, OpenBlocks
from kvpool.integrations._llama_cpp.identity import model_id_of
from kvpool.integrations._llama_cpp.sequence import Sequence
from kvpool.manager import KVCacheManager
from kvpool.tiers import TierStore

__all__ = ["PooledLlama"]

_log = logging.getLogger(__name__)

BLOCK_TOKENS: Final = 16


class PooledLlama(llama_cpp.Llama):
    """A `llama_cpp.Llama` that does not compute again what any conversation computed before.

    Before a prompt is computed, the longest run of blocks that it begins with is copied from the
    pool; afterwards its new blocks are kept there. Conversations that begin alike share the memory
    of these blocks. All that generates does so: ``create_completion``, ``create_chat_completion``,
    ``generate``.

    Parameters
    ----------
    model_path : str
        A GGUF file.
    manager : KVCacheManager
        Many models may share one.
    block_tokens : int, default 16
        Tokens of a block. What two prompts have in common is reused in whole blocks, so small ones
        leave less to be computed again, and large ones are copied in fewer pieces.
    model_id : str, optional
        Names the weights, and all else that a state depends on.
        [default: a hash of samples of the file, of the parameters, and of the version]
    salt : str, default ""
        Models with another one share nothing: one for each tenant.
    ttl : float, optional
        Seconds without a use until the blocks of a conversation expire. [default: the manager's]
    tiers : TierStore, optional
        Where blocks go beyond the pool, so that they are there after an eviction and in the next
        process. It must have been made with ``chunk_tokens=1``, because one block is one token to
        it. Many models may share one. The caller closes it.
    **options
        Of `llama_cpp.Llama`.

    Raises
    ------
    InvalidArgumentError
        `manager` is not a `KVCacheManager`, `block_tokens` is not a whole number of at least 1,
        `tiers` is not a `TierStore` with chunks of one token, or the model is opened for
        embeddings.
    InvalidLayoutError
        The model keeps a state that cannot be cut into blocks: a recurrent one, or only a window
        of tokens. Use `LlamaPoolCache` for it.

    Attributes
    ----------
    restored_tokens : int
        Tokens of the last prompt whose state came from the pool.
    loaded_tokens : int
        Tokens of the last prompt whose state came into the pool from a tier.

    Notes
    -----
    A cache of ``set_cache`` works as well, and costs time for nothing.

    *Errors.* If the pool is full, blocks are not kept, and a line is logged; the answer is the
    same. *Threads.* As a `llama_cpp.Llama`, it belongs to one thread at a time; the manager does
    not.
    """

    def __new__(cls, *_: Any, **options: Any) -> Self:
        """Check the options: the finalizer of `llama_cpp.Llama` fails on an object half made."""
        manager = options.get("manager")
        if not isinstance(manager, KVCacheManager):
            raise InvalidArgumentError(f"manager must be a KVCacheManager, not {manager!r}")
        size = options.get("block_tokens", BLOCK_TOKENS)
        whole_number("block_tokens", size, InvalidArgumentError, least=1)
        tiers = options.get("tiers")
        if tiers is not None and not isinstance(tiers, TierStore):
            raise InvalidArgumentError(f"tiers must be a TierStore, not {tiers!r}")
        if tiers is not None and tiers.chunk_tokens != 1:
            raise InvalidArgumentError(
                f"tiers must be a TierStore with chunk_tokens=1, not {tiers.chunk_tokens}: one "
                "block is one token to it"
            )
        if options.get("embedding"):
            raise InvalidArgumentError(
                "embedding=True: a model for embeddings computes each prompt as a whole"
            )
        made: Self = super().__new__(cls)
        return made

    def __init__(
        self,
        model_path: str,
        *,
        manager: KVCacheManager,
        block_tokens: int = BLOCK_TOKENS,
        model_id: str | None = None,
        salt: str = "",
        ttl: float | None = None,
        tiers: TierStore | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model_path, **options)
        self._state = Sequence(self)
        name = model_id_of(self) if model_id is None else model_id
        self._blocks = BlockCache(
            manager, block_tokens, self._block_bytes(block_tokens), name, salt, ttl, tiers
        )
        self._opened: OpenBlocks | None = None  # the session of the prompt under way
        self.restored_tokens = self.loaded_tokens = 0

    # The wrapper makes its context from this attribute. Blocks need a second sequence, which
    # shares the memory of the first.
    @property
    def context_params(self) -> Any:
        """Parameters of the context."""
        return self._params

    @context_params.setter
    def context_params(self, parameters: Any) -> None:
        parameters.n_seq_max = 2
        parameters.kv_unified = True
        self._params = parameters

    def _block_bytes(self, size: int) -> int:
        """Return the bytes of the state of a block: those of one token, and of each one more."""
        if size > 1:
            self.eval([max(self.token_bos(), 0)] * 2)
            one, two = self._state.block_bytes(0, 1), self._state.block_bytes(0, 2)
            nbytes = one + (two - one) * (size - 1)
        else:
            self.eval([0])
            nbytes = self._state.block_bytes(0, 1)
        self.reset()
        self._state.cut(0)
        return nbytes

    def generate(self, tokens: Any, *arguments: Any, **options: Any) -> Generator[int, Any, None]:
        """Generate tokens after a prompt, see `llama_cpp.Llama.generate`."""
        prompt = np.asarray(list(tokens), np.int64)
        parameters = inspect.signature(super().generate)
        given = parameters.bind(prompt, *arguments, **options).arguments
        self.restored_tokens = self.loaded_tokens = 0
        if self._opened is not None:  # an interrupt left it
            self._keep()
        try:
            if given.get("reset", True):
                self._restore(prompt)
            yield from super().generate(prompt.tolist(), *arguments, **options)
        finally:
            self._keep()

    def eval(self, tokens: Any) -> None:
        """Compute tokens, see `llama_cpp.Llama.eval`."""
        begun = time.monotonic()
        super().eval(tokens)
        if "_blocks" in vars(self):  # not while it is made
            self._blocks.note_compute(len(tokens), time.monotonic() - begun)

    def close(self) -> None:
        """Free the model; the blocks stay in the pool."""
        if vars(self).get("_opened") is not None:  # an interrupt left it, or a half-made model ends
            self._keep()
        super().close()

    def _restore(self, prompt: NDArray[np.int64]) -> None:
        """Open a session with a prompt, and copy what it holds to the context."""
        self._opened = opened = OpenBlocks(self._blocks, prompt)
        try:
            opened.open()
        except KVPoolError as error:
            _log.warning("the blocks of a prompt are not used: %s", error)
            self._opened = None
            return
        held = self._held(prompt)
        size = self._blocks.block_tokens
        start = held // size * size
        if start + size <= len(prompt):
            self.loaded_tokens = opened.load()
        if opened.token_count <= held:
            return
        # The context is never taken to hold more than it does, whenever an interrupt comes.
        self.n_tokens = start
        if not self._state.cut(start):
            return
        for end, block in opened.blocks(start):
            if not self._state.restore(block):
                opened.cut(end - size)
                break
            self.input_ids[end - size : end] = prompt[end - size : end]
            self.n_tokens = end
            self.restored_tokens += size

    def _held(self, prompt: NDArray[np.int64]) -> int:
        """Return how many tokens of a prompt the context has already."""
        present = self.input_ids[: self.n_tokens]
        count = min(len(present), len(prompt))
        (unlike,) = np.nonzero(present[:count] != prompt[:count])
        return int(unlike[0]) if len(unlike) else count

    def _keep(self) -> None:
        """Keep the blocks of the context, and close the session of the last prompt."""
        tokens = self.input_ids[: self.n_tokens].astype(np.int64)
        try:
            if self._opened is None:  # what went before was not looked for in the pool
                self._opened = OpenBlocks(self._blocks, tokens)
                self._opened.open()
            self._opened.close(self._state, tokens)
        except KVPoolError as error:
            _log.warning("blocks of %d tokens are not kept: %s", len(tokens), error)
        self._opened = None
