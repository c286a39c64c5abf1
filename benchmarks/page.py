"""The performance pages of the docs: written from records, and from nothing else.

One page has the targets and the charts, and a page of each benchmark has its tables. The record of
a full run is beside those of single benchmarks, as `performance-decode.json`, whose figures go
before its own: what one environment cannot measure, another can.

The figures in the text of other pages come from the same records, see `benchmarks.figures`.

python -m benchmarks.page [--record FILE] [--page FILE] [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.charts import bars, targets
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

What has been measured, on what machine, and which targets are missed. Each figure, word and chart
comes from [the record]({record}) of one run of the benchmarks, or from that of a single one
where its page says so.

A figure is the median of its rounds. The sides of a comparison were measured in one run and in
turns. What depends on the machine, such as microseconds, is for this one; comparisons travel
better.
"""

_MADE = """\
`python -m benchmarks.page` writes these pages, and the docs gate fails where they differ.
`nox -s bench -- --publish` makes record and pages anew, see
[Contributing](../CONTRIBUTING.md#measure).
"""

_MEASUREMENT = ("what", "subject", "median", "quartiles", "rounds", "target", "")
_RATIO = ("what", "ours", "", "theirs", "", "ratio", "target", "")


def record_of(name: str, record_path: Path = RECORD) -> Path:
    """Return where the record of a benchmark is that was run by itself."""
    return record_path.with_name(f"{record_path.stem}-{name}.json")


def render(
    record: Record, alone: Mapping[str, Record] | None = None, stem: str = "performance"
) -> dict[str, str]:
    """Return the pages and charts of a record, and of those of single benchmarks, by file name.

    `STEM.md` has the targets and the charts, and `STEM/BENCHMARK.md` the tables of a benchmark.

    Raises
    ------
    RecordError
        One is of a quick run, whose figures say nothing.
    """
    alone = alone or {}
    runs = {one.name: file for file, other in alone.items() for one in other.benchmarks}
    every = replace(record, benchmarks=merged(record, alone))
    introduction = _INTRODUCTION.format(record=f"{stem}.json")
    front = [introduction, *_targets(every, stem)]
    files: dict[str, str] = {}
    if drawing := targets(every.benchmarks):
        files[f"{stem}.svg"] = drawing.svg()
    for outcome in every.benchmarks:
        page = f"{stem}/{outcome.name}"
        chart = bars(outcome.report) if outcome.report else None
        if chart:
            files[f"{page}.svg"] = chart.svg()
        front += _summary(outcome, page, drawn=chart is not None)
        parts = list(_benchmark(outcome, drawn=chart is not None))
        if file := runs.get(outcome.name):
            parts += [f"## The run\n\nOf this benchmark [alone](../{file}):", *_run(alone[file])]
        else:
            parts.append(f"[The run and its machine](../{stem}.md#the-run).")
        files[f"{page}.md"] = _text(parts)
    contents = f"```{{toctree}}\n:hidden:\n:glob:\n\n{stem}/*\n```"
    files[f"{stem}.md"] = _text([*front, "## The run", *_run(record), _MADE, contents])
    return files


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


def render_files(record_path: Path, stem: str = "performance") -> dict[str, str]:
    """Return the pages and charts of a record, and of those beside it, by file name.

    Raises
    ------
    RecordError
    """
    return render(read(record_path), _beside(record_path), stem)


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
    """Write the pages of a record, and of those beside it; remove those of what is gone.

    Raises
    ------
    RecordError
    """
    files = render_files(record_path, page_path.stem)
    figures = list(_figures(record_path))
    for path in _stale(files, page_path):
        path.unlink()
    for name, text in files.items():
        path = page_path.parent / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    for page, changed in figures:
        page.write_text(changed, encoding="utf-8", newline="\n")


