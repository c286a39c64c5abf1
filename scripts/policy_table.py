"""The hit ratio of every eviction policy on a trace of prefixes, for `docs/policies.md`.

A trace has a list of block ids for each request; a hit is a leading block that is in the cache.
The policies rank the segments of kvpool's prefix tree, as in ``kvpool size``.

python -m scripts.policy_table TRACE [--page FILE] [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kvpool.eviction.registry import registry
from kvpool.replay import TraceReader
from kvpool.sizing import PrefixTrace, policy_hits

__all__ = ["PAGE", "SIZES", "hits_of", "main", "render"]

PAGE = Path(__file__).parents[1] / "docs/policies.md"
SIZES = (1_000, 3_000, 5_859, 10_000, 30_000, 50_000, 100_000)  # blocks

_BEGIN, _END = "<!-- hit ratios -->\n", "<!-- /hit ratios -->"


def hits_of(policy: str, capacity: int, requests: PrefixTrace) -> int:
    """Return how many blocks of all requests are hits."""
    return int(policy_hits(requests, policy, capacity).sum())


def render(requests: PrefixTrace) -> str:
    """Return the table as Markdown: a row for each policy, a column for each size."""
    asked = requests.reference_count
    lines = [
        "| policy | " + " | ".join(f"{size:,}" for size in SIZES) + " |",
        "| --- |" + " ---: |" * len(SIZES),
    ]
    for name in registry.kind.builtins:
        ratios = [hits_of(name, size, requests) / asked for size in SIZES]
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
    with TraceReader(options.trace) as reader:
        requests = PrefixTrace.read(reader)
    made = f"{before}{_BEGIN}\n{render(requests)}\n{_END}{after}"
    if not options.check:
        options.page.write_text(made, encoding="utf-8")
    elif made != text:
        print(f"{options.page} is out of date: python -m scripts.policy_table {options.trace}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
