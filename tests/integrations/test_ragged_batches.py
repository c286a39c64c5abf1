"""`PooledBatch`: sessions of any lengths in one step, each as if it were alone."""

from __future__ import annotations

from typing import Any

import pytest

from kvpool.errors import (
    CacheInUseError,
    ContextOverflowError,
    EntryKindError,
    EntryNotFoundError,
    EntryRemovedError,
    InvalidArgumentError,
    InvalidTokensError,
    LayerMismatchError,
    PoolExhaustedError,
    UnbatchableModelError,
)
from tests.support.managers import MakeManager

pytestmark = pytest.mark.transformers

KINDS = [
    "llama",
    "heads of their own",
    "one head",
    "sliding",
    "some sliding",
    "capped scores",
    "chunks",
]

# Prefill, decode, both in one step, chunks of a prompt, and past every window.
COUNTS = ((5, 11, 3, 1), (1, 1, 1, 1), (1, 4, 1, 9), (3, 1, 1, 20), (1, 1, 12, 1), (1, 1, 1, 1))

NAME = "_attn_implementation"  # where a configuration names its attention

BOUND = {"float32": 1e-5, "bfloat16": 0.1, "float16": 1e-2}  # of the standard deviation


def caches_of(hf: Any, manager: Any, model: Any, count: int, name: str = "s") -> list[Any]:
    return [hf.PooledCache.for_model(manager, model, f"{name}{i}") for i in range(count)]


def prompts(hf: Any, counts: tuple[int, ...], seed: int = 0) -> list[Any]:
    return [hf.words(count, seed=100 * seed + i)[0] for i, count in enumerate(counts)]


def alone(hf: Any, model: Any, tokens: Any, cache: Any) -> Any:
    return hf.forward(model, tokens[None], cache, logits_to_keep=1)[0, -1]


def unlike(mine: Any, expected: Any) -> float:
    return float((mine.float() - expected.float()).abs().max() / expected.float().std())


# -- the same as alone -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "mmap"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_session_computes_what_it_computes_alone(
    hf: Any, make_manager: MakeManager, kind: str, backend: str
) -> None:
    manager, model = make_manager(backend=backend), hf.model(kind)
    caches, single = (caches_of(hf, manager, model, 4, name) for name in ("s", "a"))
    batch = hf.PooledBatch(caches)
    for number, counts in enumerate(COUNTS):
        tokens = prompts(hf, counts, number)
        step = batch.step(model, tokens)
        assert step.errors == [None] * 4
        for i in range(4):
            expected = alone(hf, model, tokens[i], single[i])
            assert unlike(step.logits[i], expected) < BOUND["float32"]
            assert caches[i].get_seq_length() == single[i].get_seq_length()
    for mine, theirs in zip(caches, single, strict=True):
        for ours, expected in zip(hf.states(mine), hf.states(theirs), strict=True):
            hf.torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert getattr(model.config, NAME) in {"sdpa", "eager"}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("attention", ["eager", "sdpa", "kvpool"])
def test_every_dtype_and_attention(
    hf: Any, make_manager: MakeManager, dtype: str, attention: str
) -> None:
    manager, model = make_manager(), hf.model(dtype=dtype)
    hf.register_attention()
    caches, single = (caches_of(hf, manager, model, 3, name) for name in ("s", "a"))
    batch = hf.PooledBatch(caches)
    model.set_attn_implementation(attention)
    try:
        for number, counts in enumerate(((4, 9, 1), (1, 1, 1), (1, 3, 1))):
            tokens = prompts(hf, counts, number)
            step = batch.step(model, tokens)
            for i in range(3):
                expected = alone(hf, model, tokens[i], single[i])
                assert unlike(step.logits[i], expected) < BOUND[dtype]
        assert getattr(model.config, NAME) == attention
    finally:
        model.set_attn_implementation("sdpa")


@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        ("llama", "kvpool"),
        ("llama", "eager"),
        ("heads of their own", "sdpa"),
        ("sliding", "kvpool"),
    ],
)
def test_a_batch_of_one_has_the_bits_of_the_session_alone(
    hf: Any, make_manager: MakeManager, kind: str, attention: str
) -> None:
    manager, model = make_manager(), hf.model(kind)
    hf.register_attention()
    (cache,), (single,) = (caches_of(hf, manager, model, 1, name) for name in ("s", "a"))
    batch = hf.PooledBatch([cache])
    model.set_attn_implementation(attention)
    try:
        for number, count in enumerate((7, 1, 1, 4, 1, 12, 1)):
            (tokens,) = prompts(hf, (count,), number)
            (logits,) = batch.step(model, [tokens]).logits
            assert hf.torch.equal(logits, alone(hf, model, tokens, single))
    finally:
        model.set_attn_implementation("sdpa")
    assert hf.same_cache(cache, single)


