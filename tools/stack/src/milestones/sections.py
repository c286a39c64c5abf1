"""Parts of the pages: what changed, compared with what came before, when, and what is left."""

from __future__ import annotations

from collections.abc import Sequence

from milestones import settings
from milestones.changes import Changes, FileChange, kind_of
from milestones.manifest import Manifest
from milestones.records import Record
from milestones.status import MilestoneStatus, StackStatus, State

__all__ = [
    "before",
    "cell",
    "commands",
    "comparison",
    "conflicts",
    "dates",
    "files",
    "for_review",
    "index",
    "of_stack",
    "phases",
    "reference",
    "scope",
    "table",
    "timeline",
]


def cell(text: str) -> str:
    """Write a text such that it fits into a table."""
    return text.replace("|", r"\|")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def before(stack: StackStatus, status: MilestoneStatus) -> MilestoneStatus | None:
    """Return the milestone that another is based on; None if that is the trunk."""
    parent = stack.manifest.parent(status.milestone)
    return next((one for one in stack.milestones if one.milestone is parent), None)


def dates(status: MilestoneStatus) -> list[tuple[str, str]]:
    """Return when it was worked on, and in which phase it is, as rows of a table."""
    changes = _changes(status)
    rows = [("date", _span(changes))] if changes is not None else []
    if status.milestone.phases:
        done = _done(status)
        every = status.milestone.phases
        current = next((n for n in range(1, len(every) + 1) if n not in done), None)
        text = (
            f"all {len(every)} are done"
            if current is None
            else f"{current} of {len(every)}: {every[current - 1].title}"
        )
        rows.append(("phase", text))
    return rows


def scope(status: MilestoneStatus) -> str:
    """Return what a milestone contains, how large it was thought to be and how large it is."""
    one, changes = status.milestone, _changes(status)
    lines = [f"{n}. {line}" for n, line in enumerate(one.scope, 1)]
    sizes = [f"Estimate: {one.estimate}."] if one.estimate is not None else []
    if changes is not None:
        total = changes.total
        sizes.append(f"It is {total.files} files, +{total.added} -{total.removed} lines.")
    return "\n".join([*lines, *([""] if sizes else []), *sizes])


def phases(status: MilestoneStatus) -> str:
    """Return the parts of a milestone, and which of them are done."""
    if not status.milestone.phases:
        return ""
    done = _done(status)
    lines = ["### Phases", ""]
    for number, phase in enumerate(status.milestone.phases, 1):
        when = f" ({done[number]})" if done.get(number) else ""
        lines.append(f"- [{'x' if number in done else ' '}] {number}. {phase.title}{when}")
        lines += [f"  - {text}" for text in phase.scope]
    return "\n".join(lines)


def files(status: MilestoneStatus) -> str:
    """Return the files that a milestone changes, and what that means for whom."""
    changes = _changes(status)
    if changes is None or not changes.files:
        return ""
    sums = [
        (kind, str(one.files), f"+{one.added}", f"-{one.removed}")
        for kind, one in changes.totals.items()
    ]
    rows = [
        (f"`{cell(one.path)}`", f"+{one.added}", f"-{one.removed}", _impact(one))
        for one in changes.files
    ]
    left = changes.total.files - len(changes.files)
    parts = [
        "### Files",
        table(("kind", "files", "added", "removed"), sums),
        table(("file", "added", "removed", "impact"), rows),
        f"{left} smaller changes are in the sums only." if left else "",
    ]
    return "\n\n".join(filter(None, parts))


def comparison(status: MilestoneStatus, other: MilestoneStatus | None) -> str:
    """Return a milestone beside the one that it is based on; empty if there is none."""
    if other is None or (status.evidence.record is None and _changes(status) is None):
        return ""
    mine, theirs = _measures(status), _measures(other)
    names = dict.fromkeys([*theirs, *mine])
    rows = [(name, theirs.get(name, ""), mine.get(name, "")) for name in names]
    header = ("", other.milestone.key, status.milestone.key)
    return f"### Compared with {other.milestone.key}\n\n{table(header, rows)}"


def conflicts(status: MilestoneStatus) -> str:
    """Return what the last restack could not put together, and what became of it."""
    changes = _changes(status)
    if changes is None or not changes.conflicts:
        return ""
    rows = [(f"`{cell(one.path)}`", cell(one.subject), one.resolution) for one in changes.conflicts]
    header = ("file", "commit", "resolution")
    return f"### Conflicts of the last restack\n\n{table(header, rows)}"


def commands(manifest: Manifest, status: MilestoneStatus) -> str:
    """Return the commands that are needed again and again."""
    tool, one = settings.current().command, status.milestone
    lines = [
        f"$ {tool} status {manifest.stack}",
        f"$ {tool} verify {one.key}",
        f"$ {settings.current().script} quick",
        f"$ git log --oneline --graph {manifest.trunk}..{one.branch}",
        *([f"$ gh pr view {one.pr} --json state,title,isDraft"] if one.pr is not None else []),
        *([f"$ gh pr checks {one.pr}"] if one.pr is not None else []),
    ]
    if status.state is State.MERGED and status.fact is not None:
        lines[3] = f"$ git show --stat {status.fact.commit[:12]}"
    return "\n".join(["### Commands", "", "```console", *lines, "```"])


