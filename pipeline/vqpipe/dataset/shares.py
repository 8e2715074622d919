"""Who gets which places of an epoch: steps of world x batch places, each cut into blocks by rank.

So the blocks of all ranks, one behind the other, are the order itself, whatever the world is, and
an epoch can go on in another world from any number of places that are behind.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Tail = Literal["drop", "pad", "uneven"]
"""What becomes of places that do not fill a step of all ranks: they are left out, they are filled
up with places of the beginning, marked, or ranks share them as evenly as they can."""


class Block(NamedTuple):
    """What a rank gets at a step."""

    first: int
    """Place, inclusive."""
    last: int
    """Place, exclusive; beyond the last place of the epoch where it is filled up."""


@dataclass(frozen=True)
class Shares:
    """The rest of an epoch, in one world."""

    size: int
    """Places of the epoch."""
    start: int
    """Places that are behind."""
    batch: int
    """Places of a rank at a step."""
    world: int
    """Number of ranks."""
    tail: Tail
    unit: int = 1
    """Places that cannot be parted."""

    @property
    def _left(self) -> int:
        return max(self.size - self.start, 0)

    @property
    def _step(self) -> int:
        return self.batch * self.world

    def steps(self, rank: int) -> int:
        """Returns how many batches a rank gets; all get as many, but where shares are uneven."""
        full, rest = divmod(self._left, self._step)
        if self.tail == "drop" or not rest:
            return full
        if self.tail == "pad":
            return full + 1
        first, last = self._rest_of(rank, full)
        return full + (last > first)

    def block(self, rank: int, step: int) -> Block:
        """Returns what a rank gets at a step, 0 being the first one from the start."""
        full = self._left // self._step
        if step >= full and self.tail == "uneven":
            return self._rest_of(rank, full)
        first = self.start + step * self._step + rank * self.batch
        return Block(first, first + self.batch)

    def behind(self, step: int) -> int:
        """Returns how many places are behind once all ranks have taken a step."""
        return min(self.size, self.start + (step + 1) * self._step)

    @property
    def end(self) -> int:
        """Places that are behind once all ranks have had all their batches."""
        steps = self.steps(0)  # the first rank has most
        return self.behind(steps - 1) if steps else self.start

    def _rest_of(self, rank: int, full: int) -> Block:
        start = self.start + full * self._step
        units = -(-(self.size - start) // self.unit)
        first, last = (-(-units * each // self.world) for each in (rank, rank + 1))
        return Block(start + first * self.unit, min(start + last * self.unit, self.size))