def test_sessions_join_and_leave_between_steps(hf: Any, make_manager: MakeManager) -> None:
    manager, model = make_manager(), hf.model()
    caches, single = (caches_of(hf, manager, model, 3, name) for name in ("s", "a"))
    batch = hf.PooledBatch()
    assert batch.step(model, []) == ([], [])
    there: list[int] = []
    for number, change in enumerate((0, 1, None, ~0, 2, None, ~1, 0, None)):
        if change is not None and change >= 0:
            batch.add(caches[change])
            there.append(change)
        elif change is not None:
            batch.remove(caches[~change])
            there.remove(~change)
            # By itself, meanwhile.
            (tokens,) = prompts(hf, (2,), 50 + number)
            for cache in (caches[~change], single[~change]):
                hf.forward(model, tokens[None], cache)
        assert batch.caches == tuple(caches[i] for i in there)
        assert (len(batch), caches[there[0]] in batch) == (len(there), True)
        tokens = prompts(hf, (3,) * len(there), number)
        step = batch.step(model, tokens)
        for at, i in enumerate(there):
            assert unlike(step.logits[at], alone(hf, model, tokens[at], single[i])) < 1e-5


def test_forks_and_their_parent_go_on_together(hf: Any, make_manager: MakeManager) -> None:
    manager, model = make_manager(backend="mmap"), hf.model()
    system = hf.words(70)
    parent = hf.PooledCache.for_model(manager, model, "system")
    reference = hf.PooledCache.for_model(manager, model, "reference")
    for cache in (parent, reference):
        hf.forward(model, system, cache)
    caches = [parent, *(parent.fork(f"user {i}") for i in range(3))]
    single = [reference, *(reference.fork(f"alone {i}") for i in range(3))]
    batch = hf.PooledBatch(caches)
    for number in range(4):
        tokens = prompts(hf, (1, 2, 3, 1), number)
        step = batch.step(model, tokens)
        for i in range(4):
            assert unlike(step.logits[i], alone(hf, model, tokens[i], single[i])) < 1e-5
    assert all(
        hf.torch.equal(mine.layers[0].keys[:, :, :70], parent.layers[0].keys[:, :, :70])
        for mine in caches
    )
    manager.check_integrity()


def test_sessions_of_known_tokens_are_closed_with_them(hf: Any, make_manager: MakeManager) -> None:
    manager, model = make_manager(), hf.model()
    texts = [hf.words(count, seed=count)[0].tolist() for count in (9, 14)]
    caches = [hf.PooledCache.for_tokens(manager, text, model=model) for text in texts]
    batch = hf.PooledBatch(caches)
    tokens: list[Any] = texts
    for _ in range(4):
        step = batch.step(model, tokens)
        tokens = [[int(one.argmax())] for one in step.logits]
        texts = [text + new for text, new in zip(texts, tokens, strict=True)]
    for cache, text in zip(caches, texts, strict=True):
        batch.remove(cache)
        cache.close(text)
    again = hf.PooledCache.for_tokens(manager, texts[1], model=model)
    assert again.get_seq_length() == len(texts[1]) - 1
    again.close()


# -- one that fails ------------------------------------------------------------------------------


def run_without(hf: Any, make_manager: MakeManager, model: Any, counts: tuple[int, ...]) -> Any:
    """The logits and states of sessions 0 and 2 of a batch that session 1 is not in."""
    manager = make_manager()
    caches = caches_of(hf, manager, model, 3)
    batch = hf.PooledBatch(caches)
    batch.step(model, prompts(hf, (5, 4, 6)))
    batch.remove(caches[1])
    tokens = prompts(hf, counts, 1)
    step = batch.step(model, [tokens[0], tokens[2]])
    return step.logits, [hf.states(caches[i]) for i in (0, 2)]


BAD_TOKENS: list[tuple[Any, str]] = [
    ([], "at least one"),
    ([5, 101], "gets the token 101: LlamaForCausalLM knows those from 0 to 100"),
    ([-1], "gets the token -1"),
    ([1.5], "whole numbers"),
    (["a"], "whole numbers"),
    (None, "whole numbers"),
    (7, "whole numbers"),
]


