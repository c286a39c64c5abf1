"""What a stack is: the manifests of `docs/stack`, read and checked.

Each ``docs/stack/NAME.toml`` describes one stack. A problem names file, key and line, and all
problems of all files are reported at once.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from milestones import lines, settings
from milestones.errors import StackError

__all__ = [
    "Exclusion",
    "Manifest",
    "ManifestError",
    "Milestone",
    "Phase",
    "Problem",
    "exclusions_in",
    "load_all",
    "needed_by",
    "schema",
]

Line = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Key = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*/[1-9][0-9]*$")]
Branch = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+([./-]?[A-Za-z0-9_]+)*$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Number = Annotated[int, Field(ge=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Exclusion(_Table):
    """A test that `verify` leaves out at one milestone, until a day."""

    test: Annotated[str, Field(pattern=r"^\S.*::.*\S$")] = Field(
        description="The pytest node id of one test, as tests/test_pool.py::test_name."
    )
    reason: Line = Field(description="Why it is left out.")
    expires: date = Field(description="The first day on which the exclusion no longer holds.")


class Phase(_Table):
    """A part of a milestone; it is done when a commit has the trailer ``Phase: N``."""

    title: Line = Field(description="A few words.")
    scope: list[Line] = Field([], description="What it contains, one line each.")


class Milestone(_Table):
    """One reviewable step of a stack."""

    id: Number = Field(description="Its position in the stack, from 1.")
    title: Line = Field(description="A few words; the subject of its pull request.")
    branch: Branch = Field(description="The branch it is worked on.")
    parent: Line = Field(description="The trunk, or the milestone of this stack it is based on.")
    fork_point: Commit | None = Field(
        None, description="The commit of the parent that the branch was last based on."
    )
    issue: Number | None = Field(None, description="The issue that it is a part of.")
    pr: Number | None = Field(None, description="Its pull request.")
    labels: list[Line] = Field([], description="Labels of its pull request.")
    scope: list[Line] = Field(min_length=1, description="What it contains, one line each.")
    depends: list[Key] = Field([], description="Milestones of other stacks that it needs.")
    next: Line = Field(description="What comes after it.")
    paused: Line | None = Field(None, description="Why work on it rests. Blocks it while there.")
    until: Line | None = Field(None, description="What a paused milestone waits for.")
    estimate: Line | None = Field(
        None, description="How large it will be: files, lines, hours. The page has what came of it."
    )
    criteria: list[Line] = Field([], description="What must be true when it lands.")
    risk: Line | None = Field(None, description="What it could break, and why that is unlikely.")
    limitations: list[Line] = Field([], description="What it leaves undone on purpose.")
    focus: list[Line] = Field([], description="What a reviewer should look at first.")
    phases: list[Phase] = Field([], alias="phase", description="Its parts, in order.")
    explanation: Line | None = Field(None, description="Why a gate fails here, if one does.")
    exclusions: list[Exclusion] = Field([], alias="exclusion", description="Tests left out.")

    _stack: str = PrivateAttr("")
    _of: int = PrivateAttr(0)
    _refers: str = PrivateAttr("Part of")

    def place(self, stack: str, of: int, *, closes: bool) -> None:
        """Set where it stands: the name and length of its stack, and whether it ends its issue."""
        self._stack, self._of = stack, of
        self._refers = "Closes" if closes else "Part of"

    @property
    def key(self) -> str:
        """Its name everywhere, ``STACK/N``; the value of the trailer ``Milestone:``."""
        return f"{self._stack}/{self.id}"

    @property
    def position(self) -> str:
        """Its place in the stack, ``n/N``."""
        return f"{self.id}/{self._of}"

    @property
    def reference(self) -> str:
        """How its pull request refers to the issue; only the last milestone closes it."""
        if self.issue is None:
            return ""
        return f"{self._refers} #{self.issue}"


class Manifest(_Table):
    """A stack: milestones in order."""

    format: Literal[1] = Field(description="The version of this format.")
    stack: Name = Field(description="The name of the stack and of this file.")
    title: Line = Field(description="The name for people.")
    about: Line = Field(description="What the stack is for.")
    trunk: Branch = Field("main", description="The branch that milestones are merged into.")
    criteria: list[Line] = Field([], description="What the stack as a whole must deliver.")
    limitations: list[Line] = Field([], description="Known problems, each with its way around.")
    labels: list[Line] = Field([], description="Labels of all its pull requests.")
    milestones: list[Milestone] = Field(alias="milestone", min_length=1, description="In order.")

    @model_validator(mode="after")
    def _place(self) -> Self:
        """Tell each milestone where it stands; the last one of an issue closes that."""
        last = {one.issue: one.id for one in self.milestones}
        for one in self.milestones:
            one.place(self.stack, len(self.milestones), closes=last[one.issue] == one.id)
        return self

    def parent(self, milestone: Milestone) -> Milestone | None:
        """Return the milestone that another is based on; None if that is the trunk."""
        return next((one for one in self.milestones if one.key == milestone.parent), None)


class Problem(NamedTuple):
    """One thing that is wrong in a manifest."""

    file: str
    line: int
    key: str
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.text}" if self.key else f"{place}: {self.text}"


class ManifestError(StackError):
    """Manifests are wrong; the text has a line for each problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def load_all(root: Path) -> dict[str, Manifest]:
    """Read every manifest of a repository.

    Parameters
    ----------
    root : Path
        The root of the repository.

    Returns
    -------
    dict
        Manifests by the name of their stack, in the order of the names.

    Raises
    ------
    ManifestError
        A file is not TOML, is not as the schema says, or contradicts itself or another one.
    StackError
        There is none.
    """
    directory = settings.current().directory
    paths = sorted((root / directory).glob("*.toml"))
    if not paths:
        raise StackError(f"there is no stack: no manifest in {directory.as_posix()}")
    problems: list[Problem] = []
    found: dict[str, Manifest] = {}
    places: dict[str, tuple[str, dict[lines.Path, int]]] = {}
    for path in paths:
        name = path.relative_to(root).as_posix()
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            line = path.read_bytes().count(b"\n", 0, error.start) + 1
            what = f"is not UTF-8: byte {error.object[error.start]:#x} ({error.reason})"
            problems.append(Problem(name, line, "", what))
            continue
        manifest, wrong = _parse(name, text)
        problems += wrong
        if manifest is not None:
            places[path.stem] = name, lines.lines_of(text)
            found[path.stem] = manifest
    for stem, manifest in found.items():
        file, where = places[stem]
        for at, message in (*_own_faults(stem, manifest), *_shared_faults(manifest, found)):
            problems.append(Problem(file, lines.line_of(where, at), _key(at), message))
    if problems:
        raise ManifestError(sorted(problems))
    return found


