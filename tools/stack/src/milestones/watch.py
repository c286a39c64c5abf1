"""What is shown of a verification while it goes on."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from milestones import settings
from milestones.verify import Job, Outcome

__all__ = ["Watch", "is_good", "outcome_line"]


def is_good(outcome: Outcome) -> bool:
    """Return whether all gates passed that were asked for."""
    record = outcome.record
    return record is not None and (record.green or (record.scope == "quick" and not record.failed))


def outcome_line(outcome: Outcome) -> Text:
    """Say in a line what verifying a milestone came to."""
    key, record = outcome.job.milestone.key, outcome.record
    if record is None:
        return Text.assemble((f"{key}  not verified: ", "red"), str(outcome.error))
    passed = f"{len(record.passed)}/{len(settings.current().gates)} gates passed"
    words = [passed, *(f"{one} failed" for one in record.failed)]
    if record.scope == "quick":
        words.append("quick, so this proves nothing")
    if taken := [one.gate for one in record.gates if one.reused is not None]:
        words.append(f"taken from earlier runs: {' '.join(taken)}")
    words.append("recorded before" if outcome.reused else f"{record.seconds:.0f} s")
    return Text.assemble((key, "green" if is_good(outcome) else "red"), f"  {', '.join(words)}")


def _left(job: Job, gate: str | None = None) -> list[str]:
    """Return the gates that are still to run, from one on."""
    every = settings.current().gates
    start = 0 if gate is None else every.index(gate)
    return [one for one in every[start:] if one not in job.reusable or one == gate]


def _expected(job: Job, gate: str) -> str:
    """Say how long a gate took when it last ran, and how long all that is left may take."""
    if gate not in settings.current().gates or gate not in job.lasted:
        return ""
    if job.quick:  # how many gates that is, the script decides
        return f", last time {job.lasted[gate]:.0f} s"
    left = _left(job, gate)
    known = [job.lasted[one] for one in left if one in job.lasted]
    more = "" if len(known) == len(left) else " or more"
    return f", last time {job.lasted[gate]:.0f} s; about {sum(known):.0f} s{more} to the end"


class Watch:
    """Shows which gate each milestone is at; as lines, if the output is not a terminal.

    Parameters
    ----------
    console : Console
        Where to show it.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def begin(self, job: Job) -> None:
        """Tell that the gates of a milestone begin."""
        key = job.milestone.key
        text = f"{key}  {job.fact.commit[:12]}, environments"
        self._tasks[key] = self._progress.add_task(text, total=None)
        known = [job.lasted[one] for one in _left(job) if one in job.lasted]
        whole = f", about {sum(known):.0f} s by the last runs" if known and not job.quick else ""
        self._line(f"{key}  begins at {job.fact.commit[:12]}{whole}")
        for gate, one in job.reusable.items():
            self._line(f"{key}  {gate}: not again, its inputs are those of {str(one.reused)[:12]}")

    def at_gate(self, job: Job, gate: str) -> None:
        """Tell that one gate begins."""
        key = job.milestone.key
        every = settings.current().gates
        number = f" ({every.index(gate) + 1}/{len(every)})" if gate in every else ""
        expected = _expected(job, gate)
        self._ended(job)
        self._begun[key] = gate, time.monotonic()
        self._progress.update(self._tasks[key], description=f"{key}  {gate}{number}{expected}")
        self._line(f"{key}  {gate}{expected}")

    def end(self, outcome: Outcome) -> None:
        """Tell what a milestone came to."""
        self._ended(outcome.job)
        task = self._tasks.pop(outcome.job.milestone.key, None)
        if task is not None:
            self._progress.remove_task(task)
        self.console.print(outcome_line(outcome), soft_wrap=True)
        for line in outcome.error.hint if outcome.error else ():
            self.console.print(line, soft_wrap=True, markup=False)

    def _ended(self, job: Job) -> None:
        """Tell how long the gate before took."""
        gate, begun = self._begun.pop(job.milestone.key, ("", 0.0))
        if gate:
            self._line(f"{job.milestone.key}  {gate}: {time.monotonic() - begun:.1f} s")

    def _line(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(text, soft_wrap=True, markup=False, highlight=False)
