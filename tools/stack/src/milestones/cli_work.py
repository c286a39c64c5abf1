"""The commands that let a milestone rest, and that show what its gates have written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from tomlkit.items import AoT

from milestones import kept, settings, show
from milestones.edits import edit
from milestones.errors import StackError
from milestones.here import Here
from milestones.manifest import Milestone, load_all

__all__ = ["register"]

Key = Annotated[str | None, typer.Argument(help="STACK/N; none: that of the branch here.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("pause")(_pause)
    app.command("resume")(_resume)
    app.command("logs")(_logs)


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
        Path | None, typer.Option(help="Write every file there. [default: print the log]")
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
