"""How much time there was for each part of a graph, which workers' seconds are held against."""

import json
import time

import pyarrow as pa

from vqpipe.engine import capacity
from vqpipe.engine.counter import Tally
from vqpipe.occupancy import Spent

_ASK_S = 10.0
"""Seconds between two questions to a cluster how many cores it has: nodes come and go."""


_STAMP = b"spent"


def stamp(receipts: pa.Table, spent: Spent) -> pa.Table:
    """Returns receipts with what was spent for them: so it arrives with them, and never twice."""
    return receipts.replace_schema_metadata({_STAMP: json.dumps(spent)})


class Timesheet:
    """Adds up seconds of cores, of codecs, and of commits that had to wait, as the driver sees it.

    Sums, since all of them may change while a run goes on.
    """

    def __init__(self, cores: float | None) -> None:
        """Begins now.

        Args:
            cores: That images are opened on; None for all that the cluster has at the time.
        """
        self._is_fixed, self._cores = cores is not None, cores or 0.0
        self._asked = -_ASK_S
        self._since = time.monotonic()
        self._there = Spent()

    def note(self, counts: Tally, *, is_full: bool, can_ask: bool) -> None:
        """Notes how it has been since the last time.

        Args:
            counts: What workers have done.
            is_full: Whether no more commits can begin, or nothing but commits is left.
            can_ask: Whether the cluster's head answers.
        """
        now = time.monotonic()
        if can_ask and not self._is_fixed and now - self._asked >= _ASK_S:
            self._cores, self._asked = capacity.count_cores(), now
        seconds, self._since = now - self._since, now
        self._there = self._there.plus(
            Spent(
                core_s=seconds * self._cores,
                codec_there_s=seconds * counts.codecs,
                full_s=seconds * is_full,
                seconds=seconds,
            )
        )

    def receive(self, receipts: pa.Table) -> None:
        """Notes what a commit has spent, as it is stamped on its receipts."""
        said = (receipts.schema.metadata or {}).get(_STAMP)
        if said:
            self._there = self._there.plus(Spent(*json.loads(said)))

    def add_to(self, counts: Tally) -> Tally:
        """Returns what workers have done with the time that there was for it."""
        return counts._replace(spent=counts.spent.plus(self._there))
