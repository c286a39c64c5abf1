"""The performance page of the docs: written from records, and from nothing else.

The record of a full run is beside those of single benchmarks, as `performance-decode.json`, whose
figures go before its own: what one environment cannot measure, another can.

The figures in the text of other pages come from the same records, see `benchmarks.figures`.

python -m benchmarks.page [--record FILE] [--page FILE] [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.figures import PAGES, filled
from benchmarks.harness import Measurement, Ratio, Report
from benchmarks.record import ROOT, Machine, Record, RecordError, read
from benchmarks.suite import Outcome
from benchmarks.tables import figure, quartiles, times, value

__all__ = ["PAGE", "RECORD", "check", "main", "record_of", "render", "write"]

RECORD = ROOT / "docs/performance.json"
PAGE = ROOT / "docs/performance.md"

_INTRODUCTION = """\
# Performance

Every word and figure below comes from [the record](performance.json) of one run of the
benchmarks, or from that of a single one where a section says so; `python -m benchmarks.page`
writes this page, and the docs gate fails where it differs. `nox -s bench -- --publish` makes
record and page anew, see [Contributing](../CONTRIBUTING.md#measure).

A figure is the median of its rounds, with the quartiles around it. The sides of a comparison were
measured in one run and in turns. What depends on the machine, such as microseconds, is for this
one; comparisons travel better.
"""

_MEASUREMENT = ("what", "subject", "median", "quartiles", "rounds", "target", "")
_RATIO = ("what", "ours", "", "theirs", "", "ratio", "target", "")


def record_of(name: str, record_path: Path = RECORD) -> Path:
    """Return where the record of a benchmark is that was run by itself."""
    return record_path.with_name(f"{record_path.stem}-{name}.json")


def render(record: Record, alone: Mapping[str, Record] | None = None) -> str:
    """Return the page of a record, and of those of single benchmarks, by file name.

    Raises
    ------
    RecordError
        One is of a quick run, whose figures say nothing.
    """
    alone = alone or {}
    runs = {one.name: file for file, other in alone.items() for one in other.benchmarks}
    every = replace(record, benchmarks=merged(record, alone))
    parts = [_INTRODUCTION, "## The run", *_run(record), *_targets(every)]
    for outcome in every.benchmarks:
        parts += _benchmark(outcome)
        if file := runs.get(outcome.name):
            parts += [f"The figures come from [a run of its own]({file}):", *_run(alone[file])]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def merged(record: Record, alone: Mapping[str, Record]) -> tuple[Outcome, ...]:
    """Return what came of each benchmark, by name: of a run of its own, if there is one.

    Raises
    ------
    RecordError
        One is of a quick run, whose figures say nothing.
    """
    if any(one.quick for one in (record, *alone.values())):
        raise RecordError("a quick run shows that the benchmarks work, not how fast anything is")
    outcomes = {one.name: one for one in record.benchmarks}
    outcomes |= {one.name: one for other in alone.values() for one in other.benchmarks}
    return tuple(outcomes[name] for name in sorted(outcomes))


def render_files(record_path: Path) -> str:
    """Return the page of a record, and of those beside it.

    Raises
    ------
    RecordError
    """
    return render(read(record_path), _beside(record_path))


def _beside(record_path: Path) -> dict[str, Record]:
    """Return the records of single benchmarks that are beside another, by file name."""
    beside = sorted(record_path.parent.glob(record_of("*", record_path).name))
    return {path.name: read(path) for path in beside}


def _figures(record_path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the pages whose figures are not those of the records, with the text that has them.

    Only the published records have figures in other pages.
    """
    if record_path.resolve() != RECORD.resolve():
        return
    outcomes = merged(read(record_path), _beside(record_path))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        changed = filled(text, outcomes)
        if changed != text:
            yield page, changed


def write(record_path: Path = RECORD, page_path: Path = PAGE) -> None:
    """Write the page of a record, and of those beside it.

    Raises
    ------
    RecordError
    """
    text, figures = render_files(record_path), list(_figures(record_path))
    page_path.write_text(text, encoding="utf-8", newline="\n")
    for page, changed in figures:
        page.write_text(changed, encoding="utf-8", newline="\n")


def check(record_path: Path = RECORD, page_path: Path = PAGE) -> str:
    """Return what is wrong with the page; nothing, if it is what the record says.

    Raises
    ------
    RecordError
    """
    text = render_files(record_path)
    if not page_path.exists():
        return f"{page_path} is missing: python -m benchmarks.page writes it"
    if page_path.read_text(encoding="utf-8") != text:
        return f"{page_path} is not what {record_path} says: python -m benchmarks.page writes it"
    for page, _ in _figures(record_path):
        return f"{page} has other figures than the records: python -m benchmarks.page writes them"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the page; return 1 if there is no record, or the page is not as it says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--record", type=Path, default=RECORD, metavar="FILE")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            problem = check(options.record, options.page)
        else:
            write(options.record, options.page)
            problem = ""
    except RecordError as error:
        problem = str(error)
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


# -- the parts of the page ---------------------------------------------------------------------


def _run(record: Record) -> Iterator[str]:
    rows = [("taken", f"{record.taken:%Y-%m-%d %H:%M} UTC")]
    if record.commit:
        changed = ", with changes that are in no commit" if record.commit.changed else ""
        rows.append(("commit", f"`{record.commit.id[:12]}`{changed}"))
    rows += _machine(record.machine)
    rows.append(("versions", ", ".join(f"{name} {one}" for name, one in record.versions.items())))
    yield _table(("", ""), rows)


def _machine(machine: Machine) -> Iterator[tuple[str, str]]:
    yield "processor", machine.processor or machine.architecture
    if machine.cores:
        usable = machine.cores_usable
        some = f", {usable} of them usable" if usable and usable != machine.cores else ""
        yield "cores", f"{machine.cores}{some}"
    if machine.memory_bytes:
        yield "memory", f"{machine.memory_bytes / 2**30:.1f} GiB"
    yield "system", f"{machine.system} {machine.kernel}, {machine.architecture}"
    if machine.load_average_at_start:
        loads = " / ".join(f"{load:.2f}" for load in machine.load_average_at_start)
        yield "load average at the start", f"{loads} (1, 5, 15 minutes)"


def _targets(record: Record) -> Iterator[str]:
    targeted, missed = record.targeted(), record.missed()
    yield "## Targets"
    yield f"{len(targeted) - len(missed)} of {len(targeted)} are met."
    if missed:
        yield "Missed:"
        rows = [(name, one.what, one.subject, value(one), str(one.target)) for name, one in missed]
        yield _table(("benchmark", "what", "subject", "found", "target"), rows)
    for status in ("skipped", "failed"):
        if outcomes := record.with_status(status):
            yield f"{status.capitalize()}, so their targets are not among these:"
            yield _table(("benchmark", "reason"), [(one.name, one.reason) for one in outcomes])


def _benchmark(outcome: Outcome) -> Iterator[str]:
    title = outcome.report.title if outcome.report else outcome.name
    yield f"## {title[:1].upper()}{title[1:]}"
    yield outcome.about
    yield f"`python -m benchmarks {outcome.name}`"
    if outcome.report is None:
        yield f"{outcome.status.capitalize()}: {_cell(outcome.reason)}"
    else:
        yield from _report(outcome.report)


def _report(report: Report) -> Iterator[str]:
    if report.measurements:
        yield _table(_MEASUREMENT, map(_measurement, report.measurements))
    if report.ratios:
        yield "Side by side:"
        yield _table(_RATIO, map(_ratio, report.ratios))
    if report.notes:
        yield "\n".join(f"* {_cell(note)}" for note in report.notes)


def _measurement(one: Measurement) -> tuple[str, ...]:
    found = (value(one), quartiles(one), figure(one.rounds))
    return (one.what, one.subject, *found, *_verdict(one))


def _ratio(one: Ratio) -> tuple[str, ...]:
    sides = (one.ours.subject, value(one.ours), one.theirs.subject, value(one.theirs))
    return (one.what, *sides, times(one), *_verdict(one))


def _verdict(one: Measurement | Ratio) -> tuple[str, str]:
    if one.target is None:
        return "", ""
    return str(one.target), "met" if one.met else "**missed**"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    """Return a text on one line, in which nothing ends a cell."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
