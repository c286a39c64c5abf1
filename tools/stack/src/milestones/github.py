"""GitHub, through its command `gh`."""

from __future__ import annotations

import re
import shutil
from typing import Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from milestones.errors import StackError
from milestones.forge import Command, Forge, Request, Standing, hookimpl, run
from milestones.git import Git

__all__ = ["GitHub", "milestones_forges"]

_FIELDS = "number,state,isDraft,baseRefName,title,body,labels,headRefOid"


class _Label(BaseModel):
    name: str


class _Told(BaseModel):
    """What `gh` says of a pull request. All of it has to be there."""

    number: int
    state: Literal["OPEN", "CLOSED", "MERGED"]
    draft: bool = Field(alias="isDraft")
    base: str = Field(alias="baseRefName")
    title: str
    body: str
    labels: list[_Label]
    head: str = Field(alias="headRefOid")

    def standing(self) -> Standing:
        state: dict[str, Literal["open", "closed", "merged"]] = {
            "OPEN": "open",
            "CLOSED": "closed",
            "MERGED": "merged",
        }
        labels = tuple(one.name for one in self.labels)
        body = self.body.replace("\r\n", "\n")  # as an edit in a browser leaves it
        return Standing(
            self.number,
            state[self.state],
            self.base,
            self.title,
            body,
            self.draft,
            labels,
            self.head,
        )


class GitHub:
    """The adapter for GitHub."""

    name = "gh"

    def obstacle(self) -> str:
        """Return why the forge cannot be asked from here; empty if it can."""
        return "" if shutil.which("gh") else "gh is not at hand"

    def look(self, git: Git, branch: str, number: int | None) -> Standing | None:
        """Ask for the pull request of a branch; of several, the open one, then the newest.

        Raises
        ------
        StackError
            `gh` failed, or its answer is not what is asked for.
        """
        if number is not None:
            view = ["gh", "pr", "view", str(number), "--json", _FIELDS]
            return _parsed(view, f"[{run(git, view)}]")[0]
        order = ["gh", "pr", "list", "--head", branch, "--state", "all", "--json", _FIELDS]
        found = _parsed(order, run(git, order))
        best = sorted(found, key=lambda one: (one.state == "open", one.number))
        return best[-1] if best else None

    def open(self, wanted: Request) -> list[Command]:
        """Return what opens a pull request."""
        order = ["gh", "pr", "create", "--head", wanted.branch, "--base", wanted.base]
        order += ["--title", wanted.title, "--body", wanted.body]
        order += ["--draft"] if wanted.draft else []
        for label in wanted.labels:
            order += ["--label", label]
        return [order]

    def number(self, said: str) -> int | None:
        """Return the number of a new pull request: `gh` writes its address last."""
        found = re.findall(r"/pull/(\d+)\s*$", said)
        return int(found[-1]) if found else None

    def retarget(self, number: int, base: str) -> list[Command]:
        """Return what gives a pull request another base."""
        return [["gh", "pr", "edit", str(number), "--base", base]]

    def change(self, wanted: Request, standing: Standing) -> list[Command]:
        """Return what makes the rest of a pull request as it is to be; nothing if it is so."""
        name, edits = str(standing.number), list[str]()
        edits += ["--title", wanted.title] if wanted.title != standing.title else []
        edits += ["--body", wanted.body] if wanted.body != standing.body else []
        for label in wanted.labels:
            edits += ["--add-label", label] if label not in standing.labels else []
        orders: list[Command] = [["gh", "pr", "edit", name, *edits]] if edits else []
        if wanted.draft != standing.draft:
            orders.append(["gh", "pr", "ready", name, *(["--undo"] if wanted.draft else [])])
        return orders

    def wait(self, name: str) -> list[Command]:
        """Return what waits for the checks of a pull request."""
        return [["gh", "pr", "checks", name, "--watch"]]

    def merge(self, name: str, tip: str, subject: str, body: str) -> list[Command]:
        """Return what squashes a pull request, bound to the commit that was proved."""
        order = ["gh", "pr", "merge", name, "--squash", "--delete-branch"]
        return [[*order, "--match-head-commit", tip, "--subject", subject, "--body", body]]

    def link(self, address: str, branch: str, path: str) -> str:
        """Return the address of a file as it is on a branch."""
        return f"{address}/blob/{branch}/{path}" if address else ""

    def reference(self, number: int) -> str:
        """Return how the text of a pull request refers to another one."""
        return f"#{number}"


@hookimpl
def milestones_forges() -> list[Forge]:
    """Return the adapters of this plugin."""
    return [GitHub()]


def _parsed(command: Command, said: str) -> list[Standing]:
    try:
        told = TypeAdapter(list[_Told]).validate_json(said)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"][1:]))
        raise StackError(
            f"{' '.join(command[:4])}: the answer is not as expected: {key} {first['msg']}",
            ["gh --version says how old it is; this needs 2.20 or later."],
        ) from error
    return [one.standing() for one in told]
