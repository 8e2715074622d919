"""Which shards' objects have been added up, or are to be, part by part, while a run goes on."""

from collections import deque
from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from vqpipe.sink.totals import PART

LEAST = 256
"""Objects of a part at the end of a run: fewer are read by who adds up all, in a second."""


class Coverage:
    """Deals out the objects of finished shards, each once, as soon as they are there.

    A shard that this command is to commit makes every part void that has it already.
    """

    def __init__(
        self,
        shards: int,
        todo: Collection[int],
        added: Iterable[npt.NDArray[np.int64]],
        *,
        earlier: bool = True,
    ) -> None:
        """Begins with what earlier commands have committed, and added up.

        Args:
            shards: Of the plan.
            todo: Places in the plan of those that this command is to commit.
            added: Places of the shards of each part that there is.
            earlier: Whether all others are committed, and are to be added up where no part has
                them.
        """
        is_left = np.full(shards, not earlier)
        is_left[list(todo)] = True
        is_added = np.zeros(shards, bool)
        for places in added:
            if not is_left[places].any():
                is_added[places] = True
        self._waiting = deque(np.flatnonzero(~(is_left | is_added)).tolist())
        self._committed: set[int] = set()

    def commit(self, place: int) -> None:
        """Notes a committed shard; two writers may both report one."""
        if place not in self._committed:
            self._committed.add(place)
            self._waiting.append(place)

    def take(self, *, at_end: bool = False) -> list[int]:
        """Returns the next shards to be added up, and forgets them; none if they are too few.

        Args:
            at_end: Whether no more are to come.
        """
        if len(self._waiting) < (LEAST if at_end else PART):
            return []
        return [self._waiting.popleft() for _ in range(min(PART, len(self._waiting)))]
