"""The answer in `docs/sizing.md`, held against what the command says."""

from __future__ import annotations

import pytest

from tests.support import needs
from tests.support.docs_pages import DOCS, ROOT
from tests.support.terminal import run


def page() -> str:
    return (DOCS / "sizing.md").read_text(encoding="utf-8")


def answer(trace: str) -> str:
    """Return what the command says of a trace, on one line."""
    done = run("size", trace, "--layout", "32x8x128", "--policy", "lru")
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


@pytest.mark.integration
def test_the_answer_for_the_public_trace() -> None:
    shown = [line.removeprefix("> ") for line in page().splitlines() if line.startswith("> ")]
    assert len(shown) == 2
    assert " ".join(shown) in answer(str(needs.traces() / "mooncake_conversation.jsonl"))


def test_the_small_trace_is_where_the_page_says() -> None:
    name = "tests/data/mooncake_small.jsonl"
    assert f"`{name}`" in page()
    assert "An infinite pool would reuse" in answer(str(ROOT / name))
