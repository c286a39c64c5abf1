"""`Ranking`: sessions and held prefixes in one order of eviction."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from itertools import islice

from kvpool.cache_key import CacheKey
from kvpool.errors import BrokenPluginError, IntegrityError
from kvpool.eviction import EvictionPolicy, EvictionReason
from kvpool.prefix._changes import Journal
from kvpool.prefix._identity import Identity
from kvpool.prefix._segment import Segment
from kvpool.prefix._tree import Cut, PrefixTree

__all__ = ["Ranking"]


class _Plan:
    """What is chosen to be evicted, and how much is missing still.

    Parameters
    ----------
    tree : PrefixTree
    chunk_tokens : int
    need : int
        Bytes, or tokens.
    by_tokens : bool
        Whether `need` is a number of tokens.
    """

    __slots__ = (
        "_by_tokens",
        "_chunk_tokens",
        "_ended",
        "_ends",
        "_tree",
        "chosen",
        "missing",
        "stuck",
    )

    def __init__(self, tree: PrefixTree, chunk_tokens: int, need: int, *, by_tokens: bool) -> None:
        self.chosen: list[Cut | CacheKey] = []
        self.missing = need
        self.stuck: set[Segment] = set()
        self._tree = tree
        self._chunk_tokens = chunk_tokens
        self._by_tokens = by_tokens
        self._ends: dict[Segment, int] = {}
        self._ended: set[CacheKey] = set()

    def cut(self, segment: Segment, may_end: Callable[[CacheKey], bool]) -> None:
        """Drop a segment and all behind it, the tails first, as far as that is needed."""
        if not segment.children and segment not in self._ends:  # as nearly always
            if all(map(may_end, segment.holders)):
                self._cut(segment)
            else:
                self.stuck.add(segment)
            return
        for leaf in self._tree.leaves(segment, may_end, self._ends, self.stuck):
            self._cut(leaf)
            if self.missing <= 0:
                break

    def _cut(self, leaf: Segment) -> None:
        """Drop what is needed of a leaf, by whole chunks."""
        size, chunk = leaf.token_nbytes, self._chunk_tokens
        need = self.missing if self._by_tokens else -(-self.missing // size)
        end = self._ends.get(leaf)
        if end is None:
            end = leaf.end
        kept = (end - need) // chunk * chunk if end > need else 0
        kept = max(kept, leaf.start)
        self._ends[leaf] = kept
        self.chosen.append(Cut(leaf, kept))
        self.missing -= end - kept if self._by_tokens else (end - kept) * size

    def end(self, key: CacheKey, nbytes: int) -> None:
        """End a session outside of the tree, once."""
        if key not in self._ended:
            self._ended.add(key)
            self.chosen.append(key)
            self.missing -= nbytes


class Ranking:
    """Sessions and held prefixes in one order of eviction. Not thread-safe.

    A session whose tokens are known is in the tree, and the policy ranks its segments. A session
    that is open, and holds no known tokens yet, is not ranked: it cannot be evicted, and what
    policies remember would be of a session that ends at once. Any other session is ranked as one.

    Parameters
    ----------
    policy : EvictionPolicy
    chunk_tokens : int
    journal : Journal, optional
        Is told of every change of a segment.

    Attributes
    ----------
    policy : EvictionPolicy
    tree : PrefixTree
    unranked : set of CacheKey
        Open sessions without known tokens.
    reason : EvictionReason
        The reason of evictions that the policy chose.
    """

    def __init__(
        self, policy: EvictionPolicy, chunk_tokens: int, journal: Journal | None = None
    ) -> None:
        self.policy = policy
        self._chunk_tokens = chunk_tokens
        self.tree = PrefixTree(policy, chunk_tokens, journal)
        self.unranked: set[CacheKey] = set()
        self.reason: EvictionReason = policy.reason

    # -- sessions ------------------------------------------------------------------------

    def admit(self, key: CacheKey, nbytes: int) -> None:
        """Rank a new session, whose tokens are not known; see `EvictionPolicy.admit`."""
        self.policy.admit(key, nbytes)

    def touch(self, key: CacheKey) -> None:
        """Count a use of a session."""
        tree, unranked = self.tree, self.unranked
        if tree.ends and key in tree.ends:  # most managers have sessions of one kind
            tree.touch(key)
        elif not unranked or key not in unranked:
            self.policy.touch(key)

    def resize(self, key: CacheKey, nbytes: int) -> None:
        """Note that a session now holds `nbytes` bytes."""
        if key not in self.tree.ends and key not in self.unranked:
            self.policy.resize(key, nbytes)

    def remove(self, key: CacheKey) -> None:
        """Forget a session."""
        if key in self.tree.ends:
            self.tree.drop(key)
        elif key in self.unranked:
            self.unranked.remove(key)
        else:
            self.policy.remove(key)

    def hold(
        self,
        key: CacheKey,
        identity: Identity,
        tokens: bytes,
        used: int = 0,
        after: Segment | None = None,
    ) -> None:
        """Let the tokens of a session be known: from now on its segments are ranked."""
        is_known = key in self.tree.ends
        self.tree.hold(key, identity, tokens, used, after)
        if key in self.unranked:
            self.unranked.remove(key)
        elif not is_known:
            self.policy.remove(key)

    def rename(self, key: CacheKey, new_key: CacheKey, nbytes: int) -> None:
        """Give a session another key."""
        if key in self.tree.ends:
            self.tree.rename(key, new_key)
        elif key in self.unranked:
            self.unranked.remove(key)
            self.unranked.add(new_key)
        else:
            self.policy.remove(key)
            self.policy.admit(new_key, nbytes)

    def forget(self, key: CacheKey, nbytes: int) -> None:
        """Let the tokens of a session not be known any more: it is ranked as one again."""
        self.tree.drop(key)
        self.policy.admit(key, nbytes)

    # -- the order -----------------------------------------------------------------------

    def victims(self) -> Iterator[Hashable]:
        """Yield the keys of sessions in the order in which they would be evicted as a whole.

        A session of the tree comes when the last of its segments does.

        Raises
        ------
        BrokenPluginError
            The policy yields a segment that is not in the tree, or anything twice.
        """
        for item in self._ranked():
            if isinstance(item, Segment):
                self._require(item)
                yield from item.holders
            else:
                yield item

    def plan(
        self,
        need: int,
        size_of: Callable[[CacheKey], int],
        *may_end: Callable[[CacheKey], bool],
        by_tokens: bool = False,
    ) -> list[Cut | CacheKey] | None:
        """Choose what to evict; nothing is changed.

        Parameters
        ----------
        need : int
            Bytes, or tokens.
        size_of : callable
            Returns the bytes that the end of a session outside of the tree frees.
        *may_end : callable
            Tell whether a session may be evicted. The second one, which allows more, is asked if
            what the first one allows is not enough, and so on.
        by_tokens : bool, default False
            Whether `need` is a number of tokens. Then sessions outside of the tree stay, and
            what is not enough is chosen all the same.

        Returns
        -------
        list of Cut and of keys, or None
            In the order in which they are to be done; None if it is not enough. A tail that
            several sessions hold frees more, and one that is shared with a fork less.
        """
        plan = _Plan(self.tree, self._chunk_tokens, need, by_tokens=by_tokens)
        for allows in may_end:
            plan.stuck.clear()
            for item in self._ranked():
                if plan.missing <= 0:
                    break
                if isinstance(item, Segment):
                    self._require(item)
                    plan.cut(item, allows)
                elif not by_tokens and allows(item):
                    plan.end(item, size_of(item))
        return plan.chosen if plan.missing <= 0 or by_tokens else None

    def _ranked(self) -> Iterator[CacheKey | Segment]:
        """Yield what the policy ranks, in its order.

        Raises
        ------
        BrokenPluginError
            The policy yields something twice, or neither a segment nor the key of a session.
        """
        seen: set[CacheKey | Segment] = set()
        for item in self.policy.victims():
            if not isinstance(item, (CacheKey, Segment)):
                raise self._broken(item)
            if item in seen:
                raise BrokenPluginError(
                    f"the eviction policy {type(self.policy).__name__} yields {item!s} twice; "
                    "nothing was evicted"
                )
            seen.add(item)
            yield item

    def _require(self, segment: Segment) -> None:
        if segment not in self.tree.segments:
            raise self._broken(segment)

    def _broken(self, item: object) -> BrokenPluginError:
        return BrokenPluginError(
            f"the eviction policy {type(self.policy).__name__} yields {item}, which is not in the "
            "pool; nothing was evicted"
        )

    # -- the whole -----------------------------------------------------------------------

    def adopt(self, policy: EvictionPolicy, size_of: Callable[[CacheKey], int]) -> None:
        """Rank by another policy from now on; no tokens are known yet.

        Parameters
        ----------
        policy : EvictionPolicy
            A new one. It is told of the sessions in the order in which they would be evicted.
        size_of : callable
            Returns the bytes of a session.
        """
        for key in self._ranked():
            if isinstance(key, CacheKey):
                policy.admit(key, size_of(key))
        self.policy = policy  # an interrupt after this leads to `restore`
        self._follow()

    def _follow(self) -> None:
        """Let all follow the policy that there is."""
        self.tree.policy = self.policy
        self.reason = self.policy.reason

    def restore(
        self,
        sessions: Iterable[tuple[CacheKey, int, tuple[Identity, bytes] | None]],
        unranked: Iterable[CacheKey] = (),
    ) -> None:
        """Rank these sessions, and no others, after a call that did not end.

        Parameters
        ----------
        sessions : iterable of (CacheKey, int, (Identity, bytes) or None)
            Their keys, bytes, and tokens as far as they are known; the least recently used first.
        unranked : iterable of CacheKey
            Keys of open sessions without known tokens.
        """
        self._follow()
        self.policy.reset()
        self.tree.clear()
        self.unranked = set(unranked)
        for key, nbytes, held in sessions:
            if held is None:
                self.policy.admit(key, nbytes)
            else:
                self.tree.hold(key, *held)

    def check_integrity(self, keys: AbstractSet[CacheKey]) -> None:
        """Prove that the policy ranks the sessions with these keys, or their segments.

        Raises
        ------
        BrokenPluginError
            The policy yields something twice, or neither a segment nor the key of a session.
        IntegrityError
            It does not rank them. This is a bug here, or in the policy.
        """
        self.tree.check_integrity()
        wanted: set[Hashable] = set(keys)
        wanted -= self.tree.ends.keys() | self.unranked
        wanted |= self.tree.segments
        ranked = set(islice(self._ranked(), len(wanted) + 1))  # it may not end by itself
        if ranked != wanted:
            raise IntegrityError(
                f"the policy ranks {len(ranked)} items; it is wrong on {ranked ^ wanted}"
            )
