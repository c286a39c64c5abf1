"""The commands that change what a stack consists of."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from milestones import absorb, replay, reshape, settings, show
from milestones.here import Here
from milestones.journal import Journal

__all__ = ["register"]

Execute = Annotated[bool, typer.Option("--execute", help="Do it. Without this: only the plan.")]
Title = Annotated[str, typer.Option(help="The title of the new milestone.")]
Branch = Annotated[str, typer.Option(help="The branch of the new milestone.")]
Scope = Annotated[
    list[str] | None, typer.Option(help="What it contains; once for each line. \\[default: title]")
]
Next = Annotated[
    str, typer.Option("--next", help="What comes after it. \\[default: the title of that]")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("insert")(_insert)
    app.command("split")(_split)
    app.command("absorb")(_absorb)


def _insert(
    after: Annotated[str, typer.Argument(help="The milestone below, as STACK/N; STACK/0: none.")],
    title: Title,
    branch: Branch,
    scope: Scope = None,
    following: Next = "",
    execute: Execute = False,
) -> None:
    """Put a new milestone after another one; what was based on that is based on the new one.

    Its branch is made, and the manifests and pages in the working tree follow. Commit these.
    """
    here = Here.find()
    described = reshape.Description(title, branch, tuple(scope or [title]), following)
    plan = reshape.insert(here.git, here.stacks, here.facts, after, described)
    _carry_out(here, plan, execute=execute)


def _split(
    milestone: Annotated[str, typer.Argument(help="The milestone, as STACK/N.")],
    at: Annotated[str, typer.Option(help="The last commit of the lower part.")],
    title: Title,
    branch: Branch,
    scope: Scope = None,
    following: Next = "",
    execute: Execute = False,
) -> None:
    """Make two milestones of one: what it has up to a commit becomes a new one below it.

    The rest keeps branch, title and pull request. No branch moves. Commit the manifest.
    """
    here = Here.find()
    described = reshape.Description(title, branch, tuple(scope or [title]), following)
    plan = reshape.split(here.git, here.stacks, here.facts, milestone, at, described)
    _carry_out(here, plan, execute=execute)


def _absorb(
    into: Annotated[
        str,
        typer.Option(help="The milestone, as STACK/N. \\[default: that whose lines it changes]"),
    ] = "",
    message: Annotated[
        str, typer.Option("--message", "-m", help="Of the commit. \\[default: names the title]")
    ] = "",
    execute: Execute = False,
) -> None:
    """Make what is staged a commit of the milestone whose lines it changes, and move what is above.

    It refuses if the lines belong to the trunk or to several milestones.
    """
    here, console = Here.find(), Console(highlight=False)
    manifest, milestone = here.found_milestone()
    journal = Journal(here.git)
    plan = absorb.plan(
        here.git, manifest, milestone, here.facts, journal, into=into, message=message
    )
    key, branch = plan.milestone.key, plan.milestone.branch
    show.line(console, f"{', '.join(plan.files)}: a commit of {key}, on {branch}")
    show.restack_plan(console, plan.above, ())
    if not execute:
        show.line(console, "nothing was changed; to do it: --execute")
        return
    with here.git.alone():
        absorb.execute(here.git, plan, journal, lambda text: show.line(console, f"$ {text}"))
    show.line(console, f"done; to take it back: {replay.way_back()}")


def _carry_out(here: Here, plan: reshape.Reshaping, *, execute: bool) -> None:
    console, tool = Console(highlight=False), settings.current().command
    branch = next((one for one in plan.changes if one.ref.startswith("refs/heads/")), None)
    if branch is None:
        show.line(console, f"{plan.key} is planned: what is below has no branch yet")
    else:
        name = branch.ref.removeprefix("refs/heads/")
        show.line(console, f"{plan.key} is {name}, at {plan.start[:12]}")
    for old, new in plan.renamed.items():
        show.line(console, f"{old} becomes {new}")
    for key in plan.based:
        show.line(console, f"{key} is based on {plan.key}")
    for path, text in plan.files.items():
        show.line(console, f"{'removes' if text is None else 'writes'} {path.as_posix()}")
    if not execute:
        show.line(console, "nothing was changed; to do it: --execute")
        return
    with here.git.alone():
        reshape.execute(here.git, plan, Journal(here.git))
    show.line(console, f"done; to take it back: {replay.way_back()}")
    show.line(console, f"next: {tool} render --refresh, then commit that")
