"""Hit density: what promises the fewest hits for its bytes and its time is evicted first."""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from math import log2

from kvpool.eviction._ghosts import leaving
from kvpool.eviction._reuse import BINS, ReuseAges, bin_of
from kvpool.eviction.base import EvictionPolicy, PolicyFactory, cost_of, names_of
from kvpool.hookspecs import hookimpl

__all__ = [
    "HitDensityPolicy",
    "kvpool_eviction_policy",
]

_USES = (1, 2, 3, 4, 6, 10, 16, 32, 64)  # from how many uses on an item is of the next kind
_KIND = [sum(uses >= least for least in _USES) - 1 for uses in range(_USES[-1] + 1)]
_KINDS = len(_USES)  # as many again for items that were left behind, and for sessions

_YOUNGEST = 64  # the first bin ends at this part of the bytes held
_MEMORY = 8  # events count half after so many times the bytes held
_LESSONS = 16  # times to learn while as many bytes as are held are used
_CALLS = 512  # between two times to learn, at least; fewer at first
_GHOSTS, _FEW_GHOSTS = 4, 1 << 14  # parts for each part held, and at least


class _Span:
    """An item, or the parts of one that were evicted together, since its last use."""

    __slots__ = ("cell", "item", "names", "nbytes", "uses", "when")

    def __init__(self, item: Hashable, when: int, uses: int, nbytes: int, cell: _Cell) -> None:
        self.item = item
        self.when = when  # it was used
        self.uses = uses
        self.nbytes = nbytes
        self.cell = cell
        self.names: Sequence[Hashable] = ()  # of a ghost


class _Cell:
    """The items of one kind and cost whose last use is about as long ago, the earliest first."""

    __slots__ = ("at", "ghosts", "is_listed", "items", "kind", "price", "rank")

    def __init__(self, kind: int, price: int, at: int) -> None:
        self.kind = kind
        self.price = price
        self.at = at
        self.items: OrderedDict[Hashable, _Span] = OrderedDict()
        self.ghosts: OrderedDict[_Span, None] = OrderedDict()
        self.is_listed = False
        self.rank = (0.0, 0)


