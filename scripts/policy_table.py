"""The hit ratio of every eviction policy on a trace of prefixes, for `docs/policies.md`.

A trace has a list of block ids for each request; a hit is a leading block that is in the cache.
Here segments are cut and evicted as a prefix tree does it, without tokens and without a pool, so
that a policy is measured alone.

python -m scripts.policy_table TRACE [--page FILE] [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from kvpool.eviction import EvictionPolicy
from kvpool.eviction.registry import create_policy, registry

__all__ = ["PAGE", "SIZES", "PrefixCache", "hits_of", "main", "read", "render"]

PAGE = Path(__file__).parents[1] / "docs/policies.md"
SIZES = (1_000, 3_000, 5_859, 10_000, 30_000, 50_000, 100_000)  # blocks

_BEGIN, _END = "<!-- hit ratios -->\n", "<!-- /hit ratios -->"


class Segment:
    """A run of blocks with one history."""

    def __init__(self, names: list[int], start: int, parent: Segment | None) -> None:
        self.names = names
        self.start = start
        self.parent = parent
        self.children: dict[int, Segment] = {}
        self.is_busy = False


class PrefixCache:
    """Blocks of one byte each, in segments that a policy ranks.

    Parameters
    ----------
    policy : EvictionPolicy
    capacity : int
        Blocks.

    Attributes
    ----------
    asked, hits : int
        Blocks so far.
    """

    def __init__(self, policy: EvictionPolicy, capacity: int) -> None:
        self.asked = self.hits = 0
        self._policy = policy
        self._free = capacity
        self._root = Segment([], 0, None)

    def ask(self, blocks: Sequence[int]) -> int:
        """Use the blocks of one request, in order; return how many of them were there."""
        path = self._match(list(blocks))
        hits = path[-1].start + len(path[-1].names) if path else 0
        for segment in reversed(path):
            self._policy.touch(segment)
            segment.is_busy = True
        new = list(blocks[hits:])
        while self._free < len(new) and self._evict(len(new) - self._free):
            pass
        new = new[: self._free]
        if new:
            parent = path[-1] if path else self._root
            segment = parent.children[new[0]] = Segment(new, hits, parent)
            self._policy.admit(segment, len(new))
            self._free -= len(new)
        for segment in path:
            segment.is_busy = False
        self.asked += len(blocks)
        self.hits += hits
        return hits

    def _match(self, blocks: list[int]) -> list[Segment]:
        """Return the segments that the request begins with, the last one cut where it ends."""
        node, path, at = self._root, list[Segment](), 0
        while at < len(blocks) and blocks[at] in node.children:
            node = node.children[blocks[at]]
            same = 0
            for ours, asked in zip(node.names, blocks[at:], strict=False):
                if ours != asked:
                    break
                same += 1
            if same < len(node.names):
                node = self._split(node, same)
                path.append(node)
                break
            path.append(node)
            at += same
        return path

    def _split(self, tail: Segment, blocks: int) -> Segment:
        parent = tail.parent or self._root
        head = Segment(tail.names[:blocks], tail.start, parent)
        tail.names, tail.start, tail.parent = tail.names[blocks:], tail.start + blocks, head
        parent.children[head.names[0]] = head
        head.children[tail.names[0]] = tail
        self._policy.split(tail, head, len(tail.names), blocks)
        return head

    def _evict(self, blocks: int) -> bool:
        """Evict at most `blocks` blocks from one segment; return whether there was one."""
        for item in self._policy.victims():
            leaf = self._leaf(item)
            if leaf is not None:
                break
        else:
            return False
        kept = len(leaf.names) - blocks
        if kept > 0:
            self._policy.resize(leaf, kept)
            del leaf.names[kept:]
            self._free += blocks
        else:
            self._policy.remove(leaf)
            del (leaf.parent or self._root).children[leaf.names[0]]
            self._free += len(leaf.names)
        return True

    @staticmethod
    def _leaf(item: object) -> Segment | None:
        """Return a segment without children below an item, or None if they are all busy."""
        assert isinstance(item, Segment)
        while not item.is_busy:
            if not item.children:
                return item
            item = next(
                (child for child in item.children.values() if not child.is_busy), item.parent
            )
            if item is None:
                return None
        return None


def read(trace: Path) -> list[list[int]]:
    """Return the block ids of each request of a trace in Mooncake's form."""
    with trace.open(encoding="utf-8") as lines:
        return [json.loads(line)["hash_ids"] for line in lines]


def hits_of(policy: EvictionPolicy, capacity: int, requests: Sequence[Sequence[int]]) -> int:
    """Return how many blocks of all requests are hits."""
    cache = PrefixCache(policy, capacity)
    for blocks in requests:
        cache.ask(blocks)
    return cache.hits


def render(requests: Sequence[Sequence[int]]) -> str:
    """Return the table as Markdown: a row for each policy, a column for each size."""
    asked = sum(map(len, requests))
    lines = [
        "| policy | " + " | ".join(f"{size:,}" for size in SIZES) + " |",
        "| --- |" + " ---: |" * len(SIZES),
    ]
    for name in registry.kind.builtins:
        ratios = [hits_of(create_policy(name), size, requests) / asked for size in SIZES]
        lines.append(f"| `{name}` | " + " | ".join(f"{ratio:.4f}" for ratio in ratios) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table to the page, or check that the page has it."""
    parser = argparse.ArgumentParser(prog="scripts.policy_table")
    parser.add_argument("trace", type=Path, help="a trace in Mooncake's form")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it differs")
    options = parser.parse_args(arguments)
    text = options.page.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    made = f"{before}{_BEGIN}\n{render(read(options.trace))}\n{_END}{after}"
    if not options.check:
        options.page.write_text(made, encoding="utf-8")
    elif made != text:
        print(f"{options.page} is out of date: python -m scripts.policy_table {options.trace}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
