"""The state of each milestone, computed, not typed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from milestones.evidence import Evidence, Found, judge
from milestones.facts import Fact, base_of
from milestones.manifest import Manifest, Milestone

__all__ = ["MilestoneStatus", "StackStatus", "State", "compute", "gates_note"]


class State(StrEnum):
    """How far a milestone is."""

    MERGED = "merged"
    """On the trunk."""
    READY = "ready"
    """All six gates passed on exactly this tree, and what it needs is merged or ready."""
    DRAFT = "draft"
    """It has a branch, and no evidence that the six gates pass there."""
    PLANNED = "planned"
    """It is in the manifest only."""
    BLOCKED = "blocked"
    """Paused, an exclusion has expired, or it is green and waits for something that is not."""
    STALE = "stale"
    """What it was based on, or what was verified, has changed since."""


@dataclass(frozen=True)
class MilestoneStatus:
    """The state of a milestone.

    Parameters
    ----------
    milestone : Milestone
        What the manifest says.
    state : State
        Its state.
    why : str
        The reason, in a few words.
    todo : str
        What to do next about it; empty if nothing.
    fact : Fact or None
        Where it is.
    evidence : Evidence
        What its records say.
    """

    milestone: Milestone
    state: State
    why: str
    todo: str
    fact: Fact | None
    evidence: Evidence


@dataclass(frozen=True)
class StackStatus:
    """The states of a stack's milestones, in order."""

    manifest: Manifest
    milestones: tuple[MilestoneStatus, ...]


def compute(
    stacks: Mapping[str, Manifest],
    facts: Mapping[str, Fact],
    found: Sequence[Found],
    today: date,
) -> list[StackStatus]:
    """Compute the state of every milestone.

    Parameters
    ----------
    stacks : mapping
        Every manifest, by name; milestones may need milestones of other stacks.
    facts : mapping
        Where milestones are, by key.
    found : sequence of Found
        All records.
    today : date
        Decides over exclusions that expire.

    Returns
    -------
    list of StackStatus
        In the order of `stacks`.
    """
    judgement = _Judgement(stacks, facts, found, today)
    return [
        StackStatus(manifest, tuple(judgement.of(manifest, one) for one in manifest.milestones))
        for manifest in stacks.values()
    ]


class _Judgement:
    """One computation: states depend on states, each is computed once."""

    def __init__(
        self,
        stacks: Mapping[str, Manifest],
        facts: Mapping[str, Fact],
        found: Sequence[Found],
        today: date,
    ) -> None:
        self.home = {one.key: (m, one) for m in stacks.values() for one in m.milestones}
        self.facts, self.found, self.today = facts, found, today
        self.done: dict[str, MilestoneStatus] = {}

    def of(self, manifest: Manifest, one: Milestone) -> MilestoneStatus:
        if one.key not in self.done:
            fact = self.facts.get(one.key)
            evidence = judge(self.found, one.key, fact.tree if fact else "")
            state, why, todo = self._state(manifest, one, fact, evidence)
            self.done[one.key] = MilestoneStatus(one, state, why, todo, fact, evidence)
        return self.done[one.key]

    def _state(
        self, manifest: Manifest, one: Milestone, fact: Fact | None, evidence: Evidence
    ) -> tuple[State, str, str]:
        if fact is not None and fact.merged:
            return _merged(one, evidence)
        if rest := self._rests(one):
            return State.BLOCKED, rest, rest
        if fact is None:
            return State.PLANNED, "", self._beginning(manifest, one)
        return self._state_of_branch(manifest, one, fact, evidence)

    def _state_of_branch(
        self, manifest: Manifest, one: Milestone, fact: Fact, evidence: Evidence
    ) -> tuple[State, str, str]:
        if not fact.on_parent:
            why = f"{one.parent} has moved from under it"
            return State.STALE, why, f"restack {manifest.stack}"
        if evidence.verdict == "other":
            return State.STALE, "its records are of another tree", f"verify {one.key}"
        if evidence.verdict != "green":
            return State.DRAFT, *_unproved(one, evidence)
        if doubt := _doubt(manifest, one, fact, evidence):
            return State.DRAFT, *doubt
        if waits := self._waits_for(manifest, one):
            return State.BLOCKED, waits, waits
        return State.READY, "", self._landing(manifest, one, fact)

    def _beginning(self, manifest: Manifest, one: Milestone) -> str:
        for key in self._needed(manifest, one):
            if key not in self.facts:
                return f"begins after {key}"
        base = base_of(manifest, one, self.facts)
        start = manifest.trunk if base is None or base[1].merged else base[1].ref
        return f"git switch -c {one.branch} {start}"

    def _rests(self, one: Milestone) -> str:
        if one.paused is not None:
            until = f" (until {one.until})" if one.until is not None else ""
            return f"paused: {one.paused}{until}"
        for exclusion in one.exclusions:
            if exclusion.expires <= self.today:
                return f"the exclusion of {exclusion.test} expired on {exclusion.expires}"
        return ""

    def _waits_for(self, manifest: Manifest, one: Milestone) -> str:
        for key in self._needed(manifest, one):
            state = self.of(*self.home[key]).state
            if state not in (State.MERGED, State.READY):
                return f"waits for {key}, which is {state}"
        return ""

    def _landing(self, manifest: Manifest, one: Milestone, fact: Fact) -> str:
        for key in self._needed(manifest, one):
            if self.of(*self.home[key]).state is not State.MERGED:
                return f"lands after {key}"
        if fact.behind:
            return f"restack {manifest.stack}: {manifest.trunk} is {fact.behind} ahead"
        return f"land {one.key}"

    def _needed(self, manifest: Manifest, one: Milestone) -> list[str]:
        parent = manifest.parent(one)
        return [*([parent.key] if parent is not None else []), *one.depends]


