"""What a verification found."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Finding", "VerifyReport"]

KEPT = 1000
"""Findings that a report keeps; the others are only counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of a ledger.

    Attributes
    ----------
    file : str
    line : int
        From 1; 0 for the file as a whole.
    field : str
        Of the line; its receipt's fields have ``receipt.`` in front.
    expected, found : str
    rule : str
        What is violated, for people.
    """

    file: str
    line: int
    field: str
    expected: str
    found: str
    rule: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.field}: expected {self.expected}, found {self.found} ({self.rule})"


@dataclass(slots=True)
class VerifyReport:
    """The outcome of `verify`.

    Attributes
    ----------
    files : list of str
    lines, receipts, segments, signatures : int
        How many there were, and how many signatures were found valid.
    covered : int
        Lines, from the first on, that a valid signature vouches for: up to the last one
        before the chain breaks.
    events : Counter of str
        Receipts by kind.
    public_key : str or None
        What the ledger says it is signed with.
    head : str
        Hash of the last line. Who notes it can tell later that nothing was cut off.
    is_sealed : bool
        Whether the last segment was closed.
    findings : list of Finding
        The first 1,000.
    total_findings : int
    notes : list of str
        Information for the reader that is not a finding.
    """

    files: list[str] = field(default_factory=list)
    lines: int = 0
    receipts: int = 0
    segments: int = 0
    signatures: int = 0
    covered: int = 0
    events: Counter[str] = field(default_factory=Counter)
    public_key: str | None = None
    head: str = ""
    is_sealed: bool = False
    findings: list[Finding] = field(default_factory=list)
    total_findings: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no finding."""
        return not self.total_findings

    def add(self, finding: Finding) -> None:
        """Note a finding."""
        self.total_findings += 1
        if len(self.findings) < KEPT:
            self.findings.append(finding)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        findings = [asdict(finding) for finding in self.findings]
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {"ok": self.ok, **fields, "events": dict(self.events), "findings": findings}
