"""No bytes make the verifier raise, and none that are no ledger pass it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpool.ledger import verify
from tests.support.ledgers import check, forge, parse, short_ledger

json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.binary(max_size=2000))
def test_any_bytes(data: bytes) -> None:
    report = check(data)
    assert not report.ok
    assert json.loads(json.dumps(report.to_dict()))["ok"] is False


@given(st.lists(st.binary(max_size=80), max_size=10))
def test_any_lines(lines: list[bytes]) -> None:
    assert not check(lines).ok


@pytest.mark.no_cover
@given(st.booleans(), st.data())
def test_any_value_in_any_field(signed: bool, data: st.DataObject) -> None:
    """Hashed anew, so that only what is looked at in the field can find it."""
    lines = parse(short_ledger(signed=signed))
    target = data.draw(st.sampled_from(lines))
    if "receipt" in target and data.draw(st.booleans()):
        target = target["receipt"]
    name = data.draw(st.sampled_from([*target, "another"]))
    target[name] = data.draw(json_values)
    check(forge(lines, encode=lambda line: json.dumps(line).encode()))


@given(st.booleans(), st.data())
def test_mutated_ledger(signed: bool, data: st.DataObject) -> None:
    whole = bytearray(short_ledger(signed=signed))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 60))] = data.draw(st.binary(max_size=20))
        if not whole:
            break
    report = check(bytes(whole), allow_open=True)
    assert report.ok == (bytes(whole) in beginnings(signed=signed))


def beginnings(*, signed: bool) -> set[bytes]:
    """Return what can be left of a ledger whose end was cut off at a line."""
    lines = short_ledger(signed=signed).splitlines(keepends=True)
    return {b"".join(lines[:count]) for count in range(1, len(lines) + 1)}


def test_nested_deeper_than_the_stack() -> None:
    for deep in (b"[" * 100_000, b'{"receipt":' * 20_000, b'{"kind":"receipt","receipt":' * 9000):
        assert not check(deep + b"\n").ok
        assert not check(deep).ok


def test_line_longer_than_any_line(tmp_path: Path) -> None:
    whole = short_ledger(signed=False)
    path = tmp_path / "a.jsonl"
    for long in (b"x" * 3_000_000, b'{"kind":"' + b"y" * 3_000_000 + b'"}'):
        path.write_bytes(whole + long + b"\n" + whole)
        report = verify(path)
        assert "at most 262144 bytes" in {finding.expected for finding in report.findings}
        assert report.lines == 2 * len(whole.splitlines()) + 1
