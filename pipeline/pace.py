"""How much a codec takes at a time, so that what it has goes on every few seconds.

Whatever the speed of a device, finished rows are not to wait in its process: they are lost with it.
"""

import time
from collections.abc import Callable, Iterator

import pyarrow as pa

from pipeline.attempts import check_finite, has_good

HAND_ON_S = 15.0
"""Seconds of work after which finished rows are handed on; a piece more at most."""

Work = Callable[[pa.Table], pa.Table]
"""Rows in, finished rows out, as many and in the same order."""


class Pace:
    """How many rows make a piece of work of a few seconds.

    Pieces begin at multiples of their length, which is a unit doubled some times: a piece that is
    tried again, in another process, has one of a few names in the ledger (`attempts`).
    """

    def __init__(self, unit: int) -> None:
        self._unit = unit
        self._rows = unit

    def pieces(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yields a table in pieces; how long each takes decides on the next."""
        at = 0
        while at < len(table) or at == 0:
            rows = self._fit(at)
            started = time.monotonic()
            yield table.slice(at, rows)
            self._learn(rows, time.monotonic() - started)
            at += rows

    def _fit(self, at: int) -> int:
        """Returns the rows of a piece that begins at a place: no more than the pace allows."""
        rows = self._unit
        while rows < self._rows and at % (2 * rows) == 0:
            rows *= 2
        return rows

    def _learn(self, rows: int, seconds: float) -> None:
        if seconds > HAND_ON_S / 2:
            self._rows = max(self._unit, min(self._rows, rows) // 2)
        elif seconds < HAND_ON_S / 4 and rows >= self._rows:
            self._rows *= 2


def hand_on(table: pa.Table, work: Work, pace: Pace, *, is_fair: bool) -> Iterator[pa.Table]:
    """Yields finished rows: all at once, or a part whenever the work has taken some seconds.

    Rows of which not one has finite latents wait for others: it may be the codec that is to blame.

    Args:
        table: Rows for the codec.
        work: What the codec does.
        pace: What is known of its speed.
        is_fair: Whether rows are a fair sample of the data; see `attempts.check_finite`.

    Raises:
        CodecError: If not one row of a fair sample is finite.
    """
    done: list[pa.Table] = []
    judged, since = not is_fair, time.monotonic()
    for piece in pace.pieces(table):
        done.append(work(piece))
        judged = judged or has_good(done[-1])
        if judged and time.monotonic() - since > HAND_ON_S:
            yield pa.concat_tables(done)
            done, since = [], time.monotonic()
    if done:
        made = pa.concat_tables(done)
        yield made if judged else check_finite(made)
