"""Which samples stand at which places of an epoch: a function of seed, epoch and the counts.

Places are 0..size-1. Any process can say what stands at any of them, so that who asks for which
places, and in how many processes, changes nothing.

A set that is larger than the disk is gone through in windows: its shards, in an order drawn by lot,
are cut into runs of about so many samples, and an order is drawn within each. Where samples differ
in their shapes, each shape is a pool, and places are given out in units of a batch, all of one
pool; the last unit of a pool may be short.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vqpipe.permutation import Numbers, Permutation

_KEPT = 64
"""Orders within windows that are kept at hand."""


@dataclass(frozen=True, eq=False)
class Ordering:
    """What all epochs have in common."""

    counts: npt.NDArray[np.int64]
    """(shards, pools): samples."""
    unit: int = 1
    """Places that hold samples of one pool; 1 where there is one pool."""
    window: int | None = None
    """About how many samples a window has; None has all in one."""
    is_shuffled: bool = True
    drops_short: bool = False
    """Whether units that are not full are left out."""

    def epoch(self, seed: int, epoch: int) -> "Order":
        """Returns the order of an epoch."""
        return Order(self, seed, epoch)


class Picked(NamedTuple):
    """Samples that stand at places next to each other."""

    window: int
    pool: int
    numbers: Numbers
    """(n,): which samples of the pool in that window, counted in the order of its shards."""
    is_repeat: npt.NDArray[np.bool_]
    """(n,): whether a sample is there a second time, to fill its unit."""


class Drawn(NamedTuple):
    """Units that stand at places."""

    windows: Numbers
    """(n,): the window of each."""
    numbers: Numbers
    """(n,): which unit of that window it is, pool by pool."""

    def split(self, ends: Sequence[int]) -> Iterator["Drawn"]:
        """Yields parts of it, cut where they end."""
        for first, last in zip((0, *ends), ends, strict=False):
            yield Drawn(self.windows[first:last], self.numbers[first:last])


class Order:
    """The order of one epoch."""

    def __init__(self, ordering: Ordering, seed: int, epoch: int) -> None:
        """Takes what it depends on; see `Ordering.epoch`."""
        self._ordering, self._seed, self._epoch = ordering, seed, epoch
        self._permutation = functools.lru_cache(_KEPT)(self._make_permutation)

    @functools.cached_property
    def windows(self) -> list[Numbers]:
        """Shards of each window, in the order in which their samples are counted."""
        counts = self._ordering.counts.sum(axis=1)
        shards = np.arange(len(counts))
        if self._ordering.window is None:
            return [shards]
        if self._ordering.is_shuffled:
            shards = Permutation(len(counts), self._seed, self._epoch, "shards").at(shards)
        before = np.cumsum(counts[shards]) - counts[shards]
        cuts = np.flatnonzero(np.diff(before // self._ordering.window)) + 1
        return np.split(shards, cuts)

    @functools.cached_property
    def totals(self) -> npt.NDArray[np.int64]:
        """(windows, pools): samples."""
        return np.stack([self._ordering.counts[shards].sum(axis=0) for shards in self.windows])

    @functools.cached_property
    def _units(self) -> npt.NDArray[np.int64]:
        """(windows, pools)."""
        short = 0 if self._ordering.drops_short else self._ordering.unit - 1
        return (self.totals + short) // self._ordering.unit

    @functools.cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        """(windows + 1,): units before each window, and in all."""
        return np.append(0, np.cumsum(self._units.sum(axis=1)))

    @property
    def unit(self) -> int:
        """Places that cannot be parted."""
        return self._ordering.unit

    @property
    def size(self) -> int:
        """Places of the epoch."""
        return int(self._starts[-1]) * self._ordering.unit

    def pick(self, places: Numbers, *, fills: bool = False) -> Iterator[Picked]:
        """Yields what stands at places, in their order.

        Args:
            places: (n,) in 0..size-1; of units of several places, the first place of each.
            fills: Whether short units are filled with samples of their pool that were there.
        """
        return self.pick_drawn(self.draw(places), fills=fills)

    def draw(self, places: Numbers) -> Drawn:
        """Returns which units stand at places, in their order: cheap for many places at once.

        Args:
            places: (n,) in 0..size-1; of units of several places, the first place of each.
        """
        units = places // self._ordering.unit
        windows = np.searchsorted(self._starts, units, side="right") - 1
        numbers = units - self._starts[windows]
        for first, last in _runs(windows):
            window = int(windows[first])
            size = int(self._units[window].sum())
            numbers[first:last] = self._permuted(window, "units", size, numbers[first:last])
        return Drawn(windows, numbers)

    def pick_drawn(self, drawn: Drawn, *, fills: bool = False) -> Iterator[Picked]:
        """Yields what was drawn, in its order.

        Args:
            drawn: (n,): by `draw`, or a part of it.
            fills: Whether short units are filled with samples of their pool that were there.
        """
        for first, last in _runs(drawn.windows):
            window = int(drawn.windows[first])
            yield from self._pick_in(window, drawn.numbers[first:last], fills=fills)

    def _pick_in(self, window: int, units: Numbers, *, fills: bool) -> Iterator[Picked]:
        if self._ordering.unit == 1 and self._ordering.counts.shape[1] == 1:
            yield Picked(window, 0, units, np.zeros(len(units), np.bool_))
            return
        starts = np.append(0, np.cumsum(self._units[window]))
        pools = np.searchsorted(starts, units, side="right") - 1
        for pool, ordinal in zip(pools.tolist(), (units - starts[pools]).tolist(), strict=True):
            yield self._pick_unit(window, pool, ordinal, fills=fills)

    def _pick_unit(self, window: int, pool: int, ordinal: int, *, fills: bool) -> Picked:
        size, unit = int(self.totals[window, pool]), self._ordering.unit
        places = ordinal * unit + np.arange(unit)
        is_repeat = places >= size
        if not fills:
            places, is_repeat = places[~is_repeat], is_repeat[~is_repeat]
        numbers = self._permuted(window, f"pool {pool}", size, places % size)
        return Picked(window, pool, numbers, is_repeat)

    def _permuted(self, window: int, what_for: str, size: int, places: Numbers) -> Numbers:
        if not self._ordering.is_shuffled:
            return places
        return self._permutation(f"{what_for} of window {window}", size).at(places)

    def _make_permutation(self, what_for: str, size: int) -> Permutation:
        return Permutation(size, self._seed, self._epoch, what_for)


def _runs(values: Numbers) -> Iterator[tuple[int, int]]:
    """Yields where equal values next to each other begin and end."""
    if len(values):
        cuts = (np.flatnonzero(values[1:] != values[:-1]) + 1).tolist()
        yield from zip([0, *cuts], [*cuts, len(values)], strict=True)
