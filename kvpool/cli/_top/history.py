"""How the metrics of a server change: rates, and quantiles of histograms."""

from __future__ import annotations

import itertools
import math
from collections import deque

from kvpool.cli._scrape import Scrape

__all__ = ["History"]

_KEPT = 60


class History:
    """The last scrapes of a server, the newest one last.

    Parameters
    ----------
    first : Scrape

    Notes
    -----
    A counter that is lower than before means that the server began anew; then it has risen from 0.
    """

    def __init__(self, first: Scrape) -> None:
        self._scrapes = deque([first], maxlen=_KEPT)

    def add(self, scrape: Scrape) -> None:
        """Add a newer scrape."""
        self._scrapes.append(scrape)

    @property
    def now(self) -> Scrape:
        """The newest scrape."""
        return self._scrapes[-1]

    @property
    def is_one(self) -> bool:
        """Whether there is one scrape, so that nothing is known of changes."""
        return len(self._scrapes) == 1

    @property
    def seconds(self) -> float:
        """Seconds between the oldest and the newest scrape that are kept."""
        return self.now.seconds - self._scrapes[0].seconds

    def rate(self, name: str, /, **labels: str) -> float | None:
        """Return by how much a counter rises each second; None if there is one scrape."""
        return None if self.is_one else self.rates(name, **labels)[-1]

    def rates(self, name: str, /, **labels: str) -> list[float]:
        """Return by how much a counter rose each second, between every two scrapes."""
        return [
            _risen(before.total(name, **labels), after.total(name, **labels))
            / max(after.seconds - before.seconds, 1e-9)
            for before, after in itertools.pairwise(self._scrapes)
        ]

    def quantile(self, name: str, part: float) -> float | None:
        """Return a quantile of what a histogram counted while the scrapes were made.

        Parameters
        ----------
        name : str
            Of the histogram, without a suffix.
        part : float
            Between 0 and 1.

        Returns
        -------
        float or None
            Interpolated inside of the bucket that it is in, as Prometheus does; the upper end of
            the last bucket but one if it is in the last, which has no end. Of all that was ever
            counted if nothing was meanwhile; None if nothing ever was.
        """
        bounds = self.now.by(f"{name}_bucket", "le")
        before = self._scrapes[0].by(f"{name}_bucket", "le")
        risen = {bound: _risen(before.get(bound, 0), count) for bound, count in bounds.items()}
        counts = risen if any(risen.values()) else bounds
        return _quantile(sorted((float(bound), count) for bound, count in counts.items()), part)


def _risen(before: float, after: float) -> float:
    return after - before if after >= before else after


def _quantile(buckets: list[tuple[float, float]], part: float) -> float | None:
    """Return a quantile from the upper ends of buckets and the counts up to there."""
    if not buckets or not buckets[-1][1]:
        return None
    rank = part * buckets[-1][1]
    low = below = 0.0
    for high, count in buckets:
        if count >= rank:
            if math.isinf(high):
                return low
            return low + (high - low) * (rank - below) / max(count - below, 1e-9)
        low, below = high, count
    return low
