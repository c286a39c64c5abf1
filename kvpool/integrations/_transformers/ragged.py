"""`RaggedStep`: the new tokens of several sessions, in one row, through the layers of a model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from kvpool.errors import InvalidTokensError, KVPoolError, UnbatchableModelError
from kvpool.integrations._transformers.session import PooledSession
from kvpool.integrations._transformers.tensors import dtype_name, is_held_as
from kvpool.layout import KVLayout

__all__ = ["MaskRule", "Member", "RaggedStep"]

AttentionFunction = Callable[..., tuple[Any, Any]]


class MaskRule:
    """What a model asked of the function that makes masks, for the masks of single sessions.

    Parameters
    ----------
    make : callable
        The function of transformers that makes masks for the attention that the model has.
    asked : dict
        Its arguments, but for the lengths and offsets, which each session has of its own.
    """

    def __init__(self, make: Callable[..., Any], asked: dict[str, Any]) -> None:
        self._make = make
        self._asked = asked
        self._made: dict[tuple[int, int, int], Any] = {}

    def mask(self, start: int, count: int, first: int) -> Any:
        """Return the mask of a session alone; None if it needs none.

        Parameters
        ----------
        start, count : int
            Position of its first new token, and how many there are.
        first : int
            Position of the first key.
        """
        which = start, count, first
        if which not in self._made:
            self._made[which] = self._make(
                **self._asked,
                q_length=count,
                kv_length=start + count - first,
                q_offset=start,
                kv_offset=first,
            )
        return self._made[which]


class Member:
    """A session in one step: its new tokens, and its keys and values as tensors.

    Parameters
    ----------
    session : PooledSession
    row : list of int
        The new tokens.

    Attributes
    ----------
    session, row
    start, count : int
        Position of the first new token, and how many there are.
    """

    __slots__ = (
        "_new",
        "_shown",
        "_staged",
        "_tensors",
        "_was_leased",
        "count",
        "row",
        "session",
        "start",
    )

    def __init__(self, session: PooledSession, row: list[int]) -> None:
        self.session, self.row = session, row
        self.start, self.count = session.token_count, len(row)
        self._was_leased = session.is_leased
        self._let_go()

    def _let_go(self) -> None:
        self._staged: Any = None
        self._tensors: Any = None
        self._new: Any = None
        self._shown: dict[int, tuple[Any, Any]] = {}

    def stage(self) -> None:
        """Take the room for the new tokens.

        Raises
        ------
        KVPoolError
            Of `PooledSession.stage`; `give_up` leaves the session as it was.
        """
        self._staged, self._tensors = self.session.stage(self.count)
        self._new = self._tensors.all_layers(self.start, self.count)

    def first_shown(self, window: int | None) -> int:
        """Return the position of the first key that a layer with a window attends to."""
        return 0 if window is None else max(self.start - window + 1, 0)

    def write(self, layer: int, keys: Any, values: Any) -> None:
        """Write the new keys and values of a layer to their places."""
        new_keys, new_values = self._new
        new_keys[layer].copy_(keys)
        new_values[layer].copy_(values)

    def shown(self, layer: int, first: int) -> tuple[Any, Any]:
        """Return the keys and values of a layer from a position on, the new ones as well."""
        shown = self._shown.get(first)
        if shown is None:
            count = self.start + self.count - first
            shown = self._shown[first] = self._tensors.all_layers(first, count)
        return shown[0][layer], shown[1][layer]

    def finish(self) -> None:
        """Count the new tokens: they are written in all layers."""
        self.session.extend_staged(self._staged)

    def give_up(self) -> None:
        """Give the room of tokens back that do not count; the tensors cannot be used any more."""
        self._let_go()
        with contextlib.suppress(KVPoolError):  # the session was removed meanwhile
            self.session.unstage()
            if not self._was_leased:
                self.session.release()

    def undo(self) -> None:
        """Leave the session as it was, whether its new tokens count already or not."""
        with contextlib.suppress(KVPoolError):
            if self.session.token_count > self.start:
                self.session.truncate(self.start)
        self.give_up()


class States(NamedTuple):
    """The new keys and values of one layer, as the model computed them; set on the keys."""

    step: RaggedStep
    layer: int
    window: int | None
    values: Any


class RaggedStep:
    """One step: what the model does with the tokens of all sessions in one row.

    Parameters
    ----------
    members : sequence of Member
        At least one, in the order of their tokens.
    layout : KVLayout
        Of every session.
    refusal : callable
        Makes the error for a model that cannot run several sessions, of the reason.
    """

    def __init__(
        self,
        members: Sequence[Member],
        layout: KVLayout,
        refusal: Callable[[str], UnbatchableModelError],
    ) -> None:
        self.members = members
        self.refusal = refusal
        self._layout = layout
        self._counts = [member.count for member in members]
        self._shape = (1, layout.kv_heads, sum(self._counts), layout.head_dim)
        self._dtype = getattr(torch, str(layout.dtype))
        self._written: set[int] = set()
        self._attended: set[int] = set()

    @property
    def has_attended(self) -> bool:
        """Whether attention came here for every layer that took keys and values until now."""
        return self._written == self._attended

    @property
    def is_complete(self) -> bool:
        """Whether all layers have written their tokens, and attended."""
        return len(self._written) == self._layout.layers and self.has_attended

    def write(self, layer: int, window: int | None, keys: Any, values: Any) -> tuple[Any, Any]:
        """Write the new tokens of one layer to each session; return them as they are.

        Parameters
        ----------
        layer : int
            Of the entries.
        window : int or None
            Tokens that each one attends to, with itself.
        keys, values : Tensor, shape (1, kv_heads, tokens of all sessions, head_dim)
        """
        if not (keys.shape == values.shape == self._shape) or not (
            keys.dtype == values.dtype == self._dtype
        ):
            self._check(keys, values)
        counts = self._counts
        parts = zip(self.members, keys.split(counts, 2), values.split(counts, 2), strict=True)
        for member, own_keys, own_values in parts:
            member.write(layer, own_keys, own_values)
        self._written.add(layer)
        keys.kvpool = States(self, layer, window, values)
        return keys, values

    def attend(
        self,
        one: AttentionFunction,
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        mask: Any,
        **options: Any,
    ) -> tuple[Any, None]:
        """Attend in each session by itself.

        Parameters
        ----------
        one : callable
            The attention function of the model, for one session.
        module : torch.nn.Module
            Of the layer.
        query : Tensor, shape (1, heads, tokens of all sessions, head_dim)
        key, value : Tensor
            As `write` returned them.
        mask : Tensor or None
            What the model got from the function that makes masks; or None if it asked for none.
        **options
            Of attention functions.

        Returns
        -------
        tuple of (Tensor of shape (1, tokens of all sessions, heads, head_dim), None)
        """
        states = getattr(key, "kvpool", None)
        if not isinstance(states, States) or states.step is not self or states.values is not value:
            raise self.refusal("attends to other keys or values than those that its cache returned")
        rule = getattr(mask, "kvpool", None)
        if mask is not None and not isinstance(rule, MaskRule):
            raise self.refusal("makes an attention mask by itself")
        if options.get("position_bias") is not None:
            raise self.refusal("adds a bias for the distance of two tokens")
        self._attended.add(states.layer)
        attended = []
        parts = query.split(self._counts, 2)
        for member, own_query in zip(self.members, parts, strict=True):
            first = member.first_shown(states.window)
            keys, values = member.shown(states.layer, first)
            own_mask = None if rule is None else rule.mask(member.start, member.count, first)
            attended.append(one(module, own_query, keys, values, own_mask, **options)[0])
        return torch.cat(attended, 1), None

    def _check(self, keys: Any, values: Any) -> None:
        for what, states in (("keys", keys), ("values", values)):
            if states.shape != self._shape:
                raise InvalidTokensError(
                    f"{what} of a batch have the shape {tuple(states.shape)}, not {self._shape}"
                )
            if not is_held_as(states.dtype, self._layout.dtype):
                raise InvalidTokensError(
                    f"{what} of a batch are {dtype_name(states.dtype)}, the layout is "
                    f"{self._layout.dtype}"
                )
