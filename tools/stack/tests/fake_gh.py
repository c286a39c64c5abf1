"""A `gh` that keeps pull requests in a file, and writes down how it is called."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .scratch import Scratch, write_executable

ADDRESS = "https://github.com/owner/project"

# Started hundreds of times: isolated, and without what it seldom needs, it starts in half the time.
_SCRIPT = """#!{python} -IS
import argparse, json, sys

def read(name):
    with open({home!r} + "/" + name) as file:
        return json.load(file)

def write(name, mode, content):
    with open({home!r} + "/" + name, mode) as file:
        print(json.dumps(content), file=file)

write("calls", "a", sys.argv[1:])
state = read("requests.json")
refused = read("refused.json")
what = " ".join(sys.argv[1:3])
if what in refused:
    sys.exit("gh: " + refused[what])
parser = argparse.ArgumentParser()
parser.add_argument("number", nargs="?")
for name in ("head", "base", "title", "body", "json", "state"):
    parser.add_argument("--" + name)
parser.add_argument("--label", "--add-label", action="append", default=[])
parser.add_argument("--draft", action="store_true")
parser.add_argument("--undo", action="store_true")
given = parser.parse_args(sys.argv[3:])
here = [one for one in state if str(one["number"]) == given.number]
if given.number and not here:
    sys.exit("GraphQL: Could not resolve to a PullRequest with the number of " + given.number)
if what == "pr list":
    print(json.dumps([one for one in state if one["head"] == given.head]))
elif what == "pr view":
    print(json.dumps(here[0]))
elif what == "pr create":
    number = 51 + len(state)
    labels = [dict(name=name) for name in given.label]
    import subprocess
    order = ["git", "rev-parse", given.head]
    head = subprocess.run(order, capture_output=True, text=True, check=True).stdout.strip()
    state.append(dict(number=number, head=given.head, headRefOid=head,
                      baseRefName=given.base, title=given.title,
                      body=given.body, isDraft=given.draft, labels=labels, state="OPEN"))
    print("https://github.com/owner/project/pull/%d" % number)
elif what == "pr edit":
    new = dict(baseRefName=given.base, title=given.title, body=given.body)
    here[0].update({{key: value for key, value in new.items() if value is not None}})
    here[0]["labels"] += [dict(name=name) for name in given.label]
elif what == "pr ready":
    here[0]["isDraft"] = given.undo
else:
    sys.exit("gh: unknown command " + what)
write("requests.json", "w", state)
"""


@dataclass(frozen=True)
class FakeGh:
    """The other side: what was called, and the pull requests there."""

    home: Path

    @classmethod
    def install(cls, home: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGh:
        """Put it first on PATH."""
        text = _SCRIPT.format(python=sys.executable, home=str(home))
        write_executable(home / "bin/gh", text)
        (home / "calls").touch()
        fake = cls(home)
        fake.save([])
        fake.refuse({})
        monkeypatch.setenv("PATH", str(home / "bin"), prepend=":")
        return fake

    def calls(self) -> list[list[str]]:
        text = (self.home / "calls").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def changes(self) -> list[list[str]]:
        """Return the calls that do more than ask."""
        return [call for call in self.calls() if call[1] not in ("view", "list")]

    def forget(self) -> None:
        (self.home / "calls").write_text("", encoding="utf-8")

    def requests(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            (self.home / "requests.json").read_text(encoding="utf-8")
        )
        return found

    def save(self, requests: list[dict[str, Any]]) -> None:
        (self.home / "requests.json").write_text(json.dumps(requests), encoding="utf-8")

    def change(self, number: int, **fields: object) -> None:
        """Change a pull request as a reviewer does in a browser."""
        every = self.requests()
        for one in every:
            if one["number"] == number:
                one.update(fields)
        self.save(every)

    def refuse(self, commands: dict[str, str]) -> None:
        """Let commands fail, such as ``pr create``, with a text."""
        (self.home / "refused.json").write_text(json.dumps(commands), encoding="utf-8")


def add_remote(scratch: Scratch, origin: Path) -> None:
    """Give a repository a bare remote that has an address on GitHub."""
    scratch.git("init", "--quiet", "--bare", "--initial-branch", "main", str(origin))
    scratch.git("remote", "add", "origin", f"{ADDRESS}.git")
    scratch.git("config", f"url.{origin}.insteadOf", f"{ADDRESS}.git")
    scratch.git("push", "--quiet", "--set-upstream", "origin", "main")