@pytest.mark.parametrize(("bad", "text"), BAD_TOKENS)
def test_bad_tokens_are_the_error_of_their_session(
    hf: Any, make_manager: MakeManager, bad: Any, text: str
) -> None:
    model = hf.model()
    expected, states = run_without(hf, make_manager, model, (1, 1, 3))
    caches = caches_of(hf, make_manager(), model, 3)
    batch = hf.PooledBatch(caches)
    batch.step(model, prompts(hf, (5, 4, 6)))
    before = [one.clone() for one in hf.states(caches[1])]
    tokens = prompts(hf, (1, 1, 3), 1)
    step = batch.step(model, [tokens[0], bad, tokens[2]])
    check_others(hf, step, caches, expected, states)
    assert isinstance(step.errors[1], InvalidTokensError)
    assert text in str(step.errors[1])
    assert "s1" in str(step.errors[1])
    assert all(map(hf.torch.equal, hf.states(caches[1]), before))


def check_others(hf: Any, step: Any, caches: list[Any], expected: Any, states: Any) -> None:
    """Sessions 0 and 2 have the bits that they have without session 1."""
    assert [step.errors[0], step.errors[2]] == [None, None]
    assert step.logits[1] is None
    assert hf.torch.equal(step.logits[0], expected[0])
    assert hf.torch.equal(step.logits[2], expected[1])
    for i, theirs in ((0, states[0]), (2, states[1])):
        assert all(map(hf.torch.equal, hf.states(caches[i]), theirs))


def test_a_full_context_is_the_error_of_its_session(hf: Any, make_manager: MakeManager) -> None:
    model = hf.model()
    expected, states = run_without(hf, make_manager, model, (1, 1, 3))
    manager = make_manager()
    caches = caches_of(hf, manager, model, 3)
    caches[1] = hf.PooledCache.for_model(manager, model, "small", max_context_length=4)
    batch = hf.PooledBatch(caches)
    batch.step(model, prompts(hf, (5, 4, 6)))
    before = [one.clone() for one in hf.states(caches[1])]
    step = batch.step(model, prompts(hf, (1, 1, 3), 1))
    check_others(hf, step, caches, expected, states)
    assert isinstance(step.errors[1], ContextOverflowError)
    assert step.errors[1].__traceback__ is None  # it would keep the leases of all
    assert all(map(hf.torch.equal, hf.states(caches[1]), before))


@pytest.mark.parametrize("backend", ["numpy", "mmap"])
def test_a_full_pool_is_the_error_of_the_session_that_has_no_room(
    hf: Any, make_manager: MakeManager, backend: str
) -> None:
    model = hf.model()
    expected, states = run_without(hf, make_manager, model, (1, 1, 3))
    manager = make_manager(1 << 20, backend)
    caches = caches_of(hf, manager, model, 3)
    batch = hf.PooledBatch(caches)
    batch.step(model, prompts(hf, (5, 4, 6)))
    before = [one.clone() for one in hf.states(caches[1])]
    tokens = prompts(hf, (1, 1, 3), 1)
    much = hf.words(20_000, seed=9)[0]
    used = manager.pool.stats().used
    step = batch.step(model, [tokens[0], much, tokens[2]])
    check_others(hf, step, caches, expected, states)
    assert isinstance(step.errors[1], PoolExhaustedError)
    assert manager.pool.stats().used == used
    assert all(map(hf.torch.equal, hf.states(caches[1]), before))
    again = batch.step(model, prompts(hf, (1, 1, 1), 2))  # it stays, and may go on
    assert again.errors == [None] * 3


def test_no_session_is_evicted_for_another_one_of_the_batch(
    hf: Any, make_manager: MakeManager
) -> None:
    model, manager = hf.model(), make_manager(1 << 20, "mmap")
    caches = caches_of(hf, manager, model, 2)
    batch = hf.PooledBatch(caches)
    batch.step(model, prompts(hf, (500, 4)))
    for cache in caches:
        cache.release()
    step = batch.step(model, [hf.words(1)[0], hf.words(4000, seed=3)[0]])
    assert step.errors[0] is None
    assert isinstance(step.errors[1], PoolExhaustedError)
    assert [cache.get_seq_length() for cache in caches] == [501, 4]


