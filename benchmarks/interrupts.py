"""Whether sessions survive interrupts: random calls of a manager, interrupted at random places.

A KeyboardInterrupt or a MemoryError is raised at a place inside kvpool at which the interpreter
could raise it. After each call the books are proved, every token is compared, and at the end all
bytes are free and the sealed ledger verifies. ``nox -s nightly``, or $KVPOOL_NIGHTLY, asks for
50,000 interrupts.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Report, Target, median
from tests.support.interrupted import POOLS, InterruptedSessions

NIGHTLY = "KVPOOL_NIGHTLY"
QUICK, USUAL, ALL_NIGHT = 200, 2_000, 50_000
STEPS = 150  # calls of one manager, and so of one ledger


def run(quick: bool) -> Report:
    """Interrupt calls on every kind of pool until there were enough interrupts."""
    wanted = ALL_NIGHT if os.environ.get(NIGHTLY) else USUAL
    if quick:
        wanted = QUICK
    report = Report("interrupted calls")
    pools = POOLS if sys.platform == "linux" else POOLS[:1]
    done, places, violations = 0, set[str](), list[str]()
    hook, sys.unraisablehook = sys.unraisablehook, id  # the end of a view may be interrupted
    try:
        for seed, (backend, elastic) in zip(itertools.count(), itertools.cycle(pools)):
            if done >= wanted or len(violations) > 10:
                break
            done += interrupted(backend, elastic, seed, places, violations)
    finally:
        sys.unraisablehook = hook
    report.measurements += [
        median("interrupts", "all", "", [done], Target(wanted, at_most=False)),
        median("places", "all", "", [len(places)]),
        median("violations", "all", "", [len(violations)], Target(0, at_most=True)),
    ]
    report.notes += violations
    return report


def interrupted(
    backend: str, elastic: bool, seed: int, places: set[str], violations: list[str]
) -> int:
    """Return how many calls of one manager were interrupted; note where, and what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        sessions = InterruptedSessions(backend, elastic, seed, Path(folder, "ledger.jsonl"))
        try:
            for _ in range(STEPS):
                sessions.step()
            sessions.close()
        except Exception as error:
            notes = "; ".join(getattr(error, "__notes__", []))
            violations.append(f"{backend}, seed {seed}: {type(error).__name__}: {error}; {notes}")
        places |= sessions.places
    return sessions.interruptions
