"""The commands that speak with a forge."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from milestones import forges, replay, show, submit, sync
from milestones.errors import StackError
from milestones.forge import Forge
from milestones.here import Here
from milestones.journal import Journal
from milestones.manifest import Manifest

__all__ = ["Adapter", "register"]

Execute = Annotated[bool, typer.Option("--execute", help="Do it. Without this: only the plan.")]
Adapter = Annotated[
    str, typer.Option("--forge", help="The adapter of the forge. \\[default: that of the settings]")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("submit")(_submit)
    app.command("sync")(_sync)


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
    forge: Adapter = "",
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
        sync.fetch_all(here.git, here.chosen(names))
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
            created = submit.execute(here.git, plan, partial(_say, console))
        for key, number in created.items():
            show.line(console, f"{key} is {adapter.reference(number)}")
        if created and write:
            path = submit.write_numbers(here.git.root, plan.stack.manifest, created)
            show.line(console, f"wrote {path.as_posix()}")
    if not execute:
        show.line(console, "nothing was changed; to do it: --execute")


def _stacks(here: Here, names: list[str] | None) -> list[Manifest]:
    return here.chosen(names) if names else [here.found_milestone()[0]]


def _sync(
    stacks: Annotated[list[str] | None, typer.Argument(help="Names of stacks; none: all.")] = None,
    execute: Execute = False,
) -> None:
    """Fetch, move what has to follow, and push what is on the remote already, with leases.

    Without --execute it fetches and shows the plan; no branch is changed.
    """
    console, here = Console(highlight=False), Here.find()
    manifests, before = here.chosen(stacks), here.facts
    sync.fetch_all(here.git, manifests)
    here = Here.find()
    journal = Journal(here.git)
    plan = sync.plan(here.git, manifests, before, here.facts)
    _show_sync(console, plan, sync.obstacles(here.git, plan, here.facts, journal), execute=execute)
    if not execute:
        show.pushes(console, sync.pushes(here.git, plan, here.facts))
        show.line(console, "no branch was changed; to do it: --execute")
        return
    with here.git.alone():
        say = partial(_say, console)
        sync.execute(here.git, plan, here.facts, journal, say)
        here = Here.find()
        sync.push(here.git, sync.pushes(here.git, plan, here.facts), say)
    if plan.trunks or any(one.moves for one in plan.plans):
        show.line(console, f"done; to take it back here: {replay.way_back()}")


def _say(console: Console, text: str) -> None:
    show.line(console, f"$ {text}")


def _show_sync(
    console: Console, plan: sync.Sync, against: Sequence[StackError], *, execute: bool
) -> None:
    """Print what a sync has found, and what it moves."""
    for key, commit in plan.landed.items():
        show.line(console, f"{key} has landed as {commit[:12]}")
    for one in plan.trunks:
        name, then = one.ref.removeprefix("refs/heads/"), (one.then or "")[:12]
        show.line(console, f"{name} follows its remote to {then}")
    for part in plan.plans:
        show.restack_plan(console, part, ())
    for branch in plan.left:
        show.line(console, f"{branch} is merged, and not needed any more: git branch -D {branch}")
    for problem in () if execute else against:
        show.line(console, f"in the way: {problem}")
        for text in problem.hint:
            show.line(console, f"  {text}")


def _show(console: Console, plan: submit.Submission, forge: Forge, *, execute: bool) -> None:
    """Print what a submission leaves out, and its commands unless they are to run now."""
    for note in plan.notes:
        show.line(console, note)
    if execute:
        return
    if obstacle := forge.obstacle():
        show.line(console, f"{obstacle}, so no forge was asked what is there; the commands:")
    listed = [shlex.join(command) for command in submit.commands(plan)]
    for text in listed:
        show.line(console, f"$ {text}")
    if not listed:
        show.line(console, f"{plan.stack.manifest.stack}: the forge is up to date")