def check(record_path: Path = RECORD, page_path: Path = PAGE) -> str:
    """Return what is wrong with the pages; nothing, if they are what the record says.

    Raises
    ------
    RecordError
    """
    files = render_files(record_path, page_path.stem)
    for path in _stale(files, page_path):
        return f"{path} is of no benchmark: python -m benchmarks.page removes it"
    for name, text in files.items():
        path = page_path.parent / name
        if not path.exists():
            return f"{path} is missing: python -m benchmarks.page writes it"
        if path.read_text(encoding="utf-8") != text:
            return f"{path} is not what {record_path} says: python -m benchmarks.page writes it"
    for page, _ in _figures(record_path):
        return f"{page} has other figures than the records: python -m benchmarks.page writes them"
    return ""


def _stale(files: Mapping[str, str], page_path: Path) -> list[Path]:
    """Return what lies among the pages of benchmarks and is of none that the records have."""
    there = [page_path.with_suffix(".svg"), *sorted(page_path.with_suffix("").glob("*.*"))]
    kept = {page_path.parent / name for name in files}
    return [path for path in there if path.exists() and path not in kept]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the pages; return 1 if there is no record, or a page is not as it says."""
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


def _text(parts: Iterable[str]) -> str:
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _targets(record: Record, stem: str) -> Iterator[str]:
    targeted, missed = record.targeted(), record.missed()
    met = f"{len(targeted) - len(missed)} of {len(targeted)}"
    yield "## Targets"
    yield f"{met} are met."
    if targeted:
        yield f"![How far each figure is from its target: {met} are met]({stem}.svg)"
    if missed:
        yield "Missed:"
        yield "\n".join(
            f"* {_link(name, stem)}: {one.what}, {one.subject}: {value(one)}, target {one.target}"
            for name, one in missed
        )
    for status in ("skipped", "failed"):
        if outcomes := record.with_status(status):
            yield f"{status.capitalize()}, so their targets are not among these:"
            rows = [(_link(one.name, stem), one.reason) for one in outcomes]
            yield _table(("benchmark", "reason"), rows)


def _link(name: str, stem: str) -> str:
    return f"[{name}]({stem}/{name}.md)"


def _title(outcome: Outcome) -> str:
    title = outcome.report.title if outcome.report else outcome.name
    first, *_ = title.split(maxsplit=1)
    is_a_name = not first.isalpha() or not first.islower()  # such as vLLM, or llama.cpp
    return title if is_a_name else f"{title[0].upper()}{title[1:]}"


def _summary(outcome: Outcome, page: str, *, drawn: bool) -> Iterator[str]:
    """Yield the part of a benchmark on the first page."""
    yield f"## {_title(outcome)}"
    yield outcome.about
    if drawn:
        yield _picture(outcome, f"{page}.svg")
    if outcome.report is None:
        yield f"{outcome.status.capitalize()}: {_cell(outcome.reason)}"
        return
    figures = outcome.report.targeted()
    met = sum(one.met is True for one in figures)
    count = f"Targets met: {met} of {len(figures)}. " if figures else ""
    yield f"{count}[All figures of {outcome.name}]({page}.md)"


def _picture(outcome: Outcome, path: str) -> str:
    return f"![{_title(outcome)}: bars, whose figures are in the tables]({path})"


def _benchmark(outcome: Outcome, *, drawn: bool) -> Iterator[str]:
    """Yield the page of a benchmark, but for its run."""
    yield f"# {_title(outcome)}"
    yield outcome.about
    yield f"`python -m benchmarks {outcome.name}`"
    if drawn:
        yield _picture(outcome, f"{outcome.name}.svg")
    if outcome.report is None:
        yield f"{outcome.status.capitalize()}: {_cell(outcome.reason)}"
    else:
        yield from _report(outcome.report)


def _report(report: Report) -> Iterator[str]:
    if report.measurements:
        yield "## Figures"
        yield "Each is a median, with the quartiles around it."
        yield _table(_MEASUREMENT, map(_measurement, report.measurements))
    if report.ratios:
        yield "## Side by side"
        yield _table(_RATIO, map(_ratio, report.ratios))
    if report.notes:
        yield "## Notes"
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
