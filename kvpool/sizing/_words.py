"""The answer of a report in words."""

from __future__ import annotations

from collections.abc import Iterator

from kvpool.sizing._report import SHARES, Answer, SizingReport

__all__ = ["describe"]


def describe(report: SizingReport) -> list[str]:
    """Return what a report says, in sentences.

    Parameters
    ----------
    report : SizingReport
    """
    return list(_sentences(report))


def _sentences(report: SizingReport) -> Iterator[str]:
    ratio = report.reusable / report.references
    yield (
        f"An infinite pool would reuse {report.reusable:,} of {report.references:,} blocks "
        f"({ratio:.1%}) in {report.requests:,} requests."
    )
    if not report.reusable:
        yield "No prompt begins like an earlier one: no pool helps, however large it is."
        return
    yield f"LRU needs {_list(report, 'lru')} of that."
    for share in SHARES:
        best, lru = report.best(share), report.answer("lru", share)
        if best.blocks and lru.blocks and _is_better(report, best):
            yield (
                f"The smallest pool for {share:.0%} is one with {best.policy}: "
                f"{_text(report, best)}, {1 - best.blocks / lru.blocks:.0%} less than LRU."
            )
    knee = report.curves["lru"].knee()
    yield (
        f"The knee of LRU is at {report.size_text(knee)}, where the hit ratio is "
        f"{report.curves['lru'].hit_ratio(knee):.1%}: beyond, a larger pool gains less."
    )
    if report.sample_rate < 1:
        worst = max(curve.error for curve in report.curves.values())
        yield (
            f"LRU and the bounds are exact. The others were simulated on {report.seeds} samples of "
            f"{report.sample_rate:.1%} of the branches; their hit ratios may be off by "
            f"{100 * worst:.1f} points."
        )


def _is_better(report: SizingReport, answer: Answer) -> bool:
    """Return whether the hits of an answer are more than those of LRU, beyond the error."""
    curve, lru, blocks = report.curves[answer.policy], report.curves["lru"], answer.blocks or 0
    return curve.hit_ratio(blocks) - lru.hit_ratio(blocks) > curve.error


def _list(report: SizingReport, policy: str) -> str:
    parts = [
        f"{_text(report, answer)} for {answer.share:.0%}"
        for answer in (report.answer(policy, share) for share in SHARES)
    ]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _text(report: SizingReport, answer: Answer) -> str:
    return "more than was measured" if answer.blocks is None else report.size_text(answer.blocks)
