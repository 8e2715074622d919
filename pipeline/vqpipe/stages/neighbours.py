"""Files of a compacted sink that follow one another, from shards that do.

A run of files is one task's: it reads the few shards that they need once, and commits one file
after the other.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from vqpipe.sink.publication import is_there
from vqpipe.stages.compact import Compaction, read_shards, receipt_of, write_file


class _Rows:
    """Rows in order, of which any number can be taken; what is not needed is never read."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = filter(len, tables)
        self._head: pa.Table | None = None

    def take(self, count: int) -> Iterator[pa.Table]:
        """Yields so many rows, or all that are left if these are fewer."""
        while count:
            self._head = self._head or next(self._tables, None)
            if self._head is None:
                return
            taken = self._head.slice(0, count)
            rest = len(self._head) - len(taken)
            self._head = self._head.slice(len(taken)) if rest else None
            count -= len(taken)
            yield taken

    def pass_over(self, count: int) -> None:
        """Leaves so many rows out."""
        for _ in self.take(count):
            pass


def write_files(
    work: Compaction, first: int, last: int, tell: Callable[[int], object] = lambda _: None
) -> Iterator[pa.Table]:
    """Commits neighbouring files of the snapshot's own order; yields a receipt for each.

    Args:
        work: What is done; nothing is shuffled.
        first: The first file.
        last: The one after the last.
        tell: Is told of rows that were read, table by table.
    """
    per_file, starts = work.arrangement.rows_per_file, work.snapshot.starts
    start, end = first * per_file, min(last * per_file, int(starts[-1]))
    shards = range(
        int(np.searchsorted(starts, start, "right")) - 1, int(np.searchsorted(starts, end, "left"))
    )
    rows = _Rows(_told(read_shards(work, shards), tell))
    rows.pass_over(start - int(starts[shards[0]]))
    for file in range(first, last):
        count = work.arrangement.rows(file)
        if is_there(work.writer.slot(file)):
            rows.pass_over(count)
        else:
            write_file(work, file, rows.take(count))
        yield receipt_of(work, file)


def _told(
    tables: Iterator[tuple[int, pa.Table]], tell: Callable[[int], object]
) -> Iterator[pa.Table]:
    for _, table in tables:
        tell(len(table))
        yield table


def file_runs(work: Compaction, cores: float, most_bytes: int) -> list[tuple[int, int]]:
    """Returns the files left as runs of neighbours, each one's work: the first, and past the last.

    A shard that lies on both sides of a cut is read on both. So a run goes on until it has more
    bytes than the shard that the cut would lie in: no more is read twice than once.

    Args:
        work: What is done; nothing is shuffled.
        cores: How many share the work.
        most_bytes: About the most that a run has, unless a shard has more.
    """
    sizes = work.snapshot.table["bytes"].to_numpy().astype(np.int64)
    starts, per_file = work.snapshot.starts, work.arrangement.rows_per_file
    before = np.append(0, np.cumsum(sizes))
    edges = np.minimum(np.arange(len(work.arrangement) + 1) * per_file, starts[-1])
    at = np.interp(edges, starts, before)  # bytes of the source before each file
    least = min(most_bytes, float(np.diff(at)[list(work.todo)].sum()) / (_PARTS * max(1, cores)))
    inside = np.searchsorted(starts, edges, "right") - 1  # the shard that each edge lies in, if any
    is_inside = (edges != starts[inside]) & (edges < starts[-1])
    torn = np.where(is_inside, sizes[np.minimum(inside, len(sizes) - 1)], 0)
    runs: list[tuple[int, int]] = []
    for file in work.todo:
        first, last = runs[-1] if runs else (-1, -1)
        taken = at[file] - at[first]
        if last == file and (taken < least or taken < torn[file]):
            runs[-1] = (first, file + 1)
        else:
            runs.append((file, file + 1))
    return runs


_PARTS = 4
"""A run has at most one in so many of a core's share of what is left."""
