"""What stands on the pages of `docs/stack`: text, as a function of a state."""

from __future__ import annotations

from collections.abc import Sequence

from milestones import sections, settings
from milestones.land import message
from milestones.manifest import Manifest, Milestone
from milestones.records import GateResult, Record
from milestones.sections import cell, table
from milestones.status import MilestoneStatus, StackStatus, State, gates_note

__all__ = ["milestone_regions", "milestone_skeleton", "status_regions", "status_skeleton"]


_GATE_HEADER = ("gate", "result", "seconds", "Python", "tests", "command", "notes")


def status_skeleton() -> str:
    """Return the status page as it begins, with empty regions."""
    tool = settings.current().command
    return f"""\
# Status of the stacks

Every word and figure below comes from the manifests and from the records of gate runs beside
this page; `{tool} render` writes it, and the docs gate fails where it differs. How
things are this minute, with the branches of your clone: `{tool} status`.

<!-- stack:stacks -->
<!-- /stack:stacks -->
"""


def status_regions(
    statuses: Sequence[StackStatus], commands: Sequence[tuple[str, str]] = ()
) -> dict[str, str]:
    """Return the regions of the status page; it ends with the commands of the tool."""
    stacks = [_stack_section(one) for one in statuses]
    pages = [one.milestone.key for stack in statuses for one in stack.milestones]
    tree = ["```{toctree}", ":hidden:", "", *pages, "```"]
    parts = [*stacks, sections.reference(commands), "\n".join(tree)]
    return {"stacks": "\n\n".join(filter(None, parts))}


def milestone_skeleton() -> str:
    """Return the page of a milestone as it begins: empty regions, and room for notes."""
    return """\
<!-- stack:summary -->
<!-- /stack:summary -->

## Verification

<!-- stack:verification -->
<!-- /stack:verification -->

## Rebase plan

<!-- stack:rebase -->
<!-- /stack:rebase -->

## Merge checklist

<!-- stack:checklist -->
<!-- /stack:checklist -->

## Patch guide

<!-- stack:guide -->
<!-- /stack:guide -->

Write below how each of these is done, file by file; this text is not replaced.

## Reviewer note

<!-- stack:reviewer -->
<!-- /stack:reviewer -->

## Pull request

<!-- stack:request -->
<!-- /stack:request -->
"""


def milestone_regions(
    stack: StackStatus, status: MilestoneStatus, needed_by: Sequence[str] = ()
) -> dict[str, str]:
    """Return the regions of the page of a milestone.

    Parameters
    ----------
    stack, status
        The stack and its milestone.
    needed_by : sequence of str, optional
        Milestones that cannot go on without it.
    """
    manifest = stack.manifest
    before = sections.before(stack, status)
    parts = {
        "summary": [_summary(manifest, status, needed_by)],
        "verification": [_verification(status), sections.comparison(status, before)],
        "rebase": [_rebase(manifest, status), sections.conflicts(status)],
        "checklist": [_checklist(manifest, status), sections.commands(manifest, status)],
        "guide": [sections.scope(status), sections.phases(status), sections.files(status)],
        "reviewer": [_reviewer(manifest, status), sections.for_review(status)],
        "request": [_request(manifest, status)],
    }
    return {name: "\n\n".join(filter(None, texts)) for name, texts in parts.items()}


def _stack_section(stack: StackStatus) -> str:
    manifest = stack.manifest
    merged = sum(one.state is State.MERGED for one in stack.milestones)
    rows = [
        (
            one.milestone.position,
            f"[{cell(one.milestone.title)}]({one.milestone.key}.md)",
            f"{one.state}{f': {cell(one.why)}' if one.why else ''}",
            _gates_cell(one),
            f"`{one.fact.commit[:12]}`" if one.fact else "",
            cell(one.milestone.next),
        )
        for one in stack.milestones
    ]
    header = ("", "milestone", "state", "gates", "commit", "next step")
    count = f"{merged} of {len(rows)} merged."
    parts = [
        f"## {manifest.title} (`{manifest.stack}`)",
        f"{manifest.about} {count}",
        table(header, rows),
        sections.timeline(stack),
        sections.of_stack(manifest, done=merged == len(rows)),
        sections.index(stack),
    ]
    return "\n\n".join(filter(None, parts))


