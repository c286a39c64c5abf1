"""Every change to a ledger is found; what is not found is said here, and in the documentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from kvpool.ledger.ed25519 import Signer
from tests.support.ledgers import PRIVATE, check, forge, parse, public_key_file, short_ledger

OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
KINDS = pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])


@pytest.fixture(scope="module")
def public_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return public_key_file(tmp_path_factory.mktemp("keys") / "key.pub", PRIVATE)


# -- what is damaged ---------------------------------------------------------------------------


@pytest.mark.no_cover
@KINDS
def test_every_byte_counts(signed: bool) -> None:
    whole = short_ledger(signed=signed)
    assert check(whole).ok
    for at, byte in enumerate(whole):
        other_case = [byte ^ 0x20] if chr(byte).isalpha() else []
        for flipped in (byte ^ 1, *other_case):
            changed = bytearray(whole)
            changed[at] = flipped
            assert not check(bytes(changed)).ok, (at, flipped)


@KINDS
@given(data=st.data())
def test_any_byte_can_become_any_other(signed: bool, data: st.DataObject) -> None:
    whole = bytearray(short_ledger(signed=signed))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    assert not check(bytes(whole)).ok


@KINDS
@given(data=st.data())
def test_bytes_put_in_or_taken_out_are_found(signed: bool, data: st.DataObject) -> None:
    whole = short_ledger(signed=signed)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(start + 40, len(whole))))
    changed = whole[:start] + data.draw(st.binary(max_size=10)) + whole[end:]
    assert check(changed).ok == (changed == whole)


@KINDS
def test_lines_dropped_swapped_and_repeated(signed: bool) -> None:
    lines = short_ledger(signed=signed).splitlines()
    assert check(lines).ok
    for one in range(len(lines)):
        assert not check(lines[:one] + lines[one + 1 :]).ok
        assert not check([*lines[: one + 1], *lines[one:]]).ok
        for other in range(one + 1, len(lines)):
            swapped = lines.copy()
            swapped[one], swapped[other] = swapped[other], swapped[one]
            assert not check(swapped).ok


@pytest.mark.no_cover
@KINDS
def test_every_end_that_is_cut_off(signed: bool) -> None:
    whole = short_ledger(signed=signed)
    for size in range(len(whole)):
        report = check(whole[:size])
        assert not report.ok, size
        assert not report.is_sealed


def test_end_that_is_cut_off_at_a_line_is_allowed_if_asked_for() -> None:
    lines = short_ledger(signed=True).splitlines()
    for count in range(1, len(lines)):
        report = check(lines[:count], allow_open=True)
        assert report.ok
        assert any("the ledger is open" in note for note in report.notes)
        assert report.covered <= count


@KINDS
def test_line_that_is_not_canonical(signed: bool) -> None:
    lines = short_ledger(signed=signed).splitlines()
    for number, line in enumerate(lines):
        for changed in (line.replace(b":", b": ", 1), line + b" ", b" " + line):
            report = check([*lines[:number], changed, *lines[number + 1 :]])
            assert (number + 1, "line", "canonical JSON") in {
                (finding.line, finding.field, finding.expected) for finding in report.findings
            }


# -- what is forged ----------------------------------------------------------------------------

Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def another_session(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say that it was somebody else: no number shows it."""
    lines[1]["receipt"]["session_id"] = "chat/innocent"
    return lines


def without_checkpoints(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = [line for line in lines if line["kind"] != "checkpoint"]
    kept[-1]["lines"] = len(kept) - 1
    return kept


def unsigned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lines[0]["public_key"] = None
    return [{**line, "signature": None} if "signature" in line else line for line in lines]


FORGERIES: list[Change] = [
    another_session,
    without_checkpoints,
    lambda lines: another_session(without_checkpoints(lines)),
]


@pytest.mark.parametrize("change", FORGERIES)
def test_hashed_anew_is_found_if_it_is_signed(change: Change, public_key: Path) -> None:
    forged = forge(change(parse(short_ledger(signed=True))))
    for key in (None, public_key):
        report = check(forged, public_key=key)
        assert {finding.field for finding in report.findings} == {"signature"}


@pytest.mark.parametrize("change", FORGERIES)
def test_hashed_anew_is_not_found_if_it_is_not_signed(change: Change) -> None:
    """What a ledger without signatures cannot prove; the threat model says so."""
    assert check(forge(change(parse(short_ledger(signed=False))))).ok


def test_hashed_anew_is_found_by_who_noted_a_head() -> None:
    original = short_ledger(signed=False)
    head = check(original).head
    assert check(original, head=head.upper()).ok
    (finding,) = check(forge(another_session(parse(original))), head=head).findings
    assert (finding.field, finding.expected) == ("head", head)


def test_signatures_taken_away_are_found_with_the_key(public_key: Path) -> None:
    forged = forge(unsigned(another_session(parse(short_ledger(signed=True)))))
    assert check(forged).ok  # it is an unsigned ledger now
    report = check(forged, public_key=public_key)
    (finding,) = report.findings
    assert (finding.line, finding.field, finding.found) == (1, "public_key", "null")


def test_signed_with_another_key_is_found_with_the_key(public_key: Path, tmp_path: Path) -> None:
    lines = another_session(parse(short_ledger(signed=True)))
    lines[0]["public_key"] = Signer(OTHER).public_key
    forged = forge(lines, OTHER)
    assert check(forged).ok  # by its own word
    assert any("only with a public key" in note for note in check(forged).notes)
    (finding,) = check(forged, public_key=public_key).findings
    assert (finding.line, finding.field) == (1, "public_key")
    assert finding.expected == Signer(PRIVATE).public_key
    assert check(forged, public_key=public_key_file(tmp_path / "other", OTHER)).ok


def test_signature_of_another_line_is_no_use() -> None:
    lines = parse(short_ledger(signed=True))
    signatures = [line["signature"] for line in lines if "signature" in line]
    assert len(set(signatures)) == len(signatures) > 1
    for line in lines:
        if "signature" in line:
            line["signature"] = signatures[0]
    assert {finding.field for finding in check(forge(lines)).findings} == {"signature"}


def test_signature_in_capitals_is_none() -> None:
    lines = short_ledger(signed=True).splitlines()
    signature = parse(lines[-1])[0]["signature"].encode()
    assert not check([*lines[:-1], lines[-1].replace(signature, signature.upper())]).ok
