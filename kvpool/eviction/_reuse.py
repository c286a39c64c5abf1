"""`ReuseAges`: at which ages items of several kinds are used again, learned from what happens."""

from __future__ import annotations

from itertools import pairwise

__all__ = ["BINS", "ReuseAges", "bin_of"]

_PER_OCTAVE = 2
BINS = 52 * _PER_OCTAVE  # ages up to 4 PiB of uses
_ENDS = [2.0 ** (number / _PER_OCTAVE) for number in range(BINS)]  # the age at which a bin ends
_WIDTHS = [_ENDS[0], *(_ENDS[at] - _ENDS[at - 1] for at in range(1, BINS))]

_PRIOR = 0.1  # the chance of a use in a bin of which nothing is known, the same in all: as in LRU
_TRUST = 64  # this many parts of a kind outweigh what is known of all kinds
_TOO_LARGE = 1e6  # a weight that makes us scale all of them down


def bin_of(age: float) -> int:
    """Return the first bin that ends at this age or later."""
    number = 0
    while number < BINS - 1 and _ENDS[number] < age:
        number += 1
    return number


class ReuseAges:
    """Counts in which bin of age items are used again, and says what waiting for a use is worth.

    Parameters
    ----------
    groups : sequence of int
        How many kinds of items there are in each group. The kinds of a group learn from each other.

    Attributes
    ----------
    ends : list of float
        The age at which each bin ends.
    index : list of list of float
        For each kind and bin: the most uses for the bytes that wait and the time that they wait,
        over all times to give up waiting.

    Notes
    -----
    Bins are half an octave wide. For each, the chance of a use is estimated as in a life table:
    uses ÷ (uses + those that became older + half of those that are there + half of those that
    ceased to be watched there). Without the last term the oldest ages would seem to be the best:
    there most items cease to be watched, and the few that are used again are counted. What is
    known of few items is mixed with what is known of all kinds of the group, and that with the
    bin before. Older events count for less and less.

    The index of a kind and age is the Gittins index of an item that is kept until it is used, or
    given up at the best time: the maximum over T of P(used before T) ÷ E[time kept until then].
    It is the hit density of Beckmann, Chen and Cidon, "LHD: Improving Cache Hit Rate by
    Maximizing Hit Density", NSDI 2018, with the best lifetime in place of the observed one. See
    Gittins, "Bandit Processes and Dynamic Allocation Indices", J. R. Stat. Soc. B 41(2), 1979.
    """

    def __init__(self, *groups: int) -> None:
        kinds = sum(groups)
        starts = [sum(groups[:at]) for at in range(len(groups) + 1)]
        self._groups = [range(start, end) for start, end in pairwise(starts)]
        self.ends = _ENDS
        self.present = [[0] * BINS for _ in range(kinds)]  # bytes, also of what was evicted
        self.index = [[_PRIOR / end for end in _ENDS] for _ in range(kinds)]
        self._used = [[0.0] * BINS for _ in range(kinds)]
        self._passed = [[0.0] * BINS for _ in range(kinds)]
        self._weight = 1.0  # of an event now; those before count less
        self._first = 0

    def note_use(self, kind: int, at: int, nbytes: float) -> None:
        """Note that bytes were used again at an age in this bin."""
        self._used[kind][at] += nbytes * self._weight

    def note_older(self, kind: int, at: int, nbytes: float) -> None:
        """Note that bytes became older than this bin without a use."""
        self._passed[kind][at] += nbytes * self._weight

    def note_lost(self, kind: int, at: int, nbytes: float) -> None:
        """Note that bytes of this bin cease to be watched."""
        self.note_older(kind, at, nbytes / 2)  # on average, for half of the bin they were

    def learn(self, first: int, part: float, fade: float) -> None:
        """Compute the index anew.

        Parameters
        ----------
        first : int
            The bin in which new items begin.
        part : float
            The bytes of a part of an item.
        fade : float
            By how much events from now on count more than those so far.
        """
        trust = _TRUST * part
        for group in self._groups:
            everyone = self._chances_of_all(group, first, trust)
            for kind in group:
                self._index(kind, first, trust, everyone, self.index[kind])
        self._weight *= fade
        if self._weight > _TOO_LARGE:
            for table in (*self._used, *self._passed):
                table[:] = [one / self._weight for one in table]
            self._weight = 1.0

    def _chances_of_all(self, group: range, first: int, trust: float) -> list[float]:
        """Return for each bin the chance of a use in it, of items of any kind of a group."""
        chances, chance, weight = [_PRIOR] * BINS, _PRIOR, self._weight
        for at in range(first, BINS):
            used = sum(self._used[kind][at] for kind in group) / weight
            passed = sum(self._passed[kind][at] for kind in group) / weight
            present = sum(self.present[kind][at] for kind in group)
            chance = (used + trust * chance) / (used + passed + present / 2 + trust)
            chances[at] = chance
        return chances

    def _index(
        self, kind: int, first: int, trust: float, everyone: list[float], index: list[float]
    ) -> None:
        """Compute the index of a kind, from the oldest bin to the youngest.

        To wait for longer is worth it as long as the later bins have a better ratio. So a stack
        of periods is kept, the nearest on top, in which each has a better ratio than the next.
        """
        used, passed, present = self._used[kind], self._passed[kind], self.present[kind]
        weight, periods = self._weight, list[tuple[float, float, float]]()
        for at in range(BINS - 1, first - 1, -1):
            hits = used[at] / weight
            at_risk = hits + passed[at] / weight + present[at] / 2
            chance = (hits + trust * everyone[at]) / (at_risk + trust)
            worth, time, left = chance, _WIDTHS[at] * (1 - chance / 2), 1 - chance
            while periods and periods[-1][0] * time > worth * periods[-1][1]:
                more_worth, more_time, more_left = periods.pop()
                worth += left * more_worth
                time += left * more_time
                left *= more_left
            periods.append((worth, time, left))
            index[at] = worth / time
