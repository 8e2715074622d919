"""Rows of a compacted sink on their way through a shuffle: where each goes, and what becomes of it.

place_rows     rows of some shards, with the file that each goes to and its spot there
write_placed   files of which all rows have come together
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe.errors import AccountingError
from vqpipe.sink.publication import is_there
from vqpipe.stages.compact import Compaction, in_batches, read_shards, receipt_of, write_file

FILE, SPOT = "file", "spot"
"""Columns that say where a row goes: the file, and which of its rows it is to be."""

_BLOCK_BATCHES = 4
"""Batches that are handed on together."""


def place_rows(work: Compaction, indices: Iterable[int]) -> Iterator[pa.Table]:
    """Yields rows of some objects that go to files that are left, with where they go.

    Args:
        work: What is done.
        indices: Places of objects in the snapshot.
    """
    placed = (_place(work, first, table) for first, table in read_shards(work, indices))
    yield from in_batches(placed, _BLOCK_BATCHES * work.product.batch_rows)


def _place(work: Compaction, first: int, table: pa.Table) -> pa.Table:
    arrangement, views = work.arrangement, work.arrangement.views
    rows = np.arange(first, first + len(table), dtype=np.int64)
    files, samples = np.divmod(arrangement.places_of(rows // views), arrangement.samples_per_file)
    found = table.append_column(FILE, pa.array(files, pa.int32()))
    found = found.append_column(SPOT, pa.array(samples * views + rows % views, pa.int64()))
    is_left = work.is_left[files]
    return found if is_left.all() else found.filter(pa.array(is_left))


def write_placed(work: Compaction, table: pa.Table) -> Iterator[pa.Table]:
    """Commits the files whose rows, all of them, have come together; yields a receipt for each.

    Args:
        work: What is done.
        table: Rows with where they go, in any order.

    Raises:
        AccountingError: If rows of a file are elsewhere; it is not committed.
    """
    files, spots = (table[name].to_numpy() for name in (FILE, SPOT))
    order = np.lexsort((spots, files))
    cuts = np.flatnonzero(np.diff(files[order])) + 1
    rows = table.select(work.product.carried.names).combine_chunks()
    for places in np.split(order, cuts) if len(order) else ():
        file = int(files[places[0]])
        if not is_there(work.writer.slot(file)):
            _check_spots(work, file, spots[places])
            write_file(work, file, _taken(rows, places, work.product.batch_rows))
        yield receipt_of(work, file)


def _check_spots(work: Compaction, file: int, spots: npt.NDArray[np.int64]) -> None:
    """Checks that a file's rows are all there, each once: what lies in them does not tell."""
    if not np.array_equal(spots, np.arange(work.arrangement.rows(file))):
        name, rows = work.arrangement.names[file], work.arrangement.rows(file)
        raise AccountingError(
            f"{name} should have {rows:,} rows, each once, and {len(spots):,} of them came "
            "together; it was not committed"
        )


def _taken(rows: pa.Table, places: npt.NDArray[np.int64], batch: int) -> Iterator[pa.Table]:
    for first in range(0, len(places), batch):
        yield rows.take(pa.array(places[first : first + batch]))
