"""Which samples of a snapshot are in which file of a compacted sink, and in which order.

    number   of a sample in the snapshot: shards by name, then rows
    place    in the new order: the same, or what a permutation makes of it
    file     places / samples of a file; all rows of a sample stay together

All of it is arithmetic, so that any process can tell where any row goes and where it comes from.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqpipe.permutation import Numbers, Permutation

_DIGITS = 5


@dataclass(frozen=True)
class Arrangement:
    """Where the samples of a snapshot go."""

    samples: int
    """Of the snapshot."""
    views: int
    """Rows of a sample."""
    rows_per_file: int
    """Of every file but the last; a multiple of `views`."""
    shuffle: int | None
    """Seed of the order; None is that of the snapshot."""

    def __len__(self) -> int:
        return math.ceil(self.samples / self.samples_per_file)

    @property
    def samples_per_file(self) -> int:
        """Of every file but the last."""
        return self.rows_per_file // self.views

    @functools.cached_property
    def names(self) -> list[str]:
        """Names of the files, in order, which is that of the names too."""
        count = len(self)
        digits = max(_DIGITS, len(str(count)))
        return [f"part-{i:0{digits}d}-of-{count:0{digits}d}" for i in range(count)]

    def places(self, file: int) -> tuple[int, int]:
        """Returns the first place of a file, and the one after its last."""
        first = file * self.samples_per_file
        return first, min(first + self.samples_per_file, self.samples)

    def rows(self, file: int) -> int:
        """Returns how many rows a file has."""
        first, last = self.places(file)
        return (last - first) * self.views

    def places_of(self, numbers: Numbers) -> Numbers:
        """Returns where samples go.

        Args:
            numbers: (n,) of samples in the snapshot.

        Returns:
            (n,) places, from 0 to below `samples`.
        """
        return numbers if self._order is None else self._order.place_of(numbers)

    def numbers_at(self, places: Numbers) -> Numbers:
        """Returns which samples are at places: the inverse of `places_of`."""
        return places if self._order is None else self._order.at(places)

    def numbers_in(self, file: int) -> npt.NDArray[np.int64]:
        """Returns which samples a file has, in order."""
        return self.numbers_at(np.arange(*self.places(file), dtype=np.int64))

    @functools.cached_property
    def _order(self) -> Permutation | None:
        if self.shuffle is None:
            return None
        return Permutation(self.samples, self.shuffle)


def whole_rows(rows: int, views: int) -> int:
    """Returns the least number of rows, not below one asked for, that is of whole samples."""
    return math.ceil(rows / views) * views