def _gates_cell(status: MilestoneStatus) -> str:
    if status.evidence.verdict == "none":
        return "no record" if status.fact else ""
    return f"[{cell(status.evidence.text)}](records/{status.milestone.key}.json)"


def _summary(manifest: Manifest, status: MilestoneStatus, needed_by: Sequence[str]) -> str:
    one = status.milestone
    base = one.parent if one.parent == manifest.trunk else _link(one.parent)
    rows = [
        ("stack", f"[{manifest.title}](../STATUS.md), milestone {one.position}"),
        ("state", f"**{status.state}**{f': {status.why}' if status.why else ''}"),
        *sections.dates(status),
        ("branch", f"`{one.branch}`"),
        ("commit", f"`{status.fact.commit}`" if status.fact else "none yet"),
        ("based on", base),
        ("needs", ", ".join(_link(key) for key in one.depends) or "nothing else"),
        ("blocks", ", ".join(_link(key) for key in needed_by) or "nothing"),
        *([("labels", ", ".join(labels))] if (labels := _labels(manifest, one)) else []),
        *([("gates", note)] if (note := gates_note(manifest, status)) else []),
        ("issue", one.reference or "not numbered yet"),
        ("pull request", f"#{one.pr}" if one.pr is not None else "none"),
        ("next", one.next),
    ]
    rows_of = table(("", ""), [(name, cell(text)) for name, text in rows])
    return f"# {one.key}: {one.title}\n\n{rows_of}"


def _verification(status: MilestoneStatus) -> str:
    record, evidence = status.evidence.record, status.evidence
    if record is None:
        return "The gates have not run on it."
    lines = [f"Gates: **{evidence.text}**."]
    if evidence.verdict == "other" and status.fact is not None:
        lines.append(f"The record is of another tree than `{status.fact.tree}`: it proves nothing.")
    lines += ["", table(_GATE_HEADER, _gate_rows(record)), ""]
    lines.append(table(("", ""), _record_rows(record)))
    for left_out in record.excluded:
        reason = f"{left_out.reason} (until {left_out.expires})"
        lines += ["", f"Left out: `{left_out.test}`: {reason}"]
    if status.milestone.explanation is not None:
        lines += ["", f"Explanation: {status.milestone.explanation}"]
    return "\n".join(lines)


def _gate_rows(record: Record) -> list[tuple[str, ...]]:
    ran = {one.gate: one for one in record.gates}
    return [_gate_row(gate, ran.get(gate)) for gate in settings.current().gates]


def _gate_row(gate: str, result: GateResult | None) -> tuple[str, ...]:
    if result is None:
        return f"`{gate}`", "did not run", "", "", "", "", ""
    word = "passed" if result.passed else f"**failed** {cell(result.reason)}".rstrip()
    if result.environment is not None and not result.passed:
        word = f"**environment, not code**: {cell(result.environment)}"
    counts = sorted((result.tests or {}).items(), key=lambda one: (one[0] != "passed", one[0]))
    tests = ", ".join(f"{number} {ended}" for ended, number in counts)
    if result.reused is not None:
        word += f", in the run of record `{result.reused[:12]}`: its inputs have not changed since"
    command = f"`{cell(result.command)}`" if result.command else ""
    notes = cell(result.notes or "")
    return f"`{gate}`", word, f"{result.seconds:.1f}", result.python, tests, command, notes


def _record_rows(record: Record) -> list[tuple[str, str]]:
    def versions(of: dict[str, str]) -> str:
        return ", ".join(f"{name} {version}" for name, version in of.items())

    rows = [
        ("ran on", f"`{record.commit}`"),
        ("tree", f"`{record.tree}`"),
        ("gates defined by", f"`{record.definitions[:12]}`"),
        ("locks", f"`{record.locks[:12]}`"),
        ("Pythons at hand", ", ".join(record.interpreters.values())),
        ("tools", versions(record.tools)),
        ("installed by the gates", versions(record.installed)),
        ("system", record.os),
        ("begun", f"{record.started}, {record.seconds:.0f} s"),
        ("log", f"`{record.log[:12]}`"),
        ("kept with it", ", ".join(f"`{name}`" for name in record.files or ())),
    ]
    return [(name, text) for name, text in rows if text]


