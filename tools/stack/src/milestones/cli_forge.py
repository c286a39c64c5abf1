"""The commands that speak with a forge."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer
from rich.console import Console

from milestones import forges, show, submit
from milestones.errors import StackError
from milestones.forge import Forge
from milestones.here import Here
from milestones.journal import Journal
from milestones.land import fetch
from milestones.manifest import Manifest

__all__ = ["register"]

Execute = Annotated[bool, typer.Option("--execute", help="Do it. Without this: only the plan.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("submit")(_submit)


def _submit(
    stacks: Annotated[
        list[str] | None,
        typer.Argument(help="Names of stacks; none: that of the branch that is checked out."),
    ] = None,
    execute: Execute = False,
    draft: Annotated[bool, typer.Option("--draft", help="Every request is a draft.")] = False,
    ready: Annotated[bool, typer.Option("--ready", help="No request is a draft.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Write new numbers into the manifests.")
    ] = False,
    forge: Annotated[
        str, typer.Option(help="The adapter of the forge. [default: that of the settings]")
    ] = "",
) -> None:
    """Open or update the pull request of each milestone of a stack.

    Branches are pushed with a lease. A request is a draft until its milestone is ready.
    """
    if draft and ready:
        raise StackError("either --draft or --ready, not both")
    console, adapter = Console(highlight=False), forges.choose(forge)
    as_draft = draft if draft or ready else None
    here = Here.find()
    names = [one.stack for one in _stacks(here, stacks)]
    if execute and not adapter.obstacle():
        _fetch(here, names)
        here = Here.find()
    journal = Journal(here.git)
    plans = [
        submit.plan(here.git, stack, adapter, journal, draft=as_draft)
        for stack in here.statuses()
        if stack.manifest.stack in names
    ]
    for plan in plans:
        _show(console, plan, adapter, execute=execute and not adapter.obstacle())
        if not execute:
            continue
        with here.git.alone():
            created = submit.execute(here.git, plan, lambda text: show.line(console, f"$ {text}"))
        for key, number in created.items():
            show.line(console, f"{key} is {adapter.reference(number)}")
        if created and write:
            path = submit.write_numbers(here.git.root, plan.stack.manifest, created)
            show.line(console, f"wrote {path.as_posix()}")
    if not execute:
        show.line(console, "nothing was changed; to do it: --execute")


def _stacks(here: Here, names: list[str] | None) -> list[Manifest]:
    return here.chosen(names) if names else [here.found_milestone()[0]]


def _fetch(here: Here, names: list[str]) -> None:
    """Ask every remote that a stack is on."""
    branches = [one.trunk for one in here.chosen(names)]
    branches += [part.branch for one in here.chosen(names) for part in one.milestones]
    known = here.git.lines("remote")
    for remote in sorted({here.git.remote_of(branch) for branch in branches}):
        if remote in known:
            fetch(here.git, remote)


def _show(console: Console, plan: submit.Submission, forge: Forge, *, execute: bool) -> None:
    """Print what a submission leaves out, and its commands unless they are to run now."""
    for note in plan.notes:
        show.line(console, note)
    if execute:
        return
    if obstacle := forge.obstacle():
        show.line(console, f"{obstacle}, so nobody was asked what is there; the commands:")
    listed = [shlex.join(command) for command in submit.commands(plan)]
    for text in listed:
        show.line(console, f"$ {text}")
    if not listed:
        show.line(console, f"{plan.stack.manifest.stack}: the forge is up to date")
