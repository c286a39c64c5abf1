"""A ledger of real requests: no change to it goes unseen."""

from __future__ import annotations

import csv
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvpool.ledger import LedgerSink
from tests.support import needs
from tests.support.ledgers import PRIVATE, check
from tests.support.recorder import LAYOUT, Recorder

pytestmark = pytest.mark.integration

TOKEN = LAYOUT.geometry(1).nbytes


def token_counts() -> Iterator[int]:
    """Yield the tokens of each request of the trace, context and answer."""
    with (needs.traces() / "azure_conv_2023.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield int(row["ContextTokens"]) + int(row["GeneratedTokens"])


def replay(path: Path, requests: int, capacity: int, **options: Any) -> None:
    """Write the ledger of a replay, with views that outlive their entries, and removals."""
    sizes = [tokens * TOKEN for tokens in itertools.islice(token_counts(), requests)]
    recorder = Recorder([LedgerSink(path, **options)], capacity)
    draws, views = random.Random(4), []
    for number, size in enumerate(sizes):
        ttl = 60 if draws.random() < 0.05 else None
        entry = recorder.make(number, size, ttl=ttl)
        if draws.random() < 0.02:
            views.append(entry.data())
        if draws.random() < 0.1:
            recorder.remove(draws.choice(recorder.manager.session_keys()).id)
        if number % 100 == 99:
            recorder.snapshot()
            views.clear()
            recorder.expire()
    views.clear()
    recorder.close()


@pytest.mark.parametrize("key", [None, PRIVATE], ids=["unsigned", "signed"])
def test_every_byte_of_a_sample_counts(tmp_path: Path, key: Any) -> None:
    replay(tmp_path / "a.jsonl", 8, 256 << 10, key=key, checkpoint_every=5)
    whole = (tmp_path / "a.jsonl").read_bytes()
    assert check(whole).ok
    assert check(whole).events["kv_eviction"] == 8
    draws = random.Random(5)
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= draws.randrange(1, 256)
        assert not check(bytes(changed)).ok, at


@pytest.mark.parametrize("key", [None, PRIVATE], ids=["unsigned", "signed"])
def test_lines_of_a_long_ledger(tmp_path: Path, key: Any) -> None:
    replay(tmp_path / "a.jsonl", 1000, 32 << 20, key=key)
    lines = (tmp_path / "a.jsonl").read_bytes().splitlines()
    assert check(lines).ok
    draws = random.Random(6)
    for _ in range(20):
        one, other = sorted(draws.sample(range(len(lines)), 2))
        dropped = lines[:one] + lines[one + 1 :]
        repeated = lines[:other] + lines[one:]
        swapped = [
            *lines[:one],
            lines[other],
            *lines[one + 1 : other],
            lines[one],
            *lines[other + 1 :],
        ]
        cut = lines[:other]
        for changed in (dropped, repeated, swapped, cut):
            assert not check(changed).ok