class HitDensityPolicy(EvictionPolicy):
    """Learns at which ages items are used again, and evicts what promises the least.

    Notes
    -----
    Time is the bytes that were used. The policy counts at which age items are used again, by
    kind: how often they were used so far, and whether the last use of what they belong to went
    another way. It also watches the names of what was evicted, four times as many as there are
    parts in the pool, so that it learns of ages that no item reaches. From that follows an index
    for each kind and age: hits that are to be expected, for the bytes and the time that they
    take, see the module ``kvpool.eviction._reuse``. Where nothing is known, the order is that of
    LRU. The index is multiplied by the cost of a byte, see `cost_of`.

    Sessions whose tokens are not known are kinds of their own, and are not watched after they
    left: a session may leave because its tokens are known now.

    An item that has `children` is offered after those, because a prefix cannot be evicted before
    what continues it. The attribute `parent` of an item is where it is one of the `children`.

    Every operation is O(log n) or better, on average: an item passes through at most two bins
    for each doubling of its age. Nothing is drawn by lot.
    """

    # A span is in the cell that it names. An item leaves its cell before the books change, and
    # joins the next one last: a call that is interrupted leaves an item that is not ranked.

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all items, and what was learned of them."""
        self._ages = ReuseAges(2 * _KINDS, _KINDS)
        self._spans: dict[Hashable, _Span] = {}
        self._ghosts: dict[Hashable, _Span] = {}  # by the names of their parts
        self._ghost_spans: OrderedDict[_Span, None] = OrderedDict()  # the first evicted first
        self._rows: dict[
            tuple[int, int], list[_Cell]
        ] = {}  # by kind and price: a cell for each bin
        self._order: list[_Cell] = []  # cells with items, and some without, by rank
        self._now = 0
        self._held = self._most = 0
        self._parts, self._parts_nbytes = 0, 0  # that were ever admitted
        self._first = 0  # the bin in which a use puts an item
        self._due = [0.0] * BINS  # when to look for items that are older than a bin
        self._next_look = self._next_lesson = 0.0
        self._calls = self._all_calls = 0

    # -- the contract ----------------------------------------------------------------------

    def admit(self, item: Hashable, nbytes: int, /) -> None:
        """Add an item; its uses go on from those that its first part had before an eviction."""
        self._hold(nbytes)
        self._pass_time(nbytes)
        names = names_of(item)
        if hasattr(item, "names"):
            self._parts += len(names)
            self._parts_nbytes += nbytes
        uses = 1
        for index, name in enumerate(names):
            ghost = self._ghosts.pop(name, None)
            if ghost is not None:
                if index == 0:
                    uses = ghost.uses + 1
                self._end_of_ghost(ghost, nbytes // len(names))
        self._enter(item, uses, nbytes)

    def touch(self, item: Hashable, /) -> None:
        """Note at which age an item was used again."""
        span = self._spans[item]
        self._pass_time(span.nbytes)
        cell = span.cell
        self._leave(span)
        self._ages.note_use(cell.kind, cell.at, span.nbytes)
        self._enter(item, span.uses + 1, span.nbytes)

    def resize(self, item: Hashable, nbytes: int, /) -> None:
        """Note the size, and the names of parts that were evicted."""
        span = self._spans[item]
        before = span.nbytes
        self._ages.present[span.cell.kind][span.cell.at] += nbytes - before
        span.nbytes = nbytes
        self._hold(nbytes - before)
        if nbytes < before and hasattr(item, "names"):
            self._become_ghost(span, leaving(item, before, nbytes), before - nbytes)

    def remove(self, item: Hashable, /) -> None:
        """Remove an item, and note its names."""
        span = self._spans[item]
        self._leave(span)
        del self._spans[item]
        self._hold(-span.nbytes)
        if hasattr(item, "names"):
            self._become_ghost(span, names_of(item), span.nbytes)

    def split(self, item: Hashable, head: Hashable, nbytes: int, head_nbytes: int, /) -> None:
        """Add the first part of an item with its uses and age; the rest was left behind."""
        span = self._spans[item]
        cell = span.cell
        first = _Span(head, span.when, span.uses, head_nbytes, cell)
        self._hold(nbytes + head_nbytes - span.nbytes)
        self._leave(span)
        span.nbytes = nbytes
        self._spans[head] = first
        self._join(first, cell)
        left = cell.kind + _KINDS if cell.kind < _KINDS else cell.kind
        self._join(span, self._row(left, cell.price)[cell.at])

    def victims(self) -> Iterator[Hashable]:
        """Yield the items from the least promising to the most, but children before parents."""
        deferred: dict[Hashable, None] = {}
        gone: dict[object, int] = {}  # how many children of a parent were yielded
        for cell in self._order:
            for item in cell.items:
                if len(getattr(item, "children", ())) > gone.get(item, 0):
                    deferred[item] = None
                    continue
                yield item
                parent = getattr(item, "parent", None)
                while parent is not None:
                    gone[parent] = gone.get(parent, 0) + 1
                    if parent not in deferred or gone[parent] < len(parent.children):
                        break
                    del deferred[parent]
                    yield parent
                    parent = parent.parent
        yield from deferred

    # -- cells -----------------------------------------------------------------------------

    def _row(self, kind: int, price: int) -> list[_Cell]:
        """Return the cells of a kind and price, one for each bin."""
        row = self._rows.get((kind, price))
        if row is None:
            row = self._rows[kind, price] = [_Cell(kind, price, at) for at in range(BINS)]
        return row

    def _enter(self, item: Hashable, uses: int, nbytes: int) -> None:
        """Put an item where a use puts it."""
        price = _price(item, nbytes)
        kind = _kind_of(uses) if hasattr(item, "names") else _kind_of(uses) + 2 * _KINDS
        cell = self._row(kind, price)[self._first]
        span = self._spans[item] = _Span(item, self._now, uses, nbytes, cell)
        self._join(span, cell)

    def _join(self, span: _Span, cell: _Cell) -> None:
        span.cell = cell
        self._ages.present[cell.kind][cell.at] += span.nbytes
        if not cell.is_listed:
            cell.rank = self._rank(cell)
            cell.is_listed = True
            insort(self._order, cell, key=_by_rank)
        cell.items[span.item] = span

    def _leave(self, span: _Span) -> None:
        cell = span.cell
        cell.items.pop(span.item, None)
        self._ages.present[cell.kind][cell.at] -= span.nbytes

    def _rank(self, cell: _Cell) -> tuple[float, int]:
        return (self._ages.index[cell.kind][cell.at] * 2.0**cell.price, -cell.at)

    # -- ghosts ----------------------------------------------------------------------------

    def _become_ghost(self, span: _Span, names: Sequence[Hashable], nbytes: int) -> None:
        """Go on to watch parts that were evicted."""
        ghost = _Span(None, span.when, span.uses, nbytes, span.cell)
        ghost.names = tuple(names)
        for name in ghost.names:
            old = self._ghosts.get(name)
            if old is not None:
                self._end_of_ghost(old, 0)
            self._ghosts[name] = ghost
        self._ages.present[span.cell.kind][span.cell.at] += nbytes
        span.cell.ghosts[ghost] = None
        self._ghost_spans[ghost] = None
        most = max(_FEW_GHOSTS, _GHOSTS * self._most / self._part())
        while len(self._ghosts) > most and self._ghost_spans:
            self._forget(next(iter(self._ghost_spans)))

    def _end_of_ghost(self, ghost: _Span, nbytes: int) -> None:
        """Note the use of parts that come back."""
        cell = ghost.cell
        nbytes = min(nbytes, ghost.nbytes)
        self._ages.note_use(cell.kind, cell.at, nbytes)
        self._ages.present[cell.kind][cell.at] -= nbytes
        ghost.nbytes -= nbytes

    def _forget(self, ghost: _Span) -> None:
        for name in ghost.names:
            if self._ghosts.get(name) is ghost:
                del self._ghosts[name]
        cell = ghost.cell
        self._ages.present[cell.kind][cell.at] -= ghost.nbytes
        self._ages.note_lost(cell.kind, cell.at, ghost.nbytes)
        cell.ghosts.pop(ghost, None)
        self._ghost_spans.pop(ghost, None)

    # -- time ------------------------------------------------------------------------------

    def _hold(self, more: int) -> None:
        """Note that more bytes are held, and let ages begin at a part of the most ever held."""
        self._held += more
        if self._held > self._most:
            self._most = self._held
            if self._most > _YOUNGEST * self._ages.ends[self._first]:
                self._first = bin_of(self._most / _YOUNGEST)

    def _pass_time(self, nbytes: int) -> None:
        """Let time pass, and from time to time do what is due."""
        self._now += nbytes
        self._calls += 1
        if self._now >= self._next_look:
            self._look()
            if self._now >= self._next_lesson and self._calls >= min(
                _CALLS, 32 + self._all_calls // 8
            ):
                self._learn()

    def _look(self) -> None:
        """Move what has become older to the next bin."""
        now, ends, due = self._now, self._ages.ends, self._due
        self._next_look = now + ends[self._first] / 2
        for at in range(BINS - 1):  # upwards: a jump in time takes items to their bin
            if due[at] > now:
                continue
            due[at] = now + ends[at] / 8
            for row in list(self._rows.values()):
                if row[at].items or row[at].ghosts:
                    self._move(row[at], row[at + 1], now - ends[at])

    def _move(self, cell: _Cell, older: _Cell, limit: float) -> None:
        """Move what was used at `limit` or before from one cell to the next."""
        while cell.items:
            span = next(iter(cell.items.values()))
            if span.when > limit:
                break
            self._leave(span)
            self._ages.note_older(cell.kind, cell.at, span.nbytes)
            self._join(span, older)
        present = self._ages.present[cell.kind]
        while cell.ghosts:
            ghost = next(iter(cell.ghosts))
            if ghost.when > limit:
                break
            del cell.ghosts[ghost]
            present[cell.at] -= ghost.nbytes
            ghost.cell = older
            if ghost.nbytes > 0:
                self._ages.note_older(cell.kind, cell.at, ghost.nbytes)
                present[older.at] += ghost.nbytes
                older.ghosts[ghost] = None

    def _part(self) -> float:
        """Return the bytes of a part; of items without names, those of an item."""
        if self._parts:
            return max(self._parts_nbytes / self._parts, 1.0)
        return max(self._held / max(len(self._spans), 1), 1.0)

    def _learn(self) -> None:
        """Compute the index of all cells anew, and sort those that have items."""
        self._all_calls += self._calls
        self._calls = 0
        self._next_lesson = self._now + self._most / _LESSONS
        part = self._part()
        self._ages.learn(self._first, part, 2 ** (1 / (_MEMORY * _LESSONS)))
        order = []
        for row in self._rows.values():
            for cell in row:
                cell.is_listed = bool(cell.items)
                if cell.is_listed:
                    cell.rank = self._rank(cell)
                    order.append(cell)
        self._order = sorted(order, key=_by_rank)


def _by_rank(cell: _Cell) -> tuple[float, int]:
    return cell.rank


def _kind_of(uses: int) -> int:
    """Return the kind of an item that was used so often, and not left behind."""
    return _KIND[min(uses, _USES[-1])]


def _price(item: Hashable, nbytes: int) -> int:
    """Return the cost of a byte of an item, as a power of two."""
    cost = cost_of(item, nbytes)
    return round(log2(cost / nbytes)) if cost > 0 and nbytes > 0 else 0


@hookimpl
def kvpool_eviction_policy() -> PolicyFactory:
    """Describe the policy to kvpool."""
    return PolicyFactory(create=HitDensityPolicy, summary="learns which ages and uses lead to hits")
