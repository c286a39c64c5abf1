from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpool.entry._tokens import TokenCount
from kvpool.errors import LayerMismatchError


def append(tokens: TokenCount, layer: int, count: int) -> int:
    """Append as an entry does: ask, then count."""
    start = tokens.check_append(layer, count, "s")
    assert start == tokens.of(layer)
    return tokens.append(layer, count)


def counts(tokens: TokenCount, layers: int) -> list[int]:
    return [tokens.of(layer) for layer in range(layers)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_layers_append_in_any_order(order: tuple[int, ...]) -> None:
    tokens = TokenCount(3)
    for step, count in enumerate((4, 1, 7)):
        before = (0, 4, 5)[step]
        for layer in order:
            assert tokens.complete == before
            assert append(tokens, layer, count) == before + count
        assert tokens.complete == before + count


def test_a_layer_that_goes_on_alone_is_named_with_the_first_one_behind() -> None:
    tokens = TokenCount(4)
    append(tokens, 2, 5)
    append(tokens, 0, 5)
    with pytest.raises(LayerMismatchError, match=r"^layer 2 of session 's' .* 5 .* layer 1 .* 0:"):
        tokens.check_append(2, 5, "s")
    assert counts(tokens, 4) == [5, 0, 5, 0]


def test_a_layer_that_appends_another_number_is_named_with_one_ahead() -> None:
    tokens = TokenCount(3)
    append(tokens, 2, 5)
    with pytest.raises(LayerMismatchError, match=r"^layer 0 .* appends 4 tokens, layer 2 .* 5 "):
        tokens.check_append(0, 4, "s")
    assert counts(tokens, 3) == [0, 0, 5]


def test_extending_within_a_step_names_a_layer_ahead() -> None:
    tokens = TokenCount(3)
    tokens.extend(2)
    append(tokens, 1, 5)
    with pytest.raises(LayerMismatchError, match=r"^layer 1 of session 's' holds 7 .* others 2:"):
        tokens.check_extend("s")
    assert counts(tokens, 3) == [2, 7, 2]


def test_truncating_drops_the_step_that_is_under_way() -> None:
    tokens = TokenCount(2)
    tokens.extend(3)
    append(tokens, 1, 4)
    tokens.truncate(3)
    assert counts(tokens, 2) == [3, 3]
    assert append(tokens, 0, 9) == 12


def test_one_layer_never_waits() -> None:
    tokens = TokenCount(1)
    for count in (1, 2, 3):
        append(tokens, 0, count)
    assert tokens.complete == 6


class Naive:
    """The rule in its own words: a list of counts, and at most one step between them."""

    def __init__(self, layers: int) -> None:
        self.counts = [0] * layers

    def may_append(self, layer: int, count: int) -> bool:
        low, high = min(self.counts), max(self.counts)
        return low == high or (self.counts[layer] == low and count == high - low)


@given(st.integers(1, 4), st.data())
def test_it_agrees_with_a_list_of_counts(layers: int, data: st.DataObject) -> None:
    tokens, naive = TokenCount(layers), Naive(layers)
    for _ in range(data.draw(st.integers(0, 20))):
        action = data.draw(st.sampled_from(["append", "append", "append", "extend", "truncate"]))
        count = data.draw(st.integers(1, 2))
        if action == "append":
            layer = data.draw(st.integers(0, layers - 1))
            if naive.may_append(layer, count):
                naive.counts[layer] += count
                assert append(tokens, layer, count) == naive.counts[layer]
            else:
                with pytest.raises(LayerMismatchError):
                    tokens.check_append(layer, count, "s")
        elif action == "truncate":
            kept = data.draw(st.integers(0, min(naive.counts)))
            naive.counts = [kept] * layers
            tokens.truncate(kept)
        elif len(set(naive.counts)) == 1:
            naive.counts = [held + count for held in naive.counts]
            assert tokens.check_extend("s") == tokens.complete
            assert tokens.extend(count) == naive.counts[0]
        else:
            with pytest.raises(LayerMismatchError):
                tokens.check_extend("s")
        assert counts(tokens, layers) == naive.counts
        assert tokens.complete == min(naive.counts)