def exclusions_in(stack: str, key: str, text: str) -> list[Exclusion]:
    """Return the exclusions that a milestone has in the text of a manifest, as of some commit.

    Raises
    ------
    ManifestError
        The text is not a manifest.
    """
    manifest, problems = _parse(f"{stack}.toml", text)
    if manifest is None:
        raise ManifestError(problems)
    return next((one.exclusions for one in manifest.milestones if one.key == key), [])


def needed_by(stacks: Mapping[str, Manifest], key: str) -> list[str]:
    """Return the milestones that are based on one, or depend on it."""
    every = [one for manifest in stacks.values() for one in manifest.milestones]
    return [one.key for one in every if one.parent == key or key in one.depends]


def schema() -> str:
    """Return the JSON Schema of a manifest."""
    document = Manifest.model_json_schema(by_alias=True)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _parse(file: str, text: str) -> tuple[Manifest | None, list[Problem]]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"line (\d+)", str(error))
        line = int(at[1]) if at else len(text.splitlines())
        return None, [Problem(file, line, "", f"no TOML: {error}")]
    try:
        return Manifest.model_validate(document), []
    except ValidationError as error:
        where = lines.lines_of(text)
        return None, [
            Problem(file, lines.line_of(where, one["loc"]), _key(one["loc"]), _wording(one))
            for one in error.errors(include_url=False)
        ]


def _wording(error: Mapping[str, Any]) -> str:
    """Say what is wrong with a value, and show it."""
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "extra_forbidden":
        return "is not a key that is known here"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, not {error['input']!r}"


def _key(path: Sequence[str | int]) -> str:
    """Write a path as ``milestone[2].branch``; milestones are counted from 1."""
    text = ""
    for part in path:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


Fault = tuple[lines.Path, str]


def _own_faults(stem: str, manifest: Manifest) -> Iterator[Fault]:
    """Yield what a schema cannot say of one manifest."""
    if manifest.stack != stem:
        yield ("stack",), f"{manifest.stack!r} is not the name of the file, {stem!r}"
    for index, one in enumerate(manifest.milestones):
        if one.id != index + 1:
            yield ("milestone", index, "id"), f"{one.id} in position {index + 1}"
        earlier = [other.key for other in manifest.milestones[:index]]
        if one.parent not in (manifest.trunk, *earlier):
            known = ", ".join([manifest.trunk, *earlier])
            text = f"{one.parent!r} is neither the trunk nor an earlier milestone: {known}"
            yield ("milestone", index, "parent"), text
        if one.until is not None and one.paused is None:
            yield ("milestone", index, "until"), "nothing is paused, so nothing is waited for"
        if one.branch == manifest.trunk:
            yield ("milestone", index, "branch"), f"{one.branch!r} is the trunk"


def _shared_faults(manifest: Manifest, every: Mapping[str, Manifest]) -> Iterator[Fault]:
    """Yield what is wrong between the manifests."""
    known = {one.key: one for other in every.values() for one in other.milestones}
    branches: dict[str, str] = {}
    for other in every.values():
        for one in other.milestones:
            branches.setdefault(one.branch, one.key)
    for index, one in enumerate(manifest.milestones):
        if branches[one.branch] != one.key:
            text = f"{one.branch!r} is the branch of {branches[one.branch]} already"
            yield ("milestone", index, "branch"), text
        for needed in one.depends:
            if needed not in known:
                yield ("milestone", index, "depends"), f"there is no milestone {needed!r}"
            elif one.key in _needs(needed, known):
                yield ("milestone", index, "depends"), f"{needed!r} needs {one.key} itself"


def _needs(key: str, known: Mapping[str, Milestone]) -> set[str]:
    """Return a milestone with all that it needs, directly or not."""
    seen: set[str] = set()
    waiting = [key]
    while waiting:
        one = known.get(waiting.pop())
        if one is not None and one.key not in seen:
            seen.add(one.key)
            waiting += [one.parent, *one.depends]
    return seen