def test_a_removed_session_is_the_error_of_its_own(hf: Any, make_manager: MakeManager) -> None:
    model = hf.model()
    expected, states = run_without(hf, make_manager, model, (1, 1, 3))
    manager = make_manager()
    caches = caches_of(hf, manager, model, 3)
    batch = hf.PooledBatch(caches)
    batch.step(model, prompts(hf, (5, 4, 6)))
    manager.remove_cache_entry(caches[1].key)
    caches[1].release()
    step = batch.step(model, prompts(hf, (1, 1, 3), 1))
    check_others(hf, step, caches, expected, states)
    assert isinstance(step.errors[1], EntryRemovedError)


def test_an_unfinished_step_is_the_error_of_its_session(hf: Any, make_manager: MakeManager) -> None:
    model = hf.model()
    caches = caches_of(hf, make_manager(), model, 3)
    batch = hf.PooledBatch(caches)
    batch.step(model, prompts(hf, (5, 4, 6)))
    caches[1].update(*hf.torch.zeros((2, 1, 2, 1, 8)), 0)
    step = batch.step(model, prompts(hf, (1, 1, 3), 1))
    assert isinstance(step.errors[1], LayerMismatchError)
    caches[1].crop(0)
    assert batch.step(model, prompts(hf, (1, 1, 3), 1)).errors == [None] * 3


def test_a_session_that_is_removed_while_the_model_runs(hf: Any, make_manager: MakeManager) -> None:
    model, manager = hf.model(), make_manager()
    caches = caches_of(hf, manager, model, 3)
    batch = hf.PooledBatch(caches)
    batch.step(model, prompts(hf, (5, 4, 6)))

    def remove(*_anything: Any) -> None:
        manager.remove_cache_entry(caches[1].key)

    hook = model.model.layers[1].register_forward_hook(remove)
    try:
        step = batch.step(model, prompts(hf, (1, 1, 3), 1))
    finally:
        hook.remove()
    assert isinstance(step.errors[1], EntryRemovedError)
    assert [caches[i].get_seq_length() for i in (0, 2)] == [6, 9]


@pytest.mark.parametrize("backend", ["numpy", "mmap"])
def test_a_model_that_raises_leaves_all_sessions_as_they_were(
    hf: Any, make_manager: MakeManager, backend: str
) -> None:
    model, manager = hf.model(), make_manager(backend=backend)
    caches = caches_of(hf, manager, model, 3)
    batch = hf.PooledBatch(caches)
    batch.step(model, prompts(hf, (5, 4, 6)))
    before = [[one.clone() for one in hf.states(cache)] for cache in caches]
    used = manager.pool.stats().used

    def fail(*_anything: Any) -> None:
        raise KeyboardInterrupt

    hook = model.model.layers[1].register_forward_hook(fail)
    try:
        with pytest.raises(KeyboardInterrupt):
            batch.step(model, prompts(hf, (1, 700, 3), 1))
    finally:
        hook.remove()
    assert getattr(model.config, NAME) == "sdpa"
    for cache, states in zip(caches, before, strict=True):
        assert all(map(hf.torch.equal, hf.states(cache), states))
    for cache in caches:
        cache.crop(0)  # the traceback, which is gone, kept pages from being given back
    if manager.pool.is_elastic:  # in a rigid pool the entry of 700 tokens has grown for them
        assert manager.pool.stats().used == used
    step = batch.step(model, prompts(hf, (1, 1, 3), 1))
    assert step.errors == [None] * 3


# -- what is refused -----------------------------------------------------------------------------


def test_only_caches_of_one_model_and_manager_are_taken(hf: Any, make_manager: MakeManager) -> None:
    manager, model = make_manager(), hf.model()
    first, second = caches_of(hf, manager, model, 2)
    batch = hf.PooledBatch([first])
    (elsewhere,) = caches_of(hf, make_manager(), model, 1)
    (other,) = caches_of(hf, manager, hf.model(seed=1), 1, "other")
    many = hf.PooledCache.for_model(manager, model, "many")
    hf.forward(model, hf.words(2, rows=2), many)
    for bad, text in (
        (elsewhere, "another manager"),
        (other, "another model"),
        (many, "holds 2 sequences"),
        (hf.DynamicCache(), r"not of DynamicCache\("),
        (None, "not of None"),
    ):
        with pytest.raises(InvalidArgumentError, match=text):
            batch.add(bad)
    with pytest.raises(CacheInUseError, match="s0 is in the batch already"):
        batch.add(first)
    with pytest.raises(CacheInUseError):
        batch.add(hf.PooledCache.for_model(manager, model, "s0"))
    with pytest.raises(EntryNotFoundError, match="s1"):
        batch.remove(second)
    assert batch.caches == (first,)
    assert repr(batch) == "<PooledBatch: 1 sessions>"


