"""The answer in `docs/sizing.md`, held against what the command says."""

from __future__ import annotations

from tests.support.docs_pages import DOCS, ROOT
from tests.support.terminal import run


def test_the_answer_for_the_small_trace() -> None:
    page = (DOCS / "sizing.md").read_text(encoding="utf-8")
    shown = [line.removeprefix("> ") for line in page.splitlines() if line.startswith("> ")]
    trace = ROOT / "tests/data/mooncake_small.jsonl"
    done = run("size", str(trace), "--layout", "32x8x128")
    assert done.returncode == 0
    assert " ".join(shown) in " ".join(done.stdout.split())
