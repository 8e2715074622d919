"""How much a codec takes at a time, so that what it has goes on every few seconds.

Whatever the speed of a device, finished rows are not to wait in its process: they are lost with it.

Where a table is cut may depend on nothing but the table and the run. If its process dies after a
part went on, Ray has another do the table again, and takes of the second attempt only the parts
that are missing, by their number: parts of other lengths would leave rows out. So all codecs of a
run agree on one length, which the first of them measures.
"""

import time
from collections.abc import Callable, Iterator

import pyarrow as pa

from vqpipe.stages.attempts import check_finite, has_good

HAND_ON_S = 15.0
"""Seconds of work that a part is to take."""
_MEASURED = 2
"""Batches that are timed, of which the faster counts: the first one of a process is slow."""
_MOST_ROWS = 2**30

Work = Callable[[pa.Table], pa.Table]
"""Rows in, finished rows out, as many and in the same order."""


class Pace:
    """How many rows go on together."""

    def __init__(self, batch_size: int, agree: Callable[[int], int], views: int = 1) -> None:
        """Begins without knowing.

        Args:
            batch_size: Of the codec; parts are about whole batches.
            agree: Given the rows that this codec would take, returns those of the run.
            views: Rows of a sample; parts are whole samples.
        """
        self._batch_size, self._views = batch_size, views
        self._agree = agree
        self._rows: int | None = None

    def parts(self, table: pa.Table, work: Work) -> Iterator[pa.Table]:
        """Yields finished rows, all parts of the same length but for the last."""
        begun = [] if self._rows else self._measure(table, work)
        made, rows = sum(map(len, begun)), self._rows or _MOST_ROWS
        for first in range(0, max(len(table), 1), rows):
            last = min(first + rows, len(table))
            pieces = []
            if first < made:
                pieces.append(pa.concat_tables(begun).slice(first, min(last, made) - first))
            if last > made or not len(table):
                start = max(first, made)
                pieces.append(work(table.slice(start, last - start)))
            yield pa.concat_tables(pieces)

    def _measure(self, table: pa.Table, work: Work) -> list[pa.Table]:
        """Returns the first finished rows, as many as it took to agree on a length."""
        done: list[pa.Table] = []
        seconds: list[float] = []
        for at in range(0, len(table), self._batch_size):
            started = time.monotonic()
            done.append(work(table.slice(at, self._batch_size)))
            if has_good(done[-1]):  # what is rejected costs the codec nothing
                seconds.append(time.monotonic() - started)
            if len(seconds) == _MEASURED:
                break
        if seconds:
            batches = max(1, int(HAND_ON_S / max(min(seconds), 1e-6)))
            rows = min(_MOST_ROWS, self._batch_size * batches)
            self._rows = self._agree(self._views * -(-rows // self._views))
        return done


def hand_on(table: pa.Table, work: Work, pace: Pace, *, is_fair: bool) -> Iterator[pa.Table]:
    """Yields finished rows: all at once, or part by part where the codec takes long.

    Parts of which not one row has finite latents wait for others: it may be the codec that is to
    blame.

    Args:
        table: Rows for the codec.
        work: What the codec does.
        pace: What is known of its speed.
        is_fair: Whether rows are a fair sample of the data; see `attempts.check_finite`.

    Raises:
        CodecError: If not one row of a fair sample is finite.
    """
    held: list[pa.Table] = []
    is_judged = not is_fair
    for part in pace.parts(table, work):
        held.append(part)
        is_judged = is_judged or has_good(part)
        if is_judged:
            yield from held
            held = []
    if held:
        check_finite(pa.concat_tables(held))
        yield from held