def _doubt(
    manifest: Manifest, one: Milestone, fact: Fact, evidence: Evidence
) -> tuple[str, str] | None:
    """Say why a green record does not prove the milestone, and what to do; None if it does."""
    if unknown := _unknown_exclusions(one, evidence):
        return f"left out, but not by the manifest: {unknown}", f"verify {one.key}"
    return _unproved_gates(manifest, one, fact, evidence)


def _unproved_gates(
    manifest: Manifest, one: Milestone, fact: Fact, evidence: Evidence
) -> tuple[str, str] | None:
    """Say what is missing where a milestone changes the gates by which it is judged."""
    record, trunk = evidence.record, manifest.trunk
    if not fact.gates_changed or record is None:
        return None
    if record.trunk_gates is None:
        return f"it changes gates, and those of {trunk} have not run", f"verify {one.key} --again"
    failed = ", ".join(gate.gate for gate in record.trunk_gates if not gate.passed)
    if not failed or one.explanation is not None:
        return None
    why = f"it changes gates, and those of {trunk} do not pass on it: {failed}"
    return why, "repair that, or give the explanation in the manifest"


def gates_note(manifest: Manifest, status: MilestoneStatus) -> str:
    """Say that a milestone changes the gates, and what those of the trunk came to on it.

    Empty if it does not change them.
    """
    fact, record = status.fact, status.evidence.record
    if fact is None or not fact.gates_changed:
        return ""
    names, trunk = ", ".join(fact.gates_changed), manifest.trunk
    text = f"its gates are defined otherwise than those of {trunk}: {names}"
    if fact.merged:
        return f"its gates are defined otherwise than those before it: {names}"
    if record is None or record.trunk_gates is None:
        return f"{text}; the gates of {trunk} have not run on it"
    passed = sum(one.passed for one in record.trunk_gates)
    return f"{text}; of the gates of {trunk}, {passed}/{len(record.trunk_gates)} pass on it"


def _unknown_exclusions(one: Milestone, evidence: Evidence) -> str:
    """Name the tests that a record left out and the manifest does not, or not any more."""
    known = {exclusion.test for exclusion in one.exclusions}
    excluded = evidence.record.excluded if evidence.record is not None else []
    return ", ".join(sorted({left_out.test for left_out in excluded} - known))


def _merged(one: Milestone, evidence: Evidence) -> tuple[State, str, str]:
    if evidence.verdict == "green":
        return State.MERGED, "", ""
    if evidence.verdict == "failed" and evidence.record is not None:
        if not evidence.record.judged:
            return State.MERGED, "not proved", f"verify {one.key}"
        return State.MERGED, f"fails alone: {', '.join(evidence.record.failed)}", ""
    return State.MERGED, "not proved", f"verify {one.key}"


def _unproved(one: Milestone, evidence: Evidence) -> tuple[str, str]:
    """Return why a branch is a draft, and what to do."""
    if evidence.verdict == "failed" and evidence.record is not None:
        if not evidence.record.judged:
            said = "; ".join(f"{gate}: {why}" for gate, why in evidence.record.environment.items())
            return f"environment, not code: {said}", f"verify {one.key}, when that is repaired"
        failed = ", ".join(evidence.record.failed) or "the run"
        return f"did not pass: {failed}", f"repair {failed}, then verify {one.key}"
    if evidence.verdict == "quick":
        return "three of six gates ran", f"verify {one.key}"
    return "never verified", f"verify {one.key}"