def test_a_step_takes_tokens_for_each_cache(hf: Any, make_manager: MakeManager) -> None:
    model = hf.model()
    batch = hf.PooledBatch(caches_of(hf, make_manager(), model, 2))
    with pytest.raises(InvalidArgumentError, match="each of the 2 caches, not of 1"):
        batch.step(model, [[5]])
    bad: Any
    for bad in (None, 5, iter([[5], [6]])):
        with pytest.raises(InvalidArgumentError, match="a sequence with the tokens of each cache"):
            batch.step(model, bad)
    with pytest.raises(EntryKindError, match="not of the model"):
        batch.step(hf.model(seed=1), [[5], [6]])
    unknown = hf.PooledCache(make_manager(), "c", config=model.config, dtype="float32")
    with pytest.raises(EntryKindError, match="not of the model"):
        hf.PooledBatch([unknown]).step(hf.model("one head"), [[5]])


def test_a_session_that_became_a_batch_of_its_own_is_refused(
    hf: Any, make_manager: MakeManager
) -> None:
    model = hf.model()
    caches = caches_of(hf, make_manager(), model, 2)
    batch = hf.PooledBatch(caches)
    batch.step(model, prompts(hf, (5, 4)))
    caches[1].batch_repeat_interleave(2)
    step = batch.step(model, prompts(hf, (1, 1), 1))
    assert isinstance(step.errors[1], InvalidArgumentError)
    assert caches[0].get_seq_length() == 6


def test_other_attention_functions_are_refused(hf: Any, make_manager: MakeManager) -> None:
    model = hf.model()
    batch = hf.PooledBatch(caches_of(hf, make_manager(), model, 1))
    batch.step(model, [[5]])
    setattr(model.config, NAME, "flash_attention_2")
    try:
        with pytest.raises(UnbatchableModelError, match="'flash_attention_2' cannot attend"):
            batch.step(model, [[5]])
        assert getattr(model.config, NAME) == "flash_attention_2"
    finally:
        setattr(model.config, NAME, "sdpa")
    assert batch.caches[0].get_seq_length() == 1


# -- position embeddings that depend on the length ------------------------------------------------


def stretched(hf: Any, kind: str) -> Any:
    """A model that was trained for 16 tokens, with a position embedding for longer ones."""
    parameters: dict[str, Any] = {"rope_theta": 10_000.0, "rope_type": kind, "factor": 4.0}
    if kind == "longrope":
        parameters |= {
            "original_max_position_embeddings": 16,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
        }
    config = hf.transformers.LlamaConfig(
        vocab_size=101,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64 if kind == "longrope" else 16,
        rope_parameters=parameters,
    )
    hf.torch.manual_seed(0)
    return hf.transformers.LlamaForCausalLM(config).eval()


def test_short_and_long_sessions_have_the_positions_of_their_length(
    hf: Any, make_manager: MakeManager
) -> None:
    manager, model = make_manager(), stretched(hf, "longrope")
    caches, single = (caches_of(hf, manager, model, 3, name) for name in ("s", "a"))
    batch = hf.PooledBatch(caches)
    for number, counts in enumerate(((5, 20, 14), (1, 1, 1), (2, 3, 1), (1, 1, 1))):
        tokens = prompts(hf, counts, number)
        step = batch.step(model, tokens)
        assert step.errors == [None] * 3
        for i in range(3):
            assert unlike(step.logits[i], alone(hf, model, tokens[i], single[i])) < 1e-5


def test_a_session_whose_length_would_change_the_others_is_refused(
    hf: Any, make_manager: MakeManager
) -> None:
    manager, model = make_manager(), stretched(hf, "dynamic")
    caches, single = (caches_of(hf, manager, model, 2, name) for name in ("s", "a"))
    batch = hf.PooledBatch(caches)
    step = batch.step(model, prompts(hf, (5, 20)))
    assert isinstance(step.errors[1], UnbatchableModelError)
    assert "20 tokens: from 16 on" in str(step.errors[1])
    assert caches[1].get_seq_length() == 0
    expected = alone(hf, model, prompts(hf, (5,))[0], single[0])
    assert unlike(step.logits[0], expected) < 1e-5
