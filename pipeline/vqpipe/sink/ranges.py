"""Rows of a shard, as ranges, and which of them are safe already."""

import bisect
import functools
import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RowRange = tuple[int, int]
"""Rows of a shard: first (inclusive) and last (exclusive)."""


@dataclass(frozen=True)
class Staged:
    """Rows of one shard that are safe, in `staging/` or in an object that is to be revised."""

    ranges: tuple[RowRange, ...] = ()
    total: int | None = None
    """Rows of the whole shard, once known."""
    revision: int = 0
    """Of the object that is to be revised, if one is."""

    def holds(self, row: int) -> bool:
        """Tells whether a row is staged already."""
        firsts, lasts = self._merged
        place = bisect.bisect_right(firsts, row) - 1
        return place >= 0 and row < lasts[place]

    @property
    def end(self) -> int:
        """Number of the row after the last one that is staged."""
        return max((last for _, last in self.ranges), default=0)

    @property
    def count(self) -> int:
        """How many rows are staged, each counted once."""
        firsts, lasts = self._merged
        return sum(lasts) - sum(firsts)

    @functools.cached_property
    def _merged(self) -> tuple[list[int], list[int]]:
        """The same rows as sorted ranges that do not touch: their firsts, their lasts."""
        firsts: list[int] = []
        lasts: list[int] = []
        for first, last in sorted(self.ranges):
            if lasts and first <= lasts[-1]:
                lasts[-1] = max(lasts[-1], last)
            else:
                firsts.append(first)
                lasts.append(last)
        return firsts, lasts

    def with_rows(self, rows: npt.NDArray[np.integer], total: int | None) -> "Staged":
        """Returns this with sorted row numbers added, and the total if it was not known."""
        known = total if self.total is None else self.total
        return Staged((*self.ranges, *ranges_of(rows)), known, self.revision)

    @property
    def complete(self) -> bool:
        """Tells whether the ranges cover the whole shard."""
        firsts, lasts = self._merged
        if self.total is None or self.total == 0:
            return self.total == 0
        return bool(firsts) and firsts[0] <= 0 and lasts[0] >= self.total


def ranges_of(rows: npt.NDArray[np.integer]) -> tuple[RowRange, ...]:
    """Returns the runs of consecutive numbers among sorted ones; some may be there twice."""
    cuts = [0, *(np.flatnonzero(np.diff(rows) > 1) + 1).tolist(), len(rows)]
    pairs = ((a, b) for a, b in itertools.pairwise(cuts) if b > a)
    return tuple((int(rows[a]), int(rows[b - 1]) + 1) for a, b in pairs)
