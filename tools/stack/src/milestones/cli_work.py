"""The commands that let a milestone rest, and that read, make and take its records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from tomlkit.items import AoT

from milestones import attest, kept, settings, show, signing
from milestones.edits import edit
from milestones.errors import StackError
from milestones.git import Git
from milestones.here import Here
from milestones.manifest import Milestone, load_all
from milestones.records import to_page

__all__ = ["register"]

Key = Annotated[str | None, typer.Argument(help="STACK/N; none: that of the branch here.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("pause")(_pause)
    app.command("resume")(_resume)
    app.command("logs")(_logs)
    app.command("record")(_record)
    app.command("take")(_take)


def _pause(
    why: Annotated[str, typer.Argument(help="Why it rests, in a line.")],
    milestone: Key = None,
    until: Annotated[str, typer.Option(help="What it waits for.")] = "",
) -> None:
    """Let a milestone rest: write into the manifest why, and what it waits for."""
    one = _chosen(Here.find(), milestone)
    _write(one, {"paused": why.strip(), "until": until.strip()})
    waits = f" until {until.strip()}" if until.strip() else ""
    show.line(Console(highlight=False), f"{one.key} is paused{waits}: {why.strip()}")


def _resume(milestone: Key = None) -> None:
    """Take a milestone up again that was paused."""
    one = _chosen(Here.find(), milestone)
    if one.paused is None:
        raise StackError(f"{one.key} is not paused")
    _write(one, {"paused": "", "until": ""})
    show.line(Console(highlight=False), f"{one.key} goes on; it was paused: {one.paused}")


def _logs(
    milestone: Key = None,
    to: Annotated[
        Path | None, typer.Option(help="Write every file there. \\[default: print the log]")
    ] = None,
) -> None:
    """Show what the gates of a milestone have written, as it was kept with the record."""
    here = Here.find()
    one = _chosen(here, milestone)
    statuses = {each.milestone.key: each for stack in here.statuses() for each in stack.milestones}
    record = statuses[one.key].evidence.record
    if record is None or not record.files:
        raise StackError(f"{one.key} has no record that files were kept with")
    files = kept.read(here.git, record.digest, record.files)
    if to is None:
        sys.stdout.write(files["log"].decode("utf-8", "replace"))
        return
    to.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (to / name).write_bytes(content)
        show.line(Console(highlight=False), f"wrote {to / name}")


def _record(
    results: Annotated[Path, typer.Option(help="The results of the script, JSON.")],
    log: Annotated[Path, typer.Option(help="All that the script has written.")],
    started: Annotated[str, typer.Option(help="When it began, 2026-05-06T07:08:09Z.")],
    to: Annotated[Path, typer.Option(help="The file to write the record to.")],
    branch: Annotated[
        str, typer.Option(help="The branch that tells the milestone. \\[default: what is here]")
    ] = "",
    commit: Annotated[
        str, typer.Option(help="The commit that was proved; its tree is what is checked out.")
    ] = "HEAD",
    key: Annotated[Path | None, typer.Option(help="A private key to sign it with.")] = None,
) -> None:
    """Make a record of gates that ran here, in the checkout, as in CI; sign it if there is a key.

    Where no milestone is checked out there is nothing to record, and that is said.
    """
    console, git = Console(highlight=False), Git.at(Path.cwd())
    name = branch or git.head().removeprefix("refs/heads/")
    milestone = attest.milestone_of(git, load_all(git.root), name, "HEAD")
    if milestone is None:
        show.line(console, f"no record: {name} is the branch of no milestone")
        return
    record = attest.attest(git, milestone, commit, results, log, started)
    if key is not None:
        record = signing.sign(record, key)
    to.write_text(to_page(record), encoding="utf-8", newline="\n")
    signed = "signed" if key is not None else "not signed"
    show.line(console, f"wrote {to}: {milestone}, {len(record.passed)} gates passed, {signed}")


def _take(
    files: Annotated[list[Path], typer.Argument(help="Records, as `record` has written them.")],
) -> None:
    """Add records that were made elsewhere to the notes, as far as nothing speaks against them."""
    git = Git.at(Path.cwd())
    for path in files:
        record = attest.take(git, path)
        text = f"took {record.digest[:12]} of {record.milestone}, of {record.commit[:12]}"
        show.line(Console(highlight=False), text)


def _chosen(here: Here, key: str | None) -> Milestone:
    every = {one.key: one for manifest in here.stacks.values() for one in manifest.milestones}
    key = here.checked_out() if key is None else key
    if key not in every:
        raise StackError(f"there is no milestone {key!r}; there are {', '.join(every)}")
    return every[key]


def _write(one: Milestone, values: dict[str, str]) -> None:
    """Write keys of a milestone into its manifest; an empty one goes, a bad one is refused."""
    root, stack = Here.find().git.root, one.key.partition("/")[0]
    path = root / settings.current().directory / f"{stack}.toml"
    before = path.read_bytes()

    def change(tables: AoT) -> None:
        for table in tables:
            if int(table["id"]) == one.id:
                for key, value in values.items():
                    table.pop(key, None)
                    if value:
                        table[key] = value

    edit(root, stack, change)
    try:
        load_all(root)
    except StackError:
        path.write_bytes(before)
        raise
