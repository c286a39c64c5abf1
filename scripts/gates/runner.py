"""Run gates one after the other and report on them.

Each gate is a nox session of its own process, so that one that fails, or breaks, leaves the
others alone. A gate has passed if nox says *success* of it: exit status 0 is not enough,
since nox gives that to a skipped session as well.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import nox

__all__ = [
    "GATES",
    "QUICK",
    "Outcome",
    "report",
    "run",
    "run_session",
    "select",
    "summary",
    "table",
]

GATES = ("build", "test", "lint", "format", "docs", "min_python")
"""The six gates, in the order in which they run."""

QUICK = ("lint", "format", "docs")
"""The gates that do not run the tests."""


@dataclass(frozen=True)
class Outcome:
    """How one gate ended.

    Parameters
    ----------
    gate : str
        Its name, which is the name of the session.
    passed : bool
        Whether nox reported success.
    seconds : float
        Wall time, with the making of its environment.
    exit_code : int
        Of the nox process.
    reason : str
        What nox says of a gate that has not passed, where it says something.
    command : str
        What runs this gate alone.
    notes : str
        What it is: the first line of the docstring of its session.
    """

    gate: str
    passed: bool
    seconds: float
    exit_code: int
    reason: str = ""
    command: str = ""
    notes: str = ""


def select(words: Sequence[str]) -> tuple[str, ...]:
    """Return the gates that some words name, in the order of `GATES`.

    Parameters
    ----------
    words : sequence of str
        Names of gates; ``"quick"`` stands for `QUICK`; none stands for all.

    Raises
    ------
    ValueError
        A word is neither.
    """
    chosen: set[str] = set()
    for word in words:
        if word == "quick":
            chosen.update(QUICK)
        elif word in GATES:
            chosen.add(word)
        else:
            raise ValueError(f"unknown gate {word!r}: not one of quick, {', '.join(GATES)}")
    return tuple(gate for gate in GATES if gate in chosen or not words)


def run_session(session: nox.Session, noxfile: Path) -> None:
    """Be the session `gates`: run what its arguments select, and close with the table.

    Parameters
    ----------
    session : nox.Session
        Its arguments are the words of `select`. It fails for a wrong word, and if one of
        the gates has not passed.
    noxfile : Path
        The file that defines the gates.

    Notes
    -----
    KVPOOL_GATES_JSON names a file that gets the `report`, relative to where nox was started.
    """
    try:
        chosen = select(session.posargs)
    except ValueError as error:
        session.error(str(error))
    outcomes = run(chosen, noxfile)
    if path := os.environ.get("KVPOOL_GATES_JSON"):
        Path(session.invoked_from, path).write_text(report(outcomes), encoding="utf-8")
    print(f"\n{table(outcomes)}", flush=True)
    if not all(outcome.passed for outcome in outcomes):
        session.error(summary(outcomes))
    session.log(summary(outcomes))


def run(gates: Iterable[str], noxfile: Path) -> list[Outcome]:
    """Run gates of a noxfile, every one of them, whatever the others do.

    Parameters
    ----------
    gates : iterable of str
        Names of sessions.
    noxfile : Path
        The file that defines them.

    Returns
    -------
    list of Outcome
        One for each gate, in the order of running.
    """
    notes = _notes(noxfile)
    return [
        replace(_run_one(gate, noxfile), command=f"nox -s {gate}", notes=notes.get(gate, ""))
        for gate in gates
    ]


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a table of gate, result and seconds, one line each."""
    width = max(len("gate"), *(len(outcome.gate) for outcome in outcomes))
    lines = [f"{'gate':<{width}} | result | seconds", f"{'-' * width}-|--------|--------"]
    for outcome in outcomes:
        result = "passed" if outcome.passed else "FAILED"
        lines.append(f"{outcome.gate:<{width}} | {result} | {outcome.seconds:7.1f}")
    return "\n".join(lines)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Say in one line how many of the six gates ran, and which of them failed."""
    failed = [outcome.gate for outcome in outcomes if not outcome.passed]
    ran = f"ran {len(outcomes)} of {len(GATES)} gates"
    if failed:
        return f"{ran}: {len(failed)} failed: {', '.join(failed)}"
    return f"{ran}: all of these passed"


def report(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as JSON for machines.

    ``complete`` says whether all six gates ran, ``passed`` whether those that ran passed.
    """
    return json.dumps(
        {
            "format": 1,
            "complete": {outcome.gate for outcome in outcomes} >= set(GATES),
            "passed": bool(outcomes) and all(outcome.passed for outcome in outcomes),
            "gates": [asdict(outcome) for outcome in outcomes],
        },
        indent=2,
    )


def _notes(noxfile: Path) -> dict[str, str]:
    """Return the first line of the docstring of each session, by the name of the session."""
    found: dict[str, str] = {}
    for one in ast.parse(noxfile.read_text(encoding="utf-8")).body:
        if isinstance(one, ast.FunctionDef):
            given = [
                word.value.value
                for call in one.decorator_list
                if isinstance(call, ast.Call)
                for word in call.keywords
                if word.arg == "name" and isinstance(word.value, ast.Constant)
            ]
            first = (ast.get_docstring(one) or "").partition("\n")[0]
            found[str(given[0]) if given else one.name] = first.removeprefix("Gate: ")
    return found


def _run_one(gate: str, noxfile: Path) -> Outcome:
    print(f"\n=== gate {gate}", flush=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="kvpool-gate-") as scratch:
        verdict = Path(scratch) / "nox.json"
        command = [sys.executable, "-m", "nox", "--noxfile", str(noxfile), "--session", gate]
        command += ["--report", str(verdict)]
        exit_code = subprocess.run(command, check=False).returncode
        success, reason = _read_verdict(verdict)
    passed = success and exit_code == 0
    return Outcome(
        gate, passed, round(time.perf_counter() - start, 1), exit_code, "" if passed else reason
    )


def _read_verdict(path: Path) -> tuple[bool, str]:
    """Return whether nox reported success of every session that it ran, and its reasons."""
    if not path.exists():
        return False, "nox ended without a report"
    sessions = json.loads(path.read_text(encoding="utf-8"))["sessions"]
    others = [one for one in sessions if one["result"] != "success"]
    reasons = [one.get("reason") or one["result"] for one in others]
    if not sessions:
        reasons.append("nox ran nothing")
    return not reasons, "; ".join(reasons)
