"""How many tokens each layer of an entry holds, and which append may come next."""

from __future__ import annotations

from kvpool.errors import LayerMismatchError

__all__ = ["TokenCount"]


class TokenCount:
    """The token counts of the layers of one entry.

    A *step* begins when a layer appends while all are equal, and ends when every layer has
    appended the same number of tokens. Not thread-safe.

    Parameters
    ----------
    layers : int

    Attributes
    ----------
    complete : int
        Tokens that every layer holds.
    """

    __slots__ = ("_ahead", "_layers", "_step", "complete")

    def __init__(self, layers: int) -> None:
        self.complete = 0
        self._layers = layers
        self._step = 0  # tokens that each layer appends in the step that is under way
        self._ahead: set[int] = set()  # layers that have appended them

    @property
    def longest(self) -> int:
        """Tokens of the layer that holds the most."""
        return self.complete + self._step if self._ahead else self.complete

    def of(self, layer: int) -> int:
        """Return the tokens that a layer holds."""
        return self.complete + self._step if layer in self._ahead else self.complete

    def check_append(self, layer: int, count: int, session_id: str) -> int:
        """Return the position at which a layer may append `count` tokens.

        Raises
        ------
        LayerMismatchError
            It may not: it would be two steps ahead of another layer, or part from the
            count of this step.
        """
        if not self._ahead:
            return self.complete
        if layer in self._ahead:
            behind = [other for other in range(self._layers) if other not in self._ahead]
            raise LayerMismatchError(
                f"layer {layer} of session {session_id!r} already holds {self.of(layer)} tokens, "
                f"layer {behind[0]} still {self.complete}: each layer appends once per step"
            )
        if count != self._step:
            raise LayerMismatchError(
                f"layer {layer} of session {session_id!r} appends {count} tokens, "
                f"layer {min(self._ahead)} appended {self._step} in the same step"
            )
        return self.complete

    def append(self, layer: int, count: int) -> int:
        """Count what `check_append` allowed; return the tokens that the layer now holds."""
        held = self.complete + count
        self._step = count
        self._ahead.add(layer)
        if len(self._ahead) == self._layers:
            self.complete = held
            self._ahead.clear()
        return held

    def check_extend(self, session_id: str) -> int:
        """Return the position at which all layers may append at once.

        Raises
        ------
        LayerMismatchError
            Some layers are ahead of the others.
        """
        if self._ahead:
            ahead = min(self._ahead)
            raise LayerMismatchError(
                f"layer {ahead} of session {session_id!r} holds {self.of(ahead)} tokens, "
                f"others {self.complete}: they must be equal before all are extended"
            )
        return self.complete

    def extend(self, count: int) -> int:
        """Count what `check_extend` allowed; return the tokens that every layer now holds."""
        self.complete += count
        return self.complete

    def truncate(self, count: int) -> None:
        """Let every layer hold `count` tokens, at most those that all hold."""
        self.complete = count
        self._ahead.clear()
