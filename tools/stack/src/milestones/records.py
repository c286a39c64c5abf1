"""Evidence: the record of one run of the gates on one tree.

A record is JSON. Its digest is taken over all of the rest, so that a record that was cut off,
or edited without much thought, does not count. It is not a signature: a person who makes a record
up can make its digest as well.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from milestones import settings

__all__ = [
    "GATES",
    "Excluded",
    "GateResult",
    "Keys",
    "Record",
    "RecordError",
    "Signature",
    "parse",
    "seal",
    "to_line",
    "to_page",
]

GATES = settings.Settings().gates
"""The gates of a repository whose settings name no others."""

_NO_LOG = hashlib.sha256(b"").hexdigest()

Sha1 = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RecordError(ValueError):
    """A text is not a record, or was changed after it had been written."""


class _Json(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Excluded(_Json):
    """A test that was left out of the run."""

    test: str
    reason: str
    expires: date


class GateResult(_Json):
    """How one gate ended: wall time in seconds, the Python it ran on, how many tests ended how."""

    gate: str
    passed: bool
    seconds: float
    python: str
    reason: str
    tests: dict[str, int] | None
    command: str | None = None
    """What runs this gate alone."""
    notes: str | None = None
    """What the gate is, in the words of its definition."""
    environment: str | None = None
    """What was missing from the machine, if that kept the gate from judging the code."""
    reused: str | None = None
    """The digest of the record of the run in which it passed, if it did not run again."""


@dataclass(frozen=True)
class Keys:
    """What the result of a run depends on; a record is used again only if all are equal.

    Parameters
    ----------
    tree : str
        The tree that the gates ran on.
    definitions, locks : str
        SHA-256 of what defines the gates, and of the lock files.
    interpreters, tools : dict
        Version of each Python at hand, and of each tool that no lock file holds.
    os : str
        The operating system.
    excluded : tuple of str
        Tests that were left out.
    """

    tree: str
    definitions: str
    locks: str
    interpreters: dict[str, str]
    tools: dict[str, str]
    os: str
    excluded: tuple[str, ...] = ()


class Signature(_Json):
    """An Ed25519 signature over the digest of a record; both parts raw and hexadecimal."""

    key: Sha256
    value: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class Record(_Json):
    """What one run of the gates came to."""

    format: Literal[1] = 1
    milestone: str
    commit: Sha1
    tree: Sha1
    scope: Literal["full", "quick"]
    definitions: Sha256
    locks: Sha256
    interpreters: dict[str, str]
    tools: dict[str, str]
    installed: dict[str, str]
    os: str
    excluded: list[Excluded]
    started: str
    seconds: float
    exit_code: int
    gates: list[GateResult]
    log: Sha256
    digest: Sha256
    signature: Signature | None = None
    files: dict[str, Sha256] | None = None
    """What was kept of all that the gates have written: the SHA-256 of each file, by its name."""
    trunk_gates: list[GateResult] | None = None
    """What the trunk's gates came to, if the milestone changes gates; empty if it has none."""

    @property
    def keys(self) -> Keys:
        """What it depends on."""
        excluded = tuple(one.test for one in self.excluded)
        return Keys(
            self.tree,
            self.definitions,
            self.locks,
            self.interpreters,
            self.tools,
            self.os,
            excluded,
        )

    @property
    def passed(self) -> tuple[str, ...]:
        """The gates that passed; one that is named twice did not."""
        names = [one.gate for one in self.gates]
        good = {one.gate for one in self.gates if one.passed and names.count(one.gate) == 1}
        return tuple(gate for gate in settings.current().gates if gate in good)

    @property
    def failed(self) -> tuple[str, ...]:
        """The gates that ran and did not pass."""
        names = [one.gate for one in self.gates if one.gate not in self.passed]
        return tuple(dict.fromkeys(names))

    @property
    def environment(self) -> dict[str, str]:
        """The gates that the machine kept from judging the code, each with the evidence."""
        return {
            one.gate: one.environment
            for one in self.gates
            if one.environment is not None and one.gate not in self.passed
        }

    @property
    def judged(self) -> bool:
        """Whether the code was judged: no gate failed, or one failed by the code."""
        return not self.failed or set(self.failed) != set(self.environment)

    @property
    def green(self) -> bool:
        """Whether every gate ran and passed."""
        return (
            self.scope == "full"
            and self.exit_code == 0
            and self.passed == settings.current().gates
            and not self.lacks
        )

    @property
    def lacks(self) -> tuple[str, ...]:
        """What a run would have left and this record does not have."""
        missing = {
            "times": not _is_time(self.started) or self.seconds <= 0,
            "tools": not self.tools or not self.interpreters,
            "a log": self.log in (_NO_LOG, "0" * 64),
        }
        return tuple(name for name, is_missing in missing.items() if is_missing)


def seal(**fields: Any) -> Record:
    """Make a record of its fields, with the digest over them."""
    draft = Record(**fields, digest="0" * 64)
    return draft.model_copy(update={"digest": _digest(draft)})


def parse(text: str) -> Record:
    """Read a record.

    Raises
    ------
    RecordError
        It is malformed, or its digest is not that of the rest.
    """
    try:
        record = Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the text"
        raise RecordError(f"malformed: {place}: {first['msg']}") from error
    if record.digest != _digest(record):
        raise RecordError("changed after it was written: its digest is not that of its text")
    return record


def to_line(record: Record) -> str:
    """Write a record as one line, its canonical form."""
    return _canonical(_fields(record))


def to_page(record: Record) -> str:
    """Write a record as a file."""
    return json.dumps(_fields(record), indent=2, sort_keys=True) + "\n"


def _fields(record: Record) -> dict[str, Any]:
    """Return what is written; without what older records did not have, where it is None."""
    fields = record.model_dump(mode="json")
    for name in ("signature", "trunk_gates", "files"):
        if fields[name] is None:
            del fields[name]
    for gate in (*fields["gates"], *fields.get("trunk_gates", ())):
        for name in ("command", "notes", "environment", "reused"):
            if gate[name] is None:
                del gate[name]
    return fields


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _digest(record: Record) -> str:
    fields = _fields(record)
    del fields["digest"]
    fields.pop("signature", None)  # it is over the digest
    return hashlib.sha256(_canonical(fields).encode("ascii")).hexdigest()


def _canonical(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
