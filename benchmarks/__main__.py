from __future__ import annotations

import sys

from benchmarks import allocator_speed, eviction, harness, pool_speed, utilization

ALL: tuple[harness.Run, ...] = (
    allocator_speed.run,
    pool_speed.run,
    eviction.run,
    utilization.run,
)


def main() -> None:
    options = harness.parse_arguments()
    reports = []
    for run in ALL:
        reports.append(run(options.quick))
        harness.show(reports[-1])
    if options.json:
        harness.write_records(options.json, reports, quick=options.quick)
    if options.check and any(report.missed() for report in reports):
        sys.exit(1)


main()
