"""The figures in `docs/elastic.md`, held against what the library computes."""

from __future__ import annotations

from fractions import Fraction

import pytest

from benchmarks.elastic_utilization import CAPACITY, CONTEXTS, TRACE, replayed
from kvpool.layout import DTYPES, PACKINGS, KVLayout, Packing
from tests.support import needs
from tests.support.docs_pages import DOCS
from tests.support.marks import needs_pages

PAGE_SIZE = 4096
TOKENS = (100, 300, 1000, 10_000)
HEAD = (
    "| layers x heads x dim | packing | stripes | tokens in a page | 100 | 300 | 1,000 | 10,000 |"
)
LAYOUTS = (
    (32, 8, 128, "float16"),
    (32, 8, 128, "int8"),
    (32, 32, 128, "float16"),
    (16, 8, 64, "float16"),
    (24, 2, 64, "float16"),
)


def wasted(layout: KVLayout, tokens: int) -> float:
    """Return the part of the committed bytes that no token is in, over 64 lengths from one on."""
    geometry = layout.geometry(tokens, PAGE_SIZE)
    lengths = range(tokens, tokens + 64)
    pages = sum(geometry.bytes_in_pages(length, PAGE_SIZE) for length in lengths)
    return 1 - sum(lengths) * layout.bytes_per_token / pages


def row(layout: KVLayout) -> str:
    geometry = layout.geometry(1, PAGE_SIZE)
    name = f"{layout.layers} x {layout.kv_heads} x {layout.head_dim} {layout.dtype}"
    stripes = geometry.groups * geometry.stripes_per_group
    per_page = str(Fraction(PAGE_SIZE, geometry.token_stride))
    shares = (f"{wasted(layout, tokens):.2%}" for tokens in TOKENS)
    return f"| {' | '.join((name, layout.packing, str(stripes), per_page, *shares))} |"


def test_the_table_of_page_tails() -> None:
    page = (DOCS / "elastic.md").read_text(encoding="utf-8")
    shown = page.partition(HEAD)[2].partition("\n\n")[0].splitlines()[2:]
    layouts = [KVLayout(*shape, packing=packing) for shape in LAYOUTS for packing in PACKINGS]
    assert shown == [row(layout) for layout in layouts]


def tables(packing: Packing, context: int, tokens: int) -> int:
    """Return the page tables of the last level that a session has, each for 2 MiB."""
    geometry = KVLayout(32, 8, 128, "float16", packing).geometry(context, PAGE_SIZE)
    touched = set[int]()
    for group in range(geometry.groups):
        for start in geometry.stripe_offsets(group):
            end = start + tokens * geometry.token_stride
            touched.update(range(start >> 21, -(-end >> 21)))
    return len(touched)


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_table_of_page_tables(packing: Packing) -> None:
    sizes = (f"{tables(packing, context, 300) * 4} KiB" for context in (131_072, 4096))
    expected = f"| {packing} | {' | '.join(sizes)} |"
    assert expected in (DOCS / "elastic.md").read_text(encoding="utf-8").splitlines()


def test_the_share_of_page_tables() -> None:
    layout = KVLayout(32, 8, 128, "float16")
    shares = [
        f"{tables('head', 131_072, tokens) * PAGE_SIZE / (tokens * layout.bytes_per_token):.0%}"
        for tokens in (300, 1600)
    ]
    few, many = (share.replace("%", " %") for share in shares)
    page = " ".join((DOCS / "elastic.md").read_text(encoding="utf-8").split())
    assert f"{few} of a session of 300 tokens, {many} of one of 1,600" in page


@pytest.mark.integration
@needs_pages
def test_the_share_of_live_tokens_in_the_public_trace() -> None:
    layout = KVLayout(32, 8, 128, "float16", "layer")
    found = replayed(needs.traces() / TRACE, CONTEXTS[0], None, layout=layout)
    page = (DOCS / "elastic.md").read_text(encoding="utf-8")
    assert f"-->{found.utilization.live_of_used:.2%} packed by layer<!--" in page
    assert f"--capacity {CAPACITY >> 30}GiB --max-context {CONTEXTS[0]}" in page


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_layout_wastes_more_than_a_page_of_each_run(packing: Packing, dtype: str) -> None:
    layout = KVLayout(3, 2, 80, dtype, packing)
    geometry = layout.geometry(5000, PAGE_SIZE)
    stripes = geometry.groups * geometry.stripes_per_group
    for tokens in (0, 1, 16, 17, 999, 5000):
        nbytes = tokens * layout.bytes_per_token
        assert nbytes <= geometry.bytes_in_pages(tokens, PAGE_SIZE) < nbytes + stripes * PAGE_SIZE
