"""The command line. It reads arguments and shows results; all else is in the other rooms."""

from __future__ import annotations

import inspect
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from milestones import (
    cli_forge,
    cli_shape,
    cli_work,
    forges,
    handover,
    replay,
    restack,
    settings,
    show,
    signing,
    sync,
    undo,
    walk,
    watch,
)
from milestones import land as landing
from milestones import render as rendering
from milestones import verify as verifying
from milestones.errors import StackError
from milestones.evidence import Store
from milestones.git import Git
from milestones.here import Here, root_and_git
from milestones.journal import Journal
from milestones.manifest import load_all

__all__ = ["app", "every_command", "main"]

app = typer.Typer(
    name="stack",
    help="Stacks of milestones, each proved by its gates. What moves a branch is a dry run first.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


Stacks = Annotated[list[str] | None, typer.Argument(help="Names of stacks; none: all.")]
Execute = Annotated[bool, typer.Option("--execute", help="Do it. Without this: only the plan.")]


def main() -> None:
    """Run the tool; an error is shown without a traceback, with what to do about it."""
    try:
        app()
    except StackError as error:
        show.error(error)
        sys.exit(1)


@app.command()
def status(
    stacks: Stacks = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show how far each milestone is, and what comes next."""
    here = Here.find()
    chosen = here.chosen(stacks)
    statuses = [one for one in here.statuses() if one.manifest in chosen]
    if as_json:
        sys.stdout.write(show.status_json(statuses) + "\n")
    else:
        show.status_tables(Console(highlight=False), statuses)


@app.command()
def verify(
    milestones: Annotated[list[str] | None, typer.Argument(help="Milestones or stacks.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every milestone that is there.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Three of six; proves nothing.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Even if there is a record.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="How many milestones at once.")] = 1,
) -> None:
    """Run the six gates of milestones, each in a worktree of its own, and record that.

    Without a name: the milestone whose branch is checked out.
    """
    here, console = Here.find(), Console(highlight=False)
    if every and milestones:
        raise StackError(f"either --all or names, not both: {' '.join(milestones)}")
    names = [] if every else milestones or [here.checked_out()]
    planned = verifying.plan(here.git, here.stacks, here.facts, names, here.today)
    here_too = any(job.fact.commit == here.git.commit("HEAD") for job in planned)
    for line in here.git.changes() if here_too else ():
        show.line(console, f"not committed, so not verified: {line[3:]}")
    try:
        with watch.Watch(console) as watching:
            outcomes = verifying.verify(
                here.git, planned, here.found(), watching, quick=quick, again=again, parallel=jobs
            )
    except KeyboardInterrupt:
        show.line(console, "interrupted: processes are ended, worktrees removed")
        raise typer.Exit(130) from None
    raise typer.Exit(0 if all(watch.is_good(one) for one in outcomes) else 1)


@app.command("restack")
def restack_(stacks: Stacks = None, execute: Execute = False) -> None:
    """Move branches onto what their parent is now, after it was merged or amended."""
    here, console = Here.find(), Console(highlight=False)
    for manifest in here.chosen(stacks):
        journal = Journal(here.git)
        plan = restack.plan(here.git, manifest, here.facts)
        if execute and not here.git.rebase_in_progress():
            absorbed = [f"absorb {one.key}" for one in manifest.milestones]
            journal.settle(f"restack {manifest.stack}", sync.OPERATION, *absorbed)
        show.restack_plan(console, plan, restack.obstacles(here.git, plan, journal))
        if plan.segments and execute:
            with here.git.alone():
                replay.execute(
                    here.git, plan, journal, lambda text: show.line(console, f"$ {text}")
                )
            for move in plan.moves:
                show.line(console, f"\n{move.milestone.branch}, before and after:")
                show.line(console, replay.range_diff(here.git, move))
            show.line(console, f"\ndone; to take it back: {replay.way_back()}")
        elif plan.segments:
            show.line(console, "nothing was changed; to do it: --execute")
        if execute or not plan.segments:
            show.pushes(console, restack.pushes(here.git, manifest, here.facts))


@app.command("undo")
def undo_(
    execute: Execute = False,
    entry: Annotated[str | None, typer.Option(help="The id of an entry of the journal.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Even what came after.")] = False,
    list_all: Annotated[bool, typer.Option("--list", help="Show the journal.")] = False,
) -> None:
    """Bring every branch back to where it was before the last command that moved one."""
    git, console = Git.at(Path.cwd()), Console(highlight=False)
    journal = Journal(git)
    if list_all:
        show.journal(console, journal.entries())
        return
    plan = undo.plan(git, journal, entry)
    show.undo_plan(console, plan)
    if execute:
        with git.alone():
            undo.execute(git, plan, journal, force=force)
        show.line(console, f"done; {git.head().removeprefix('refs/heads/')} is checked out")
    else:
        show.line(console, "nothing was changed; to do it: --execute")


@app.command()
def land(
    milestone: Annotated[str, typer.Argument(help="The milestone, as STACK/N.")],
    execute: Execute = False,
    local: Annotated[bool, typer.Option("--local", help="On the local trunk, no forge.")] = False,
    forge: cli_forge.Adapter = "",
) -> None:
    """Prove that the squash of a milestone is what was verified, and merge it."""
    here, console = Here.find(), Console(highlight=False)
    statuses = {one.milestone.key: one for stack in here.statuses() for one in stack.milestones}
    plan = landing.plan(here.git, here.stacks, statuses, milestone)
    adapter = None if local else forges.choose(forge)
    show.landing(console, plan, landing.commands(plan, adapter) if adapter else None)
    if not execute:
        show.line(console, "nothing was changed; to do it: --execute")
        return
    journal, say = Journal(here.git), partial(show.line, console)
    with here.git.alone():
        if adapter is None:
            landing.squash(here.git, plan, journal, say)
        else:
            landing.run_forge(here.git, plan, adapter, journal, say)
    if plan.children:
        show.line(console, f"next: {settings.current().command} restack {plan.manifest.stack}")


@app.command()
def render(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail on drift.")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask git and the notes.")] = False,
) -> None:
    """Write the pages of docs/stack from the manifests and the records beside them."""
    root, git = root_and_git()
    stacks, console = load_all(root), Console(highlight=False)
    if check:
        show.drift(console, rendering.check(root, stacks, git, every_command()))
        return
    if refresh:
        if git is None:
            raise StackError(f"{root} is in no git repository, so there is nothing to ask")
        rendering.refresh(git, stacks)
    for path in rendering.write(root, stacks, every_command()):
        show.line(console, f"wrote {path.as_posix()}")


def every_command() -> list[tuple[str, str]]:
    """Return every command with the first line of its help, for the page of the status."""
    found: list[tuple[str, str]] = []
    for one in app.registered_commands:
        if one.callback is not None:
            name = one.name or one.callback.__name__.strip("_")
            found.append((name, inspect.getdoc(one.callback) or ""))
    return sorted((name, text.partition("\n")[0]) for name, text in found)


@app.command()
def log(stacks: Stacks = None) -> None:
    """Show each stack as a tree: branches, states and gates; the trunk is at the bottom."""
    here, console = Here.find(), Console(highlight=False)
    chosen, head = here.chosen(stacks), here.git.head().removeprefix("refs/heads/")
    for stack in here.statuses():
        if stack.manifest in chosen:
            show.line(console, f"{stack.manifest.stack}  {stack.manifest.title}")
            for text in walk.log(stack, head):
                show.line(console, text)


@app.command()
def up() -> None:
    """Check out the branch that is based on the one that is checked out, or on the trunk."""
    here = Here.find()
    head = here.git.head().removeprefix("refs/heads/")
    if head in {one.trunk for one in here.stacks.values()}:
        _switch(here, walk.lowest(here.stacks.values(), head, here.facts).branch)
        return
    manifest, milestone = here.found_milestone()
    _switch(here, walk.above(manifest, milestone, here.facts).branch)


@app.command()
def down() -> None:
    """Check out the branch that the one that is checked out is based on."""
    here = Here.find()
    manifest, milestone = here.found_milestone()
    lower = walk.below(manifest, milestone, here.facts)
    _switch(here, manifest.trunk if lower is None else lower.branch)


def _switch(here: Here, branch: str) -> None:
    if here.git.commit(f"refs/heads/{branch}") is None:
        raise StackError(f"{branch} is not here", [f"git switch {branch}"])
    here.git.go_to(f"refs/heads/{branch}")
    show.line(Console(highlight=False), f"{branch} is checked out")


@app.command()
def sign(
    key: Annotated[Path, typer.Argument(help="A PEM file with an Ed25519 private key.")],
    milestones: Annotated[list[str] | None, typer.Argument(help="None: every one.")] = None,
) -> None:
    """Sign the records of milestones: say that you vouch for these runs of the gates."""
    here, console = Here.find(), Console(highlight=False)
    every = {one.milestone.key: one for stack in here.statuses() for one in stack.milestones}
    for name in milestones or ():
        if name not in every:
            raise StackError(f"there is no milestone {name!r}; there are {', '.join(every)}")
    for name in milestones or every:
        evidence = every[name].evidence
        if evidence.record is not None and evidence.verdict == "green":
            signed = signing.sign(evidence.record, key)
            Store(here.git).add(signed)
            show.line(console, f"{name}: signed {signed.digest[:12]}")
        elif milestones:
            raise StackError(f"{name} has no green record to sign: {evidence.text}")


@app.command("fork-points")
def fork_points(
    stacks: Stacks = None,
    write: Annotated[bool, typer.Option("--write", help="Into the manifests.")] = False,
) -> None:
    """Show where each branch left its parent, to hand a stack over to another clone."""
    here, console = Here.find(), Console(highlight=False)
    for manifest in here.chosen(stacks):
        points = handover.fork_points(here.git, manifest, here.facts)
        for number, fork in points.items():
            show.line(console, f"{manifest.stack}/{number}  {fork.commit}  ({fork.source})")
        if write and points:
            path = handover.write(here.git.root, manifest, points)
            show.line(console, f"wrote {path.as_posix()}")


cli_forge.register(app)
cli_shape.register(app)
cli_work.register(app)
