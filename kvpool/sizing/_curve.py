"""`HitCurve`: hits over the size of the pool."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["HitCurve"]


@dataclass(frozen=True, eq=False)
class HitCurve:
    """Hits over the size of the pool; the complement of a miss-ratio curve.

    Attributes
    ----------
    name : str
        Of the policy.
    sizes : ndarray of int64, shape (points,)
        Blocks, ascending.
    hits : ndarray of float64, shape (points,)
        References that are hits at each size.
    references : int
        References to blocks in the trace.
    error : float
        Of the hit ratio: about how far it may be from the truth; 0 if the hits were counted.
    """

    name: str
    sizes: NDArray[np.int64]
    hits: NDArray[np.float64]
    references: int
    error: float = 0.0

    def hits_at(self, blocks: float) -> float:
        """Return the hits in a pool of this many blocks; between two points on a straight line."""
        return float(np.interp(blocks, self.sizes, self.hits))

    def hit_ratio(self, blocks: float) -> float:
        """Return the hits in a pool of this many blocks, of all references."""
        return self.hits_at(blocks) / self.references

    def blocks_for(self, hits: float) -> int | None:
        """Return the smallest pool with at least this many hits, in blocks.

        None if the pool of the last point has fewer. Between two points the curve is a straight
        line.
        """
        enough = np.flatnonzero(self.hits >= hits)
        if not len(enough):
            return None
        index = int(enough[0])
        if index == 0:
            return int(self.sizes[0])
        low, high = float(self.hits[index - 1]), float(self.hits[index])
        first, last = int(self.sizes[index - 1]), int(self.sizes[index])
        return math.ceil(first + (last - first) * ((hits - low) / (high - low)))

    def knee(self) -> int:
        """Return the size after which a larger pool gains less than it did before, in blocks.

        Notes
        -----
        The point of the curve that is farthest above the line from its start to its end, both
        axes scaled to 1: the knee of V. Satopaa et al., "Finding a 'Kneedle' in a haystack", ICDCS
        Workshops 2011, without its smoothing.
        """
        width, height = float(self.sizes[-1]), float(self.hits[-1])
        if not width or not height:
            return 0
        above = self.hits / height - self.sizes / width
        return int(self.sizes[int(np.argmax(above))])
