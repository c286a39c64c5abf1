"""Records as a test wants them."""

from __future__ import annotations

from typing import Any

from milestones import environment
from milestones.git import Git
from milestones.records import GATES, GateResult, Record, seal


def result(gate: str, *, passed: bool = True) -> GateResult:
    return GateResult(gate=gate, passed=passed, seconds=1.0, python="3.11.7", reason="", tests=None)


def fields(**changed: Any) -> dict[str, Any]:
    """Return the fields of a green record of `demo/1`, with some of them changed."""
    return {
        "milestone": "demo/1",
        "commit": "a" * 40,
        "tree": "b" * 40,
        "scope": "full",
        "definitions": "c" * 64,
        "locks": "d" * 64,
        "interpreters": {"3.11": "3.11.7"},
        "tools": {"git": "2.39.5"},
        "installed": {"ruff": "0.17.6"},
        "os": "Linux",
        "excluded": [],
        "started": "2026-01-02T03:04:05.678Z",
        "seconds": 60.5,
        "exit_code": 0,
        "gates": [result(gate) for gate in GATES],
        "log": "e" * 64,
    } | changed


def record(**changed: Any) -> Record:
    return seal(**fields(**changed))


def record_of(git: Git, commit: str, **changed: Any) -> Record:
    """Return a green record of a commit, true to its tree."""
    tree = git.tree(commit)
    true = {
        "commit": git.run("rev-parse", commit),
        "tree": tree,
        "definitions": environment.definitions(git, tree),
        "locks": environment.locks(git, tree),
    }
    return record(**true | changed)
