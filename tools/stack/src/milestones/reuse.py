"""Gates that need not run again: their inputs are what they were when they last passed.

The inputs of a gate are the files of the tree, what defines the gates, the lock files, the
Pythons, the tools, the system and the tests that are left out. Of the files, those do not count
that this tool writes or reads: manifests, pages and records; except for the gates that the
settings name as readers of pages.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from milestones import settings
from milestones.git import Git
from milestones.order import Found
from milestones.records import GateResult, Keys, Record

__all__ = ["fault", "inputs", "lasted", "reusable"]


def inputs(git: Git, keys: Keys, gate: str) -> str | None:
    """Return the SHA-256 of all that a gate depends on; None if its tree is not here.

    Parameters
    ----------
    git : Git
        The repository.
    keys : Keys
        What the whole run depends on.
    gate : str
        The gate.
    """
    if keys.tree not in git.trees([keys.tree]):
        return None
    chosen = settings.current()
    lines = git.listing(keys.tree, ())
    if gate not in chosen.reads_pages:
        ours = re.compile(
            re.escape(chosen.pages.rstrip("/"))
            + r"/([^/]+\.toml|STATUS\.md|schema\.json|records/.*|[a-z0-9-]+/[1-9]\d*\.md)"
        )
        lines = [line for line in lines if not ours.fullmatch(line.partition("\t")[2])]
    files = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    text = json.dumps(asdict(keys) | {"tree": files}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def reusable(git: Git, found: Sequence[Found], keys: Keys) -> dict[str, GateResult]:
    """Return the gates that have passed with the same inputs, each as it ran then.

    Parameters
    ----------
    git : Git
        The repository.
    found : sequence of Found
        The records, the oldest first. The newest run of a gate with these inputs decides, of
        whatever milestone that is.
    keys : Keys
        What the run that is to come depends on.
    """
    wanted = {gate: inputs(git, keys, gate) for gate in settings.current().gates}
    decided: dict[str, GateResult | None] = {}
    for record in _good(reversed(found)):
        theirs = record.keys
        if asdict(theirs) | {"tree": ""} != asdict(keys) | {"tree": ""}:
            continue
        for one in record.gates:
            gate = one.gate
            if one.reused is not None or gate not in wanted or gate in decided:
                continue
            if inputs(git, theirs, gate) == wanted[gate]:
                again = one.model_copy(update={"reused": record.digest})
                decided[gate] = again if gate in record.passed else None
    return {gate: one for gate, one in decided.items() if one is not None}


def lasted(found: Sequence[Found], milestone: str) -> dict[str, float]:
    """Return how long each gate took when it last ran: of this milestone, else of any."""
    seconds: dict[str, float] = {}
    records = list(_good(found))
    for record in sorted(records, key=lambda one: one.milestone == milestone):
        seconds |= {one.gate: one.seconds for one in record.gates if one.reused is None}
    return seconds


def fault(git: Git, record: Record, others: Mapping[str, Record]) -> str:
    """Say why the gates that a record has taken from others do not count; empty if they do.

    Parameters
    ----------
    git : Git
        The repository.
    record : Record
        The record.
    others : mapping
        Every record that is at hand, by its digest. What is taken from one that is not at hand
        cannot be compared.
    """
    for one in record.gates:
        origin = others.get(one.reused) if one.reused is not None else None
        if origin is None:
            continue
        ran = {gate.gate: gate for gate in origin.gates if gate.gate in origin.passed}
        if ran.get(one.gate) != one.model_copy(update={"reused": None}):
            return f"takes {one.gate} from a record that does not have it so"
        mine, theirs = inputs(git, record.keys, one.gate), inputs(git, origin.keys, one.gate)
        if mine != theirs and mine is not None and theirs is not None:
            return f"takes {one.gate} from a record with other inputs"
    return ""


def _good(found: Iterable[Found]) -> Iterable[Record]:
    for one in found:
        if one.record is not None and not one.fault and not one.record.lacks:
            yield one.record
