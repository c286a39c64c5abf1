"""Words that come in pieces, and are not broken at the right edge of a terminal."""

from __future__ import annotations

from rich.cells import cell_len

__all__ = ["WordWrap"]


class WordWrap:
    r"""Turns pieces of a text into what to write to a terminal for them.

    A word that reaches the edge is taken back and written again on the next line.

    Parameters
    ----------
    width : int
        Columns. The last one stays free: what terminals do behind it differs.

    Examples
    --------
    >>> wrap = WordWrap(12)
    >>> wrap.add("one two t"), wrap.add("hree")
    ('one two t', 'hr\x1b[3D\x1b[K\nthree')
    """

    def __init__(self, width: int) -> None:
        self._width = max(width - 1, 1)
        self._column = 0
        self._word = ""

    def add(self, text: str) -> str:
        """Return what to write for the next piece."""
        return "".join(map(self._sign, text))

    def _sign(self, sign: str) -> str:
        if sign == "\n":
            self._column, self._word = 0, ""
            return sign
        size = cell_len(sign)
        is_space = sign.isspace()
        if self._column + size > self._width:
            return self._break(sign, size, is_space=is_space)
        self._column += size
        self._word = "" if is_space else self._word + sign
        return sign

    def _break(self, sign: str, size: int, *, is_space: bool) -> str:
        """Go on in the next line, with the word that the sign belongs to."""
        if is_space:
            self._column, self._word = 0, ""
            return "\n"
        begun = cell_len(self._word)
        if begun == self._column:  # the word has the whole line: it is broken
            self._column, self._word = size, sign
            return f"\n{sign}"
        taken_back = f"\x1b[{begun}D\x1b[K" if begun else ""
        self._column, self._word = begun + size, self._word + sign
        return f"{taken_back}\n{self._word}"
