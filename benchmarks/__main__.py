"""Run the benchmarks, print what they found, and write it down."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import benchmarks
from benchmarks import page, record, suite, tables

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None, package: ModuleType = benchmarks) -> int:
    """Run benchmarks; return 1 if one failed, or if a target is missed that was to be checked."""
    found = {one.name: one for one in suite.discover(package)}
    options = parse(arguments, list(found))
    result = record.begin(options.quick)
    outcomes = []
    for name in options.names or found:
        outcomes.append(found[name].run(options.quick))
        tables.show(outcomes[-1])
    result = result.with_outcomes(outcomes)
    tables.show_summary(result)
    if options.json:
        record.write(options.json, result)
        print(f"the record is in {options.json}")
    if options.publish:
        path = page.record_of(options.names[0], page.RECORD) if options.names else page.RECORD
        record.write(path, result)
        page.write(page.RECORD, page.PAGE)
        print(f"the record is in {path}, the page in {page.PAGE}")
    failed = result.with_status("failed") or (options.check and result.missed())
    return 1 if failed else 0


def parse(arguments: Sequence[str] | None, names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see it work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record to FILE")
    parser.add_argument(
        "--publish", action="store_true", help="write the record and the page of the docs anew"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(names)):
        parser.error(f"there is no benchmark {unknown[0]}; there are {', '.join(names)}")
    if options.publish and (options.quick or len(options.names) > 1):
        parser.error("--publish takes a full run of all benchmarks, or of one by itself")
    return options


if __name__ == "__main__":
    sys.exit(main())