def for_review(status: MilestoneStatus) -> str:
    """Return what the manifest tells a reviewer: risk, where to look, what is left undone."""
    one, changes = status.milestone, _changes(status)
    parts: list[str] = []
    if one.risk is not None:
        parts.append(f"### Risk\n\n{one.risk}")
    if one.focus:
        parts.append("\n".join(["### Where to look", "", *_numbered(one.focus)]))
    if changes is not None and (changes.names_added or changes.names_removed):
        names = [f"- new: `{name}`" for name in changes.names_added]
        names += [f"- gone: `{name}`" for name in changes.names_removed]
        parts.append("\n".join(["### Public names", "", *names]))
    if one.limitations:
        parts.append("\n".join(["### Known limitations", "", *_bullets(one.limitations)]))
    return "\n\n".join(parts)


def reference(commands: Sequence[tuple[str, str]]) -> str:
    """Return every command of the tool with what it does; empty if there is none."""
    tool = settings.current().command
    rows = [(f"`{tool} {name}`", cell(text)) for name, text in commands]
    return f"## Quick reference\n\n{table(('command', 'what it does'), rows)}" if rows else ""


def timeline(stack: StackStatus) -> str:
    """Return when each milestone was begun, proved and merged, and what comes next."""
    rows: list[tuple[str, ...]] = []
    for one in stack.milestones:
        changes, record = _changes(one), one.evidence.record
        begun, ended = (changes.begun, changes.ended) if changes is not None else ("", "")
        proved = record.started[:10] if record is not None and record.green else ""
        merged = ended if one.state is State.MERGED else ""
        rows.append((one.milestone.position, begun, ended, proved, merged, cell(one.todo)))
    header = ("", "first commit", "last commit", "proved", "merged", "to do")
    return f"### Timeline\n\n{table(header, rows)}"


def of_stack(manifest: Manifest, *, done: bool) -> str:
    """Return what a stack as a whole must deliver, and its known problems."""
    parts: list[str] = []
    if manifest.criteria:
        items = [f"- [{'x' if done else ' '}] {text}" for text in manifest.criteria]
        parts.append("\n".join(["### Success", "", *items]))
    if manifest.limitations:
        parts.append("\n".join(["### Known problems", "", *_bullets(manifest.limitations)]))
    return "\n\n".join(parts)


def index(stack: StackStatus) -> str:
    """Return every document of a stack: its manifest, pages, records, and pages of the docs."""
    name = stack.manifest.stack
    lines = ["### Documents", "", f"- [`{name}.toml`]({name}.toml): the manifest"]
    for one in stack.milestones:
        key, changes = one.milestone.key, _changes(one)
        record = f", [record](records/{key}.json)" if one.evidence.record is not None else ""
        new = [
            f"`{change.path}`"
            for change in (changes.files if changes is not None else ())
            if change.how == "new" and kind_of(change.path) == "docs"
        ]
        more = f"; it brought {', '.join(new)}" if new else ""
        lines.append(f"- [{key}]({key}.md): {one.milestone.title}{record}{more}")
    return "\n".join(lines)


def _changes(status: MilestoneStatus) -> Changes | None:
    return status.fact.changes if status.fact is not None else None


def _span(changes: Changes) -> str:
    if changes.begun == changes.ended:
        return changes.ended
    return f"{changes.begun} to {changes.ended}"


def _done(status: MilestoneStatus) -> dict[int, str]:
    """Return the phases that are done, each with its date; of what is merged, all are."""
    changes = _changes(status)
    told = changes.phases if changes is not None else {}
    done = {int(number): day for number, day in told.items() if number.isdigit()}
    if status.state is State.MERGED:
        every = range(1, len(status.milestone.phases) + 1)
        day = changes.ended if changes is not None else ""
        done = {number: done.get(number, day) for number in every}
    return done


def _impact(one: FileChange) -> str:
    """Say what a change means: the kind of file, and what its users see of it."""
    words = [kind_of(one.path)]
    if one.how != "changed":
        words[0] = f"{one.how}, {words[0]}"
    if one.names_added:
        words.append(f"{len(one.names_added)} public names more")
    if one.names_removed:
        words.append(f"{len(one.names_removed)} public names gone")
    return "; ".join(words)


def _measures(status: MilestoneStatus) -> dict[str, str]:
    """Return what can be compared between two milestones."""
    record, changes, found = status.evidence.record, _changes(status), dict[str, str]()
    if record is not None and status.evidence.verdict != "other":
        found |= _measures_of(record)
    if changes is not None:
        total = changes.total
        found["files changed"] = str(total.files)
        found["lines"] = f"+{total.added} -{total.removed}"
        found["public names"] = f"+{len(changes.names_added)} -{len(changes.names_removed)}"
        found["gates changed"] = "yes" if status.fact and status.fact.gates_changed else "no"
    return found


def _measures_of(record: Record) -> dict[str, str]:
    found = {"gates": f"{len(record.passed)}/{len(settings.current().gates)}"}
    for one in record.gates:
        if one.tests is not None:
            passed = one.tests.get("passed", 0)
            found[f"tests passed, {one.gate}"] = str(passed)
            if failed := one.tests.get("failed", 0):
                found[f"tests failed, {one.gate}"] = str(failed)
    return found | {f"seconds, {one.gate}": f"{one.seconds:.1f}" for one in record.gates}


def _bullets(texts: Sequence[str]) -> list[str]:
    return [f"- {text}" for text in texts]


def _numbered(texts: Sequence[str]) -> list[str]:
    return [f"{number}. {text}" for number, text in enumerate(texts, 1)]
