"""`CommittedPages`: which pages of an elastic block are committed.

A block with a KV layout is made of *stripes*: ranges in which tokens follow one another. All
stripes of a block have the same length. The stripes of one *group*, which hold the keys and
values of one layer, fill together. So one number for each group says which pages are committed:
the pages from the start of each stripe of the group. Of a fork, some of them are its parent's::

    pages of one stripe of a fork
    [0, inherited_pages)                        read from the parent, charged to the parent
    [inherited_pages, committed_pages[group])   the fork's own copies, charged to the fork
    [committed_pages[group], end of stripe)     addresses only

`inherited_bytes` may end inside a page. That page is read from the parent, too, until the fork
writes to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from kvpool._checks import whole_number
from kvpool.errors import InvalidArgumentError

__all__ = ["CommittedPages", "StripeGeometry", "check_geometry", "stripe_bytes"]


class StripeGeometry(Protocol):
    """Where the stripes of a block are; `EntryGeometry` is one."""

    @property
    def groups(self) -> int:
        """Groups of stripes; the stripes of one group fill together."""

    @property
    def stripes_per_group(self) -> int:
        """Stripes in each group."""

    @property
    def nbytes(self) -> int:
        """Bytes of the block."""

    def stripe_offsets(self, group: int) -> Sequence[int]:
        """Return where the stripes of a group start: bytes from the start of the block."""

    def bytes_in_pages(self, tokens: int, page_size: int) -> int:
        """Return the bytes of the pages that hold the first tokens of all stripes."""


def check_geometry(geometry: Any) -> None:
    """Raise InvalidArgumentError unless an object says where the stripes of a block are."""
    try:
        stripes = geometry.groups, geometry.stripes_per_group
        callables = geometry.stripe_offsets, geometry.bytes_in_pages
        nbytes = geometry.nbytes
    except AttributeError:
        raise InvalidArgumentError(
            f"geometry {geometry!r} does not say where stripes are; "
            "pass what `KVLayout.geometry` returns"
        ) from None
    counts = {"nbytes": nbytes, "groups": stripes[0], "stripes_per_group": stripes[1]}
    for name, value in counts.items():
        whole_number(f"{name} of the geometry", value, InvalidArgumentError, least=1)
    if nbytes % (stripes[0] * stripes[1]) or not all(map(callable, callables)):
        raise InvalidArgumentError(
            f"geometry {geometry!r} is wrong: {nbytes} bytes are not {stripes[0]} groups of "
            f"{stripes[1]} stripes of one length"
        )


def stripe_bytes(geometry: StripeGeometry) -> int:
    """Return the bytes of each stripe of a block."""
    return geometry.nbytes // (geometry.groups * geometry.stripes_per_group)


class CommittedPages:
    """The committed pages of one block.

    Not thread-safe: the pool holds its lock around every call.

    Parameters
    ----------
    geometry : StripeGeometry
    page_size : int
        Bytes.
    inherited_bytes : int, default 0
        Bytes at the start of each stripe that a fork reads from its parent.

    Attributes
    ----------
    inherited_bytes : int
        Falls when the fork writes there.
    inherited_pages : int
        Pages at the start of each stripe that the block is not charged with.
    committed_pages : list of int
        Per group: pages from the start of each stripe that can be read and written without
        another page: the inherited ones, and those that this block is charged with.
    parent_trimmed_pages : list of int
        Per group: pages below this index have been decommitted in the parent after this fork
        wrote its own copies.
    """

    __slots__ = (
        "committed_pages",
        "geometry",
        "inherited_bytes",
        "inherited_pages",
        "page_size",
        "parent_trimmed_pages",
    )

    def __init__(self, geometry: StripeGeometry, page_size: int, inherited_bytes: int = 0) -> None:
        self.geometry = geometry
        self.page_size = page_size
        self.inherited_bytes = inherited_bytes
        self.inherited_pages = inherited = inherited_bytes // page_size
        self.committed_pages = [inherited] * geometry.groups
        self.parent_trimmed_pages = [inherited] * geometry.groups

    @property
    def stripe_bytes(self) -> int:
        """Bytes of one stripe."""
        return stripe_bytes(self.geometry)

    def pages(self, nbytes: int) -> int:
        """Return the number of pages that the first `nbytes` of a stripe touch."""
        return -(-nbytes // self.page_size)

    @property
    def charged(self) -> int:
        """Bytes that the block is charged with."""
        return self.bytes_above(self.inherited_pages)

    def bytes_above(self, page: int) -> int:
        """Return the bytes of the committed pages from index `page` of each stripe on."""
        pages = sum(committed - page for committed in self.committed_pages if committed > page)
        return pages * self.geometry.stripes_per_group * self.page_size

    def ranges_above(self, page: int) -> Iterator[tuple[int, int]]:
        """Yield offset and size, in bytes of the block, of the pages that `bytes_above` counts."""
        for group, committed in enumerate(self.committed_pages):
            yield from self.ranges(group, page, committed)

    def ranges(self, group: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield offset and size of the pages ``[first, last)`` in each stripe of a group."""
        if first < last:
            for start in self.geometry.stripe_offsets(group):
                yield start + first * self.page_size, (last - first) * self.page_size

    def has(self, group: int | None, start: int, end: int) -> bool:
        """Tell whether ``[start, end)`` can be written without another page.

        Parameters
        ----------
        group : int or None
            None: in every group.
        start, end : int
            Bytes from the start of each stripe.
        """
        pages = self.committed_pages
        committed = min(pages) if group is None else pages[group]
        return start >= self.inherited_bytes and committed * self.page_size >= end

    def missing(self, group: int | None, start: int, end: int) -> int:
        """Return the bytes that must be charged before ``[start, end)`` can be written."""
        wanted = self.pages(end)
        if group is None:
            pages = sum(wanted - held for held in self.committed_pages if held < wanted)
        else:
            pages = max(0, wanted - self.committed_pages[group])
        pages += (self.inherited_pages - self._inherited_below(start)) * self.geometry.groups
        return pages * self.geometry.stripes_per_group * self.page_size

    def commit(self, group: int | None, start: int, end: int) -> None:
        """Note that ``[start, end)`` is written in a group, or in every group for None."""
        self.inherited_pages = self._inherited_below(start)
        self.inherited_bytes = min(self.inherited_bytes, start)
        wanted = self.pages(end)
        if group is None:
            self.committed_pages = [max(held, wanted) for held in self.committed_pages]
        elif self.committed_pages[group] < wanted:
            self.committed_pages[group] = wanted

    def _inherited_below(self, start: int) -> int:
        # A view may have kept the fork from being trimmed; then pages of its own lie above
        # `start`. All pages from `start` on are charged, which is too many until the tokens
        # between are written again.
        return min(self.inherited_pages, start // self.page_size)

    def cut(self, page: int) -> None:
        """Note that the pages from index `page` of each stripe on were decommitted."""
        # In this order: pages that are trimmed twice in the parent cost nothing else.
        self.parent_trimmed_pages = [min(held, page) for held in self.parent_trimmed_pages]
        self.committed_pages = [min(held, page) for held in self.committed_pages]
