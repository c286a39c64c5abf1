"""Every command that prints tables, on 60 columns: no figure is cut, no line is too long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvpool.replay import conversations
from tests.support.called import run
from tests.support.marks import needs_pages

DATA = Path(__file__).parents[1] / "data"
AZURE = str(DATA / "azure_small.csv")
MOONCAKE = str(DATA / "mooncake_small.jsonl")
COLUMNS = 60


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A ledger, and a trace of conversations whose figures are long."""
    folder = tmp_path_factory.mktemp("narrow")
    ledger, talks = folder / "pool.jsonl", folder / "talks.jsonl"
    assert run("replay", AZURE, "--capacity", "1MiB", "--ledger", str(ledger)).returncode == 0
    with talks.open("w", encoding="utf-8") as lines:
        for one in conversations(100):
            row = {
                "timestamp": round(one.arrival * 1000),
                "input_length": one.prompt_tokens,
                "output_length": one.generated_tokens,
                "hash_ids": list(one.hash_blocks),
            }
            lines.write(f"{json.dumps(row)}\n")
    return {"LEDGER": str(ledger), "TALKS": str(talks)}


@pytest.mark.parametrize(
    "command",
    [
        "backends --options",
        pytest.param("demo", marks=pytest.mark.no_cover),
        "map --backend numpy",
        "map --backend mmap",
        f"replay {AZURE} --capacity 1GiB",
        f"replay {MOONCAKE} --capacity-blocks 9",
        "size TALKS --points 4",
        "size TALKS --points 4 --layout 80x8x128 --dtype float32",
        "receipts show LEDGER",
        "receipts summary LEDGER",
    ],
)
def test_no_figure_is_cut(files: dict[str, str], command: str) -> None:
    done = run(*(files.get(word, word) for word in command.split()), COLUMNS=str(COLUMNS))
    assert done.returncode == 0
    slow = done.stderr.splitlines()  # what a machine takes more than ten seconds for
    assert all(line.startswith("kvpool: simulate: ") for line in slow)
    assert "…" not in done.stdout
    tables = [line for line in done.stdout.splitlines() if "jsonl" not in line]
    assert max(map(len, tables)) <= COLUMNS


@needs_pages
def test_sessions_of_a_map_stay_a_table() -> None:
    shown = run("map", "--backend", "mmap", COLUMNS=str(COLUMNS)).stdout.splitlines()
    head = next(line for line in shown if "committed" in line)
    assert head.split() == ["session", "tokens", "reserved", "committed", "shared"]


@needs_pages
@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_pages_of_a_fork_are_drawn_however_few(columns: str) -> None:
    """Each fork of this map has written a page or more."""
    shown = run("map", "--backend", "mmap", COLUMNS=columns).stdout.splitlines()
    forks = [line for line in shown if " of " in line and "▒" in line]
    assert len(forks) == 4
    assert all("█" in line for line in forks)
