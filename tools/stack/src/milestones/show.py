"""What the command line shows: states, plans and errors."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from milestones import settings
from milestones.errors import StackError
from milestones.forge import Command
from milestones.journal import Entry
from milestones.land import Landing, message
from milestones.render import Drift
from milestones.restack import Plan, Push
from milestones.status import MilestoneStatus, StackStatus, State, gates_note
from milestones.undo import UndoPlan

__all__ = [
    "drift",
    "error",
    "journal",
    "landing",
    "line",
    "pushes",
    "restack_plan",
    "status_json",
    "status_tables",
    "undo_plan",
]

_COLOUR = {
    State.MERGED: "magenta",
    State.READY: "green",
    State.DRAFT: "yellow",
    State.PLANNED: "dim",
    State.BLOCKED: "red",
    State.STALE: "yellow",
}


def line(console: Console, text: str) -> None:
    """Print a text as it is: never wrapped, so that commands can be copied."""
    console.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)


def error(problem: StackError) -> None:
    """Print an error, and what to do about it."""
    console = Console(stderr=True, highlight=False)
    console.print(Text(f"error: {problem}", style="red"), soft_wrap=True)
    for text in problem.hint:
        line(console, text)


def restack_plan(console: Console, plan: Plan, against: Sequence[StackError]) -> None:
    """Print what a restack would do, and what speaks against it."""
    name = plan.manifest.stack
    if not plan.segments:
        line(console, f"{name}: every branch sits on what its parent is now")
    for segment in plan.segments:
        for move in segment.moves:
            fork = move.fork
            line(console, f"{move.milestone.key}  {move.milestone.branch} moves onto {move.base}")
            line(console, f"    its own commits begin after {fork.commit[:12]} ({fork.source})")
            for text in move.dropped:
                line(console, f"    left behind, as {move.base} has dropped it: {text}")
        if segment.bystanders:
            names = ", ".join(ref.removeprefix("refs/heads/") for ref in segment.bystanders)
            line(console, f"    left where they are: {names}")
        line(console, f"  $ {shlex.join(['git', *segment.arguments])}")
    for note in plan.notes:
        line(console, note)
    for problem in against if plan.segments else ():
        console.print(Text(f"in the way: {problem}", style="red"), soft_wrap=True)
        for text in problem.hint:
            line(console, f"  {text}")


def pushes(console: Console, needed: Sequence[Push]) -> None:
    """Print the pushes that bring a remote up to date."""
    if needed:
        line(console, "to push, each only if there was no other push since:")
    for one in needed:
        line(console, f"  {one.command}")


def journal(console: Console, entries: Sequence[Entry]) -> None:
    """Print the journal, the newest first."""
    for one in entries:
        state = "" if one.after is not None else "  (did not come to its end)"
        line(console, f"{one.id[:12]}  {one.at}  {one.operation}{state}")
    if not entries:
        line(console, "the journal is empty")


def undo_plan(console: Console, plan: UndoPlan) -> None:
    """Print what an undo would do."""
    entry = plan.entry
    line(console, f"undo of {entry.operation}, of {entry.at} ({entry.id[:12]}):")
    if plan.aborts:
        line(console, "  gives up the rebase that waits, with what was resolved in it")
    for change in plan.changes:
        now, then = (change.now or "nothing")[:12], (change.then or "nothing")[:12]
        mark = "  (has moved since)" if change.ref in plan.moved else ""
        line(console, f"  {change.ref.removeprefix('refs/heads/')}  {now} -> {then}{mark}")
    for name, blob in plan.files.items():
        mark = "  (has changed since)" if name in plan.moved else ""
        line(console, f"  {name}  {'goes away' if blob is None else 'as it was'}{mark}")


def landing(console: Console, plan: Landing, listed: Sequence[Command] | None) -> None:
    """Print the proof, and the commands or, without them, the commit that lands a milestone."""
    key, trunk = plan.milestone.key, plan.trunk.name
    line(console, f"{key} is ready: {plan.status.evidence.text} gates passed")
    line(console, f"squashed onto {trunk} it has the tree {plan.tree[:12]}, as it was verified")
    if note := gates_note(plan.manifest, plan.status):
        line(console, f"{key}: {note}")
    if listed is None:
        subject, body = message(plan.manifest, plan.milestone)
        line(console, f"one commit on {trunk}; {plan.milestone.branch} is deleted:")
        line(console, f"\n{subject}\n\n{body}\n")
    else:
        for command in listed:
            line(console, f"$ {shlex.join(command)}")


def drift(console: Console, found: Drift) -> None:
    """Say that pages are as they should be.

    Raises
    ------
    StackError
        They are not.
    """
    if found.problems:
        again = f"To write the pages anew: {settings.current().command} render"
        raise StackError("\n".join(found.problems), [again])
    unknown = f", {found.not_checked} name commits that are not here" if found.not_checked else ""
    line(console, "the pages are what the records say")
    line(console, f"{found.checked} facts agree with history{unknown}")


def status_tables(console: Console, statuses: Sequence[StackStatus]) -> None:
    """Print a table for each stack, and below it what does not count as a record."""
    for stack in statuses:
        merged = sum(one.state is State.MERGED for one in stack.milestones)
        title = Text.assemble(
            (stack.manifest.stack, "bold"),
            f"  {stack.manifest.title}, {merged} of {len(stack.milestones)} merged",
        )
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
        table.add_column("")
        table.add_column("milestone", ratio=3)
        table.add_column("state")
        table.add_column("gates", max_width=14)
        table.add_column("next step", ratio=4)
        for one in stack.milestones:
            table.add_row(
                one.milestone.position,
                Text(one.milestone.title),
                Text(one.state, style=_COLOUR[one.state]),
                Text(one.evidence.text if one.fact else ""),
                Text(_step(one)),
            )
        console.print(title)
        console.print(table)
        for one in stack.milestones:
            if note := gates_note(stack.manifest, one):
                line(console, f"{one.milestone.key}: {note}")
            for fault in one.evidence.faults:
                console.print(f"{one.milestone.key}: does not count: {fault}", style="red")
        console.print()


def status_json(statuses: Sequence[StackStatus]) -> str:
    """Return all of it as JSON for machines."""
    document = {
        "format": 1,
        "stacks": [
            {
                "stack": stack.manifest.stack,
                "title": stack.manifest.title,
                "milestones": [_entry(one) for one in stack.milestones],
            }
            for stack in statuses
        ],
    }
    return json.dumps(document, indent=2)


def _step(status: MilestoneStatus) -> str:
    """Return the next step; where nothing is to be done, why the state is what it is."""
    if status.todo and status.why and status.why != status.todo:
        return f"{status.todo} ({status.why})"
    return status.todo or status.why


def _entry(status: MilestoneStatus) -> dict[str, Any]:
    one, fact, record = status.milestone, status.fact, status.evidence.record
    return {
        "key": one.key,
        "position": one.position,
        "title": one.title,
        "state": status.state,
        "why": status.why,
        "todo": status.todo,
        "next": one.next,
        "branch": one.branch,
        "parent": one.parent,
        "depends": one.depends,
        "reference": one.reference,
        "pr": one.pr,
        "fact": None
        if fact is None
        else fact.model_dump(mode="json", exclude={"fork_point", "changes"}),
        "evidence": {
            "verdict": status.evidence.verdict,
            "text": status.evidence.text,
            "runs": status.evidence.runs,
            "failures": status.evidence.failures,
            "faults": status.evidence.faults,
            "record": None if record is None else record.model_dump(mode="json"),
        },
    }