def _rebase(manifest: Manifest, status: MilestoneStatus) -> str:
    tool = settings.current().command
    one = status.milestone
    if status.state is State.MERGED:
        return "Merged. What was based on it moves by the plan of the next milestone."
    happened = "was merged or amended" if one.parent != manifest.trunk else "has moved on"
    fact = status.fact
    known = (
        f"It left {one.parent} at `{fact.fork_point}`;\nwhat follows is its own. By hand, this is "
        f"`git rebase --onto {fact.base} {fact.fork_point[:12]} {one.branch} --update-refs`."
        if fact is not None and fact.fork_point is not None
        else "Where it leaves its parent is recorded when it has a branch."
    )
    return f"""\
After {one.parent} {happened}, `{one.branch}` moves, with all that is above it:

```console
$ git fetch
$ {tool} restack {manifest.stack}
$ {tool} restack {manifest.stack} --execute
$ {tool} verify {one.key}
```

The first `restack` prints the plan and changes nothing. A conflict stops it with the commands
to go on; `{tool} undo --execute` brings every branch back.

{known}"""


def _checklist(manifest: Manifest, status: MilestoneStatus) -> str:
    tool = settings.current().command
    one, evidence = status.milestone, status.evidence
    merged = status.state is State.MERGED
    items = [
        (evidence.verdict == "green", "the six gates passed on exactly its tree"),
        (merged or status.state is State.READY, "what it needs is merged or ready"),
        (merged, f"landed: `{tool} land {one.key}` proves the squash and prints the commands"),
    ]
    if one.pr is not None:
        items.insert(2, (merged, f"reviewed: `gh pr view {one.pr}`"))
    if one.id < len(manifest.milestones):
        following = manifest.milestones[one.id]
        items.append((False, f"afterwards: `{tool} restack {manifest.stack}` for {following.key}"))
    items += [(merged, text) for text in one.criteria]
    if merged:
        items = [item for item in items if not item[1].startswith("afterwards")]
    return "\n".join(f"- [{'x' if done else ' '}] {text}" for done, text in items)


def _reviewer(manifest: Manifest, status: MilestoneStatus) -> str:
    tool = settings.current().command
    one = status.milestone
    lines = [f"Milestone {one.position} of {manifest.title}."]
    if status.fact is None:
        return f"{lines[0]} There is nothing to review yet. Next in the stack: {one.next}"
    see = f"git diff {status.fact.base}...{one.branch}"
    if status.state is State.MERGED:
        see = f"git show {status.fact.commit[:12]}"
    lines += [
        f"What is new in it: `{see}`.",
        f"Gates: {status.evidence.text}; to repeat them: `{tool} verify {one.key} --again`.",
        f"Next in the stack: {one.next}",
    ]
    return "\n".join(lines)


def _request(manifest: Manifest, status: MilestoneStatus) -> str:
    one = status.milestone
    subject, body = message(manifest, one)
    needs = [key for key in [one.parent, *one.depends] if key != manifest.trunk]
    lines = [
        subject,
        "",
        f"Milestone {one.position} of [{manifest.title}]({settings.current().pages}/STATUS.md).",
        f"Needs: {', '.join(needs) or 'nothing'}. Next: {one.next}",
        f"Gates: {status.evidence.text}.",
        "",
        body,
    ]
    return "\n".join(["```markdown", *lines, "```"])


def _labels(manifest: Manifest, one: Milestone) -> list[str]:
    return [f"`{label}`" for label in dict.fromkeys([*manifest.labels, *one.labels])]


def _link(key: str) -> str:
    return f"[{key}](../{key}.md)"
