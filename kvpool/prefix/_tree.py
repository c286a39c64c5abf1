"""`PrefixTree`: which session holds which tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from kvpool.cache_key import CacheKey
from kvpool.errors import IntegrityError
from kvpool.eviction import EvictionPolicy
from kvpool.prefix._changes import Change, Cleared, Gone, Held, Journal, Split
from kvpool.prefix._identity import Identity
from kvpool.prefix._segment import Segment
from kvpool.prefix._tokens import TOKEN_BYTES, common_bytes

__all__ = ["Cut", "Match", "PrefixTree"]


class Match(NamedTuple):
    """The longest prefix of some tokens that sessions hold.

    Parameters
    ----------
    segment : Segment or None
        The deepest one that has some of the tokens; None if there is no such prefix.
    length : int
        Tokens of the prefix; it may end inside of the segment.
    """

    segment: Segment | None
    length: int


_NO_MATCH: Final = Match(None, 0)


class Cut(NamedTuple):
    """Tokens to be dropped: those of a segment from a position on.

    Parameters
    ----------
    segment : Segment
    end : int
        The position; the start of the segment if all of it goes.
    """

    segment: Segment
    end: int


class PrefixTree:
    """A radix tree over the tokens of sessions. Not thread-safe.

    Every session in the tree holds all tokens from the root to the end of one segment. A segment
    is there as long as a session holds it: a leaf has at least one session that ends with it.

    Parameters
    ----------
    policy : EvictionPolicy
        Is told of every segment, and of every use of one.
    chunk_tokens : int
        Tokens are dropped down to multiples of this.
    journal : Journal, optional
        Is told of every change of a segment.

    Attributes
    ----------
    policy : EvictionPolicy
        A caller that changes it has to tell the new one of all segments.
    token_count : int
        Tokens of all segments; those that several sessions hold count once.
    ends : dict of CacheKey to Segment
        The sessions in the tree, and the segment that the tokens of each end with. To be read.
    segments : set of Segment
        All of them, without the roots. To be read.
    """

    def __init__(
        self, policy: EvictionPolicy, chunk_tokens: int, journal: Journal | None = None
    ) -> None:
        self.token_count = 0
        self.policy = policy
        self._chunk_tokens = chunk_tokens
        self._journal = self._listener = journal
        self._roots: dict[Identity, Segment] = {}
        self._identities: dict[Segment, Identity] = {}  # of the roots
        self._recent: tuple[Identity, Segment] | None = None  # the root that was found last
        self.ends: dict[CacheKey, Segment] = {}
        self.segments: set[Segment] = set()

    # -- looking -------------------------------------------------------------------------

    def tokens_of(self, key: CacheKey) -> bytes:
        """Return the tokens that a session holds."""
        return b"".join([segment.tokens for segment in self.ends[key].path()][::-1])

    def match(self, identity: Identity, tokens: bytes, after: Segment | None = None) -> Match:
        """Find the longest prefix of some tokens that sessions hold; a look, not a use.

        It takes as long as comparing the prefix, however many sessions there are.

        Parameters
        ----------
        identity : Identity
        tokens : bytes
            See `token_bytes`.
        after : Segment, optional
            One whose tokens and those before it are the first of `tokens`: the look begins there.
        """
        segment = self._known_root(identity) if after is None else after
        if segment is None:
            return _NO_MATCH
        at, end = segment.end * TOKEN_BYTES, len(tokens)
        while at < end:
            child = segment.children.get(tokens[at : at + TOKEN_BYTES])
            if child is None:
                break
            segment = child
            if not tokens.startswith(child.tokens, at):
                at += common_bytes(child.tokens, tokens, at)
                break
            at += len(child.tokens)
        return Match(segment, at // TOKEN_BYTES) if at else _NO_MATCH

    def before(self, segment: Segment | None, length: int) -> Segment | None:
        """Return the last segment, of one and those before it, that ends at a position or before.

        Parameters
        ----------
        segment : Segment or None
            One that was in the tree.
        length : int
            The position.

        Returns
        -------
        Segment or None
            None if `segment` is None, or is not in the tree any more.
        """
        if segment not in self.segments:
            return None
        while segment is not None and segment.end > length:
            segment = segment.parent
        return segment

    def holder(self, segment: Segment) -> CacheKey:
        """Return the key of a session that holds a segment; if possible of one that ends there."""
        while not segment.holders:
            segment = next(iter(segment.children.values()))
        return segment.holders[0]

    # -- sessions ------------------------------------------------------------------------

    def hold(
        self,
        key: CacheKey,
        identity: Identity,
        tokens: bytes,
        used: int = 0,
        after: Segment | None = None,
    ) -> None:
        """Let a session hold these tokens, and no others; a use of them.

        Parameters
        ----------
        key : CacheKey
        identity : Identity
        tokens : bytes
            At least one token; see `token_bytes`.
        used : int, default 0
            The use of this many first tokens was counted before.
        after : Segment, optional
            One whose tokens and those before it are the first of `tokens`: the search for the rest
            begins there.
        """
        segment, new = self._insert(self._root(identity) if after is None else after, tokens)
        before = self.ends.get(key)
        if before is not segment:
            segment.holders.append(key)
            self.ends[key] = segment
        known = segment if new is None else segment.parent
        while known is not None and known.end > used:  # not at the root, whose end is 0
            self.policy.touch(known)  # the last first, so that of these it is evicted first
            known = known.parent
        if new is not None:
            self.policy.admit(new, new.nbytes)
        if before is not None and before is not segment:
            before.holders.remove(key)
            self._prune(before)

    def touch(self, key: CacheKey) -> None:
        """Count a use of all tokens of a session."""
        for segment in self.ends[key].path():
            self.policy.touch(segment)

    def drop(self, key: CacheKey) -> None:
        """Forget a session; the segments that only it held go."""
        segment = self.ends.pop(key)
        segment.holders.remove(key)
        self._prune(segment)

    def rename(self, key: CacheKey, new_key: CacheKey) -> None:
        """Give a session another key."""
        segment = self.ends.pop(key)
        segment.holders[segment.holders.index(key)] = new_key
        self.ends[new_key] = segment

    # -- eviction ------------------------------------------------------------------------

    def leaves(
        self,
        segment: Segment,
        may_end: Callable[[CacheKey], bool],
        planned: dict[Segment, int],
        stuck: set[Segment],
    ) -> Iterator[Segment]:
        """Yield what can be dropped of a segment and of all behind it, each after its children.

        Parameters
        ----------
        segment : Segment
        may_end : callable
            Tells whether the tokens of a session may be dropped.
        planned : dict of Segment to int
            Where those end that are to be dropped. The caller adds each one that it takes.
        stuck : set of Segment
            Those that cannot be dropped. New ones are added.
        """
        waiting = [segment]
        while waiting:
            last = waiting[-1]
            if last in stuck or planned.get(last) == last.start:
                waiting.pop()
                continue
            behind = [
                child for child in last.children.values() if planned.get(child) != child.start
            ]
            if any(child in stuck for child in behind) or not all(map(may_end, last.holders)):
                stuck.add(last)
            if last in stuck and not any(child not in stuck for child in behind):
                waiting.pop()
            elif behind:
                # The one that has been there for the longest is taken first.
                waiting += [child for child in reversed(behind) if child not in stuck]
            else:
                waiting.pop()
                yield last

    def cut(self, cut: Cut) -> tuple[list[CacheKey], list[CacheKey]]:
        """Drop the tail of a leaf.

        Returns
        -------
        shortened : list
            The keys of sessions that hold the tokens before the cut from now on.
        covered : list
            The keys of sessions whose tokens before the cut are held by others as well, or that
            have none left. They still hold the leaf: it goes with the last of them.
        """
        segment, end = cut
        if end > segment.start:
            self.policy.resize(segment, (end - segment.start) * segment.token_nbytes)
            self.token_count -= segment.end - end
            segment.cut(end)
            if self._journal is not None:
                self._journal(Held(segment, self._before(segment), segment.tokens))
            return list(segment.holders), []
        parent = segment.parent
        holders = list(segment.holders)
        if parent is None or parent.parent is None or parent.holders or len(parent.children) > 1:
            return [], holders
        heir = holders[0]
        parent.holders.append(heir)
        self.ends[heir] = parent
        segment.holders.remove(heir)
        self._prune(segment)
        return [heir], holders[1:]

    # -- the whole -----------------------------------------------------------------------

    def clear(self) -> None:
        """Forget all sessions, without telling the policy."""
        self._journal = self._listener
        if self._journal is not None:
            self._journal(Cleared())
        self._recent = None
        self._roots.clear()
        self._identities.clear()
        self.ends.clear()
        self.segments.clear()
        self.token_count = 0

    def changes(self) -> list[Change]:
        """Return what a journal has to be told to know all segments, after `Cleared`."""
        return [Held(one, self._before(one), one.tokens) for one in self._walk()]

    def end_journal(self) -> None:
        """Tell the journal that all segments are gone, and nothing more until `clear`."""
        if self._journal is not None:
            self._journal(Cleared())
            self._journal = None

    def check_integrity(self) -> None:
        """Prove that segments, sessions and the number of tokens agree.

        Raises
        ------
        IntegrityError
            They do not agree; the text says where.
        """
        found = set(self._walk())
        ends: dict[CacheKey, Segment] = {}
        for segment in found:
            if not segment.children and not segment.holders:
                raise IntegrityError(f"no session holds {segment}")
            for key in segment.holders:
                if key in ends:
                    raise IntegrityError(f"{key!s} ends with two segments")
                ends[key] = segment
        if found != self.segments:
            odd = found ^ self.segments
            raise IntegrityError(f"the tree has other segments than it knows: {odd}")
        if ends != self.ends or any(root.holders for root in self._identities):
            raise IntegrityError(f"sessions end elsewhere: {ends.keys() ^ self.ends.keys()}")
        tokens = sum(segment.token_count for segment in found)
        if tokens != self.token_count:
            raise IntegrityError(f"{tokens} tokens are held, {self.token_count} are counted")

    # -- inside --------------------------------------------------------------------------

    def _root(self, identity: Identity) -> Segment:
        root = self._known_root(identity)
        if root is None:
            root = Segment.root(identity, identity.token_nbytes, self._chunk_tokens)
            self._roots[identity] = root
            self._identities[root] = identity
        return root

    def _known_root(self, identity: Identity) -> Segment | None:
        """Return the root of an identity; None if there is none."""
        if self._recent is not None and self._recent[0] == identity:
            return self._recent[1]  # to compare is faster than to hash: the layout is the same one
        root = self._roots.get(identity)
        if root is not None:
            self._recent = identity, root
        return root

    def _before(self, segment: Segment) -> Segment | Identity:
        """Return the segment before one, or the identity of its tokens if there is none."""
        parent = segment.parent
        if parent is None or parent.parent is None:
            return self._identities[segment if parent is None else parent]
        return parent

    def _walk(self) -> Iterator[Segment]:
        """Yield every segment behind the roots, a parent before its children.

        Raises
        ------
        IntegrityError
            One is not in its place.
        """
        waiting = list(self._roots.values())
        while waiting:
            segment = waiting.pop()
            for first, child in segment.children.items():
                if child.parent is not segment or child.start != segment.end:
                    raise IntegrityError(f"{child} is not behind {segment}")
                if len(child.tokens) != child.token_count * TOKEN_BYTES:
                    raise IntegrityError(f"{child} has {len(child.tokens)} bytes of tokens")
                if not child.tokens.startswith(first):
                    raise IntegrityError(f"{child} is not where its first token says")
                yield child
                waiting.append(child)

    def _insert(self, segment: Segment, tokens: bytes) -> tuple[Segment, Segment | None]:
        """Return the segment that some tokens end with, and the same one again if it is new."""
        nbytes, at, end = segment.token_nbytes, segment.end * TOKEN_BYTES, len(tokens)
        while at < end:
            first = tokens[at : at + TOKEN_BYTES]
            child = segment.children.get(first)
            if child is None:
                new = Segment(segment, tokens[at:], nbytes, self._chunk_tokens)
                segment.children[first] = new
                self.segments.add(new)
                self.token_count += new.token_count
                if self._journal is not None:
                    self._journal(Held(new, self._before(new), new.tokens))
                return new, new
            if tokens.startswith(child.tokens, at):
                segment = child
            else:
                segment = self._split(child, common_bytes(child.tokens, tokens, at))
            at += len(segment.tokens)
        return segment, None

    def _split(self, tail: Segment, nbytes: int) -> Segment:
        """Split a segment after `nbytes` bytes of tokens; return the first part."""
        parent, tokens = tail.parent, tail.tokens
        head = Segment(parent, tokens[:nbytes], tail.token_nbytes, self._chunk_tokens)
        if parent is not None:
            parent.children[tokens[:TOKEN_BYTES]] = head
        head.children[tokens[nbytes : nbytes + TOKEN_BYTES]] = tail
        tail.tokens, tail.start, tail.parent = tokens[nbytes:], head.end, head
        self.segments.add(head)
        if self._journal is not None:
            self._journal(Split(head, self._before(head), head.tokens, tail))
        self.policy.split(tail, head, tail.nbytes, head.nbytes)
        return head

    def _prune(self, segment: Segment) -> None:
        """Remove a segment that no session holds, and those before it."""
        while segment.parent is not None and not segment.children and not segment.holders:
            parent = segment.parent
            del parent.children[segment.tokens[:TOKEN_BYTES]]
            self.segments.remove(segment)
            self.token_count -= segment.token_count
            if self._journal is not None:
                self._journal(Gone(segment))
            self.policy.remove(segment)
            segment = parent
        if segment.parent is None and not segment.children:  # so that identities do not pile up
            self._recent = None
            del self._roots[self._identities.pop(segment)]
