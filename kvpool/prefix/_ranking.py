"""`Ranking`: sessions and held prefixes in one order of eviction."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from collections.abc import Set as AbstractSet

from kvpool.cache_key import CacheKey
from kvpool.errors import BrokenPluginError, IntegrityError
from kvpool.eviction import EvictionPolicy, EvictionReason
from kvpool.prefix._segment import Segment
from kvpool.prefix._tree import Cut, Identity, PrefixTree

__all__ = ["Ranking"]


class Ranking:
    """Sessions and held prefixes in one order of eviction. Not thread-safe.

    A session whose tokens are known is in the tree, and the policy ranks its segments. Any other
    session is ranked as one.

    Parameters
    ----------
    policy : EvictionPolicy
    chunk_tokens : int

    Attributes
    ----------
    policy : EvictionPolicy
    tree : PrefixTree
    reason : EvictionReason
        The reason of evictions that the policy chose.
    """

    def __init__(self, policy: EvictionPolicy, chunk_tokens: int) -> None:
        self.policy = policy
        self.tree = PrefixTree(policy, chunk_tokens)
        self.reason: EvictionReason = policy.reason

    # -- sessions ------------------------------------------------------------------------

    def admit(self, key: CacheKey, nbytes: int) -> None:
        """Rank a new session, whose tokens are not known; see `EvictionPolicy.admit`."""
        self.policy.admit(key, nbytes)

    def touch(self, key: CacheKey) -> None:
        """Count a use of a session."""
        if key in self.tree.ends:
            self.tree.touch(key)
        else:
            self.policy.touch(key)

    def resize(self, key: CacheKey, nbytes: int) -> None:
        """Note that a session now holds `nbytes` bytes."""
        if key not in self.tree.ends:
            self.policy.resize(key, nbytes)

    def remove(self, key: CacheKey) -> None:
        """Forget a session."""
        if key in self.tree.ends:
            self.tree.drop(key)
        else:
            self.policy.remove(key)

    def hold(self, key: CacheKey, identity: Identity, tokens: bytes, used: int = 0) -> None:
        """Let the tokens of a session be known: from now on its segments are ranked."""
        is_known = key in self.tree.ends
        self.tree.hold(key, identity, tokens, used)
        if not is_known:
            self.policy.remove(key)

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
            The policy yields a segment that is not in the tree.
        """
        for item in self.policy.victims():
            if isinstance(item, Segment):
                self._require(item)
                yield from item.holders
            else:
                yield item

    def plan(
        self,
        need: int,
        size_of: Callable[[CacheKey], int],
        may_end: Callable[[CacheKey], bool],
        *,
        by_tokens: bool = False,
    ) -> list[Cut | CacheKey] | None:
        """Choose what to evict; nothing is changed.

        Parameters
        ----------
        need : int
            Bytes, or tokens.
        size_of : callable
            Returns the bytes that the end of a session outside of the tree frees.
        may_end : callable
            Tells whether a session may be evicted.
        by_tokens : bool, default False
            Whether `need` is a number of tokens. Then sessions outside of the tree stay, and
            what is not enough is chosen all the same.

        Returns
        -------
        list of Cut and of keys, or None
            In the order in which they are to be done; None if it is not enough. A tail that
            several sessions hold frees more, and one that is shared with a fork less.
        """
        chosen: list[Cut | CacheKey] = []
        ends: dict[Segment, int] = {}
        stuck: set[Segment] = set()
        missing = need

        def tokens_needed(segment: Segment) -> int:
            return missing if by_tokens else -(-missing // segment.token_nbytes)

        for item in self.policy.victims():
            if missing <= 0:
                break
            if not isinstance(item, Segment):
                if not isinstance(item, CacheKey):
                    raise self._broken(item)
                if not by_tokens and may_end(item):
                    chosen.append(item)
                    missing -= size_of(item)
                continue
            self._require(item)
            for cut in self.tree.cuts(item, tokens_needed, may_end, ends, stuck):
                chosen.append(cut)
                tokens = cut.segment.end - cut.end
                missing -= tokens if by_tokens else tokens * cut.segment.token_nbytes
                if missing <= 0:
                    break
        return chosen if missing <= 0 or by_tokens else None

    def _require(self, segment: Segment) -> None:
        if segment not in self.tree.segments:
            raise self._broken(segment)

    def _broken(self, item: object) -> BrokenPluginError:
        return BrokenPluginError(
            f"the eviction policy {type(self.policy).__name__} yields {item}, which is not in the "
            "pool; nothing was evicted"
        )

    # -- the whole -----------------------------------------------------------------------

    def restore(
        self,
        sessions: Iterable[tuple[CacheKey, int]],
        held: Iterable[tuple[CacheKey, Identity, bytes]],
    ) -> None:
        """Rank these sessions, and no others, after a call that did not end.

        Parameters
        ----------
        sessions : iterable of (key, int)
            Keys and bytes of sessions whose tokens are not known.
        held : iterable of (key, Identity, bytes)
            Keys and tokens of the others, the least recently used first.
        """
        wanted = dict(sessions)
        ranked = set(self.policy.victims())
        for item in ranked - wanted.keys():
            self.policy.remove(item)
        for key, nbytes in wanted.items():
            if key not in ranked:
                self.policy.admit(key, nbytes)
        self.tree.clear()
        for key, identity, tokens in held:
            self.tree.hold(key, identity, tokens)

    def check_integrity(self, keys: AbstractSet[CacheKey]) -> None:
        """Prove that the policy ranks the sessions with these keys, or their segments.

        Raises
        ------
        IntegrityError
            It does not. This is a bug here, or in the policy.
        """
        self.tree.check_integrity()
        ranked = list(self.policy.victims())
        wanted = {key for key in keys if key not in self.tree.ends} | self.tree.segments
        if len(ranked) != len(wanted) or set(ranked) != wanted:
            odd = set(ranked) ^ wanted
            raise IntegrityError(f"the policy ranks {len(ranked)} items; it is wrong on {odd}")
